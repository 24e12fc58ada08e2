"""A device as a GPU is one, on the processor: NumPy arrays, the kernels of csrc/kernels.cu, and work that is done late.

Calls only put work on a queue; it is done when something waits for it, in order, as on a CUDA stream. What the host overwrites
too early, or reads too early, is then wrong here as it would be there. The memory is counted and limited.
"""

from __future__ import annotations

import importlib.util
import sys
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffsmooth_trt.device import KernelDevice
from diffsmooth_trt.engine.backends.onnxruntime import OnnxRuntimeEngine
from diffsmooth_trt.errors import EngineError, OutOfMemory


def _host_kernels() -> Any:
    name = "tests_host_kernels"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("host_kernels.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


HostKernels = _host_kernels().HostKernels


class LateKernels(HostKernels):
    """Launches that wait in the device's queue; `launched` counts them by name."""

    def __init__(self, library: Any, enqueue: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(library)
        self.enqueue = enqueue
        self.launched: dict[str, int] = {}

    def launch(self, name: str, count: int, arguments: tuple[Any, ...]) -> None:
        self.launched[name] = self.launched.get(name, 0) + 1
        now = super().launch
        self.enqueue(lambda: now(name, count, arguments))


class HostDevice(KernelDevice):
    """`total` bytes of memory, `foreign` of them taken by others; `captures` counts the steps recorded as graphs."""

    name = "host"
    xp = np

    def __init__(self, library: Any, total: int = 1 << 40, foreign: int = 0) -> None:
        self.total, self.foreign, self.taken = total, foreign, 0
        self.queue: deque[Callable[[], None]] = deque()
        self.capture: list[Callable[[], None]] | None = None
        self.captures = 0
        self.waits = 0
        self.broken: str | None = None
        self.identity = {"device": "processor"}
        self.versions = {"device": "processor"}
        self.kernels = LateKernels(library, self.enqueue)
        self.prepare()

    def enqueue(self, work: Callable[[], None]) -> None:
        (self.queue if self.capture is None else self.capture).append(work)

    def synchronise(self) -> None:
        self._done(len(self.queue))

    def _done(self, count: int) -> None:
        assert self.capture is None, "waiting is impossible while a graph is recorded"
        for _ in range(count):
            self.queue.popleft()()

    # Memory

    def _take(self, size: int) -> None:
        if self.taken + size > self.total - self.foreign:
            raise OutOfMemory(f"host is out of memory ({size} bytes asked)")
        self.taken += size

    def hold(self, owner: Any, size: int) -> None:
        """Take memory for as long as `owner` lives."""
        self._take(size)
        weakref.finalize(owner, self._give, size)

    def _give(self, size: int) -> None:
        self.taken -= size

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        assert self.capture is None, "no memory is taken while a graph is recorded"
        array = np.full(shape, 0xA5, np.dtype(dtype))  # not zeros: what is not written shows
        self.hold(array, array.nbytes)
        return array

    def asarray(self, array: Any) -> Any:
        copy = self.empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def asnumpy(self, array: Any) -> Any:
        self.synchronise()
        return np.array(array)

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.full(shape, 0x5A, np.dtype(dtype))

    def mirror(self, staged: Any) -> Any:
        return self.empty(staged.shape, staged.dtype)

    def upload(self, staged: Any, mirror: Any) -> None:
        self.enqueue(lambda: mirror.reshape(-1)[: staged.size].__setitem__(slice(None), staged.reshape(-1)))

    def download(self, array: Any, staged: Any) -> None:
        self.enqueue(lambda: staged.__setitem__(..., array))

    def event(self) -> Callable[[], None]:
        reached = [False]
        self.enqueue(lambda: reached.__setitem__(0, True))

        def wait() -> None:
            self.waits += 1
            while not reached[0]:
                self._done(1)
            if self.broken:
                raise EngineError(f"host failed in stage {self.failing_stage} ({self.broken})")

        return wait

    def memory(self) -> tuple[int, int]:
        return self.total - self.foreign - self.taken, self.total

    def clear(self, array: Any) -> None:
        self.enqueue(lambda: array.fill(0))

    # Work

    def recorded(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        self.synchronise()
        self.capture = []
        try:
            step()
        finally:
            graph, self.capture = self.capture, None
        self.captures += 1
        return lambda: self.queue.extend(graph)


class LateEngine(OnnxRuntimeEngine):
    """ONNX Runtime on the processor as an engine of a `HostDevice`: its one output is written when the queue gets there."""

    row_bytes = 0  # device memory that a row of the batch takes

    def __init__(self, file: Any, batch: int, *, device: Any, **options: Any) -> None:
        super().__init__(file, batch, device=device, **options)
        device.hold(self, batch * self.row_bytes)
        self.output = device.empty(self.output_shape)

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        now = super()._run
        self.device.enqueue(lambda: self.output.__setitem__(..., now(inputs)))
        return self.output

    def close(self) -> None:
        self.__dict__.pop("output", None)


class Either:
    """What runs a file, by device: `late` engines on `device`, those of the `real` backend elsewhere."""

    def __init__(self, device: Any, late: Any, real: Any) -> None:
        self.device, self.late, self.real = device, late, real

    def __call__(self, *arguments: Any, device: Any, **options: Any) -> Any:
        made = self.late if device is self.device else self.real
        return made(*arguments, device=device, **options)

    def graph_rows(self, batch: int) -> set[int]:
        """As the real backend says."""
        rows: set[int] = self.real.graph_rows(batch)
        return rows
