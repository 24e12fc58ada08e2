"""One NVIDIA GPU through CuPy: its arrays, its one stream, its graphs, and its errors in words. Not yet run on a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import EngineError, InputError, OutOfMemory
from .base import Array, Host
from .kernel_device import KernelDevice

INSTALL = "pip install 'diffsmooth-trt[cuda]'"
RESUME = "what was committed before is kept, go on with --resume"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def open_cuda(number: int) -> Cuda:
    """GPU `number`, ready for work; InputError, in one line with a remedy, where it is not to be had."""
    name = f"--device cuda:{number}"
    if importlib.util.find_spec("cupy") is None:
        raise InputError(f"{name} needs CuPy, which is not installed: {INSTALL}")
    try:
        import cupy
    except Exception as error:  # CuPy fails in many ways where its libraries do not fit
        raise InputError(f"{name} needs CuPy, which fails to load ({_first(error)}): {INSTALL}") from None
    runtime = cupy.cuda.runtime
    try:
        driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            raise InputError(f"{name} is not available: no NVIDIA driver is loaded; install one, or use --device cpu")
        if driver // 1000 < built // 1000:
            raise InputError(
                f"{name}: the NVIDIA driver is for CUDA {_version(driver)}, CuPy for CUDA {_version(built)}: "
                "install a newer driver, or a CuPy for the older CUDA"
            )
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise InputError(f"{name} is not available ({_first(error)}): see `diffsmooth-trt doctor`") from None
    if number >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 … cuda:{count - 1}"
        raise InputError(
            f"{name} does not exist, this machine has {there if count else 'no GPU'}: use one of those or cpu"
        )
    try:
        return Cuda(number)
    except cupy.cuda.memory.OutOfMemoryError:
        free, total = runtime.memGetInfo()
        raise InputError(
            f"{name} has {free >> 20} of {total >> 20} MiB free, too little to begin: stop the process that holds the rest"
        ) from None
    except (runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
        raise InputError(
            f"{name} cannot be used ({_first(error)}): see `diffsmooth-trt doctor` and nvidia-smi"
        ) from None
    except (RuntimeError, OSError) as error:  # NVRTC is a library of its own, looked for when it is first needed
        raise InputError(f"{name}: NVRTC cannot be loaded ({_first(error)}): {INSTALL}") from None


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Cuda(KernelDevice):
    """GPU `number` with a stream of its own.

    CuPy allocates and launches on the calling thread's current GPU and stream: within `errors` those are this device's, and
    stay so until another device's turn. Everything that is enqueued belongs there.
    """

    def __init__(self, number: int) -> None:
        import cupy

        from .nvrtc import CudaKernels

        self.name, self.number = f"cuda:{number}", number
        self.xp: Any = cupy
        self.gpu = cupy.cuda.Device(number)
        self.gpu.use()
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.model = properties["name"].decode()
        self.capability = f"{properties['major']}.{properties['minor']}"
        runtime = cupy.cuda.runtime
        self.versions = {
            "cupy": str(cupy.__version__),
            "cuda": f"{_version(runtime.runtimeGetVersion())}, driver for {_version(runtime.driverGetVersion())}",
        }
        self.identity = {"device": self.model, "compute_capability": self.capability}
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self._make_current()
        self.graph = "none"  # whether the last step recorded became one
        self.kernels = CudaKernels(self.capability)
        self.prepare()
        self.synchronise()

    def _make_current(self) -> None:
        self.gpu.use()  # first: CuPy refuses the stream of a GPU that is not the current one
        self.stream.use()

    # Memory

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        return self.xp.empty(shape, dtype)

    def asarray(self, array: Host) -> Array:
        return self.xp.asarray(array)

    def asnumpy(self, array: Array) -> Host:
        return np.asarray(self.xp.asnumpy(array))

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Host:
        import cupyx

        return np.asarray(cupyx.empty_pinned(shape, dtype))

    def mirror(self, staged: Host) -> Array:
        return self.xp.empty(staged.shape, staged.dtype)

    def upload(self, staged: Host, mirror: Array) -> None:
        mirror.data.copy_from_host_async(staged.ctypes.data, staged.nbytes, self.stream)

    def download(self, array: Array, staged: Host) -> None:
        array.data.copy_to_host_async(staged.ctypes.data, staged.nbytes, self.stream)

    def event(self) -> Callable[[], None]:
        event = self.xp.cuda.Event(block=True, disable_timing=True)
        event.record(self.stream)
        wait: Callable[[], None] = event.synchronize
        return wait

    def memory(self) -> tuple[int, int]:
        self._make_current()
        free, total = self.xp.cuda.runtime.memGetInfo()
        return int(free) + int(self.xp.get_default_memory_pool().free_bytes()), int(total)

    def release(self) -> None:
        super().release()
        self._make_current()
        self.xp.get_default_memory_pool().free_all_blocks()

    def clear(self, array: Array) -> None:
        array.data.memset_async(0, array.nbytes, self.stream)

    def synchronise(self) -> None:
        self.stream.synchronize()

    # Failures

    @contextmanager
    def errors(self) -> Iterator[None]:
        cuda = self.xp.cuda
        try:
            self._make_current()
            yield
        except cuda.memory.OutOfMemoryError as error:
            raise self.out_of_memory(_first(error)) from None
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if "MemoryAllocation" in str(error) or "OUT_OF_MEMORY" in str(error):
                raise self.out_of_memory(_first(error)) from None
            raise EngineError(
                f"{self.name} ({self.model}) failed in stage {self.failing_stage} ({_first(error)}); {RESUME}"
            ) from None

    def out_of_memory(self, detail: str) -> OutOfMemory:
        """The error for an allocation that failed, with what is free."""
        try:
            free, total = self.xp.cuda.runtime.memGetInfo()
            memory = f", {free >> 20} of {total >> 20} MiB are free"
        except self.xp.cuda.runtime.CUDARuntimeError:
            memory = ""
        return OutOfMemory(f"{self.name} is out of memory ({detail}){memory}: use a smaller --batch, or free the GPU")

    # Work

    def recorded(self, step: Callable[[], None]) -> Callable[[], None]:
        step()  # outside: makes every buffer, and libraries choose their algorithms
        self.synchronise()
        runtime = self.xp.cuda.runtime
        try:
            self.stream.begin_capture()
            try:
                step()
            finally:
                graph = self.stream.end_capture()
            graph.upload(self.stream)
        except OutOfMemory:
            raise
        except (EngineError, runtime.CUDARuntimeError) as error:  # an engine does what no graph can hold
            self.graph = f"none: {_first(error)}"
            return step
        self.graph = "captured"

        def replay() -> None:
            graph.launch(self.stream)

        return replay
