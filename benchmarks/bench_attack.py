"""What the zoo's smoothed classifier loses to an attack, beside what is certified: 200 images, ε = 0.25 and 0.5.

    python benchmarks/bench_attack.py --data ../shared/data/cifar10-test.parquet [--run run.sqlite] [--max 200] [--threads 2]

The zoo ships 100 images: more are taken from --data, the CIFAR-10 test set. Certifies them with preset radii 0.25 and 0.5 and at
most 1000 draws an image, into --run, or takes the run that is there, and attacks it at the defaults of `attack`. Checks that
attacked accuracy is between the certified and the clean one. Writes benchmarks/results/attack.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from bench_noise import cpu_model

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.attack.report import shares, text
from diffsmooth_trt.attack.run import RADII, AttackConfig, attack
from diffsmooth_trt.report.progress import ProgressBar

RESULTS = Path(__file__).resolve().parent / "results"


def certified(path: Path, data: Path, images: int, threads: int) -> None:
    """The run at `path`, made or gone on with."""
    with dst.certify(
        engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=data, max=images, n0=64, n=1000, radius=RADII,
        threads=threads, out=path, resume=path.exists(),
    ):  # fmt: skip
        pass


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, default=zoo.IMAGES)
    p.add_argument("--run", type=Path)
    p.add_argument("--max", type=int, default=200)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = a.run or Path(folder) / "run.sqlite"
        certified(run, a.data, a.max, a.threads)
        start = time.perf_counter()
        config = AttackConfig(run=run, out=Path(folder) / "attack.json", max=a.max, threads=a.threads)
        with ProgressBar("attack") as progress:
            made = attack(config, progress)
        spent = time.perf_counter() - start
    print(text(made))
    rows = [asdict(shares(made, epsilon)) for epsilon in made.radii]
    for row in rows:
        assert row["certified"] <= row["attacked"] <= row["clean"], row
    document = {
        "machine": {**made.versions, "cpu": cpu_model(), "load": os.getloadavg()},
        "run": {
            "n": made.record.stopping.n,
            "alpha": made.record.stopping.alpha,
            "sigma": made.record.classifier.sigma,
        },
        "budget": asdict(made.budget),
        "n": made.n,
        "seconds": {"wall": spent, "cpu": made.seconds["cpu"]},
        "rows": rows,
        "contradicted": len(made.contradicted),
        "tried_certified": made.tried,
        "chance": made.rule.chance(made.tried, max(1, len(made.contradicted))),
    }
    RESULTS.joinpath("attack.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
