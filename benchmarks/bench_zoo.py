"""Certified accuracy of the zoo: the first 500 CIFAR-10 test images, σ = 0.25, α = 0.001, n0 = 100.

    python benchmarks/bench_zoo.py --data cifar10-test.parquet --method dds --n 10000

Can be interrupted: run the same command again. The run store, from which anybody can derive the rest, is
benchmarks/results/zoo/<method>-n<n>.sqlite; at the end the TSV and the configuration, classifier id and key as JSON are written
beside it. `dds-n10000-release-0.3` is a run of release 0.3, whose noise this one does not draw.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.report.progress import ProgressBar
from diffsmooth_trt.report.tables import summarise, text_table

ROOT = Path(__file__).resolve().parent
CLASSIFIERS = {"dds": zoo.CLASSIFIER_DDS, "diffsmooth": zoo.CLASSIFIER_DIFFSMOOTH}


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--method", choices=tuple(CLASSIFIERS), default="dds")
    p.add_argument("--n", type=int, default=10_000)
    p.add_argument("--max", type=int, default=500)
    p.add_argument("--local-sigma", type=float, default=0.12)
    a = p.parse_args()
    name = f"{a.method}-n{a.n}"
    target = ROOT / "results" / "zoo"
    target.mkdir(parents=True, exist_ok=True)
    with (
        ProgressBar(name) as progress,
        dst.certify(
            engine=os.path.relpath(zoo.DENOISER),  # recorded as it is given
            classifier=os.path.relpath(CLASSIFIERS[a.method]),
            method=a.method,
            data=a.data,
            max=a.max,
            n=a.n,
            local_sigma=a.local_sigma,
            out=target / f"{name}.sqlite",
            tsv=target / f"{name}.tsv",
            resume=True,
            progress=progress,
        ) as store,
    ):
        print(text_table([summarise(store)]))
        (target / f"{name}.json").write_text(json.dumps(store.meta, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
