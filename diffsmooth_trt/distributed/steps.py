"""The loop's steps, done by workers: a batch goes to the worker that has least to do, and is sent again where that one is lost."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
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
    """A worker is gone, and what was sent to it. `short`: what it said as it ran out of memory, "" where it is not known why."""

    def __init__(self, short: str = "") -> None:
        super().__init__(short)
        self.short = short


class Pool(Protocol):
    """Workers elsewhere. A worker is named by a number that is never given twice."""

    def workers(self) -> Sequence[int]:
        """Those that are ready, new ones included."""

    def send(self, worker: int, ticket: int, spans: Sequence[Span]) -> None:
        """Ask a worker for a batch; `ticket` names the answer."""

    def receive(self, seconds: float) -> Sequence[tuple[int, int, Drawn | Lost]]:
        """Answers that are there within `seconds`, as (worker, ticket, answer). Raises what a worker's engine raised."""


@dataclass
class _Batch:
    spans: Sequence[Span]
    plain: Sequence[Span]
    sent: dict[int, float] = field(default_factory=dict)  # by worker, when
    lost: int = 0  # with how many workers
    short: int = 0  # of them for want of memory
    drawn: Drawn | None = None


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
        self.load: dict[int, set[int]] = {}  # tickets by worker
        self.tickets = 0
        self.took: deque[float] = deque(maxlen=101)
        self.heard: dict[int, float] = {}  # when a worker answered last
        self.known: Sequence[int] = ()
        self.asked = -math.inf  # when the pool was, by time.monotonic()

    def _workers(self) -> Sequence[int]:
        """Those that are ready; the pool is asked now and then, and after a loss, as there may be a thousand."""
        now = time.monotonic()
        if not self.known or now - self.asked > LOOK_SECONDS:
            self.known, self.asked = list(self.pool.workers()), now
            for worker in self.known:
                self.load.setdefault(worker, set())
        return self.known

    @property
    def full(self) -> bool:
        """Whether no worker takes more, or too much waits to be collected."""
        if not self._crowded():
            return False
        self._take_in(0.0)  # only now: asking after thousands of answers takes its time
        return self._crowded()

    def _crowded(self) -> bool:
        workers = self._workers()
        return len(self.flying) >= BUFFER * (AHEAD + 1) * max(1, len(workers)) or not any(
            len(self.load[worker]) <= AHEAD for worker in workers
        )

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return any(not self.load[worker] for worker in self._workers())

    def launch(self, spans: Sequence[Span]) -> None:
        """Begin a step: `spans` are the rows of its batch, in order, at most `batch` of them."""
        self.tickets += 1
        plain = [span.plain() for span in spans]
        self.batches[self.tickets] = _Batch(spans, plain)
        self.flying.append(self.tickets)
        self._send(self.tickets)

    def _send(self, ticket: int, but: Sequence[int] = ()) -> None:
        """Send a batch to the worker that has least to do, but not to those that have it."""
        workers = [worker for worker in self._workers() if worker not in but]
        if not workers:
            raise EngineError("no worker is left: go on with --resume where there are some")
        worker = min(workers, key=lambda each: (len(self.load[each]), -self.heard.get(each, 0.0)))
        self.load[worker].add(ticket)
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
            self.load.get(worker, set()).discard(ticket)
            self.heard[worker] = time.monotonic()
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
        # Who works gets room while all wait; who stands still, too, has none.
        others = any(worker not in batch.sent and len(self.load[worker]) <= AHEAD for worker in self._workers())
        if others and time.monotonic() - since > max(PATIENCE, LATE * usual):
            self._send(ticket, but=list(batch.sent))
