"""The kernels on an NVIDIA GPU: compiled by NVRTC on first use, kept on disk, launched by CuPy. Not yet run on a GPU.

CuPy's own compilation is not used: it adds -ftz=true behind the caller's options, which flushes small floats to zero.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import nvrtc

from ..errors import NoiseError, StoreError
from ..files import write_atomically
from .launch import OPTIONS, Array, Kernels, kernel_source

THREADS = 256
MOST_BLOCKS = 2**31 - 1


def compile_kernels(capability: str) -> bytes:
    """The kernels for compute capability `capability` ("9.0"): machine code, or PTX where NVRTC does not know it yet.

    Raises NoiseError where NVRTC does not compile them, RuntimeError where it cannot be loaded.
    """
    number = int(capability.replace(".", ""))
    known = [each for each in nvrtc.getSupportedArchs() if each <= number]
    if not known:
        raise NoiseError(f"NVRTC compiles for no GPU as old as compute capability {capability}: use --device cpu")
    exact = number in known
    architecture = f"{'sm' if exact else 'compute'}_{max(known)}"
    program = nvrtc.createProgram(kernel_source(), "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"--gpu-architecture={architecture}"))
        # CuPy cuts the last byte off both, the NUL behind a text: of machine code it is one of the file's own, a zero too.
        made = nvrtc.getCUBIN(program) + b"\0" if exact else nvrtc.getPTX(program)
    except nvrtc.NVRTCError as error:
        log = (nvrtc.getProgramLog(program).strip() or str(error)).splitlines()[0]
        raise NoiseError(f"NVRTC does not compile the kernels for {architecture} ({log}): reinstall CuPy") from None
    finally:
        nvrtc.destroyProgram(program)
    return made if isinstance(made, bytes) else str(made).encode()


def kernel_file(capability: str, folder: Path | None = None) -> Path:
    """`compile_kernels` as a file in `folder` (the user's cache), made where it is not there yet."""
    folder = Path.home() / ".cache" / "diffsmooth-trt" if folder is None else folder
    parts = repr((kernel_source(), OPTIONS, capability, nvrtc.getVersion()))
    path = folder / f"kernels-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.cubin"
    if path.is_file():
        return path
    code = compile_kernels(capability)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, code)
    except (OSError, StoreError):  # a home that cannot be written to
        path = Path(tempfile.mkdtemp(prefix="diffsmooth-trt-")) / path.name
        path.write_bytes(code)
    return path


class CudaKernels(Kernels):
    """The kernels on CuPy's current device, of compute capability `capability`, and current stream."""

    def __init__(self, capability: str) -> None:
        super().__init__()
        path = kernel_file(capability)
        self.module = cupy.RawModule(path=str(path))
        self._functions: dict[str, Any] = {}
        try:
            self._function("ds_mark")
        except cupy.cuda.driver.CUDADriverError:  # the file is damaged
            path.unlink()
            self.module = cupy.RawModule(path=str(kernel_file(capability)))

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            self._functions[name] = self.module.get_function(name)
        return self._functions[name]

    def launch(self, name: str, count: int, arguments: tuple[Any, ...]) -> None:
        blocks = min(max(1, -(-count // THREADS)), MOST_BLOCKS)
        self._function(name)((blocks,), (THREADS,), arguments)

    def upload(self, array: np.ndarray[Any, Any]) -> Array:
        return cupy.asarray(array)
