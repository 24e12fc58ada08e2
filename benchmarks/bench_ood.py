"""Out-of-distribution detection by the zoo, every kind: CIFAR-10 test images against four generated sets.

    python benchmarks/bench_ood.py --data cifar10-test.parquet

The model is joint: the zoo's detector, its denoiser folded for σ = 0.12, its dds classifier. Runs: clean and guaranteed on
`--max` images a set, adversarial on `--attacked`, each with the denoiser and without (`-plain`); `timestep-zero`, the clean scores
of DISTRO's code restated in torch, on `--max`; certified, sequential, on `--few` of all sets; distro-l2 at a fixed `--n-fixed` on
`--fixed` of two sets, and of the same draws the sound bounds. Not run unless named: certified on `--max` of the first set. Can be
interrupted: run the same command again; what was done lies in `--work`. Writes benchmarks/results/ood_cpu.json; `tables.py` makes
the tables of docs/benchmarks.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_noise import cpu_model
from numpy.typing import NDArray

from diffsmooth_trt import zoo
from diffsmooth_trt.exporting import export_denoiser
from diffsmooth_trt.noise import Key
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.linf import scaled
from diffsmooth_trt.ood.metrics import fpr_nearest, metrics
from diffsmooth_trt.ood.model import Model
from diffsmooth_trt.ood.report import as_json, versions_of
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.sets import AVERAGE, open_sets
from diffsmooth_trt.ood.store import OodStore
from diffsmooth_trt.schedule import Schedule

ROOT = Path(__file__).resolve().parent
UNET = ROOT.parent / "export" / "zoo" / "unet.pt"
SETS = ("generated:smooth", "generated:uniform", "generated:lowfreq", "generated:permuted")
FIXED = ("generated:permuted", "generated:smooth")
UNSMOOTHED = ("clean", "clean-plain", "timestep-zero", "guaranteed", "guaranteed-plain", "adversarial")
KINDS = (*UNSMOOTHED, "adversarial-plain", "certified-few", "distro-l2")
SIGMA, SCHEDULE, NULL_CLASS = 0.12, Schedule("cosine", 4000, rescale=True), 10
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
        if config.score == "distro-l2":
            sound = OodStore(store.path, as_softmax(store), store.records, None)
            found["metrics"] += as_json(sound, versions_of(sound, config.radii))["metrics"]
    kept = {name: found[name] for name in ("config", "metrics", "mean_draws", "guarantee")}
    times = config.out.with_suffix(".seconds.json")
    if fresh:
        times.write_text(json.dumps(clock.seconds) + "\n")
    kept["seconds"] = json.loads(times.read_text()) if times.exists() else None
    return {**kept, "images": images, "classifier_id": found["classifier"]["id"]}


def as_softmax(store: OodStore) -> Any:
    """A distro-l2 run's record as that of a run with the softmax score: its draws are the same, without a gate."""
    return replace(store.record, asked=replace(store.record.asked, score="softmax"))


def denoised_at_zero(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Images [N, 3, 32, 32] in [0, 1] units, noised and denoised as DISTRO's code does at timestep 0, with torch's UNet."""
    import torch

    from diffsmooth_trt.nets.options import named_options

    network = named_options("zoo").network().eval()
    network.load_state_dict(torch.load(UNET, weights_only=True))
    bar, rng, done = float(SCHEDULE.alphas_bar[0]), np.random.default_rng(seed), []
    with torch.no_grad():
        for at in range(0, len(x), 100):
            image = torch.from_numpy(x[at : at + 100])
            noise = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
            noisy = bar**0.5 * (2 * image - 1) + (1 - bar) ** 0.5 * noise
            zero = torch.zeros(len(image))
            predicted = network(noisy, zero, torch.full((len(image),), NULL_CLASS))[:, :3]
            done.append(((noisy / bar**0.5 - (1 / bar - 1) ** 0.5 * predicted).clamp(-1, 1) + 1) / 2)
    return torch.cat(done).numpy()


def timestep_zero(config: OodConfig) -> dict[str, Any]:
    """Clean scores as DISTRO's code has them: noised and denoised at timestep 0, also in front of the detector.

    Beside them how far they are from the scores of the images as they are.
    """
    plain, scores, moved = replace(config, engine=None), {}, {}
    model = Model(plain)
    try:
        for number, data in enumerate(open_sets(plain, model.input_shape)):
            x = scaled(list(data.images))
            words = np.arange(len(x), dtype=np.uint64)
            before, after = (model.scores(each, Key(0), 0, words) for each in (x, denoised_at_zero(x, number)))
            scores[data.name] = after
            far = np.abs(after - before)
            moved[data.name] = {"mean": float(far.mean()), "most": float(far.max())}
    finally:
        model.close()
    (_, inside), *others = scores.items()
    sets = {name: asdict(metrics(inside, values)) for name, values in others}
    sets[AVERAGE] = {name: float(np.mean([each[name] for each in sets.values()])) for name in ("auroc", "aupr", "fpr")}
    nearest = {name: fpr_nearest(inside, values) for name, values in others}
    row = {"scores": "timestep 0", "radius": 0.0, "sets": sets, "fpr_nearest": nearest}
    return {"images": len(inside), "metrics": [row], "moved": moved, "seconds": None}


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--max", type=int, default=1000)
    p.add_argument("--few", type=int, default=200)
    p.add_argument("--attacked", type=int, default=100)
    p.add_argument("--fixed", type=int, default=100)
    p.add_argument("--n", type=int, default=10_000)
    p.add_argument("--n-fixed", type=int, default=10_000)
    p.add_argument("--kinds", nargs="+", default=KINDS)
    p.add_argument("--work", type=Path, default=Path("runs/ood"))
    p.add_argument("--out", type=Path, default=ROOT / "results" / "ood_cpu.json")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    denoiser = a.work / f"denoiser-{SIGMA}.onnx"
    if not denoiser.exists():
        export_denoiser("guided-diffusion", UNET, "zoo", SIGMA, denoiser, store_fp16=True)
    common = OodConfig(
        classifier=zoo.CLASSIFIER_DDS, engine=denoiser, detector=zoo.DETECTOR, in_data=a.data, out_data=SETS,
        out=a.work / "unused.jsonl", key=Key.parse(KEY), radii=RADII, resume=True, max=a.max,
    )  # fmt: skip
    certified = replace(common, kind="certified", n=a.n)
    asked = {
        "clean": common,
        "timestep-zero": common,
        "guaranteed": replace(common, kind="guaranteed"),
        "certified": replace(certified, out_data=SETS[:1]),
        "certified-few": replace(certified, max=a.few),
        "adversarial": replace(common, kind="adversarial", max=a.attacked),
        "distro-l2": replace(certified, out_data=FIXED, score="distro-l2", alpha=0.01, n=a.n_fixed, max=a.fixed),
    }
    asked |= {f"{name}-plain": replace(asked[name], engine=None) for name in ("clean", "guaranteed", "adversarial")}
    document = json.loads(a.out.read_text()) if a.out.exists() else {"runs": {}}
    document |= {"processors": os.cpu_count(), "cpu": cpu_model(), "sigma": SIGMA, "key": KEY}
    for name in a.kinds:
        config = replace(asked[name], out=a.work / f"{name}.jsonl")
        document["runs"][name] = timestep_zero(config) if name == "timestep-zero" else one(config, int(config.max or 0))
        print(json.dumps({name: document["runs"][name]["seconds"]}), flush=True)
        a.out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
