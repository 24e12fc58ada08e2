"""Where CUDA's headers are, which the code of packages for GPUs includes.

torch takes the folder above nvcc's. Where nvcc is a script or a link in a folder of programs, there are no headers above it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError

HEADERS = ("cuda.h", "cuda_runtime_api.h", "crt/host_defines.h")
USUAL = Path("/usr/local")  # NVIDIA's installers make cuda-VERSION there, and a link named cuda


def toolkit_folder(first: str | None = None) -> Path:
    """The folder of a CUDA toolkit with headers: `first`, that of nvcc or a usual one; InputError where there is none."""
    nvcc = shutil.which("nvcc")
    folders = [first, *(os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))]
    folders += [str(Path(each).parents[1]) for each in (nvcc, nvcc and os.path.realpath(nvcc)) if each]
    folders += [str(USUAL / "cuda"), *sorted(map(str, USUAL.glob("cuda-*")), reverse=True)]
    for each in folders:
        if each and all((Path(each) / "include" / name).is_file() for name in HEADERS):
            return Path(each)
    raise InputError(
        "packages for GPUs need CUDA's headers (cuda.h), which are not here: install the CUDA toolkit, or set CUDA_HOME to "
        "its folder"
    )


@contextlib.contextmanager
def findable_headers() -> Iterator[None]:
    """Let torch compile with the headers of `toolkit_folder`."""
    from torch.utils import cpp_extension

    before, variable = cpp_extension.CUDA_HOME, os.environ.get("CUDA_HOME")
    cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"] = str(toolkit_folder(before))
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before
        os.environ.pop("CUDA_HOME")
        if variable is not None:
            os.environ["CUDA_HOME"] = variable
