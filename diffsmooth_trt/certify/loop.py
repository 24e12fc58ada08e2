"""The loop: rows of several images packed into full batches, votes counted per block, results as blocks complete.

Between them go batches of rows that are evaluated again (self_audit.py); they add no votes.

Results are a function of (classifier id, key, image) alone: every row's noise and label depend on nothing else, and whether an
image needs more draws is asked after fixed numbers of them, of its own votes. So packing, order and restarts change nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Counts
from ..errors import AuditError, InputError, Stopped
from ..images import Image, Images, flat_pixels, pixel_digest
from ..statistics.sequential import looks
from .audit_rows import Seat
from .batch import Span
from .blocks import Block
from .ledger import Ledger
from .places import least_share
from .progress import Progress
from .rules import Rule, Votes
from .self_audit import SHARE, SelfAudit
from .step import Collected, Steps

COMMIT_SECONDS = 1.0


class Drawn(Protocol):
    """What the loop has to know of the method that it draws from."""

    @property
    def batch(self) -> int:
        """Rows of a step."""

    @property
    def bins(self) -> int:
        """How many labels votes are counted for."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""

    @property
    def place_dependent(self) -> bool:
        """Whether last bits of a row depend on its place in the batch."""


@dataclass
class _Task:
    """One image in work; `open` are its blocks in order, from the first whose votes are not all in."""

    image: Image
    pixels: NDArray[np.uint8]  # flat, in [C, H, W] order
    blocks: Iterator[Block]
    votes: Votes
    open: deque[_OpenBlock] = field(default_factory=deque)
    seconds: float = 0.0
    done: bool = False


@dataclass
class _OpenBlock:
    task: _Task
    block: Block
    counts: NDArray[np.int64]
    drawn: int  # rows handed to batches
    counted: int  # rows whose votes are in
    stored: bool

    @property
    def size(self) -> int:
        return self.block.stop - self.block.start


@dataclass(frozen=True)
class _Segment(Span):
    """Rows `low` … `high` − 1 of a batch belong to `open`, from sample `start` on."""

    open: _OpenBlock


def stopped(ledger: Ledger) -> str:
    """What is said of a run that ended before its end."""
    return f"stopped in time, {ledger.finished()} images are done; {ledger.name} keeps all votes: go on with --resume"


def check_image(method: Drawn, ledger: Ledger, image: Image) -> None:
    """Record an image, or compare it with its record; InputError unless it is of the engine's shape and the run's."""
    channels, height, width = method.input_shape
    if image.pixels.shape != (height, width, channels):
        raise InputError(
            f"image {image.index} is {image.pixels.shape}, the engine takes {(height, width, channels)}: "
            "pass --resize and --crop, or another engine or data set"
        )
    digest = pixel_digest(image)
    known = ledger.known(image.index)
    if known is None:
        ledger.add_image(image.index, image.label, digest, image.distance)
    elif known != (image.label, digest, image.distance):
        raise InputError(f"image {image.index} differs from the one in {ledger.name}: --data is not the run's")


@dataclass
class Runner:
    """Draws by `steps` of `method` what `rule` asks for each image, and keeps it in `ledger`."""

    method: Drawn
    ledger: Ledger
    rule: Rule
    step: Steps
    progress: Progress
    stop_at: float | None = None  # by time.monotonic()

    def __post_init__(self) -> None:
        self.plan = self.rule.plan
        self.committed = time.monotonic()
        self.active: dict[int, _Task] = {}
        self.exhausted = False
        self.drawing = 0  # batches under way whose votes count
        self.audit: SelfAudit

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent on noise, method and counting."""
        return self.step.seconds

    def run(self, images: Images) -> None:
        """Finish every image; what the ledger already holds is not drawn again.

        Raises AuditError where rows evaluated again have other labels; the ledger is marked void before. Raises Stopped, with
        all votes kept, once it is past `stop_at`.
        """
        self.audit = self._open_audit(len(images))
        most = None if self.plan.sequential else len(images) * self.plan.samples
        self.progress.start(len(images), self.ledger.finished(), most, self.ledger.drawn())
        waiting = iter(images)
        while True:
            # What is drawn ahead of a look may be drawn for nothing: where only that is left, votes come first.
            last = self.exhausted and self.plan.sequential and not self.step.idle
            while self.step.flying and (self.step.full or last):
                self._collect()
            spans: Sequence[Span] = self.audit.due() or self._pack(waiting)
            if not spans and not self.drawing:
                spans = self.audit.rest() or ()
            if spans:
                self.step.launch(spans)
                self.drawing += not isinstance(spans[0], Seat)
            if self.step.flying and (self.step.synchronous or not spans):
                self._collect()
            elif not spans:
                break
            if self.stop_at is not None and time.monotonic() > self.stop_at:
                self._commit()
                raise Stopped(stopped(self.ledger))
        with self._audited():
            self.audit.finish()
        self._commit()

    def _open_audit(self, images: int) -> SelfAudit:
        """The run's audit, going on from where the ledger's was left."""
        first = self.plan.phases[-1][1] if not self.plan.sequential else looks(self.plan.phases[-1][1])[0]
        least = images * (self.plan.samples - self.plan.phases[-1][1] + first)
        dependent = self.method.place_dependent
        counts = self.ledger.audit or ({"before": self.ledger.drawn()} if self.ledger.drawn() else {})
        share = least_share(SHARE, least) if dependent else SHARE
        rows = self.ledger.audit_rows()
        return SelfAudit(self.method.batch, share=share, place_dependent=dependent, counts=counts, waiting=rows)

    @contextmanager
    def _audited(self) -> Iterator[None]:
        """Mark the ledger void before an AuditError goes on."""
        try:
            yield
        except AuditError:
            self.ledger.add_audit(self.audit.found)
            raise

    def _pack(self, waiting: Iterator[Image]) -> list[_Segment]:
        """Rows for one batch, as full as the images left allow."""
        segments: list[_Segment] = []
        filled = 0
        for opened in self._sources(waiting):
            take = min(self.method.batch - filled, opened.size - opened.drawn)
            start = opened.block.start + opened.drawn
            segments.append(_Segment(opened.block, opened.task.pixels, filled, filled + take, start, opened))
            opened.drawn += take
            filled += take
            if filled == self.method.batch:
                break
        return segments

    def _sources(self, waiting: Iterator[Image]) -> Iterator[_OpenBlock]:
        """Blocks with rows to draw: of images in work, then of new ones, and when there are none left, ahead of a look.

        Votes drawn ahead of a look that turns out to be the last are dropped; they only take the place of padding.
        """
        for task in list(self.active.values()):
            yield from self._drawable(task)
        for image in waiting:
            check_image(self.method, self.ledger, image)
            if image.index in self.audit.lost:
                self.audit.offer(image.index, flat_pixels(image))
            if not self.ledger.has_result(image.index):
                votes = Votes(self.plan, self.method.bins, image.distance)
                task = self.active[image.index] = _Task(image, flat_pixels(image), self.plan.blocks(image.index), votes)
                yield from self._drawable(task)
        self.exhausted = True
        if self.step.flying and self.step.idle:
            return
        for task in list(self.active.values()):
            yield from self._drawable(task, ahead=True)

    def _drawable(self, task: _Task, *, ahead: bool = False) -> Iterator[_OpenBlock]:
        """An image's blocks with rows to draw, in order; what the ledger holds is taken from there on the way."""
        yield from (opened for opened in task.open if opened.drawn < opened.size)
        while not task.done:
            looking = any(opened.block.phase == self.plan.last_phase for opened in task.open)
            if self.plan.sequential and looking and not ahead:
                return
            block = next(task.blocks, None)
            if block is None:
                return
            held = self.ledger.held(block)
            counts = held if held is not None else self.ledger.partial(block)
            if counts is None:
                counts = np.zeros(self.method.bins, dtype=np.int64)
            known = int(counts.sum())
            opened = _OpenBlock(task, block, counts, known, known, stored=held is not None)
            task.open.append(opened)
            if held is not None:
                self._advance(task)
            else:
                yield opened

    def _advance(self, task: _Task) -> int:
        """Take in the blocks whose votes and whose predecessors' are there; how many images that finished, 0 or 1."""
        while task.open and task.open[0].counted == task.open[0].size and not task.done:
            opened = task.open.popleft()
            if not opened.stored:
                self.ledger.add_block(opened.block, opened.counts)
            task.votes.add(opened.block, opened.counts)
            last = self.plan.ends(opened.block)
            task.done = last or (task.votes.at_look and self.rule.stops(task.votes))
        if not task.done:
            return 0
        del self.active[task.image.index]
        self.ledger.add_seconds(task.image.index, task.seconds)
        self.ledger.add_result(task.image.index, self.rule.outcome(task.votes))
        return 1

    def _collect(self) -> None:
        """Take in the oldest batch under way: votes, or labels to be compared."""
        done = self.step.collect()
        if isinstance(done.spans[0], Seat):
            with self._audited():
                self.audit.compare(done.spans, done.labels)
        else:
            self.drawing -= 1
            self._take_in(done)
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()

    def _take_in(self, done: Collected) -> None:
        """Take in the votes of a batch."""
        segments, counts, seconds, labels = done
        start = time.perf_counter()
        used = segments[-1].high
        self.audit.see(segments, labels, padded=used < self.method.batch)
        touched: dict[int, _Task] = {}
        for segment, votes in zip(segments, counts, strict=True):
            assert isinstance(segment, _Segment)  # as `_pack` made them
            task = segment.open.task
            task.seconds += seconds * (segment.high - segment.low) / used
            self._count(segment, votes)
            touched[task.image.index] = task
        finished = sum(self._advance(task) for task in touched.values() if not task.done)
        self.progress.update(used, finished)
        self.seconds["count"] += time.perf_counter() - start

    def _count(self, segment: _Segment, votes: Counts) -> None:
        """Add a segment's votes."""
        opened = segment.open
        opened.counts += votes
        opened.counted += segment.high - segment.low

    def _commit(self) -> None:
        """Put all votes on disk, those of blocks in work too, and the rows to be evaluated again."""
        for task in self.active.values():
            self.ledger.add_seconds(task.image.index, task.seconds)
            task.seconds = 0.0
            for opened in task.open:
                if 0 < opened.counted < opened.size:
                    self.ledger.add_partial(opened.block, opened.counts)
        self.ledger.change_audit(*self.audit.held.changes())
        if self.audit.found["of"]:
            self.ledger.add_audit(self.audit.found)
        self.ledger.commit()
        self.committed = time.monotonic()
