"""Statistics that may stop early: valid at every look at the votes, for as long as looking goes on.

Votes are looked at after fixed numbers of draws (`looks`), the same for every run. Each look may spend a share of the error
probability that depends on its number of draws alone (Lan & DeMets 1983); all shares, of looks without end, sum to less
than 1. So a sequence may stop at any look, be resumed, or be extended beyond the number of draws first planned.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..errors import InputError
from .bounds import binomial_lower, normal_cdf_upper, radius_lower
from .exact import context, down, up

FIRST_LOOK = 30
MAX_DRAWS = 10**7  # the error bound of `least_hits` is shown up to here
HALF_SHARE = 50_000
_DECADE = (*range(100, 200, 10), *range(200, 500, 25), *range(500, 1000, 50))

_TRIM = 1e-38
_LOST = 1e-30
_INTERVAL, _UNLIKELY = 1.28, 1.64
_SLACK = 1e-8


@lru_cache(maxsize=256)
def looks(n: int) -> tuple[int, ...]:
    """The numbers of draws after which votes are looked at, up to n: 30, 40, …, 90, then per decade 10, 11, …, 20, 22.5, …, 50,
    55, …, 95 times its tenth. They are 5–13 % apart; coarser or finer grids need as many draws (benchmarks/bench_samples.py).
    """
    counts = [*range(FIRST_LOOK, 100, 10)]
    scale = 1
    while counts[-1] < n:
        counts += [scale * step for step in _DECADE]
        scale *= 10
    return tuple(draws for draws in counts if draws <= n)


def share(draws: int) -> float:
    """The share of the error probability that may be spent by this many draws, √(T/(T + 50000)), rounded down; < 1.

    Any increasing function below 1 is valid. This one is close to the best of those tried for n = 10^4 … 10^6, without
    depending on n (benchmarks/bench_samples.py).
    """
    return math.sqrt(draws / (draws + HALF_SHARE)) * (1 - 1e-15)


@lru_cache(maxsize=4096)  # a family-wise run takes dozens of levels for each radius
def least_hits(p: float, alpha: float, n: int) -> NDArray[np.int64]:
    """Return, for each of `looks(n)`, the least hits h that reject "a draw hits with probability at most p".

    int64 [looks], T + 1 where T hits of T do not reject. p: in (0, 1). alpha: in (0, 1). n: at most 10^7.

    Guarantee: if each draw hits with probability ≤ p, independently, then P(H_T ≥ h_T at any look T) ≤ alpha, looks without
    end included, whatever is done with the votes in between. For at p itself, the probability of crossing first at look
    T is computed by carrying the distribution of H on from look to look without the paths that have crossed; h_T is the least
    that keeps the sum over the looks so far within alpha·share(T). "Some H_T ≥ h_T" grows with every draw turned into a hit,
    so a smaller probability of hits crosses less often.

    Rounding: all numbers are sums of products of positive numbers. A step's binomial weights are right to a relative 6L·u
    (L of them, each five roundings further than its neighbour, divided by their sum; u = 2^-53), a convolution adds L·u,
    the tail M·u. With L ≤ 2·10^4, M ≤ 10^5 and 230 looks up to 10^7 that stays below 10^-8, by which alpha is lowered. Weights
    and states below 10^-38 are left out, at each look fewer than 10^6, with geometric tails of less than 10^4 times the last:
    10^-30 a look is charged for them.
    """
    if not 0 < p < 1:
        raise InputError(f"p is {p!r}, expected above 0 and below 1: choose a radius within reach")
    if n > MAX_DRAWS:
        raise InputError(f"n is {n}, expected at most 10^7 where runs stop early: choose fewer draws")
    hits = []
    states, first, drawn, spent = np.ones(1), 0, 0, 0.0
    for draws in looks(n):
        low, weights = _binomial_weights(draws - drawn, p)
        states, first, drawn = np.convolve(states, weights), first + low, draws
        tails = np.cumsum(states[::-1])[::-1]
        spent += _LOST
        room = alpha * share(draws) * (1 - _SLACK) - spent
        kept = int(np.count_nonzero(tails > room))  # tails fall
        if kept < len(states):
            spent += float(tails[kept])
        hits.append(min(first + kept, draws + 1) if room > 0 else draws + 1)
        alive = np.flatnonzero(states[:kept] > _TRIM)
        if not alive.size:  # every path has crossed, but for a mass that was charged
            alive = np.zeros(1, np.int64)
        states, first = states[alive[0] : alive[-1] + 1], first + int(alive[0])
    result = np.array(hits, dtype=np.int64)
    result.setflags(write=False)
    return result


@lru_cache(maxsize=512)
def _binomial_weights(draws: int, p: float) -> tuple[int, NDArray[np.float64]]:
    """Return the first number of hits and P(Bin(draws, p) = hits) from there on, without those below 10^-38 of the mode's."""
    mode = min(int((draws + 1) * p), draws)
    odds = p / (1 - p)
    above = np.arange(mode, draws, dtype=np.float64)
    below = np.arange(mode, 0, -1, dtype=np.float64)
    with np.errstate(under="ignore"):
        rising = np.cumprod((draws - above) / (above + 1) * odds)
        falling = np.cumprod(below / (draws - below + 1) / odds)
    rising, falling = rising[rising > _TRIM], falling[falling > _TRIM]
    weights = np.concatenate([falling[::-1], [1.0], rising])
    return mode - len(falling), weights / weights.sum()


def anytime_lower(hits: NDArray[np.int64], alpha: float) -> float:
    """Return a lower bound on the probability of a hit from the hits at the first looks; rounded down.

    hits: int64 [k], k ≥ 1, at the first k of `looks`. alpha: in (0, 1).

    Guarantee: with probability at least 1 − alpha, the bounds from the first k looks are all at most that probability, for all
    k at once. It is the largest of the looks' Clopper–Pearson bounds, look j at alpha·(share(T_j) − share(T_{j−1})): a union
    bound. Which look is the largest is only guessed; its bound is verified (`binomial_lower`).
    """
    draws, levels = _levels(len(hits), alpha)
    best = int(np.argmax(_guesses(hits, draws, levels)))
    return binomial_lower(int(hits[best]), int(draws[best]), float(levels[best]))


def projected_lower(hits: NDArray[np.int64], alpha: float, n: int) -> tuple[float, float]:
    """Return guesses of `anytime_lower` as it is, and of the largest that looks up to n could make it.

    The remaining draws are taken to hit at the upper 95 % confidence limit of those seen. For deciding when to stop, which
    needs no guarantee; not verified.
    """
    every, levels = _levels(len(looks(n)), alpha)
    count = len(hits)
    now = float(_guesses(hits, every[:count], levels[:count]).max())
    seen, trials = int(hits[-1]), int(every[count - 1])
    hopeful = 1.0 if seen == trials else float(special.betaincinv(seen + 1, trials - seen, 0.95))
    coming = seen + np.floor(hopeful * (every[count:] - trials)).astype(np.int64)
    later = _guesses(coming, every[count:], levels[count:])
    return now, max(now, float(later.max(initial=0.0)))


def out_of_sight(
    hits: NDArray[np.int64], look: int, certify: NDArray[np.int64], refute: NDArray[np.int64], draws: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether no look still to come is likely to decide, for any shape of `hits` at look number `look`.

    certify, refute: `thresholds`; draws: their looks. A draw's probability of a hit is taken to be anywhere in its 80 %
    interval (normal approximation), and a decision to be likely where it would come at some look with 5 % chance: wider ones
    cost samples, narrower ones decisions (benchmarks/bench_samples.py). For deciding when to stop, which needs no guarantee.
    More looks to come never make it true: a run with larger n stops no earlier.
    """
    seen, trials = np.asarray(hits, dtype=np.float64)[..., None], float(draws[look])
    left = (draws[look + 1 :] - draws[look]).astype(np.float64)
    p = (seen + 0.5) / (trials + 1)
    reach = _INTERVAL * np.sqrt(p * (1 - p) / trials)
    high, low = np.minimum(p + reach, 1.0), np.maximum(p - reach, 0.0)
    missing = (certify[look + 1 :] - seen - left * high) / np.sqrt(left * high * (1 - high) + 1)
    beyond = (seen + left * low - refute[look + 1 :]) / np.sqrt(left * low * (1 - low) + 1)
    return np.asarray(np.all((missing > _UNLIKELY) & (beyond > _UNLIKELY), axis=-1))


@lru_cache(maxsize=1024)
def _levels(count: int, alpha: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the first `count` looks and the error probability of each."""
    last = FIRST_LOOK
    while len(looks(last)) < count:
        last *= 10
    draws = np.array(looks(last)[:count], dtype=np.int64)
    shares = [0.0, *(share(int(trials)) for trials in draws)]
    return draws, np.diff(shares) * alpha * (1 - 1e-12)


def _guesses(hits: NDArray[np.int64], draws: NDArray[np.int64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    some = np.maximum(hits, 1)
    return np.where(hits > 0, special.betaincinv(some, draws - some + 1, levels), 0.0)


def thresholds(
    radius: float, sigma: float, total_variation: float, alpha: float, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each of `looks(n)`, the least hits that certify `radius` and the most that refute it.

    int64 [looks] each; T + 1 and −1 where no number of hits does. "Certified" says that the class has probability ≥ Φ(radius/σ)
    under exact noise, hence that its radius is at least that (Cohen et al. 2019, Theorem 1); "refuted" says that it is
    smaller, which is no attack. total_variation is that of one noise image, as in `certificate`: the tests are of the
    probabilities as drawn, which may differ by it.

    Guarantee, for one radius: whatever the probability is, only one of the two answers can be false, and that one is given with
    probability at most alpha, all looks together. Raises InputError where no number of hits up to n certifies.
    """
    given = (radius, sigma, total_variation, alpha, n)
    return certifying(*given), refuting(*given)


def refuting(radius: float, sigma: float, total_variation: float, alpha: float, n: int) -> NDArray[np.int64]:
    """The second half of `thresholds`: the most hits that refute `radius`."""
    with localcontext(context(rounding=ROUND_FLOOR)):
        ratio = down(Decimal(radius) / Decimal(sigma))
    with localcontext(context(rounding=ROUND_CEILING)):
        miss = up(Decimal(normal_cdf_upper(-ratio)) + Decimal(total_variation))
    return np.array(looks(n), dtype=np.int64) - least_hits(miss, alpha, n)


def certifying(radius: float, sigma: float, total_variation: float, alpha: float, n: int) -> NDArray[np.int64]:
    """The first half of `thresholds`: the least hits that certify `radius`. Raises InputError where none up to n do."""
    certify = certifying_if_any(radius, sigma, total_variation, alpha, n)
    if not np.any(certify <= np.array(looks(n), dtype=np.int64)):
        reach = largest_radius(sigma, total_variation, alpha, n)
        raise InputError(
            f"--radius {radius} is beyond what n = {n} draws can certify, at most {reach:.4f}: raise --n or --alpha"
        )
    return certify


def certifying_if_any(radius: float, sigma: float, total_variation: float, alpha: float, n: int) -> NDArray[np.int64]:
    """`certifying`, but T + 1 at every look T for a radius that no hits up to n certify."""
    with localcontext(context(rounding=ROUND_CEILING)):
        ratio = up(Decimal(radius) / Decimal(sigma))
        hit = up(Decimal(normal_cdf_upper(ratio)) + Decimal(total_variation))
    return least_hits(hit, alpha, n) if hit < 1 else np.array(looks(n), dtype=np.int64) + 1


def largest_radius(sigma: float, total_variation: float, alpha: float, n: int) -> float:
    """Return a radius just below the largest that draws that all hit certify by the last look up to n; 0.0 where none."""
    draws = looks(n)
    if not draws:
        return 0.0
    level = (alpha * share(draws[-1]) * (1 - 2 * _SLACK)) - 1e-27
    p = level ** (1 / draws[-1]) - total_variation if level > 0 else 0.0
    return math.floor(radius_lower(max(p, 0.0), sigma) * 0.9999 * 1e4) / 1e4
