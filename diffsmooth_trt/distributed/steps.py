"""The loop's steps, done by workers: a batch goes to the worker that has least to do, and is sent again where that one is lost."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from ..certify.batch import Span
from ..certify.step import Collected
from ..errors import EngineError
from .worker import Drawn

LOOK_SECONDS = 0.5
AHEAD = 2  # batches that wait at a worker besides the one in work
BUFFER = 4  # batches a worker that may be done while the oldest is awaited
# A batch is sent to a second worker after so many times the usual time, and at least so many seconds.
LATE, PATIENCE = 10.0, 20.0
# Workers that the same batch ran out of memory with, or was lost with: then it is no chance.
SHORT_AT_MOST, LOST_AT_MOST = 3, 20


class Lost(Exception):
    """A worker is gone, and what was sent to it. `short`: what it said as it ran out of memory, "" if it did not.

    `why`: what else is known.
    """

    def __init__(self, short: str = "", why: str = "") -> None:
        super().__init__(short or why)
        self.short, self.why = short, why


class Pool(Protocol):
    """Workers elsewhere. A worker is named by a number that is never given twice."""

    def workers(self) -> Sequence[int]:
        """Those that are ready, new ones included."""

    def send(self, worker: int, ticket: int, spans: Sequence[Span]) -> None:
        """Ask a worker for a batch; `ticket` names the answer."""

    def receive(self, seconds: float) -> Sequence[tuple[int, int, Drawn | Lost]]:
        """All answers that are there, as (worker, ticket, answer); where there is none yet, what comes first within `seconds`.

        Raises what a worker's engine raised.
        """


@dataclass
class _Batch:
    spans: Sequence[Span]
    plain: Sequence[Span]
    sent: dict[int, float] = field(default_factory=dict)  # by worker, when
    lost: int = 0  # with how many workers
    short: int = 0  # of them for want of memory
    drawn: Drawn | None = None


class Loads:
    """How many batches each worker has. Those that have least are found at once, as there may be a thousand."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self.levels: list[dict[int, None]] = [{}]  # workers by how many they have, whoever was changed last at the end

    def keep(self, workers: Sequence[int]) -> None:
        """Take in those of `workers` that are new, and leave out those that are no longer of them."""
        for worker in self.of.keys() - set(workers):
            del self.levels[self.of.pop(worker)][worker]
        for worker in workers:
            if worker not in self.of:
                self.of[worker] = 0
                self.levels[0][worker] = None

    def change(self, worker: int, by: int) -> None:
        """A worker got a batch (1) or answered (-1); nothing where it was left out."""
        if worker not in self.of:
            return
        level = self.of[worker]
        del self.levels[level][worker]
        level = self.of[worker] = level + by
        if level == len(self.levels):
            self.levels.append({})
        self.levels[level][worker] = None

    def below(self, most: int) -> Iterator[int]:
        """Workers with less than `most` batches: who has least first, and among equals who was changed last."""
        for level in self.levels[:most]:
            yield from reversed(level)


class RemoteSteps:
    """Steps by the workers of `pool`. They are collected in the order in which they were launched, whoever is done first.

    Which worker does a batch changes nothing: its votes are a function of the classifier, the key and its rows. So a batch may be
    done twice, where a worker is lost or slow; the first answer counts. Raises EngineError once no worker is left, and where one
    worker after the other is lost with the same batch.
    """

    synchronous = False

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.seconds = {"noise": 0.0, "method": 0.0, "count": 0.0}
        self.flying: deque[int] = deque()
        self.batches: dict[int, _Batch] = {}
        self.loads = Loads()
        self.tickets = 0
        self.took: deque[float] = deque(maxlen=101)
        self.asked = -math.inf  # when the pool was, by time.monotonic()

    def _ready(self) -> Loads:
        """The loads of those that are ready; the pool is asked now and then, and after a loss."""
        now = time.monotonic()
        if not self.loads.of or now - self.asked > LOOK_SECONDS:
            self.loads.keep(self.pool.workers())
            self.asked = now
        return self.loads

    @property
    def full(self) -> bool:
        """Whether to collect before more is launched: the oldest votes are there, too much waits, or no worker takes more."""
        if self._waits() or len(self.flying) >= BUFFER * (AHEAD + 1) * max(1, len(self._ready().of)):
            return True
        if self._takes_more():
            return False
        self._take_in(0.0)  # only now: asking after thousands of answers takes its time
        return self._waits() or not self._takes_more()

    def _waits(self) -> bool:
        """Whether the oldest votes are there."""
        return bool(self.flying) and self.batches[self.flying[0]].drawn is not None

    def _takes_more(self) -> bool:
        """Whether a worker has room for a batch."""
        return next(self._ready().below(AHEAD + 1), None) is not None

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return next(self._ready().below(1), None) is not None

    def launch(self, spans: Sequence[Span]) -> None:
        """Begin a step: `spans` are the rows of its batch, in order, at most `batch` of them."""
        self.tickets += 1
        plain = [span.plain() for span in spans]
        self.batches[self.tickets] = _Batch(spans, plain)
        self.flying.append(self.tickets)
        self._send(self.tickets)

    def _send(self, ticket: int) -> None:
        """Send a batch to the worker that has least to do."""
        worker = next(self._ready().below(len(self.loads.levels)), None)
        if worker is None:
            raise EngineError("no worker is left: go on with --resume where there are some")
        self._send_to(worker, ticket)

    def _send_to(self, worker: int, ticket: int) -> None:
        self.loads.change(worker, 1)
        self.batches[ticket].sent[worker] = time.monotonic()
        self.pool.send(worker, ticket, self.batches[ticket].plain)

    def collect(self) -> Collected:
        """What the oldest step under way gives, once it is done."""
        ticket = self.flying[0]
        while self.batches[ticket].drawn is None:
            self._take_in(0.5)
            self._help(ticket)
        self.flying.popleft()
        batch = self.batches.pop(ticket)
        assert batch.drawn is not None
        self.seconds["method"] += batch.drawn.seconds
        return Collected(batch.spans, batch.drawn.counts, batch.drawn.seconds, batch.drawn.labels)

    def _take_in(self, seconds: float) -> None:
        """Take in the answers that are there within `seconds`."""
        if not self.flying:
            return
        answers = self.pool.receive(seconds)
        if any(isinstance(answer, Lost) for _, _, answer in answers):
            self.asked = -math.inf
        for worker, ticket, answer in answers:
            self.loads.change(worker, -1)
            batch = self.batches.get(ticket)
            if batch is None or batch.drawn is not None:
                continue  # another worker was first
            if isinstance(answer, Lost):
                batch.sent.pop(worker, None)
                self._check_lost(batch, answer)
                if not batch.sent:
                    self._send(ticket)
                continue
            self.took.append(time.monotonic() - batch.sent.get(worker, time.monotonic()))
            batch.drawn = answer

    @staticmethod
    def _check_lost(batch: _Batch, lost: Lost) -> None:
        """EngineError where so many workers were lost with a batch that it is the batch."""
        batch.lost, batch.short = batch.lost + 1, batch.short + bool(lost.short)
        if batch.short >= SHORT_AT_MOST:
            raise EngineError(
                f"{batch.short} workers ran out of memory with one batch ({lost.short}): go on with --resume and fewer "
                "--workers, or where there is more memory"
            )
        if batch.lost >= LOST_AT_MOST:
            raise EngineError(
                f"{batch.lost} workers were lost with one batch: see Ray's logs, they may lack memory; go on with --resume and "
                "fewer --workers, or on other machines"
            )

    def _help(self, ticket: int) -> None:
        """Send the batch that all wait for to a further worker where those that have it are much later than usual."""
        batch = self.batches[ticket]
        if batch.drawn is not None:
            return
        usual, since = median(self.took) if self.took else 0.0, max(batch.sent.values())
        if time.monotonic() - since <= max(PATIENCE, LATE * usual):
            return
        # Who works gets room while all wait; who stands still, too, has none.
        other = next((each for each in self._ready().below(AHEAD + 1) if each not in batch.sent), None)
        if other is not None:
            self._send_to(other, ticket)
