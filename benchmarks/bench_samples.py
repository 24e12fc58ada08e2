"""Samples that deciding one preset radius takes, on the radii that Cohen et al. 2019 published, by simulation.

    python benchmarks/bench_samples.py

From each published radius follows the number of votes that it was computed from, hence (nearly) the probability of the class;
abstentions are taken to have probability ½. Votes are simulated up to n = 100,000, and every rule looks at the same ones. A
contradiction is a decision that fixed n = 100,000 on the same votes does not share: certified where the Clopper–Pearson
bound is below the threshold, or refuted where it is not. Writes benchmarks/results/samples.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from diffsmooth_trt.statistics import sequential

ROOT = Path(__file__).resolve().parent
N, ALPHA, REPEATS, SEED = 100_000, 0.001, 40, 5
LEVEL = ALPHA * 15 / 16  # what a run with one preset radius spends on its decision
CASES = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.25), (0.5, 0.5), (0.5, 1.0))
Limits = tuple[NDArray[np.int64], NDArray[np.int64]]


def published(sigma: float) -> NDArray[np.float64]:
    """The probabilities behind the published radii, float64 [500]."""
    radii = np.abs(np.loadtxt(ROOT / "cohen2019" / f"sigma-{sigma:.2f}.txt").ravel())
    hits = np.arange(N // 2, N + 1)
    lower = special.betaincinv(hits, N - hits + 1, ALPHA)
    found = hits[np.minimum(np.searchsorted(lower, stats.norm.cdf(radii / sigma)), len(hits) - 1)] / N
    return np.where(radii == 0, 0.5, np.minimum(found, 1 - 1e-5))


def paths(p: NDArray[np.float64], draws: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Hits at each look, int64 [repeats, images, looks]."""
    steps = np.diff(draws, prepend=0)
    return np.stack([rng.binomial(step, p, (REPEATS, len(p))) for step in steps], axis=-1).cumsum(axis=-1)


def from_evidence(draws: NDArray[np.int64], evidence: Callable[[NDArray[np.int64], int], Any]) -> Limits:
    """Limits where the log evidence (against "too small", against "large enough") reaches ln(1/α)."""
    least, most = [], []
    for trials in draws.tolist():
        hits = np.arange(trials + 1)
        small, large = evidence(hits, trials)
        enough = -np.log(ALPHA)
        least.append(hits[small >= enough].min(initial=trials + 1))
        most.append(hits[large >= enough].max(initial=-1))
    return np.array(least), np.array(most)


def mixture(draws: NDArray[np.int64], p: float, one_sided: bool) -> Limits:
    """Beta(½, ½) mixtures ("KT betting"), as in Waudby-Smith & Ramdas 2024 and Voráček 2024."""

    def evidence(hits: NDArray[np.int64], trials: int) -> tuple[Any, Any]:
        a, b = hits + 0.5, trials - hits + 0.5
        both = special.betaln(a, b) - np.log(np.pi) - hits * np.log(p) - (trials - hits) * np.log1p(-p)
        if not one_sided:
            return np.where(hits > trials * p, both, -np.inf), np.where(hits < trials * p, both, -np.inf)
        above = stats.beta.logsf(p, a, b) - stats.beta.logsf(p, 0.5, 0.5)
        return both + above, both + stats.beta.logcdf(p, a, b) - stats.beta.logcdf(p, 0.5, 0.5)

    return from_evidence(draws, evidence)


def scaled_mixture(draws: NDArray[np.int64], p: float) -> Limits:
    """Nine alternatives a side, at log odds 8·3^-k from the threshold's: a prior that is dense next to it."""
    distance = 8 * 3.0 ** -np.arange(9)

    def evidence(hits: NDArray[np.int64], trials: int) -> tuple[Any, Any]:
        sides = []
        for sign in (1, -1):
            q = special.expit(special.logit(p) + sign * distance)
            log = np.outer(hits, np.log(q / p)) + np.outer(trials - hits, np.log1p(-q) - np.log1p(-p))
            sides.append(special.logsumexp(log, axis=1) - np.log(len(q)))
        return sides[0], sides[1]

    return from_evidence(draws, evidence)


def staged(draws: NDArray[np.int64], p: float) -> Limits:
    """Clopper–Pearson at each look, the shares added up (union bound)."""
    levels = np.diff([sequential.share(int(trials)) for trials in draws], prepend=0) * LEVEL
    least = stats.binom.isf(levels, draws, p) + 1
    most = draws - (stats.binom.isf(levels, draws, 1 - p) + 1)
    return least.astype(np.int64), most.astype(np.int64)


def ours(p: float) -> Limits:
    """The limits that runs use, as `sequential.thresholds` makes them."""
    draws = np.array(sequential.looks(N))
    return sequential.least_hits(p, LEVEL, N), draws - sequential.least_hits(1 - p, LEVEL, N)


@contextmanager
def other(**functions: Any) -> Iterator[None]:
    """Ours with another grid of looks or other shares."""
    kept = {name: getattr(sequential, name) for name in functions}
    for name, function in functions.items():
        setattr(sequential, name, function)
    sequential.least_hits.cache_clear()
    yield
    for name, function in kept.items():
        setattr(sequential, name, function)
    sequential.least_hits.cache_clear()


def grid(first: int, parts: int) -> Callable[[int], tuple[int, ...]]:
    """Looks that grow by one part in `parts`, by `first` at least."""

    def looks(n: int) -> tuple[int, ...]:
        found = [first]
        while found[-1] < n:
            found.append(min(n, found[-1] + max(first, found[-1] // parts)))
        return tuple(found)

    return looks


def outcome(
    hits: NDArray[np.int64],
    draws: NDArray[np.int64],
    limits: Limits,
    p: float,
    hopeless: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """What deciding by `limits` takes and gives; images stop without a decision at `hopeless` looks."""
    yes, no = hits >= limits[0], hits <= limits[1]
    ended = yes | no if hopeless is None else yes | no | hopeless
    at = np.where(ended.any(axis=-1), ended.argmax(axis=-1), len(draws) - 1)
    certified, refuted = (np.take_along_axis(each, at[..., None], axis=-1)[..., 0] for each in (yes, no))
    decided = certified | refuted
    final = hits[..., -1]
    fixed = special.betaincinv(np.maximum(final, 1), N - final + 1, ALPHA) >= p
    used = draws[at].mean(axis=1)
    return {
        "mean": round(float(used.mean()), 1),
        "standard_error": round(float(used.std() / np.sqrt(REPEATS)), 1),
        "median": float(np.median(draws[at])),
        "undecided_percent": round(100 * float((~decided).mean()), 3),
        "contradictions": int((decided & (certified != fixed)).sum()),
    }


def hopeless(hits: NDArray[np.int64], draws: NDArray[np.int64], limits: Limits) -> NDArray[np.bool_]:
    """Where runs stop because no decision is in sight."""
    found = [sequential.out_of_sight(hits[..., look], look, *limits, draws) for look in range(len(draws) - 1)]
    return np.stack([*found, np.ones_like(found[0])], axis=-1)


def case(sigma: float, epsilon: float) -> dict[str, Any]:
    """All rules on one threshold."""
    p, probabilities = float(stats.norm.cdf(epsilon / sigma)), published(sigma)
    draws = np.array(sequential.looks(N))
    hits = paths(probabilities, draws, np.random.default_rng(SEED))
    limits = ours(p)
    found = {
        "exact spending (used)": outcome(hits, draws, limits, p, hopeless(hits, draws, limits)),
        "the same, never giving up": outcome(hits, draws, limits, p),
        "beta mixture, two-sided": outcome(hits, draws, mixture(draws, p, False), p),
        "beta mixture, one-sided": outcome(hits, draws, mixture(draws, p, True), p),
        "mixture dense at the threshold": outcome(hits, draws, scaled_mixture(draws, p), p),
        "Clopper–Pearson at each look": outcome(hits, draws, staged(draws, p), p),
    }
    shares = {
        "√(T/n)": lambda t: (t / N) ** 0.5,
        "T/n": lambda t: t / N,
        "1 − (1 + T/500)^-¼": lambda t: 1 - (1 + t / 500) ** -0.25,
    }
    for name, ends in {"95 % interval, 1 % chance": (1.96, 2.33), "50 % interval, 16 % chance": (0.67, 1.0)}.items():
        with other(_INTERVAL=ends[0], _UNLIKELY=ends[1]):
            found[f"giving up by {name}"] = outcome(hits, draws, limits, p, hopeless(hits, draws, limits))
    for name, share in shares.items():
        with other(share=share):
            found[f"share {name}, never giving up"] = outcome(hits, draws, ours(p), p)
    for name, looks in {"looks 12 % apart": grid(32, 8), "looks 3 % apart": grid(16, 32)}.items():
        with other(looks=looks):
            points = np.array(looks(N))
            finer = paths(probabilities, points, np.random.default_rng(SEED))
            found[f"{name}, never giving up"] = outcome(finer, points, ours(p), p)
    return {"sigma": sigma, "radius": epsilon, "rules": found}


def tolerance(sigma: float, share: float) -> dict[str, float]:
    """Samples of --tolerance and what it loses against fixed n = 100,000, on one simulated run."""
    probabilities = published(sigma)
    draws = np.array(sequential.looks(N))
    hits = paths(probabilities, draws, np.random.default_rng(SEED))[0]
    used, kept = [], []
    for row in hits:
        for look in range(1, len(draws) + 1):
            now, later = sequential.projected_lower(row[:look], ALPHA, N)
            radii = [max(0.0, float(special.ndtri(p))) if p > 0 else 0.0 for p in (now, later)]
            if radii[1] <= (1 + share) * radii[0]:
                break
        full = special.betaincinv(max(row[-1], 1), N - row[-1] + 1, ALPHA)
        used.append(int(draws[look - 1]))
        if full > 0.5:
            kept.append(radii[0] / float(special.ndtri(full)))
    return {
        "sigma": sigma, "tolerance": share, "mean": float(np.mean(used)), "median": float(np.median(used)),
        "radius_kept_mean": round(float(np.mean(kept)), 4), "radius_kept_5_percent": round(float(np.quantile(kept, 0.05)), 4),
    }  # fmt: skip


def main() -> None:
    cases = []
    for sigma, epsilon in CASES:
        cases.append(case(sigma, epsilon))
        for name, row in cases[-1]["rules"].items():
            print(f"sigma {sigma} radius {epsilon}  {name:32s} {row}", flush=True)
    tolerances = [tolerance(sigma, share) for sigma in (0.25, 0.5) for share in (0.02, 0.05, 0.1, 0.2)]
    for row in tolerances:
        print(row, flush=True)
    settings = {"n": N, "alpha": ALPHA, "repeats": REPEATS, "images": 500, "numpy": np.__version__}
    result = {"settings": settings, "cases": cases, "tolerance": tolerances}
    (ROOT / "results" / "samples.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
