"""Timing whole steps: every batch size, the matrix products and eager PyTorch take turns, and medians are over the turns.

So whatever slows the machine for a while slows all of them, and a median leaves it out.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ..certify.batch_size import Clock, search
from ..device import Device, open_device
from ..engine import fixed_batch, instruction_set
from ..engine.choice import AUTO, available_cores
from ..errors import InputError, OutOfMemory
from ..methods import Method
from ..runs.engines import open_method
from ..runs.identity import versions
from .config import BATCHES, BenchConfig
from .flops import operations
from .matmul import MatmulRate, kind_of, measurable
from .neighbours import Neighbours, note
from .result import ENGINE, BenchResult, Products, Row, Spread
from .timings import Timings

STEPS = 3  # whose stages are timed
TRIES = 3  # of the matrix products a turn, of which the fastest counts
MEBI = 1 << 20
PACKING = "packing and copies"
Report = Callable[[str], None]


class Subject(Protocol):
    """What is timed."""

    def turn(self, seconds: float) -> None:
        """Time steps for about `seconds`."""

    def row(self) -> Row:
        """What the turns gave."""


class Voting:
    """A method at one batch size, drawing and counting votes as runs do."""

    def __init__(self, method: Method, memory_mib: float | None, *, auto: bool = False) -> None:
        self.method, self.auto, self.memory_mib = method, auto, memory_mib
        self.clock, self.timings = Clock(method), Timings()
        self.matmul: dict[str, list[float]] = {}  # by precision, filled while it is timed

    def turn(self, seconds: float) -> None:
        """Where steps overlap, those that run alone are timed apart."""
        alone = self.timings.alone(self.clock.latency, self.method.batch, seconds)
        self.timings.rates.append(alone if self.method.device.synchronous else self.clock.rate(seconds))

    def row(self) -> Row:
        """With the stages of a few more steps."""
        stages, calls = self._stages()
        total = sum(stages.values())
        shares, engines = {}, {}
        parts = self._parts()
        for name, seconds in stages.items():
            shares["/".join(parts.get(name, [name]))] = seconds / total
        for name, sharing in parts.items():
            for part in sharing:
                alone = len(sharing) == 1
                engines[part] = self._products(part, stages[name] if alone else None, calls[name])
        fields: dict[str, Any] = {"stages": shares, "engines": engines, "memory_mib": self.memory_mib}
        return self.timings.row(ENGINE, self.method.batch, auto=self.auto, **fields)

    def _parts(self) -> dict[str, list[str]]:
        """The parts of the method by their engines' names, which are what their stages are called: two files may have one."""
        parts: dict[str, list[str]] = {}
        for part, engine in self.method.engines.items():
            parts.setdefault(engine.name, []).append(part)
        return parts

    def _stages(self) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds of a step by stage, and how often it begins; the device is waited for at each."""
        device, clock = self.method.device, Clock(self.method, graph=False)
        spent: dict[str, float] = {}
        calls: dict[str, int] = {}
        now, current = time.perf_counter(), PACKING

        def watch(name: str) -> None:
            nonlocal now, current
            device.event()()
            later = time.perf_counter()
            spent[current] = spent.get(current, 0.0) + later - now
            calls[name] = calls.get(name, 0) + 1
            now, current = later, name

        with watched(device, watch):
            for _ in range(STEPS):
                now, current = time.perf_counter(), PACKING
                clock.latency()
                watch(PACKING)
        return {name: each / STEPS for name, each in spent.items()}, {
            name: each // STEPS for name, each in calls.items()
        }

    def _products(self, part: str, seconds: float | None, calls: int) -> Products:
        engine = self.method.engines[part]
        precision = str(engine.identity["precision"])
        known = operations(engine.path, engine.batch) if engine.path.suffix == ".onnx" else None
        if not known or not seconds:
            return Products(precision=precision, seconds=seconds)
        rates = self.matmul.get(kind_of(engine))
        share = known * calls / seconds / Spread.of(rates).median if rates else None
        return Products(precision=precision, seconds=seconds, gflops=known * calls / 1e9, share=share)

    def close(self) -> None:
        """Close its engines."""
        self.method.close()


@contextlib.contextmanager
def watched(device: Device, watch: Callable[[str], None]) -> Iterator[None]:
    """`watch` is told each stage that begins on the device meanwhile."""
    device.watch = watch
    try:
        yield
    finally:
        device.watch = None


def _taken(device: Device) -> int | None:
    """Bytes in use: of the device's memory, or of this process's where it has none of its own."""
    memory = device.memory()
    if memory is not None:
        return memory[1] - memory[0]
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _sizes(config: BenchConfig) -> tuple[int | str, ...]:
    """The batch sizes to time: what was asked for, or the one that the engine files are made for."""
    fixed = next((rows for rows in map(fixed_batch, config.files.values()) if rows), None)
    if fixed is None:
        return config.batches or BATCHES
    wrong = [size for size in config.batches or () if size not in (fixed, AUTO)]
    if wrong:
        raise InputError(
            f"--batches {wrong[0]} cannot be run, an engine file is made for batches of {fixed}: --batches {fixed}"
        )
    return (fixed,)


class _Opening:
    """Opens the method at batch sizes, and keeps what it opened until all of it is closed."""

    def __init__(self, config: BenchConfig, device: Device) -> None:
        self.config, self.device = config, device
        self.subjects: list[Voting] = []
        self.notes: list[str] = []

    def build(self, batch: int) -> Method:
        config = self.config
        return open_method(
            config.method,
            config.files,
            sigma=config.sigma,
            options=config.options,
            engines=config.engines,
            batch=batch,
            device=self.device,
        )

    def open(self, size: int | str) -> None:
        """A subject of `size` rows, or of what the search chooses, which may be one that is there."""
        before, method = _taken(self.device), None
        try:
            if size == AUTO:
                method = search(self.build, self.device).method
                same = next((each for each in self.subjects if each.method.batch == method.batch), None)
                if same is not None:
                    method.close()
                    same.auto = True
                    return
            else:
                method = self.build(int(size))
            subject = Voting(method, None, auto=size == AUTO)
        except OutOfMemory as error:
            if method is not None:
                method.close()
            self.device.release()
            self.notes.append(f"batch {size} was left out: {error.message}")
            return
        after = _taken(self.device)
        searched = size == AUTO and self.device.synchronous  # a search leaves memory with the process
        if before is not None and after is not None and not searched:
            subject.memory_mib = (after - before) / MEBI
        self.subjects.append(subject)

    def close(self) -> None:
        for subject in self.subjects:
            subject.close()


def measure(config: BenchConfig, report: Report = lambda _: None) -> BenchResult:
    """Time a method at each batch size, with eager PyTorch where its checkpoints are given.

    `report` is told what is done next. Raises InputError for files that do not fit, OutOfMemory where no batch size does.
    """
    begun = time.perf_counter()
    device = open_device(config.engines.device)
    sizes = _sizes(config)
    with contextlib.ExitStack() as stack:
        opening = _Opening(config, device)
        stack.callback(opening.close)
        for size in sizes:
            report(f"opening at batch {size}")
            opening.open(size)
        if not opening.subjects:
            raise OutOfMemory(opening.notes[-1])
        chains, notes = _chains(opening.subjects[0].method, config, stack)
        subjects: list[Subject] = [*opening.subjects]
        if config.eager.given:
            from .eager import Eager

            report("loading checkpoints")
            eager = Eager(config, max((each.method for each in opening.subjects), key=lambda method: method.batch))
            subjects += [eager.at(each.method.batch) for each in opening.subjects]
            notes.append(f"eager PyTorch gives {eager.agreement:.1%} of noisy images the label that the engines give")
        neighbours = Neighbours()
        for number in range(config.rounds):
            report(f"round {number + 1} of {config.rounds}")
            for subject in subjects:
                subject.turn(config.seconds)
            for chain, rates in chains.values():
                rates.append(max(chain.once() for _ in range(TRIES)))
        for voting in opening.subjects:
            voting.matmul = {kind: rates for kind, (_, rates) in chains.items()}
        others = neighbours.share()
        report("stages")
        return BenchResult(
            classifier=_classifier(opening.subjects[0].method),
            machine={**versions(device), "instruction_set": instruction_set(), "processors": available_cores()},
            rounds=config.rounds,
            rows=[subject.row() for subject in subjects],
            matmul={kind: Spread.of([rate / 1e9 for rate in rates]) for kind, (_, rates) in chains.items()},
            notes=[*opening.notes, *notes, *note(others)],
            others=others,
            seconds=time.perf_counter() - begun,
        )


def _chains(
    method: Method, config: BenchConfig, stack: contextlib.ExitStack
) -> tuple[dict[str, tuple[MatmulRate, list[float]]], list[str]]:
    """A chain of matrix products for each precision of the engines, warmed up, and why there is none for others."""
    chains: dict[str, tuple[MatmulRate, list[float]]] = {}
    notes = []
    for part, engine in method.engines.items():
        kind = kind_of(engine)
        if kind in chains:
            continue
        if not measurable(engine):
            notes.append(f"no share of the matmul rate for the {part}: {engine.backend} runs no chain of products")
            continue
        chain = MatmulRate(engine, config.engines)
        stack.callback(chain.close)
        chain.once()
        if kind_of(chain.engine) != kind:
            notes.append(f"the matmul rate for {kind} was measured in {chain.precision}, which the backend made of it")
        chains[kind] = chain, []
    return chains, notes


def _classifier(method: Method) -> dict[str, Any]:
    """What votes, without what depends on the batch size."""
    of_batch = ("batch", "probe", "chunk")
    engines = {
        part: {name: value for name, value in engine.identity.items() if name not in of_batch}
        for part, engine in method.engines.items()
    }
    return {**method.identity, "sigma": method.sigma, **engines}
