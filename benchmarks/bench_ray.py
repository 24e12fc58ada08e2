"""What workers cost on one machine: two of one thread each against one process of two threads, in turn; the votes are compared.

    python benchmarks/bench_ray.py [--rounds 3]

Writes results/ray_cpu.json. `steady` is the ratio of the times from the first batch to the last one, `whole` that of whole runs,
which have Ray's start in them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench_noise import cpu_model

import diffsmooth_trt as dst
from diffsmooth_trt import zoo

ROOT = Path(__file__).resolve().parent
WAYS: dict[str, dict[str, Any]] = {"process": {"threads": 2}, "ray": {"threads": 1, "ray": "local", "workers": 2}}


class Clock:
    """When the first and the last batch were there."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.samples = 0

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Nothing is there yet."""

    def update(self, samples: int, images: int) -> None:
        """A batch is there."""
        self.times.append(time.perf_counter())
        self.samples += samples


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--images", type=int, default=6)
    p.add_argument("--n", type=int, default=2000)
    a = p.parse_args()
    asked: dict[str, Any] = {
        "engine": zoo.DENOISER,
        "classifier": zoo.CLASSIFIER_DDS,
        "data": zoo.IMAGES,
        "max": a.images,
    }
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(a.rounds):
            found: dict[str, dict[str, float]] = {}
            votes = {}
            for way in WAYS if number % 2 else reversed(WAYS):
                clock, out = Clock(), Path(folder) / f"{way}-{number}.sqlite"
                start = time.perf_counter()
                with dst.certify(**asked, **WAYS[way], n=a.n, key="5a" * 32, out=out, progress=clock) as store:
                    votes[way] = [(r.predict, r.hits, r.trials) for r in store.results()]
                whole, steady = time.perf_counter() - start, clock.times[-1] - clock.times[0]
                found[way] = {"whole": whole, "steady": steady, "samples_per_second": clock.samples / steady}
            if votes["ray"] != votes["process"]:
                raise SystemExit("the votes differ")
            rounds.append(found)
            print(found, flush=True)
    ratios = {name: [each["ray"][name] / each["process"][name] for each in rounds] for name in ("steady", "whole")}
    document = {
        "machine": {"cpu": cpu_model(), "processors": os.cpu_count(), "ray": version("ray")},
        "images": a.images, "n": a.n, "rounds": rounds,
        "ratio": {name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()},
    }  # fmt: skip
    print(json.dumps(document["ratio"]))
    (ROOT / "results" / "ray_cpu.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
