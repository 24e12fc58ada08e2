"""Out-of-distribution detection by the zoo, every kind: CIFAR-10 test images against four generated sets.

    python benchmarks/bench_ood.py --data cifar10-test.parquet

The model is joint: the zoo's detector, its denoiser folded for σ = 0.12, its dds classifier. Runs: clean and guaranteed on
`--max` images a set; certified, sequential, on as many of the in-distribution and of the first set, and on `--few` of all sets;
adversarial on `--attacked`; at fixed n = 10,000 certified and distro-l2 on `--fixed` of the first set. Can be interrupted: run the
same command again; what was done lies in `--work`. Writes benchmarks/results/ood_cpu.json; `tables.py` makes the tables of
docs/benchmarks.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_noise import cpu_model

from diffsmooth_trt import zoo
from diffsmooth_trt.exporting import export_denoiser
from diffsmooth_trt.noise import Key
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.report import as_json, versions_of
from diffsmooth_trt.ood.run import run

ROOT = Path(__file__).resolve().parent
SETS = ("generated:smooth", "generated:uniform", "generated:lowfreq", "generated:permuted")
SIGMA = 0.12
KEY = "0d15" * 16  # public, so that the numbers can be made again
RADII = (0.0, 0.05, 0.1, 0.15, 0.2, *(0.25 * step for step in range(1, 9)))


class Clock:
    """Progress that notes when each set was finished, and how many draws were made."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.images, self.draws, self.start_time = sizes, 0, 0, time.monotonic()
        self.ends: list[float] = []

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Begin; what a resumed run already holds is not timed."""
        self.images, self.start_time = finished, time.monotonic()

    def update(self, samples: int, images: int) -> None:
        """Note the end of a set."""
        self.images += images
        self.draws += samples
        while len(self.ends) < len(self.sizes) and self.images >= sum(self.sizes[: len(self.ends) + 1]):
            self.ends.append(time.monotonic() - self.start_time)

    @property
    def seconds(self) -> list[float]:
        """Seconds of each set."""
        return [end - before for before, end in zip([0.0, *self.ends], self.ends, strict=False)]


def one(config: OodConfig, images: int) -> dict[str, Any]:
    """Run a configuration, or go on with it; its metrics, and its times where it ran in one go."""
    fresh = not config.out.exists()
    clock = Clock([images] * (1 + len(config.out_data)))
    with run(config, clock) as store:
        found = as_json(store, versions_of(store, config.radii))
    kept = {name: found[name] for name in ("config", "metrics", "mean_draws", "guarantee")}
    times = config.out.with_suffix(".seconds.json")
    if fresh:
        times.write_text(json.dumps(clock.seconds) + "\n")
    kept["seconds"] = json.loads(times.read_text()) if times.exists() else None
    return {**kept, "images": images, "classifier_id": found["classifier"]["id"]}


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--max", type=int, default=1000)
    p.add_argument("--few", type=int, default=200)
    p.add_argument("--attacked", type=int, default=100)
    p.add_argument("--fixed", type=int, default=100)
    p.add_argument("--n", type=int, default=10_000)
    p.add_argument(
        "--kinds",
        nargs="+",
        default=["clean", "guaranteed", "certified", "certified-few", "adversarial", "fixed", "distro-l2"],
    )
    p.add_argument("--work", type=Path, default=Path("runs/ood"))
    p.add_argument("--out", type=Path, default=ROOT / "results" / "ood_cpu.json")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    denoiser = a.work / f"denoiser-{SIGMA}.onnx"
    if not denoiser.exists():
        export_denoiser(
            "guided-diffusion", ROOT.parent / "export" / "zoo" / "unet.pt", "zoo", SIGMA, denoiser, store_fp16=True
        )
    common = OodConfig(
        classifier=zoo.CLASSIFIER_DDS, engine=denoiser, detector=zoo.DETECTOR, in_data=a.data, out_data=SETS,
        out=a.work / "unused.jsonl", key=Key.parse(KEY), radii=RADII, resume=True, max=a.max,
    )  # fmt: skip
    certified = replace(common, kind="certified", n=a.n)
    few = replace(certified, out_data=SETS[:1], tolerance=0.0, max=a.fixed)
    asked = {
        "clean": common,
        "guaranteed": replace(common, kind="guaranteed"),
        "certified": replace(certified, out_data=SETS[:1]),
        "certified-few": replace(certified, max=a.few),
        "adversarial": replace(common, kind="adversarial", max=a.attacked),
        "fixed": few,
        "distro-l2": replace(few, score="distro-l2", alpha=0.01),
    }
    document = json.loads(a.out.read_text()) if a.out.exists() else {"runs": {}}
    document |= {"processors": os.cpu_count(), "cpu": cpu_model(), "sigma": SIGMA, "key": KEY}
    for name in a.kinds:
        config = replace(asked[name], out=a.work / f"{name}.jsonl")
        document["runs"][name] = one(config, int(config.max or 0))
        print(json.dumps({name: document["runs"][name]["seconds"]}), flush=True)
        a.out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
