"""The loop: rows of several images packed into full batches, votes counted per block, results as blocks complete.

Results are a function of (classifier id, key, image) alone: every row's noise and label depend on nothing else, so packing,
order and restarts cannot change them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..data import Image, Images
from ..errors import InputError
from ..methods import Method, Rows
from ..noise import grid_law
from .batch import Span, fill, flat_pixels
from .plan import Block
from .store import RunStore

COMMIT_SECONDS = 1.0


class Progress(Protocol):
    """What the loop tells while it runs."""

    def start(self, images: int, finished: int, samples: int, drawn: int) -> None:
        """`images` images and `samples` samples in all, of which the store already holds `finished` and `drawn`."""

    def update(self, samples: int, images: int) -> None:
        """`samples` more samples were drawn, `images` more images finished."""


@dataclass
class _Task:
    """One image in work."""

    image: Image
    pixels: NDArray[np.uint8]  # flat, in [C, H, W] order
    pending: int
    seconds: float = 0.0


@dataclass
class _OpenBlock:
    task: _Task
    block: Block
    counts: NDArray[np.int64]
    drawn: int = 0  # rows handed to batches
    counted: int = 0  # rows whose votes are in


@dataclass
class _Segment:
    """Rows `low` … `high` − 1 of a batch belong to `open`, from sample `start` on."""

    open: _OpenBlock
    low: int
    high: int
    start: int


def pixel_digest(image: Image) -> str:
    """SHA-256 over the shape and the 8-bit pixels of an image."""
    return hashlib.sha256(repr(image.pixels.shape).encode() + image.pixels.tobytes()).hexdigest()


@dataclass
class Runner:
    """Draws what `store`'s plan asks for each image, and records it there."""

    method: Method
    store: RunStore
    progress: Progress
    seconds: dict[str, float] = field(default_factory=lambda: {"noise": 0.0, "method": 0.0, "count": 0.0})

    def __post_init__(self) -> None:
        self.law = grid_law(self.method.sigma)
        self.key = int(self.store.meta["key"], 16)
        self.plan = self.store.plan
        self.noisy = np.empty((self.method.batch, *self.method.input_shape), dtype=np.float32)
        self.committed = time.monotonic()

    def run(self, images: Images) -> None:
        """Finish every image; what the store already holds is not drawn again."""
        self.progress.start(len(images), self.store.finished(), len(images) * self.plan.samples, self.store.drawn())
        segments: list[_Segment] = []
        filled = 0
        for opened in self._open_blocks(images):
            count = opened.block.stop - opened.block.start
            while opened.drawn < count:
                take = min(self.method.batch - filled, count - opened.drawn)
                segments.append(_Segment(opened, filled, filled + take, opened.block.start + opened.drawn))
                opened.drawn += take
                filled += take
                if filled == self.method.batch:
                    self._batch(segments)
                    segments, filled = [], 0
        if segments:
            self._batch(segments)
        self.store.commit()

    def _open_blocks(self, images: Iterable[Image]) -> Iterator[_OpenBlock]:
        for image in images:
            self._check(image)
            done = self.store.done(image.index)
            missing = [block for block in self.plan.blocks(image.index) if (block.phase, block.start) not in done]
            if not missing:
                if not self.store.has_result(image.index):
                    self.store.add_result(image.index)
                continue
            task = _Task(image, flat_pixels(image), len(missing))
            for block in missing:
                counts = np.array(self.store.partial(block) or [0] * self.method.classes, dtype=np.int64)
                held = int(counts.sum())
                yield _OpenBlock(task, block, counts, drawn=held, counted=held)

    def _check(self, image: Image) -> None:
        channels, height, width = self.method.input_shape
        if image.pixels.shape != (height, width, channels):
            raise InputError(
                f"image {image.index} is {image.pixels.shape}, the engine takes {(height, width, channels)}: "
                "pass --resize and --crop, or another engine or data set"
            )
        digest = pixel_digest(image)
        known = self.store.digest(image.index)
        if known is None:
            self.store.add_image(image.index, image.label, digest)
        elif known != (image.label, digest):
            raise InputError(f"image {image.index} differs from the one in {self.store.path}: --data is not the run's")

    def _batch(self, segments: list[_Segment]) -> None:
        start = time.perf_counter()
        rows = self._fill(segments)
        filled = time.perf_counter()
        labels = self.method.labels(self.noisy, rows)
        labelled = time.perf_counter()
        used = segments[-1].high
        finished = 0
        completed: dict[int, _Task] = {}  # an image may complete several blocks in one batch
        for segment in segments:
            task = segment.open.task
            task.seconds += (labelled - start) * (segment.high - segment.low) / used
            if self._count(segment, labels[segment.low : segment.high]):
                completed[task.image.index] = task
        for task in completed.values():
            self.store.add_seconds(task.image.index, task.seconds)
            task.seconds = 0.0
            if not task.pending:
                self.store.add_result(task.image.index)
                finished += 1
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            last = segments[-1].open  # the only one that can be in work: rows are handed out in order
            if last.counted < last.block.stop - last.block.start:
                self.store.add_partial(last.block, last.counts.tolist())
            self.store.commit()
            self.committed = time.monotonic()
        self.progress.update(used, finished)
        ended = time.perf_counter()
        for name, spent in (("noise", filled - start), ("method", labelled - filled), ("count", ended - labelled)):
            self.seconds[name] += spent

    def _fill(self, segments: list[_Segment]) -> Rows:
        spans = [Span(s.open.block, s.open.task.pixels, s.low, s.high, s.start) for s in segments]
        return fill(self.law, self.key, spans, self.noisy)

    def _count(self, segment: _Segment, labels: NDArray[np.int64]) -> bool:
        """Add a segment's votes; whether that completed its block."""
        opened = segment.open
        opened.counts += np.bincount(labels, minlength=opened.counts.size)
        opened.counted += len(labels)
        if opened.counted < opened.block.stop - opened.block.start:
            return False
        self.store.add_block(opened.block, opened.counts.tolist())
        opened.task.pending -= 1
        return True
