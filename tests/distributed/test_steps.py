"""Steps by workers that are slow, lost, or answer in any order: the loop gets each batch once, in its order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.distributed import steps as module
from diffsmooth_trt.distributed.steps import Loads, Lost, RemoteSteps
from diffsmooth_trt.distributed.worker import Drawn
from diffsmooth_trt.errors import EngineError


class Anywhere:
    """A pool in this process: answers come in random order, a share of them lost, and workers named in `deaf` never answer."""

    def __init__(self, count: int, *, seed: int = 0, lost: float = 0.0, deaf: Sequence[int] = ()) -> None:
        self.alive, self.random, self.lost, self.deaf = list(range(count)), random.Random(seed), lost, deaf
        self.waiting: list[tuple[int, int, Any]] = []
        self.sent: list[tuple[int, int]] = []
        self.most = count

    def workers(self) -> Sequence[int]:
        return self.alive

    def send(self, worker: int, ticket: int, spans: Sequence[Span]) -> None:
        assert worker in self.alive
        self.sent.append((worker, ticket))
        counts = np.array([[span.start, span.high - span.low] for span in spans])
        self.waiting.append((worker, ticket, Drawn(counts, np.zeros(spans[-1].high, np.int64), 0.1)))

    def receive(self, seconds: float) -> Sequence[tuple[int, int, Any]]:
        ready = [each for each in self.waiting if each[0] not in self.deaf]
        if not ready or self.random.random() < 0.3:
            return []
        chosen = self.random.choice(ready)
        self.waiting.remove(chosen)
        if self.random.random() >= self.lost:
            return [chosen]
        worker = chosen[0]
        self.alive.remove(worker)
        self.alive.append(self.most)  # another takes its place
        self.most += 1
        gone = [each for each in self.waiting if each[0] == worker] + [chosen]
        self.waiting = [each for each in self.waiting if each[0] != worker]
        return [(worker, ticket, Lost()) for _, ticket, _ in gone]


def span(number: int) -> list[Span]:
    return [Span(Block(0, 1, 0, 10**6), np.zeros(3, np.uint8), 0, 4, number)]


def order(pool: Anywhere, batches: int = 200) -> list[int]:
    """What is collected, of batches that are launched as the loop launches them."""
    steps, found, launched = RemoteSteps(pool), [], 0
    while len(found) < batches:
        while steps.flying and (steps.full or launched == batches):
            found.append(int(steps.collect().counts[0, 0]))
        if launched < batches:
            steps.launch(span(launched))
            launched += 1
    assert not steps.flying and not steps.batches
    return found


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_each_batch_once_in_order(workers: int, lost: float) -> None:
    for seed in range(5):
        pool = Anywhere(workers, seed=seed, lost=lost)
        assert order(pool) == list(range(200))
        assert len(pool.sent) == 200 if not lost else len(pool.sent) > 200


def test_a_worker_that_stands_still_is_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has is drawn by others, and it gets no more than it can hold."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "LATE", 0.0)
    pool = Anywhere(3, deaf=[1])
    assert order(pool) == list(range(200))
    assert sum(worker == 1 for worker, _ in pool.sent) <= module.AHEAD + 1


def test_a_batch_goes_on_where_its_helper_stands_still_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four never answer; whatever both have, a third does."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "LATE", 0.0)
    for seed in range(5):
        assert order(Anywhere(4, seed=seed, deaf=[0, 2])) == list(range(200))


def test_batches_go_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Anywhere(4)
    monkeypatch.setattr(pool, "receive", lambda seconds: [])
    steps = RemoteSteps(pool)
    assert steps.idle
    for number in range(8):
        assert not steps.full
        steps.launch(span(number))
    assert not steps.idle
    assert sorted(worker for worker, _ in pool.sent) == [0, 0, 1, 1, 2, 2, 3, 3]
    while not steps.full:
        steps.launch(span(99))
    assert len(steps.flying) <= 4 * (module.AHEAD + 1)


def test_loads_are_found_by_how_many_each_has() -> None:
    """As a plain count has them, for 20 workers that come and go: 2,000 changes by a seeded generator."""
    rng, loads, expected, named = random.Random(0), Loads(), dict[int, int](), 20
    loads.keep(range(20))
    expected |= dict.fromkeys(range(20), 0)
    for _ in range(2000):
        worker, by = rng.choice([*expected, -1]), rng.choice((1, 1, -1))
        if rng.random() < 0.02:
            gone, named = rng.choice(list(expected)), named + 1
            del expected[gone]
            expected[named] = 0
            loads.keep(list(expected))
            loads.change(gone, -1)  # an answer that comes late
        elif worker in expected and expected[worker] + by >= 0:
            expected[worker] += by
            loads.change(worker, by)
            assert next(each for each in loads.below(99) if expected[each] == expected[worker]) == worker
        for most in (1, 3, 99):
            found = list(loads.below(most))
            assert sorted(found) == sorted(each for each, count in expected.items() if count < most)
            assert [expected[each] for each in found] == sorted(expected[each] for each in found)


def test_votes_that_are_there_are_collected_before_more_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where workers have room: a kill loses what nobody collected."""
    pool = Anywhere(2)
    monkeypatch.setattr(pool, "receive", lambda seconds: [pool.waiting.pop(0)] if pool.waiting else [])
    steps = RemoteSteps(pool)
    for number in range(2 * (module.AHEAD + 1)):
        assert not steps.full
        steps.launch(span(number))
    assert steps.full and len(pool.waiting) == 2 * (module.AHEAD + 1) - 1
    assert steps.collect().counts[0, 0] == 0 and not steps.full


@pytest.mark.parametrize(
    ("short", "workers", "message"),
    [
        ("no 9 GiB", 3, r"^3 workers ran out of memory with one batch \(no 9 GiB\): go on with resume=True and fewer workers"),
        ("", 20, r"^20 workers were lost with one batch: see Ray's logs, they may lack memory; go on with resume=True and fewer"),
    ],
)  # fmt: skip
def test_a_batch_that_no_worker_survives_ends_the_run(short: str, workers: int, message: str) -> None:
    """The others are drawn; that one is tried with so many workers, one after the other, and no more."""
    pool, tried = Anywhere(4), []
    real, send = pool.receive, pool.send

    def sent(worker: int, ticket: int, spans: Sequence[Span]) -> None:
        send(worker, ticket, spans)
        tried.extend([worker] if spans[0].start == 7 else [])

    def receive(seconds: float) -> Sequence[tuple[int, int, Any]]:
        answers = real(seconds)
        if not (answers and answers[0][2].counts[0, 0] == 7):
            return answers
        worker = answers[0][0]
        pool.alive = [*(each for each in pool.alive if each != worker), pool.most]
        pool.most += 1
        others = [(worker, ticket, Lost()) for who, ticket, _ in pool.waiting if who == worker]
        pool.waiting = [each for each in pool.waiting if each[0] != worker]
        return [(worker, answers[0][1], Lost(short)), *others]

    pool.receive, pool.send = receive, sent  # type: ignore[method-assign]
    steps = RemoteSteps(pool)
    for number in range(12):
        steps.launch(span(number))
    with pytest.raises(EngineError, match=message):
        for expected in range(12):
            assert steps.collect().counts[0, 0] == expected
    assert len(tried) == len(set(tried)) == workers


def test_no_worker_is_left() -> None:
    pool = Anywhere(1, lost=1.0)
    steps = RemoteSteps(pool)
    steps.launch(span(0))
    real = pool.receive

    def receive(seconds: float) -> Sequence[tuple[int, int, Any]]:
        found = real(seconds)
        pool.alive.clear()
        return found

    pool.receive = receive  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"^no worker is left: go on with resume=True where there are some"):
        steps.collect()
