"""What a run's audit of itself costs: the zoo's pair certified with and without it, in turn in one process.

    python benchmarks/bench_self_audit.py [--rounds 5] [--images 20] [--n 1250] [--threads 1]

Each round does both, the first one alternating; the runner is the whole loop: noise, engines, counts, run store, audit. Processor
time is compared, as other work on the machine moves a clock by more than the audit does. Even so two runs differ by about as much:
"within" is the same ratio from one run, whose calls for the audit are clocked. Rows evaluated are counted exactly, strangers
included. A run of fewer than 25,600 rows has 256 of them audited whatever
its size, and costs more. Writes benchmarks/results/self_audit.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_noise import cpu_model

from diffsmooth_trt import zoo
from diffsmooth_trt.certify.audit_rows import Seat
from diffsmooth_trt.certify.loop import Runner
from diffsmooth_trt.certify.progress import NoProgress
from diffsmooth_trt.certify.self_audit import SelfAudit
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.images import Images
from diffsmooth_trt.methods import Method
from diffsmooth_trt.noise import grid_law
from diffsmooth_trt.runs.config import RunConfig
from diffsmooth_trt.runs.engines import build_method
from diffsmooth_trt.runs.identity import facts_of
from diffsmooth_trt.runs.run import describe
from diffsmooth_trt.runs.store import RunStore

ROOT = Path(__file__).resolve().parent


class Unaudited(Runner):
    """The loop with an audit that chooses no row."""

    def _open_audit(self, images: int) -> SelfAudit:
        return SelfAudit(self.method.batch, share=0.0, least=0)


class Measured(Runner):
    """The loop, with the processor time that goes into its audit: choosing, filling, evaluating and comparing rows."""

    def _open_audit(self, images: int) -> SelfAudit:
        audit = super()._open_audit(images)
        self.spent = 0.0
        for name in ("see", "due", "rest", "compare"):
            setattr(audit, name, self._clocked(getattr(audit, name)))
        launch = self.step.launch
        again = self._clocked(launch)  # the CPU does a step's work when it is launched
        self.step.launch = lambda spans: (again if isinstance(spans[0], Seat) else launch)(spans)  # type: ignore[method-assign]
        return audit

    def _clocked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self.spent += time.process_time() - start

        return clocked


def timed(kind: type[Runner], config: RunConfig, method: Method, images: Images) -> tuple[float, float, dict[str, Any]]:
    """(processor seconds, those of them for the audit, what it found) of one run."""
    with RunStore.create(None, describe(facts_of(method), images, config.choice, config.stopping)) as store:
        runner = kind(method, store, store.rule, Step(method, grid_law(method.sigma), store.record.key), NoProgress())
        start = time.process_time()
        runner.run(images)
        return time.process_time() - start, getattr(runner, "spent", 0.0), dict(store.meta["audit"])


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--images", type=int, default=20)
    p.add_argument("--n", type=int, default=1250)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    images = Images(zoo.IMAGES, limit=a.images)
    rounds: list[dict[str, Any]] = []
    config = RunConfig(
        command="certify", engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=zoo.IMAGES,
        n=a.n, max=a.images, threads=a.threads,
    )  # fmt: skip
    method = build_method(config)
    warm = Images(zoo.IMAGES, limit=1)
    timed(Unaudited, config, method, warm)
    for number in range(a.rounds):
        order: tuple[type[Runner], ...] = (Measured, Unaudited) if number % 2 else (Unaudited, Measured)
        spent = {kind: timed(kind, config, method, images) for kind in order}
        seconds, within, found = spent[Measured]
        rounds.append(
            {
                "processor_time": seconds / spent[Unaudited][0],
                "within": seconds / (seconds - within),
                "rows": 1 + found["spent"] / found["of"],
                "audit": found,
                "seconds": [seconds, spent[Unaudited][0]],
            }
        )
        print(
            f"round {number}: processor time × {rounds[-1]['processor_time']:.4f}, within {rounds[-1]['within']:.4f}, {found}",
            flush=True,
        )
    document: dict[str, Any] = {
        "machine": {"cpu": cpu_model(), "processors": os.cpu_count()},
        "backend": method.classifier.backend, "batch": method.batch, "images": a.images, "n": a.n, "threads": a.threads,
        "rounds": rounds,
    }  # fmt: skip
    for name in ("processor_time", "within", "rows"):
        values = sorted(each[name] for each in rounds)
        document[name] = {"median": statistics.median(values), "min": values[0], "max": values[-1]}
        print(f"with the audit / without, {name}: {statistics.median(values):.4f} ({values[0]:.4f}–{values[-1]:.4f})")
    (ROOT / "results" / "self_audit.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
