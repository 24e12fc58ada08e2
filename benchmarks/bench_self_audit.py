"""What a run's audit of itself costs: the zoo's pair certified with and without it, in turn in one process.

    python benchmarks/bench_self_audit.py [--rounds 5] [--images 20] [--n 1250] [--threads 1]

Each round does both, the first one alternating; the runner is the whole loop: noise, engines, counts, run store, audit. Processor
time is compared, as other work on the machine moves a clock by more than the audit does; its spread shows what is left of that.
Rows evaluated are counted exactly, strangers included. A run of fewer than 24,381 rows has 256 of them audited whatever
its size, and costs more. Writes benchmarks/results/self_audit.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_noise import cpu_model

from diffsmooth_trt import zoo
from diffsmooth_trt.api import Silent, build_method, describe, open_store
from diffsmooth_trt.certify.runner import Runner
from diffsmooth_trt.certify.self_audit import SelfAudit
from diffsmooth_trt.config import RunConfig
from diffsmooth_trt.data import Images
from diffsmooth_trt.methods import Method

ROOT = Path(__file__).resolve().parent


class Unaudited(Runner):
    """The loop with an audit that chooses no row."""

    def _open_audit(self, images: int) -> SelfAudit:
        return SelfAudit(self.method.batch, share=0.0, least=0)


def timed(kind: type[Runner], config: RunConfig, method: Method, images: Images) -> tuple[float, float, dict[str, Any]]:
    """(processor seconds, seconds, what the audit found) of one run."""
    config.out.unlink(missing_ok=True)
    with open_store(config, describe(config, method, images)) as store:
        runner = kind(method, store, Silent())
        start, used = time.perf_counter(), time.process_time()
        runner.run(images)
        return time.process_time() - used, time.perf_counter() - start, dict(store.meta["audit"])


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--images", type=int, default=20)
    p.add_argument("--n", type=int, default=1250)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    images = Images(zoo.IMAGES, limit=a.images)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            command="certify", engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=zoo.IMAGES,
            out=Path(folder) / "run.sqlite", n=a.n, max=a.images, threads=a.threads,
        )  # fmt: skip
        method = build_method(config)
        warm = Images(zoo.IMAGES, limit=1)
        timed(Unaudited, config, method, warm)
        for number in range(a.rounds):
            order = (Runner, Unaudited) if number % 2 else (Unaudited, Runner)
            spent = {kind: timed(kind, config, method, images) for kind in order}
            found = spent[Runner][2]
            rounds.append(
                {
                    "processor_time": spent[Runner][0] / spent[Unaudited][0],
                    "time": spent[Runner][1] / spent[Unaudited][1],
                    "rows": 1 + found["spent"] / found["of"],
                    "audit": found,
                    "seconds": [spent[Runner][1], spent[Unaudited][1]],
                }
            )
            print(f"round {number}: processor time × {rounds[-1]['processor_time']:.4f}, {found}", flush=True)
    document: dict[str, Any] = {
        "machine": {"cpu": cpu_model(), "processors": os.cpu_count()},
        "backend": method.classifier.backend, "batch": method.batch, "images": a.images, "n": a.n, "threads": a.threads,
        "rounds": rounds,
    }  # fmt: skip
    for name in ("processor_time", "time", "rows"):
        values = sorted(each[name] for each in rounds)
        document[name] = {"median": statistics.median(values), "min": values[0], "max": values[-1]}
        print(f"with the audit / without, {name}: {statistics.median(values):.4f} ({values[0]:.4f}–{values[-1]:.4f})")
    (ROOT / "results" / "self_audit.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
