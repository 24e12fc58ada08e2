"""Certificates that are transferred: how often they are wrong, by simulation, and what of the radius they keep, on the zoo.

    python benchmarks/bench_transfer.py [--calibration-data ../shared/data/cifar10-train-lossless.parquet] [--max 10] [--n 10000]
    python benchmarks/bench_transfer.py --part stopped      # measures this part alone, and leaves the others as they are

The simulation draws votes and pairs from their laws, without networks, where errors are likeliest: f and g differ only where f is
right, so that P(g = c) = P(f = c) − P(f = c ≠ g) exactly; votes choose between pairs and draws of g alone, as they do for images. A
certificate is wrong where its bound is above P(g = c). Simulated apart: runs that stop by their own rules; whoever knows the votes
and the laws, and chooses between pairs and draws of g alone so that an image is wrong most often ("worst choice"); and family-wise
runs, of which a case is a family, wrong where any of its certificates is.

On the zoo the fp32 pair is certified, and transferred to the same pair in bf16 and, where calibration data are given, in int8.
Writes benchmarks/results/transfer.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bench_noise import cpu_model
from scipy import stats

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.certify.rules import Votes
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.engine.choice import EngineChoice
from diffsmooth_trt.runs.identity import versions
from diffsmooth_trt.runs.record import RunRecord
from diffsmooth_trt.statistics.bounds import binomial_lower, binomial_upper
from diffsmooth_trt.statistics.sequential import looks
from diffsmooth_trt.transfer.pairs import Alone, Pairs
from diffsmooth_trt.transfer.rule import Evidence, TransferRule
from diffsmooth_trt.transfer.run import TransferConfig, transfer

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
STATES = ROOT.parent / "export" / "zoo"
ALPHA, CASES = 0.05, 20_000
LAWS = ((0.9, 0.05), (0.99, 0.01), (0.7, 0.1), (0.6, 0.02), (0.999, 0.0005))  # P(f = c), P(f = c ≠ g)


def record_of(stopping: Stopping) -> RunRecord:
    """The record of a run that stops so, of the zoo's pair; no draw is taken."""
    with dst.certify(
        engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=zoo.IMAGES, max=1, n0=1, n=10, backend="onnxruntime"
    ) as run:
        return replace(run.record, stopping=stopping, total_variation=0.0)


def said(run: str, pairs: int, law: tuple[float, float], cases: int, wrong: int, alone: float) -> dict[str, Any]:
    """What was counted of a law, printed; `alone` is the share of images that took draws of g alone."""
    p, q = law
    interval = [binomial_lower(wrong, cases, 0.025), binomial_upper(wrong, cases, 0.025)]
    result = {
        "run": run, "pairs": pairs, "p": p, "q": q, "cases": cases, "wrong": wrong, "alone": alone, "interval": interval,
    }  # fmt: skip
    print(result, flush=True)
    return result


def simulated(cases: int) -> Iterator[dict[str, Any]]:
    """Wrong certificates of `cases`, by stopping, pairs and law."""
    rng = np.random.Generator(np.random.Philox(19))
    runs = {"fixed": Stopping(n=2000, alpha=ALPHA), "tolerance": Stopping(n=2000, alpha=ALPHA, tolerance=0.05)}
    for name, stopping in runs.items():
        record = record_of(stopping)
        for pairs in (200, 2000):
            rule = TransferRule(record, pairs, ALPHA)
            for p, q in LAWS:
                wrong = 0
                ends = np.array(looks(stopping.n) if stopping.sequential else [stopping.n])
                hits = np.cumsum(rng.binomial(np.diff([0, *ends]), p, size=(cases, len(ends))), axis=1)
                differ = rng.binomial(pairs, q, size=cases)
                alone = rng.binomial(2 * pairs, p - q, size=cases)
                singles = 0
                for row, differs, hit in zip(hits.tolist(), differ.tolist(), alone.tolist(), strict=True):
                    single = rule.draws(tuple(row), int(ends[-1]))[0]
                    seen = Evidence(0, tuple(row), int(ends[-1]), differs, alone=hit if single else None)
                    wrong += (rule.outcome(seen).p_lower or 0.0) > p - q
                    singles += single
                yield said(name, pairs, (p, q), cases, wrong, singles / cases)


STOPPED: dict[str, Stopping] = {
    "radius, its own stopping": Stopping(n=2000, alpha=ALPHA, radius=(0.25,)),
    "tolerance, its own stopping": Stopping(n=2000, alpha=ALPHA, tolerance=0.05),
    "fixed, worst choice": Stopping(n=2000, alpha=ALPHA),
    "family-wise, 10 images": Stopping(n=2000, alpha=ALPHA, family_wise=True),
}
FAMILY = 10


def drawn_by(record: RunRecord, p: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Hits at each look of an image of probability p, until the run's rule stops."""
    rule, votes = record.rule, Votes(record.stopping.plan, 2)
    ends = np.array(looks(record.stopping.n))
    for hits in np.cumsum(rng.binomial(np.diff([0, *ends]), p)).tolist():
        votes.hits.append(hits)
        if rule.stops(votes):
            break
    return tuple(votes.hits)


def worst_choice(rule: TransferRule, p: float, q: float) -> Callable[[int], bool]:
    """Whether draws of g alone mislead with a greater probability than pairs do, given f's hits."""
    tried = np.arange(2 * rule.pairs + 1)
    lower = np.array([binomial_lower(int(k), 2 * rule.pairs, rule.of_pairs) for k in tried])
    alone = float(stats.binom.pmf(tried, 2 * rule.pairs, p - q)[lower > p - q].sum())
    differ = np.arange(rule.pairs + 1)
    upper = np.array([binomial_upper(int(k), rule.pairs, rule.of_pairs) for k in differ])
    weights = stats.binom.pmf(differ, rule.pairs, q)

    @cache
    def chosen(hits: int) -> bool:
        votes = binomial_lower(hits, rule.n, rule.of_votes)
        return alone >= float(weights[votes - upper > p - q].sum())

    return chosen


def stopped(cases: int) -> Iterator[dict[str, Any]]:
    """Wrong certificates of runs as they stop, of the worst choice, and of families."""
    rng = np.random.Generator(np.random.Philox(20))
    pairs = 200
    for name, stopping in STOPPED.items():
        images = FAMILY if stopping.family_wise else 1
        record = replace(record_of(stopping), images=images)
        rule, ends = TransferRule(record, pairs, ALPHA), looks(stopping.n)
        for p, q in LAWS:
            choice = worst_choice(rule, p, q) if "worst" in name else None
            outcome = cache(rule.outcome)
            wrong = singles = 0
            for _ in range(cases):
                false = False
                for _ in range(images):
                    if stopping.sequential:
                        hits = drawn_by(record, p, rng)
                        trials = ends[len(hits) - 1]
                    else:
                        hits, trials = (int(rng.binomial(stopping.n, p)),), stopping.n
                    single = choice(hits[0]) if choice else rule.draws(hits, trials)[0]
                    differs, alone = int(rng.binomial(pairs, q)), int(rng.binomial(2 * pairs, p - q))
                    seen = Evidence(0, hits, trials, 0 if single else differs, alone=alone if single else None)
                    false |= (outcome(seen).p_lower or 0.0) > p - q
                    singles += single
                wrong += false
            yield said(name, pairs, (p, q), cases, wrong, singles / (cases * images))


def exported(folder: Path, data: Path) -> dict[str, Path]:
    """The zoo's pair in int8."""
    from diffsmooth_trt.exporting import export_classifier, export_denoiser

    made = {"engine": folder / "denoiser.onnx", "classifier": folder / "classifier.onnx"}
    how: dict[str, Any] = {"precision": "int8", "calibration_data": data, "verify_samples": 64}
    export_denoiser("guided-diffusion", STATES / "unet.pt", config="zoo", sigma=0.25, out=made["engine"], **how)
    export_classifier(
        "resnet56", STATES / "classifier-dds.pt", out=made["classifier"], verify_denoiser=zoo.DENOISER, **how
    )
    return made


def kept(images: int, n: int, data: Path | None) -> Iterator[dict[str, Any]]:
    """What share of the mean radius is kept, by precision."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        with dst.certify(
            engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=zoo.IMAGES, skip=100 // images, max=images, n=n,
            backend="openvino", precision="fp32", out=folder / "run.sqlite",
        ) as run:  # fmt: skip
            radii = [result.radius or 0.0 for result in run.results()]
        spent = time.perf_counter() - start
        others: dict[str, dict[str, Path]] = {"bf16": {}}
        if data is not None:
            others["int8"] = exported(folder, data)
        pairs = n // 10
        for precision, files in others.items():
            start = time.perf_counter()
            out = folder / f"{precision}.json"
            engines = EngineChoice(backend="openvino")
            options = TransferConfig(run=folder / "run.sqlite", out=out, files=files, engines=engines, pairs=pairs)
            made = transfer(options)
            drawn = [image.pairs for image in made.images]
            transferred = [image.outcome.radius or 0.0 for image in made.images]
            result = {
                "to": precision,
                "pairs": pairs,
                "n": n,
                "images": len(radii),
                "mean_radius": float(np.mean(radii)),
                "transferred": float(np.mean(transferred)),
                "kept": float(np.sum(transferred) / np.sum(radii)),
                "differ": float(np.mean([each.f_alone / pairs for each in drawn if isinstance(each, Pairs)] or [0.0])),
                "alone": float(np.mean([isinstance(each, Alone) for each in drawn])),
                "seconds": [spent, time.perf_counter() - start],
            }
            print(result, flush=True)
            yield result


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--calibration-data", type=Path)
    p.add_argument("--max", type=int, default=10)
    p.add_argument("--n", type=int, default=10_000)
    p.add_argument("--cases", type=int, default=CASES)
    p.add_argument("--part", choices=("simulated", "stopped", "kept"), help="measure this part alone")
    a = p.parse_args()
    path = RESULTS / "transfer.json"
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "simulated": lambda: simulated(a.cases),
        "stopped": lambda: stopped(a.cases // 2),
        "kept": lambda: kept(a.max, a.n, a.calibration_data),
    }
    document = json.loads(path.read_text()) if a.part else {}
    document |= {"machine": {**versions(), "cpu": cpu_model()}, "alpha": ALPHA}
    document |= {name: list(make()) for name, make in parts.items() if a.part in (None, name)}
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
