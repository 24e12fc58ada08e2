"""Certified accuracy at one preset radius: samples, seconds and decisions on the zoo, beside the papers' eager loop.

    python benchmarks/bench_radius.py --data cifar10-test.parquet [--images 200]

`certify --radius R` (n up to 100,000, alpha = 0.001) runs on the first test images; every ten seconds it is paused while the
eager fp32 loop of bench_cpu.py draws 512 samples, so that both rates are of the same minutes. The loop's time for all images at
n = 100,000 is extrapolated from its rate. Decisions are held against the fixed-n run of bench_zoo.py on the same images (other
draws): one contradicts it where that run's own exact bound at alpha excludes it. Writes benchmarks/results/radius_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_cpu import Eager, eager_loop
from bench_noise import cpu_model

from diffsmooth_trt import zoo
from diffsmooth_trt.certify.loop import Runner
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.images import Images
from diffsmooth_trt.methods import Method
from diffsmooth_trt.noise import ESTIMATION, SELECTION, grid_law
from diffsmooth_trt.runs.config import RunConfig
from diffsmooth_trt.runs.engines import build_method
from diffsmooth_trt.runs.identity import facts_of
from diffsmooth_trt.runs.run import describe
from diffsmooth_trt.runs.store import RunStore, open_run
from diffsmooth_trt.statistics.bounds import binomial_lower, binomial_upper, normal_cdf_lower

ROOT = Path(__file__).resolve().parent
EVERY, EAGER_SAMPLES, BATCH = 10.0, 512, 64
N0, N, ALPHA = 100, 100_000, 0.001


class Turns:
    """Progress that gives the eager loop its turns."""

    def __init__(self, model: Eager, pixels: np.ndarray[Any, Any]) -> None:
        self.model, self.pixels = model, pixels
        self.eager: list[float] = []
        self.paused = 0.0
        self.last = time.perf_counter()

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Nothing to show."""

    def update(self, samples: int, images: int) -> None:
        """Pause where it is the loop's turn."""
        now = time.perf_counter()
        if now - self.last > EVERY:
            self.eager.append(eager_loop(self.model, self.pixels, EAGER_SAMPLES, BATCH, 0.25))
            self.last = time.perf_counter()
            self.paused += self.last - now


def timed_rule(store: RunStore) -> list[float]:
    """Seconds spent on deciding, one entry a look."""
    stops, spent = store.rule.stops, []

    def timed(votes: Any) -> bool:
        start = time.perf_counter()
        found = stops(votes)
        spent.append(time.perf_counter() - start)
        return found

    store.rule.stops = timed  # type: ignore[method-assign]
    return spent


def contradictions(store: RunStore, radius: float, sigma: float) -> dict[str, int]:
    """Decisions against the fixed-n run: how many images both have, and how many of those it excludes."""
    threshold, path = normal_cdf_lower(radius / sigma), ROOT / "results" / "zoo" / "dds-n10000-release-0.3.sqlite"
    compared = excluded = 0
    with open_run(path) as fixed:
        held = {result.image for result in fixed.results()}
        for result in store.results():
            if result.image not in held or result.decisions == ("undecided",):
                continue
            votes = fixed.counts(result.image)
            best = int(np.argmax(store.counts(result.image)[SELECTION]))
            hits, trials = votes[ESTIMATION][best], sum(votes[ESTIMATION])
            certified = result.decisions == ("certified",)
            low, high = binomial_lower(hits, trials, ALPHA), binomial_upper(hits, trials, ALPHA)
            compared += 1
            excluded += high < threshold if certified else low >= threshold
    return {"images": compared, "contradictions": excluded}


def measure(radius: float, images: Images, method: Method, turns: Turns, config: RunConfig) -> dict[str, Any]:
    """One run."""
    start = time.perf_counter()
    record = describe(facts_of(method), images, config.choice, config.stopping)
    thresholds = time.perf_counter() - start
    with RunStore.create(config.output.out, record) as store:
        spent = timed_rule(store)
        runner = Runner(method, store, store.rule, Step(method, grid_law(method.sigma), record.key), turns)
        start = time.perf_counter()
        runner.run(images)
        seconds = time.perf_counter() - start - turns.paused + thresholds
    with open_run(config.output.out or "") as store:
        results = list(store.results())
        against = contradictions(store, radius, method.sigma)
    samples = np.array([result.trials for result in results])
    said = [result.decisions[0] for result in results]
    rate = EAGER_SAMPLES * len(turns.eager) / sum(turns.eager)
    rates = [EAGER_SAMPLES / each for each in turns.eager]
    extrapolated = len(results) * (N0 + N) / rate
    return {
        "radius": radius, "images": len(results),
        "correct_and_certified": sum(r.correct and r.decisions == ("certified",) for r in results),
        **{kind: said.count(kind) for kind in ("certified", "refuted", "undecided")},
        "samples_mean": float(samples.mean()), "samples_standard_error": float(samples.std() / len(samples) ** 0.5),
        "samples_median": float(np.median(samples)), "samples_without_the_five_hardest": float(np.sort(samples)[:-5].mean()),
        "seconds": seconds, "samples_per_second": float((samples.sum() + N0 * len(samples)) / seconds),
        "eager_samples_per_second": rate, "eager_range": [min(rates), max(rates)], "eager_turns": len(rates),
        "eager_seconds_extrapolated": extrapolated, "times_eager": extrapolated / seconds,
        "deciding_share": sum(spent) / seconds, "thresholds_seconds": thresholds, "looks": len(spent),
        "noise_and_count_share": (runner.seconds["noise"] + runner.seconds["count"] - turns.paused) / seconds,
        "against_fixed_n": against,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--images", type=int, default=200)
    p.add_argument("--radii", type=float, nargs="+", default=[0.25, 0.5])
    a = p.parse_args()
    images = Images(a.data, limit=a.images)
    pixels = next(iter(images)).pixels
    model = Eager().eval()
    eager_loop(model, pixels, BATCH, BATCH, 0.25)
    found = []
    for radius in a.radii:
        with tempfile.TemporaryDirectory() as folder:
            config = RunConfig(
                command="certify", engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=a.data, max=a.images,
                out=Path(folder) / "run.sqlite", n0=N0, n=N, alpha=ALPHA, radius=(radius,), batch=BATCH,
            )  # fmt: skip
            method = build_method(config)
            found.append(measure(radius, images, method, Turns(model, pixels), config))
            method.close()
        print(json.dumps(found[-1], indent=1), flush=True)
    machine = {
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    settings = {"n0": N0, "n": N, "alpha": ALPHA, "sigma": 0.25, "batch": BATCH}
    document = {"machine": machine, "settings": settings, "runs": found}
    (ROOT / "results" / "radius_cpu.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
