"""The interface of a device. Methods and the loop are written once against it, engines run on one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..noise import GridLaw, Key

Array = Any  # numpy.ndarray or cupy.ndarray
Host = NDArray[Any]
DeviceWords = Any  # uint64 [3, rows]: phases, images, samples
Size = tuple[int, int, int]  # (C, H, W)


class Device(ABC):
    """Arrays and the work between engines. Floats are float32; on a GPU also float16, or bfloat16 held as uint16.

    `xp` is the arrays' module. On a device that is not `synchronous`, calls enqueue on its one stream, in order; `depth` is
    how many batches may be under way. `identity` is the device's part of an engine's identity, `versions` what else a run
    records of it, `softmax` names the arithmetic of soft votes. `nhwc` arguments say that rows are stored
    [H, W, C]; noise and pixels are always in [C, H, W] order.
    """

    name: str
    xp: Any
    synchronous: bool
    depth: int
    identity: dict[str, Any]
    versions: dict[str, str]
    softmax: str

    # Memory

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """A new array on the device."""

    @abstractmethod
    def asarray(self, array: Host) -> Array:
        """A NumPy array on the device; the CPU's is the same one."""

    @abstractmethod
    def asnumpy(self, array: Array) -> Host:
        """An array as NumPy's, once the work before it is done; the CPU's is the same one."""

    @abstractmethod
    def staging(self, shape: tuple[int, ...], dtype: Any) -> Host:
        """Host memory that copies to and from the device without waiting."""

    @abstractmethod
    def mirror(self, staged: Host) -> Array:
        """An array on the device for `upload` from staging memory; on the CPU the staging memory itself."""

    @abstractmethod
    def upload(self, staged: Host, mirror: Array) -> None:
        """Copy staging memory to (the first rows of) its mirror."""

    @abstractmethod
    def download(self, array: Array, staged: Host) -> None:
        """Copy an array to staging memory; it is there after the next `event`."""

    @abstractmethod
    def event(self) -> Callable[[], None]:
        """A function that waits for everything enqueued so far."""

    @abstractmethod
    def memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of the device's own memory; None where it has none."""

    def release(self) -> None:  # noqa: B027
        """Give back memory that is no longer used."""

    # Failures

    def errors(self) -> AbstractContextManager[None]:
        """For all work on the device: makes it the one that this thread works on, and turns what its libraries raise into
        EngineError, naming the stage, or OutOfMemory."""
        return nullcontext()

    watch: Callable[[str], None] | None = None  # called at the begin of each stage, with its name

    def stage(self, name: str) -> None:
        """What follows belongs to stage `name`, which an error names."""
        if self.watch is not None:
            self.watch(name)

    @abstractmethod
    def check_finite(self, values: Array, name: str) -> None:
        """EngineError where output `values` [rows, …] of `name` are not finite: now, or with the next `raise_faults`."""

    def raise_faults(self) -> None:  # noqa: B027
        """Wait, and raise EngineError for what `check_finite` has found since the last look."""

    # Work

    def recorded(self, step: Callable[[], None]) -> Callable[[], None]:
        """A function that does what `step` does, as one graph where the device has such; runs `step` to record it."""
        return step

    @abstractmethod
    def clear(self, array: Array) -> None:
        """Set every byte to zero."""

    @abstractmethod
    def noisy_images(
        self,
        law: GridLaw,
        key: Key,
        words: DeviceWords,
        pixels: Array,
        source: Array,
        out: Array,
        *,
        size: Size,
        nhwc: bool,
    ) -> None:
        """out[r] = (pixels[source[r]] + noise of row r) / 255; pixels uint8 [N, d], source int64 [rows]."""

    @abstractmethod
    def converted(self, values: Array, out: Array, *, size: Size, nhwc: bool, out_nhwc: bool) -> None:
        """Values in the type and layout of out."""

    @abstractmethod
    def with_fixed_noise(
        self, values: Array, noise: Array, out: Array | None, *, size: Size, nhwc: bool, out_nhwc: bool
    ) -> Array:
        """values[r] + noise, float32 [d], in `out` or a new array."""

    @abstractmethod
    def with_fresh_noise(
        self,
        law: GridLaw,
        key: Key,
        phase: int,
        words: DeviceWords,
        values: Array,
        out: Array | None,
        *,
        copies: int,
        copy: int,
        size: Size,
        nhwc: bool,
        out_nhwc: bool,
    ) -> Array:
        """values[r] plus the noise of one of the row's own copies (`fresh_words`) in `phase`, in `out` or a new array."""

    @abstractmethod
    def winners(self, scores: Array) -> Array:
        """Labels int64 [rows] of scores [rows, classes]; ties go to the lowest class."""

    @abstractmethod
    def add_softmax(self, scores: Array, total: Array, *, carry: bool) -> None:
        """total += softmax(scores) over the classes of each row, total float32; without `carry` it starts at zero."""

    @abstractmethod
    def count_votes(self, labels: Array, slots: Array, counts: Array) -> None:
        """counts[slots[r], labels[r]] += 1 for each row with slots[r] ≥ 0; counts int64 [slots, bins]."""
