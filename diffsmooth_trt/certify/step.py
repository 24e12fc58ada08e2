"""One step of a run: a full batch of draws made noisy, classified and counted, all on the method's device.

A device that is not synchronous has several steps under way: a step's draws are packed and its votes are read while others
run. Nothing else is waited for.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..device import Device, KernelDevice
from ..dtypes import Counts, Labels
from ..methods import Method, PackedRows
from ..noise import GridLaw, Key
from .batch import Span, lay_out


class Collected(NamedTuple):
    """What a step gives: its spans, votes int64 [spans, bins], seconds, and labels int64 [rows used]."""

    spans: Sequence[Span]
    counts: Counts
    seconds: float
    labels: Labels


class Steps(Protocol):
    """What the loop asks of whoever does its steps: this process, or workers elsewhere."""

    seconds: dict[str, float]

    @property
    def flying(self) -> Sized:
        """The steps under way."""

    @property
    def full(self) -> bool:
        """Whether a step has to be collected before another can be launched."""

    @property
    def idle(self) -> bool:
        """Whether somebody waits for a step that need not be full."""

    @property
    def synchronous(self) -> bool:
        """Whether a step is done once it is launched."""

    def launch(self, spans: Sequence[Span]) -> None:
        """Begin a step: `spans` are the rows of its batch, in order, at most `batch` of them."""

    def collect(self) -> Collected:
        """What the oldest step under way gives, once it is done."""


@dataclass
class _Staged:
    """Host memory of one step under way: its draws, and then its votes."""

    words: NDArray[np.uint64]  # [3, batch]
    source: NDArray[np.int64]  # [batch], which row of pixels
    slots: NDArray[np.int32]  # [batch], which span; −1 where padded
    pixels: NDArray[np.uint8]  # [batch, d], one row a span
    counts: Counts  # [batch, bins], one row a span
    labels: Labels  # [batch]
    flags: NDArray[np.int64]
    spans: Sequence[Span] = ()
    wait: Callable[[], None] | None = None
    launched: float = 0.0

    @classmethod
    def of(cls, device: Device, batch: int, size: int, bins: int) -> _Staged:
        shapes: list[tuple[tuple[int, ...], Any]] = [
            ((3, batch), np.uint64),
            ((batch,), np.int64),
            ((batch,), np.int32),
            ((batch, size), np.uint8),
            ((batch, bins), np.int64),
            ((batch,), np.int64),
            ((1,), np.int64),
        ]
        staged: list[Any] = [device.staging(shape, dtype) for shape, dtype in shapes]
        return cls(*staged)

    def fill(self, spans: Sequence[Span]) -> None:
        """Put down the draws of `spans`; rows past the last one repeat its last draw, and do not count."""
        self.spans = spans
        used = lay_out(spans, self.words, self.source)
        self.slots[:used] = self.source[:used]
        for number, span in enumerate(spans):
            self.pixels[number] = span.pixels
        self.slots[used:] = -1


@dataclass
class Step:
    """Steps of `method` under `law` and `key`: `launch` begins one, `collect` gives the oldest one's votes.

    `seconds` adds up the noise, the method and the counting; on a device that is not synchronous all of it is the method's.
    """

    method: Method
    law: GridLaw
    key: Key
    seconds: dict[str, float] = field(default_factory=lambda: {"noise": 0.0, "method": 0.0, "count": 0.0})
    graph: bool = True  # whether the device may record the work once, and replay it: then stages are begun only once

    def __post_init__(self) -> None:
        method, device = self.method, self.method.device
        self.device = device
        shape = (method.batch, int(np.prod(method.input_shape)), method.bins)
        with device.errors():
            self.free = deque(_Staged.of(device, *shape) for _ in range(device.depth))
            first = self.free[0]
            self.words, self.source, self.slots, self.pixels = (
                device.mirror(staged) for staged in (first.words, first.source, first.slots, first.pixels)
            )
            self.rows = PackedRows.of(self.words, self.key)
            self.counts = device.empty(first.counts.shape, np.int64)
            self.labels: Any = None  # of the step launched last, on the device
        self.flying: deque[_Staged] = deque()
        self.work: Callable[[], None] | None = None
        self.collected = 0.0

    idle: ClassVar[bool] = False  # nobody waits for a step that is not full

    @property
    def full(self) -> bool:
        """Whether a step has to be collected before another can be launched."""
        return not self.free

    @property
    def synchronous(self) -> bool:
        """Whether a step is done once it is launched."""
        return self.device.synchronous

    def launch(self, spans: Sequence[Span]) -> None:
        """Begin a step: `spans` are the rows of its batch, in order, at most `batch` of them."""
        device, staged = self.device, self.free.popleft()
        staged.launched = time.perf_counter()
        staged.fill(spans)
        count = len(spans)
        with device.errors():
            device.upload(staged.words, self.words)
            device.upload(staged.source, self.source)
            device.upload(staged.slots, self.slots)
            device.upload(staged.pixels[:count], self.pixels)
            self._go()
            device.download(self.counts[:count], staged.counts[:count])
            device.download(self.labels, staged.labels)
            if isinstance(device, KernelDevice):
                device.download(device.flags, staged.flags)
            staged.wait = device.event()
        self.flying.append(staged)

    def collect(self) -> Collected:
        """What the oldest step under way gives, once it is done.

        Raises EngineError where an engine's output was not finite, or the device failed: then nothing of it counts.
        """
        staged, device = self.flying.popleft(), self.device
        with device.errors():
            if staged.wait is not None:
                staged.wait()
        if isinstance(device, KernelDevice):
            device.raise_flags(int(staged.flags[0]))
        now = time.perf_counter()
        spent = now - max(self.collected, staged.launched)
        self.collected = now
        if not device.synchronous:
            self.seconds["method"] += spent
        self.free.append(staged)
        count, used = len(staged.spans), staged.spans[-1].high
        return Collected(staged.spans, staged.counts[:count].copy(), spent, staged.labels[:used].copy())

    def _go(self) -> None:
        if self.work is None:
            step = weakref.proxy(self)  # its work must not hold the step: a failed one goes at once, with its memory

            def enqueue() -> None:
                step._enqueue()

            recordable = self.graph and self.method.capturable and not self.device.synchronous
            self.work = self.device.recorded(enqueue) if recordable else enqueue
        self.work()

    def _enqueue(self) -> None:
        """The step itself: from the draws in `words`, `source` and `pixels` to `labels` and votes in `counts`."""
        device, method = self.device, self.method
        start = time.perf_counter()
        if isinstance(device, KernelDevice):
            device.clear(device.flags)
        device.stage("noise")
        device.noisy_images(
            *(self.law, self.key, self.words, self.pixels, self.source, method.noisy),
            size=method.input_shape,
            nhwc=method.noisy_nhwc,
        )
        filled = time.perf_counter()
        labels = self.labels = method.labels(method.noisy, self.rows)  # where a graph has them, every replay puts them
        labelled = time.perf_counter()
        device.stage("votes")
        device.clear(self.counts)
        device.count_votes(labels, self.slots, self.counts)
        if device.synchronous:
            ended = time.perf_counter()
            for name, spent in (("noise", filled - start), ("method", labelled - filled), ("count", ended - labelled)):
                self.seconds[name] += spent
