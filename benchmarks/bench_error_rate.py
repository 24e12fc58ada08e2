"""How often runs that stop early say something wrong, simulated where that is likeliest: next to a threshold.

    python benchmarks/bench_error_rate.py

Votes are drawn from the binomial law itself, without networks; whatever can be drawn is looked at, up to n. Each row has the
wrong ones of the cases simulated, their exact 95 % interval, and the limit stated, if there is one. Writes
benchmarks/results/error_rate.json.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import special

from diffsmooth_trt.certify.rules import Conditions, RadiusRule, ToleranceRule
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.statistics.bounds import binomial_lower, binomial_upper, normal_cdf_lower
from diffsmooth_trt.statistics.sequential import looks, projected_lower, thresholds

RESULTS = Path(__file__).resolve().parent / "results"
SIGMA, N = 0.25, 10**5
CHUNK = 20_000

Hits = NDArray[np.int64]
Mask = NDArray[np.bool_]


def paths(p: float | NDArray[np.float64], runs: int, rng: np.random.Generator, n: int = N) -> Hits:
    """Hits [runs, looks]; p: one probability, or one a run."""
    steps = np.diff(np.array([0, *looks(n)]))
    chance = np.broadcast_to(p, (runs,))[:, None]
    return np.cumsum(rng.binomial(steps, chance, size=(runs, len(steps))), axis=1)


def answers(hits: Hits, certify: Hits, refute: Hits) -> tuple[Mask, Mask]:
    """Which paths are certified and which refuted: what is reached first stays."""
    yes, no = hits >= certify, hits <= refute
    rows = np.arange(len(hits)), (yes | no).argmax(axis=1)
    return yes[rows], no[rows] & ~yes[rows]


def row(case: str, limit: float | None, wrong: int, cases: int, **more: Any) -> dict[str, Any]:
    """One result, with the exact two-sided 95 % interval of its rate."""
    interval = [binomial_lower(wrong, cases, 0.025), binomial_upper(wrong, cases, 0.025)]
    rate = {"cases": cases, "wrong": wrong, "rate": wrong / cases, "interval": [round(end, 7) for end in interval]}
    return {"case": case, **more, "limit": limit, **rate}


def decisions(runs: int = 200_000) -> Iterator[dict[str, Any]]:
    """Wrong answers on one radius, its class's probability just below (certified) and just at (refuted) the threshold."""
    for alpha in (0.001, 0.05):
        for ratio in (0.1, 0.5, 1.0, 2.0, 3.0):
            certify, refute = thresholds(ratio * SIGMA, SIGMA, 0.0, alpha, N)
            p = normal_cdf_lower(ratio)
            for case, side in (("certified, just too rare", 0), ("refuted, just frequent enough", 1)):
                rng = np.random.default_rng([1, side, int(10 * ratio)])
                wrong = 0
                for _ in range(0, runs, CHUNK):
                    found = answers(paths(math.nextafter(p, side), CHUNK, rng), certify, refute)
                    wrong += int(found[side].sum())
                yield row(case, alpha, wrong, runs, alpha=alpha, radius=ratio * SIGMA, n=N)


def families(alpha: float = 0.05) -> Iterator[dict[str, Any]]:
    """Families with a wrong certification (some images just too rare) or a wrong refutation (all a little above)."""
    edge = normal_cdf_lower(1.0)
    cases = [(0, 50, worst, 0.05, 2000) for worst in (1, 5, 25, 50)]
    cases += [(1, 4000, 0, above, 100) for above in (0.0, 0.006, 0.008)]
    for number, (side, images, worst, above, runs) in enumerate(cases):
        asked = Stopping(n0=100, n=N, alpha=alpha, radius=(SIGMA,), family_wise=True)
        rule = RadiusRule(asked, Conditions(sigma=SIGMA, images=images))
        rng = np.random.default_rng([2, number])
        p = np.full(images, edge + above)
        p[:worst] = edge
        wrong = more = 0
        certified = []
        for _ in range(runs):
            hits = paths(p, images, rng)
            found, bonferroni = _holm(rule, hits), answers(hits, *rule.steps[0][0])
            if np.any(bonferroni[0] > found[0]):
                raise SystemExit("Holm's procedure certified less than Bonferroni's")
            wrong += bool(found[side][: worst or images].any())
            more += int(np.count_nonzero(found[0] > bonferroni[0]))
            certified.append(found[0].mean())
        case = f"family with a wrong {('certification', 'refutation')[side]}"
        mix = {"images": images, "at_threshold": worst if above else images, "others_above_by": above}
        gained = {"certified": round(float(np.mean(certified)), 4), "certified_more_than_bonferroni": more / runs}
        yield row(case, alpha, wrong, runs, alpha=alpha, radius=SIGMA, n=N, **mix, **gained)


def _holm(rule: RadiusRule, hits: Hits) -> tuple[Mask, Mask]:
    step = 0
    while True:
        found = answers(hits, *rule.steps[step][0])
        reached = max(i for i in range(len(rule.steps)) if _allowed(i, rule.images, found[0]))
        if reached == step:
            return found
        step = reached


def _allowed(step: int, images: int, certified: Mask) -> bool:
    return bool(2**step * max(1, images - int(certified.sum())) ** 4 <= images**4)


def tolerance(images: int = 1000, n: int = 10**4) -> Iterator[dict[str, Any]]:
    """Images whose radius all n draws would have raised by more than the tolerance after they had stopped; no guarantee."""
    for share in (0.02, 0.05, 0.1):
        rule = ToleranceRule(
            Stopping(n0=100, n=n, alpha=0.001, tolerance=share), Conditions(sigma=SIGMA, images=images)
        )
        rng = np.random.default_rng([3, int(100 * share)])
        p = special.ndtr(rng.uniform(0.02, 0.6, images) / SIGMA)
        raised = drawn = 0
        for hits in paths(p, images, rng, n):
            for seen in range(1, hits.size + 1):
                now, later = projected_lower(hits[:seen], rule.alpha, n)
                if rule._radius(later) <= (1 + share) * rule._radius(now):
                    break
            drawn += looks(n)[seen - 1]
            whole, _ = projected_lower(hits, rule.alpha, n)
            raised += rule._radius(whole) > (1 + share) * rule._radius(now) * (1 + 1e-9)
        yield row("raised by more than the tolerance", None, raised, images, tolerance=share, n=n, draws=drawn / images)


def main() -> None:
    started = time.perf_counter()
    rows = []
    for simulate in (decisions, families, tolerance):
        for found in simulate():
            rows.append(found)
            print(json.dumps(found), flush=True)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    report = {"sigma": SIGMA, "machine": platform.machine(), "versions": versions, "results": rows}
    (RESULTS / "error_rate.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
