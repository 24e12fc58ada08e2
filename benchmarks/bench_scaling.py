"""How far one driver scales: blocks a second that a run store takes, and runs on up to 1,000 simulated workers.

    python benchmarks/bench_scaling.py [--images 500] [--workers 10 100 1000] [--ledger]

The simulation is the run's own loop, its own `RemoteSteps` and a run store on disk, for images of ImageNet's size in 1,000 classes.
Only the workers are simulated: each does its batches one after another, `unit` seconds each. Time is what the driver really took
(its processor time, measured as it runs) plus waiting; what `RayPool`, for batches, new pictures, batches of many pictures and
answers under way takes of the driver's thread is measured here too, by a worker that does nothing, and added.
Efficiency is the workers' busy time over workers × time. Writes results/scaling.json.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bench_noise import cpu_model

from diffsmooth_trt.certify import loop
from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import BLOCK, Block
from diffsmooth_trt.certify.loop import Runner
from diffsmooth_trt.certify.progress import NoProgress
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.distributed import steps
from diffsmooth_trt.distributed.files import EngineFiles
from diffsmooth_trt.distributed.ray_pool import Pictures, RayPool, library
from diffsmooth_trt.distributed.steps import Lost, RemoteSteps
from diffsmooth_trt.distributed.worker import Drawn
from diffsmooth_trt.images import Image, ImageChoice
from diffsmooth_trt.noise import Key
from diffsmooth_trt.runs.identity import MethodFacts, named
from diffsmooth_trt.runs.run import describe
from diffsmooth_trt.runs.store import RunStore

RESULTS = Path(__file__).resolve().parent / "results" / "scaling.json"
SHAPE, CLASSES, BATCH, N = (3, 224, 224), 1000, 64, 10_000
ENGINE = {"backend": "simulated", "precision": "fp32", "sha256": "0" * 64, "batch": BATCH}
PARTS = {"method": "rs", "sigma": 0.5, "noise_version": 1, "classifier": ENGINE}
FACTS = MethodFacts(
    name="rs", classifier=named(PARTS), sigma=0.5, classes=CLASSES, bins=CLASSES, void=None, batch=BATCH, input_shape=SHAPE,
    place_dependent=False, lipschitz_constant=None, rows={"classifier": "proved"}, versions={},
)  # fmt: skip


class Same:
    """So many images of ImageNet's size."""

    labelled, matching, identity = True, None, "0" * 64

    def __init__(self, count: int) -> None:
        self.count, self.rows = count, range(count)
        self.pixels = np.random.default_rng(0).integers(0, 256, (SHAPE[1], SHAPE[2], 3), np.uint8)

    def __len__(self) -> int:
        return self.count

    def labels(self) -> list[int]:
        return [0] * self.count

    def __iter__(self) -> Any:
        return (Image(row, 0, self.pixels) for row in self.rows)


def store(folder: str, count: int, classes: int = CLASSES) -> RunStore:
    facts = replace(FACTS, classes=classes, bins=classes)
    asked = describe(facts, Same(count), ImageChoice(), Stopping(n=N), key=Key.parse("5a" * 32))  # type: ignore[arg-type]
    return RunStore.create(Path(folder) / f"run-{time.time_ns()}.sqlite", asked)


def ledger(blocks: int) -> dict[str, Any]:
    """Blocks that a store takes a second, and a second of the processor, by classes and how many of them have votes.

    It commits, with fsync, each second. `load` is what else the machine did.
    """
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        for classes, voted in ((10, 10), (100, 10), (CLASSES, 10), (CLASSES, 100)):
            counts = np.zeros(classes, np.int64)
            counts[:: classes // voted] = BLOCK // voted
            with store(folder, 10**6, classes) as kept:
                start = committed = time.perf_counter()
                begun = time.process_time()
                for number in range(blocks):
                    kept.add_block(Block(number, 2, 0, BLOCK), counts)
                    if time.perf_counter() - committed > loop.COMMIT_SECONDS:
                        kept.commit()
                        committed = time.perf_counter()
                kept.commit()
                each = {"a_second": blocks / (time.perf_counter() - start)}
                each["a_processor_second"] = blocks / (time.process_time() - begun)
                found[f"{classes} classes, {voted} with votes"] = each
    return found


@dataclass
class Clock:
    """Time that passes as the driver computes, and jumps where it waits."""

    ahead: float = 0.0

    def monotonic(self) -> float:
        return self.ahead + time.process_time()

    perf_counter = monotonic


@dataclass(frozen=True)
class RayCosts:
    """Seconds of the driver's thread that Ray takes: for a batch (sent, and its answer got), a picture that is put into the object
    store, a picture that goes with a batch, being asked for answers, and that for each batch under way. `beside` is what Ray's own
    threads take for a batch on other processors; it is not added.
    """

    batch: float = 0.0
    put: float = 0.0
    along: float = 0.0
    asked: float = 0.0
    under_way: float = 0.0
    beside: float = 0.0


class Simulated:
    """Workers that take `unit` seconds a batch, whose answers are the same; what Ray takes of the driver is added."""

    def __init__(self, count: int, unit: float, costs: RayCosts, clock: Clock) -> None:
        self.names, self.unit, self.costs, self.clock = list(range(count)), unit, costs, clock
        self.pictures = Pictures(self._put)
        self.free = [0.0] * count  # when a worker is done with what it has
        self.under_way: list[tuple[float, int, int, int, int]] = []
        self.busy, self.batches = 0.0, 0

    def _put(self, picture: Any) -> None:
        self.clock.ahead += self.costs.put

    def workers(self) -> Sequence[int]:
        return self.names

    def send(self, worker: int, ticket: int, spans: Sequence[Span]) -> None:
        light, _ = self.pictures.apart(spans)
        self.clock.ahead += self.costs.batch + self.costs.along * sum(span.pixels.size > 0 for span in light)
        self.free[worker] = max(self.free[worker], self.clock.monotonic()) + self.unit
        heapq.heappush(self.under_way, (self.free[worker], worker, ticket, len(spans), spans[-1].high))
        self.busy, self.batches = self.busy + self.unit, self.batches + 1

    def receive(self, seconds: float) -> Sequence[tuple[int, int, Drawn | Lost]]:
        self.clock.ahead += self.costs.asked + self.costs.under_way * len(self.under_way)
        now = self.clock.monotonic()
        if self.under_way and seconds and self.under_way[0][0] > now:
            self.clock.ahead += min(seconds, self.under_way[0][0] - now)
            now = self.clock.monotonic()
        found: list[tuple[int, int, Drawn | Lost]] = []
        while self.under_way and self.under_way[0][0] <= now:
            _, worker, ticket, spans, rows = heapq.heappop(self.under_way)
            counts = np.zeros((spans, CLASSES), np.int64)
            found.append((worker, ticket, Drawn(counts, np.zeros(rows, np.int64), self.unit)))
        return found


class Counting(RemoteSteps):
    """Votes are those of the rows, all of one class: a batch's spans are known here."""

    def collect(self) -> Any:
        done = super().collect()
        done.counts[:, 0] = [span.high - span.low for span in done.spans]
        return done


def simulate(count: int, images: int, unit: float, costs: RayCosts) -> dict[str, float]:
    """A whole run of `images` images on `count` workers."""
    clock = Clock()
    clock.ahead = -time.process_time()
    loop.time = steps.time = clock  # type: ignore[assignment, attr-defined]
    pool = Simulated(count, unit, costs, clock)
    try:
        with tempfile.TemporaryDirectory() as folder, store(folder, images) as kept:
            Runner(FACTS, kept, kept.rule, Counting(pool), NoProgress()).run(Same(images))  # type: ignore[arg-type]
            spent = clock.monotonic()
            if kept.finished() != images:
                raise SystemExit("images are missing")
    finally:
        loop.time = steps.time = time  # type: ignore[attr-defined]
    return {
        "workers": count, "images": images, "unit": unit, "seconds": spent, "efficiency": pool.busy / count / spent,
        "batches_per_second": pool.batches / spent,
    }  # fmt: skip


@dataclass(frozen=True)
class Nothing:
    """A job whose worker does nothing, in `seconds` seconds a batch."""

    seconds: float = 0.0
    files: Mapping[str, EngineFiles] = field(default_factory=dict)
    device: str = "cpu"
    threads: int | None = None

    def on(self, device: str) -> Nothing:
        return replace(self, device=device)

    def open(self, fetch: Any) -> Nothing:
        return self

    def facts(self) -> MethodFacts:
        return FACTS

    def begin(self, key: Key) -> None: ...

    def draw(self, spans: Sequence[Span]) -> Drawn:
        time.sleep(self.seconds)
        return Drawn(np.zeros((len(spans), CLASSES), np.int64), np.zeros(BATCH, np.int64), self.seconds)

    def told(self) -> tuple[list[str], tuple[int, int]]:
        return [], (0, 0)


def picture() -> Any:
    return np.zeros(int(np.prod(SHAPE)), np.uint8)


def sent(pool: RayPool, batches: Sequence[Sequence[Span]]) -> tuple[float, float]:
    """Seconds of this thread for each of some batches, sent together; their answers are got when all are there.

    Then those of Ray's threads in this process.
    """
    (worker,) = pool.workers()
    start, all_threads = time.thread_time(), time.process_time()
    for ticket, spans in enumerate(batches):
        pool.send(worker, ticket, spans)
    pool.ray.wait(list(pool.pending), num_returns=len(batches))
    pool.receive(0.0)
    spent = time.thread_time() - start
    return spent / len(batches), (time.process_time() - all_threads - spent) / len(batches)


def asking(pool: RayPool, under_way: int) -> float:
    """Seconds of this thread for being told that none of so many batches is done."""
    (worker,) = pool.workers()
    for ticket in range(under_way):
        pool.send(worker, ticket, [Span(Block(0, 2, 0, BLOCK), np.zeros(1, np.uint8), 0, BATCH, 0)])
    start = time.thread_time()
    for _ in range(20):
        if pool.receive(0.0):
            raise SystemExit("an answer came too soon")
    return (time.thread_time() - start) / 20


def ray_costs(calls: int = 300) -> RayCosts:
    """What Ray takes of the driver, for pictures of ImageNet's size."""

    def whole(pixels: Any) -> list[Span]:
        return [Span(Block(0, 2, 0, BLOCK), pixels, 0, BATCH, 0)]

    def mixed() -> list[Span]:
        return [Span(Block(row, 2, 0, BLOCK), picture(), row, row + 1, 0) for row in range(BATCH)]

    ray: Any = library()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with RayPool(ray, Nothing(), 1) as pool:
            same = picture()
            sent(pool, [whole(same)] * calls)  # whatever is done once
            batch, beside = sent(pool, [whole(same)] * calls)
            put = sent(pool, [whole(picture()) for _ in range(calls)])[0] - batch
            along = (sent(pool, [mixed() for _ in range(calls // 10)])[0] - batch) / BATCH
        found = []
        for under_way in (10, 3000):
            with RayPool(ray, Nothing(seconds=60.0), 1) as pool:
                found.append(asking(pool, under_way))
        return RayCosts(batch, put, along, found[0], (found[1] - found[0]) / (3000 - 10), beside)
    finally:
        ray.shutdown()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=int, default=500)
    p.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    p.add_argument(
        "--units", type=float, nargs="+", default=[0.5, 2.0, 8.0], help="seconds a batch of 64 takes a worker"
    )
    p.add_argument("--blocks", type=int, default=100_000)
    p.add_argument("--ledger", action="store_true", help="measure the run store alone; the rest of the results stays")
    a = p.parse_args()
    machine = {"cpu": cpu_model(), "processors": os.cpu_count(), "ray": version("ray")}
    document: dict[str, Any] = {"machine": machine, "n": N, "batch": BATCH, "shape": SHAPE, "classes": CLASSES}
    if a.ledger:
        document = json.loads(RESULTS.read_text(encoding="utf-8"))
    document.pop("blocks_per_second", None)
    document["blocks"] = ledger(a.blocks)
    print(document["blocks"], flush=True)
    if a.ledger:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
        return
    costs = ray_costs()
    document["ray_seconds"] = asdict(costs)
    print(costs, flush=True)
    document["runs"] = []
    for count in a.workers:
        for unit in a.units:
            document["runs"].append(simulate(count, a.images, unit, costs))
            print(document["runs"][-1], flush=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
