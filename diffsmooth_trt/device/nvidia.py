"""What there is of NVIDIA's: driver and GPU, asked of the driver itself, and the Python packages of the two TensorRTs.

"tensorrt" is the full library, which builds for the GPU that it runs on; "tensorrt-rtx" is TensorRT for RTX, which builds on any
machine for the GPUs that it is told. The driver comes first: without one, a `Runtime` of the full library is an object whose
first use ends the process.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

DRIVER_LIBRARY, MANAGEMENT_LIBRARY = "libcuda.so.1", "libnvidia-ml.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
ERRORS = {100: "no GPU is visible", 999: "the driver does not answer", 803: "driver and its libraries do not fit"}
TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
NAMES = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}
# In this order: NVIDIA's own package under either of its names, then, where the full one is not needed, the lean runtime.
FULL, LEAN = ("tensorrt", "tensorrt_bindings"), ("tensorrt_lean", "tensorrt_lean_bindings")
RTX_MODULES = ("tensorrt_rtx",)
OLDEST = {TENSORRT: (10,), RTX: (1, 7)}
GET = {
    TENSORRT: "install the full TensorRT 10 or 11 of NVIDIA's own package index or download page (pip install tensorrt-cu13 or "
    "tensorrt-cu12 with that index; the public index has the bindings without the library)",
    RTX: "pip install 'diffsmooth-trt[rtx]' (x86-64 Linux)",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; `compute_capability` as "9.0", `driver` its version."""

    name: str
    compute_capability: str
    driver: str


def _driver_version(cuda: ctypes.CDLL) -> str:
    """The driver's own version, or the CUDA version that it serves where its management library is missing."""
    text = ctypes.create_string_buffer(96)
    try:
        management = ctypes.CDLL(MANAGEMENT_LIBRARY)
        if management.nvmlInit_v2() == 0:
            status = management.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
            management.nvmlShutdown()
            if status == 0:
                return text.value.decode()
    except (OSError, AttributeError):
        pass
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"


def _driver() -> tuple[ctypes.CDLL, int]:
    """The driver, and how many GPUs it shows; InputError saying what is missing."""
    try:
        cuda = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        raise InputError(
            f"no NVIDIA driver ({DRIVER_LIBRARY} is not on this machine): use a machine with an NVIDIA GPU and its driver"
        ) from None
    status = cuda.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        raise InputError(
            f"no usable GPU (CUDA error {status}: {ERRORS.get(status, 'see the driver')}): check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES"
        )
    return cuda, count.value


def gpus_visible() -> int:
    """How many GPUs there are, as CUDA_VISIBLE_DEVICES leaves them; raises InputError where there is none or no driver."""
    count = _driver()[1]
    if not count:
        raise InputError("no GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES")
    return count


def find_gpu(number: int = 0) -> Gpu:
    """The GPU `cuda:number` (as CUDA_VISIBLE_DEVICES leaves them); raises InputError saying what is missing.

    Loads nothing but the driver, makes no context and takes no memory.
    """
    cuda, count = _driver()
    if not 0 <= number < count:
        raise InputError(f"cuda:{number} does not exist, {count} GPUs are visible: use 0…{count - 1}")
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    version = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        version.append(str(value.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(version), _driver_version(cuda))


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, at most four: 10.13.3.9.post1 → (10, 13, 3, 9)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def import_tensorrt(library: str = TENSORRT, *, lean: bool = False) -> Any:
    """The Python module of `library`, TENSORRT (10 or 11; with `lean` the lean runtime will do) or RTX.

    Raises InputError saying what is missing, and where this process holds the other library: both define the same symbols,
    and the second one's calls would reach the first. Importing is safe without a driver; call `find_gpu` before a runtime.
    """
    full, other = (FULL, RTX_MODULES) if library == TENSORRT else (RTX_MODULES, (*FULL, *LEAN))
    held = [name for name in other if sys.modules.get(name) is not None]
    if held:
        raise InputError(
            f"{NAMES[library]} cannot be loaded where {held[0]} is loaded already, both define the same symbols: use one "
            "library a process"
        )
    problems = []
    for name in (*full, *(LEAN if library == TENSORRT else ())):
        if importlib.util.find_spec(name) is None:
            continue
        if name in LEAN and not lean:
            problems.append(f"{name} is the lean runtime, which builds nothing")
            continue
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            problems.append(f"{name} is installed without the library it binds ({str(error).splitlines()[0]})")
            continue
        version = str(getattr(module, "__version__", "of no version"))
        if version_numbers(version)[:2] < OLDEST[library] or not hasattr(module, "Runtime"):
            problems.append(f"{name} {version} is too old or a placeholder")
        elif not lean and not hasattr(module, "OnnxParser"):
            problems.append(f"{name} {version} has no builder")
        else:
            return module
    raise InputError(
        f"{NAMES[library]}: {'; '.join(problems) or 'its Python package is not installed'}: {GET[library]}"
    )
