"""Certified runs whose rows workers draw, by Ray: this process owns the file, decides when an image is done, and audits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..certify.batch import Span
from ..certify.step import Steps
from ..distributed.files import EngineFiles, Fetch
from ..distributed.ray_pool import Machine, RayPool, connected
from ..distributed.steps import RemoteSteps
from ..distributed.worker import Drawn
from ..errors import InputError
from ..noise import Key
from ..noise.selftest import check_noise
from ..runs.config import LOCAL
from .certified import Certifier
from .config import OodConfig
from .counted import Counting, LocalSteps
from .model import Model, ModelFacts

FILES = ("classifier", "engine", "detector")


@dataclass(frozen=True)
class OodJob:
    """The run's configuration, of which a worker opens the engines, and their files."""

    config: OodConfig
    files: Mapping[str, EngineFiles]

    @property
    def device(self) -> str:
        """Where a worker runs."""
        return self.config.device

    @property
    def threads(self) -> int | None:
        """CPU threads of a worker."""
        return self.config.threads

    def on(self, device: str) -> OodJob:
        """The same on another device."""
        return replace(self, config=replace(self.config, device=device))

    def open(self, fetch: Fetch) -> OodWorker:
        """A worker in this process."""
        return OodWorker(self, fetch)


class OodWorker:
    """The engines of a run in this process; `draw` gives the codes of a batch. Close it by letting the process go."""

    def __init__(self, job: OodJob, fetch: Fetch) -> None:
        files: dict[str, Any] = {option: each.here(fetch) for option, each in job.files.items()}
        # Where the driver reads and writes is not this machine's.
        self.model = Model(replace(job.config, **files, out=Path("ood.jsonl"), json=None, figure=None))
        self.counting = Counting(self.model, job.config.gate)
        check_noise(self.counting.law)
        self.steps: LocalSteps | None = None

    def facts(self) -> ModelFacts:
        """What the run has to know of the model."""
        return self.model.facts

    def begin(self, key: Key) -> None:
        """Draw under `key` from now on."""
        self.steps = LocalSteps(self.counting, key)

    def draw(self, spans: Sequence[Span]) -> Drawn:
        """The codes of one batch."""
        if self.steps is None:
            raise InputError("a worker was asked for rows before it had a key: start the run again")
        self.steps.launch(spans)
        _, counts, seconds, codes = self.steps.collect()
        return Drawn(counts, codes, seconds)

    def told(self) -> tuple[list[str], tuple[int, int]]:
        """Nothing beyond the facts."""
        return [], (0, 0)


@contextmanager
def by_workers(config: OodConfig) -> Iterator[tuple[ModelFacts, Certifier]]:
    """The model that all workers hold, and what draws by them. Raises InputError for what cannot be opened or reached."""
    cluster = config.cluster
    machine = Machine.of(cluster, config.threads)
    threads = config.threads or (1 if cluster.kind == "cpu" else None)
    alone = replace(config, ray=None, workers=None, device=cluster.kind, threads=threads, key=None)
    given = {option: getattr(config, option) for option in FILES}
    files = {option: EngineFiles.of(path) for option, path in given.items() if path is not None}
    with (
        connected(cluster.address or LOCAL, machine) as ray,
        RayPool(ray, OodJob(alone, files), machine.workers) as pool,
    ):

        def steps(key: Key) -> Steps:
            pool.begin(key)
            return RemoteSteps(pool)

        yield pool.facts, Certifier(pool.facts, config, steps, workers=pool.room())
