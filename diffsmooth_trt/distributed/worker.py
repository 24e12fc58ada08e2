"""What a worker does: it opens the engines and does steps. Nothing here knows how work arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from ..certify.batch import Span
from ..certify.step import Step
from ..certify.stopping import Stopping
from ..device import open_device
from ..dtypes import Counts, Labels
from ..engine.choice import EngineChoice
from ..errors import InputError
from ..methods import METHODS, MethodOptions
from ..noise import Key, grid_law
from ..runs.engines import open_method
from ..runs.identity import MethodFacts, caveats, facts_of
from ..runs.run import check_noise
from .files import EngineFiles, Fetch


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a worker has to know of a run: which method over which engine files, and how they run."""

    method: str
    options: MethodOptions
    sigma: float | None
    files: Mapping[str, EngineFiles]
    engines: EngineChoice
    stopping: Stopping

    @property
    def device(self) -> str:
        """Where a worker runs."""
        return self.engines.device

    @property
    def threads(self) -> int | None:
        """CPU threads of a worker."""
        return self.engines.threads

    def on(self, device: str) -> Setup:
        """The same on another device."""
        return replace(self, engines=replace(self.engines, device=device))

    def open(self, fetch: Fetch) -> Worker:
        """A worker in this process."""
        return Worker(self, fetch)


class Drawn(NamedTuple):
    """What a worker gives for a batch: votes int64 [spans, bins], labels int64 [rows used], seconds."""

    counts: Counts
    labels: Labels
    seconds: float


class Opened(Protocol):
    """What a worker holds; see `Worker`."""

    def facts(self) -> Any:
        """What the run has to know of it; `classifier` names it."""

    def begin(self, key: Key) -> None:
        """Draw under `key` from now on."""

    def draw(self, spans: Sequence[Span]) -> Drawn:
        """What the rows of one batch give."""

    def told(self) -> tuple[list[str], tuple[int, int]]:
        """What the user has to know, and what the draws took."""


class Job(Protocol):
    """What workers are asked for: the files that they need, the device that they run on, and how they are opened."""

    @property
    def files(self) -> Mapping[str, EngineFiles]:
        """Engine files by option."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""

    @property
    def threads(self) -> int | None:
        """CPU threads of a worker."""

    def on(self, device: str) -> Job:
        """The same on another device."""

    def open(self, fetch: Fetch) -> Opened:
        """Open the engines in this process; `fetch` gets a file by its SHA-256."""


class Worker:
    """The method of a run in this process, on its device; `draw` does one step. Close it by letting the process go."""

    def __init__(self, setup: Setup, fetch: Fetch) -> None:
        if setup.method not in METHODS:
            raise InputError(f"--method {setup.method} is unknown to a worker: install the code that adds it there too")
        method = METHODS[setup.method]
        self.method = open_method(
            method,
            {option: files.here(fetch) for option, files in setup.files.items()},
            sigma=setup.sigma,
            options=setup.options,
            engines=setup.engines,
            batch=int(setup.engines.batch),
            device=open_device(setup.engines.device),
        )
        check_noise(self.method, setup.stopping)
        self.step: Step | None = None

    def facts(self) -> MethodFacts:
        """What the run has to know of the method."""
        return facts_of(self.method)

    def begin(self, key: Key) -> None:
        """Draw under `key` from now on."""
        self.step = Step(self.method, grid_law(self.method.sigma), key)

    def draw(self, spans: Sequence[Span]) -> Drawn:
        """The votes of one batch."""
        if self.step is None:
            raise InputError("a worker was asked for votes before it had a key: start the run again")
        self.step.launch(spans)
        _, counts, seconds, labels = self.step.collect()
        return Drawn(counts, labels, seconds)

    def told(self) -> tuple[list[str], tuple[int, int]]:
        """What the user has to know of the votes so far, and what they took (`Method.spent`)."""
        return [*self.method.notes, *caveats(self.method.engines)], self.method.spent
