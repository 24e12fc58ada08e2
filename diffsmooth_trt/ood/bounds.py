"""Upper confidence bounds for means of [0, 1] variables at every sample size at once, and the smoothing theorem for them.

Values are counted in bins whose upper edges stand for them, so the bound is a pure function of counts that anybody can compute
again. An edge has 8 significant bits: what is bounded is the mean of the edges, at most 0.8 % (relative) and 2^-24 above.

**The bound.** Let X_1, X_2, … be i.i.d. in [0, 1] with mean μ, and λ in (0, 1]. Under "mean ≥ m" each factor 1 − λ(X_i − m)
is non-negative with expectation at most 1, so K_t(m) = Σ_k w_k Π_{i≤t} (1 − λ_k(X_i − m)) with Σ w_k = 1 is a test supermartingale:
capital that bets against it (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", with a
fixed mixture of bets). Every factor grows with m, so K_t does, and U_t = inf{m: K_t(m) ≥ 1/α} < μ implies K_t(μ) ≥ 1/α. By Ville's
inequality P(∃t: U_t < μ) ≤ α. So drawing may stop at any time for any reason.

**The theorem.** For f: ℝ^d → [0, 1] and h(x) = E f(x + δ), δ ~ N(0, σ²I): Φ⁻¹(h) is 1/σ-Lipschitz (Salman et al. 2019, Lemma 2),
so h(x') ≤ Φ(Φ⁻¹(h(x)) + ‖x' − x‖/σ).
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dtypes import Counts, Floats64
from ..errors import InputError
from ..statistics.bounds import normal_cdf_lower, normal_cdf_upper, normal_quantile_lower, normal_quantile_upper
from ..statistics.exact import context, down, up

_BITS, _LEAST = 7, -24  # bits of an edge after the first; the first bin ends at 2^-24
BINS = -_LEAST * 2**_BITS + 1
BETS = 2.0 ** -np.arange(11)  # λ_k; exact products with edges
SHARES = np.array([0.25, *[0.075] * 10])  # w_k: the highest bet is the best one for values close to 0
MAX_DRAWS = 10**9


def edges() -> Floats64:
    """The upper edge of each bin, ascending float64 `[BINS]`, the last one 1."""
    octaves = 2.0 ** np.arange(_LEAST, 0)[:, None] * (1 + np.arange(1, 2**_BITS + 1) / 2**_BITS)
    return np.concatenate([[2.0**_LEAST], octaves.ravel()])


EDGES = edges()
# The middle of the 1/256 that each bin lies in: the same partition for a value and for 1 minus it, and exact in float64.
MIDDLES = (np.ceil(256 * EDGES) - 0.5) / 256


def bin_values(values: ArrayLike) -> NDArray[np.int64]:
    """The bin of each value: that of the least edge at or above it. Raises InputError for NaN and values outside [0, 1]."""
    given = np.asarray(values, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        wrong = given[~((given >= 0) & (given <= 1))]
        raise InputError(f"a value is {wrong.flat[0]}, expected 0 to 1: a confidence that is a number")
    return np.searchsorted(EDGES, given, side="left")


def edge_mean(counts: Counts) -> float:
    """The mean of the edges of what was counted."""
    return float(counts @ EDGES) / int(counts.sum())


def _log_capital(m: float, values: Floats64, counts: Floats64) -> float:
    """A lower bound on ln K(m), m > 0.

    1 − λx is exact in float64 (x has 8 bits from 2^0 to 2^-31, λ = 2^-k), adding λm rounds once (relative 2^-53), and NumPy's
    logarithm is right within 4 units in the last place: each term is right within 2^-50·(1 + |term|); their sum of at most
    3,073 adds 2^-41 of the sum of their sizes. Both are subtracted, doubled, and more for the mixture.
    """
    logs = np.log((1 - BETS[:, None] * values) + BETS[:, None] * m)
    totals = (counts * logs).sum(axis=1)
    slack = 2.0**-40 * (counts * (1 + np.abs(logs))).sum(axis=1)
    parts = totals - slack + np.log(SHARES) - 2.0**-40
    return float(np.logaddexp.reduce(parts)) - 2.0**-30


def mean_upper(counts: ArrayLike, alpha: float) -> float:
    """An upper confidence bound for the mean of a [0, 1] variable, rounded up, from counts of `bin_values` int64 `[BINS]`.

    Guarantee: for i.i.d. draws with mean μ, with probability at least 1 − alpha the bound is at least μ at every number of draws
    at once (Ville; see above). alpha: in (0, 1). Raises InputError.
    """
    given = np.asarray(counts)
    if given.shape != (BINS,) or given.dtype.kind not in "iu" or (given.size and given.min() < 0):
        raise InputError(f"counts are {given.dtype} {given.shape}, expected {BINS} integers of 0 or more")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}, expected above 0 and below 1: 0.001 is usual")
    draws = int(given.sum())
    if not 0 < draws <= MAX_DRAWS:
        raise InputError(f"counts hold {draws} draws, expected 1 to {MAX_DRAWS}: draw that many")
    used = np.flatnonzero(given)
    values, weights = EDGES[used], given[used].astype(np.float64)
    target = math.nextafter(-math.log(alpha), math.inf) + 1e-12

    def refuted(m: float) -> bool:
        return _log_capital(m, values, weights) >= target

    low, high = float(values @ weights) / draws, 1.0
    if not refuted(high):
        return 1.0
    for _ in range(60):  # `high` is refuted all along, so that what is returned is
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if refuted(middle) else (middle, high)
        if high - low <= 1e-6 * high:
            break
    return high


def with_total_variation(bound: float, distance: float) -> float:
    """`bound` on a mean under the noise as drawn, made one under the exact law, rounded up: a variable in [0, 1] has means that
    differ by at most the laws' total variation `distance`."""
    with localcontext(context(rounding=ROUND_CEILING)):
        return min(1.0, up(Decimal(bound) + Decimal(distance)))


def complement_lower(bound: float) -> float:
    """1 − bound, rounded down: the lower bound of a mean whose complement is bounded from above."""
    with localcontext(context(rounding=ROUND_FLOOR)):
        return max(0.0, down(Decimal(1) - Decimal(bound)))


def further(radius: float, distance: float) -> float:
    """The radius of a ball that holds the one of `radius` around a point at `distance`: the sum, rounded up."""
    if not distance:
        return radius
    with localcontext(context(rounding=ROUND_CEILING)):
        return up(Decimal(radius) + Decimal(distance))


def shifted_upper(bound: float, radius: float, sigma: float) -> float:
    """Φ(Φ⁻¹(bound) + radius/sigma), rounded up: the most that h can be within the ℓ2 `radius` of a point with h ≤ bound.

    bound: in [0, 1]. radius: ≥ 0, sigma: > 0, both in image units. Raises InputError.
    """
    _check_shift(radius, sigma)
    if radius == 0 or bound in (0.0, 1.0):
        return bound
    with localcontext(context(rounding=ROUND_CEILING)):
        moved = up(Decimal(_quantile_upper(bound)) + Decimal(radius) / Decimal(sigma))
    return normal_cdf_upper(moved)


def shifted_lower(bound: float, radius: float, sigma: float) -> float:
    """Φ(Φ⁻¹(bound) − radius/sigma), rounded down: the least that h can be within the ℓ2 `radius` of a point with h ≥ bound."""
    _check_shift(radius, sigma)
    if radius == 0 or bound in (0.0, 1.0):
        return bound
    with localcontext(context(rounding=ROUND_FLOOR)):
        moved = down(Decimal(_quantile_lower(bound)) - Decimal(radius) / Decimal(sigma))
    return normal_cdf_lower(moved)


_quantile_upper = lru_cache(maxsize=1 << 16)(normal_quantile_upper)
_quantile_lower = lru_cache(maxsize=1 << 16)(normal_quantile_lower)


def _check_shift(radius: float, sigma: float) -> None:
    if not (math.isfinite(radius) and radius >= 0 and math.isfinite(sigma) and sigma > 0):
        raise InputError(f"radius {radius} and sigma {sigma} must be finite, radius ≥ 0 and sigma > 0 (image units)")
