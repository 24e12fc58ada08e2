"""Statistics of votes: binomial bounds, certificates and predictions, each rounded against ourselves.

A published radius has to be true, so nothing here trusts a library's last digit. SciPy (or any formula) only
proposes a float; it is accepted after the inequality that defines it has been checked in arithmetic whose
error is bounded (exact.py). The accepted float is on the safe side of the exact bound p and, for trials up to
10^9, within 10^-9·min(p, 1 − p) or two floats of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal, localcontext
from functools import lru_cache
from typing import Any, SupportsFloat, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ..errors import InputError
from .exact import (
    HALF,
    MAX_TRIALS,
    NORMAL_REACH,
    context,
    distance_to_edge,
    down,
    furthest,
    normal,
    normal_directed,
    one_minus,
    tail_at_most,
    up,
)

ABSTAIN = -1


@dataclass(frozen=True)
class Certificate:
    """What n votes prove about one image.

    predict: the class that the smoothed classifier returns everywhere within `radius`, or −1 (abstains).
    radius: ℓ2, in image units, never above σΦ⁻¹(p_lower); 0.0 where it abstains. p_lower: lower bound on the
    probability of the selected class, total variation of the noise subtracted. hits, trials: that class's
    votes among the estimation votes, and all of them.
    """

    predict: int
    radius: float
    p_lower: float
    hits: int
    trials: int


def certificate(
    selection_counts: ArrayLike,
    estimation_counts: ArrayLike,
    alpha: float,
    sigma: float,
    total_variation: float,
) -> Certificate:
    """Return the certificate of one image: CERTIFY and Theorem 1 of Cohen et al. (2019).

    The class is the argmax of the selection votes, the lowest of equals; its hits are counted among the
    estimation votes only, which must be fresh draws, their number chosen beforehand. p_lower is the one-sided
    Clopper–Pearson bound at alpha less total_variation, rounded down, at least 0. Abstains where p_lower ≤ ½:
    equality too, as a class with probability ½ need not be the smoothed classifier's answer.

    Guarantee: with probability at least 1 − alpha over the estimation draws, given any selection votes, the
    result abstains or is true under exact Gaussian noise. For the votes are i.i.d. under the noise as drawn,
    the chosen class having probability p̃; P(p̃ ≥ bound) ≥ 1 − alpha. "The noise makes the classifier answer
    this class" is one event of a single draw, so p ≥ p̃ − total_variation under the exact law, always.

    selection_counts, estimation_counts: ints ≥ 0 [classes], at least one vote each. alpha: in (0, 1). sigma:
    the noise's standard deviation in image units, > 0. total_variation: in [0, 1], a bound on the distance
    between the laws of one drawn noise image and the exact one (`GridLaw.tv_bound`). Raises InputError.
    """
    selection = _check_votes("selection_counts", selection_counts)
    estimation = _check_votes("estimation_counts", estimation_counts)
    if selection.shape != estimation.shape:
        raise InputError(
            f"estimation_counts has {estimation.size} classes and selection_counts {selection.size}, "
            "expected as many: count both over the same classes"
        )
    alpha = _check_alpha(alpha)
    sigma = _check_sigma(sigma)
    distance = _check_total_variation(total_variation)
    best = int(np.argmax(selection))
    hits, trials = int(estimation[best]), int(estimation.sum())
    with localcontext(context(rounding=ROUND_FLOOR)):
        p_lower = max(0.0, down(Decimal(binomial_lower(hits, trials, alpha)) - distance))
    if p_lower <= 0.5:
        return Certificate(ABSTAIN, 0.0, p_lower, hits, trials)
    return Certificate(best, radius_lower(p_lower, sigma), p_lower, hits, trials)


def prediction(counts: ArrayLike, alpha: float, total_variation: float = 0.0) -> int:
    """Return the smoothed classifier's class, or −1 (abstains): PREDICT of Cohen et al. (2019).

    The two classes with most votes are compared by the exact two-sided binomial test at p = ½; the first is
    returned where p-value + n·total_variation ≤ alpha is verified, n being all votes. Doubt abstains: a
    p-value that equals the level, or is below it by less than about 10^-14 of it.

    Guarantee: a class other than the smoothed classifier's is returned with probability at most alpha
    (Hung & Fithian 2019). The test at level alpha' has it under n exact draws. n independent draws of
    approximate noise can be coupled to n exact ones so that all agree but with probability n·total_variation
    (union bound), so no event, this error included, is likelier by more; hence alpha' = alpha −
    n·total_variation. (Subtracting from one draw's probability, as the certificate does, would not do: which
    of two close classes leads may differ between the two laws.)

    counts: ints ≥ 0 [classes], at least one vote, their number chosen beforehand. alpha: in (0, 1).
    total_variation: in [0, 1], as in `certificate`. Raises InputError.
    """
    votes = _check_votes("counts", counts)
    distance = _check_total_variation(total_variation)
    level = Decimal(_check_alpha(alpha))
    best = int(np.argmax(votes))
    first, second = int(votes[best]), int(np.delete(votes, best).max(initial=0))
    with localcontext(context(rounding=ROUND_FLOOR)):
        level = (level - (int(votes.sum()) * distance).next_plus()) / 2
    if level <= 0 or not tail_at_most(first + second, first, HALF, HALF, level):
        return ABSTAIN
    return best


def prediction_at(counts: ArrayLike, alpha: float, sigma: float, distance: float, total_variation: float = 0.0) -> int:
    """Return the smoothed classifier's class at a point x from votes at a point z with ‖x − z‖₂ ≤ distance, or −1 (abstains).

    The class with most votes, c, is returned where the votes show P_c > t = Φ(distance/sigma) at z: then c has more than ½ at x
    (Cohen et al. 2019, Theorem 1, with pooled other classes), so that it is the answer there.

    Guarantee: a class other than the smoothed classifier's at x is returned with probability at most alpha. For only classes
    with P_c ≤ t at z would be wrong. Of n exact draws, one of them is returned only with h hits or more, h the least number for
    which F(t) = P(Bin(n, t) ≥ h) ≤ alpha'/2 and (h − 1)/(n − 1) ≥ t are verified. F is convex up to (h − 1)/(n − 1) with
    F(0) = 0 and t ≥ ½, so ΣF(P_c) over classes with P_c ≤ t and ΣP_c ≤ 1 is at most F(t) + F(1 − t) ≤ 2F(t) ≤ alpha'. alpha' is
    alpha − n·total_variation, as in `prediction`.

    counts, alpha, total_variation: as in `prediction`. sigma: > 0, distance: ≥ 0, in image units. Raises InputError.
    """
    votes = _check_votes("counts", counts)
    level = Decimal(_check_alpha(alpha))
    best, trials = int(np.argmax(votes)), int(votes.sum())
    hits = int(votes[best])
    with localcontext(context(rounding=ROUND_CEILING)):
        least = normal_cdf_upper(up(Decimal(_check_real("distance", distance)) / Decimal(_check_sigma(sigma))))
    with localcontext(context(rounding=ROUND_FLOOR)):
        level = (level - (trials * _check_total_variation(total_variation)).next_plus()) / 2
    convex = Decimal(hits - 1) >= Decimal(least) * (trials - 1)
    if level <= 0 or least >= 1 or not convex:
        return ABSTAIN
    return best if tail_at_most(trials, hits, Decimal(least), one_minus(least), level) else ABSTAIN


def less_distance(radius: float, distance: float) -> float:
    """Return what a ball of `radius` around a point leaves around another one at `distance`: the difference, rounded down, ≥ 0."""
    if not distance:
        return radius
    with localcontext(context(rounding=ROUND_FLOOR)):
        return max(0.0, down(Decimal(radius) - Decimal(distance)))


Count = int | np.integer[Any]


@overload
def binomial_lower(successes: Count, trials: Count, alpha: float) -> float: ...
@overload
def binomial_lower(
    successes: NDArray[np.integer[Any]], trials: Count | NDArray[np.integer[Any]], alpha: float
) -> NDArray[np.float64]: ...
def binomial_lower(
    successes: Count | NDArray[np.integer[Any]], trials: Count | NDArray[np.integer[Any]], alpha: float
) -> float | NDArray[np.float64]:
    """Return the one-sided lower confidence bound of Clopper & Pearson (1934), rounded down.

    Guarantee: for successes ~ Bin(trials, p), P(bound ≤ p) ≥ 1 − alpha, whatever p is; it never exceeds the
    exact bound, the largest p with P(Bin(trials, p) ≥ successes) ≤ alpha (0 without successes).

    successes: ints in [0, trials], any shape. trials: ints in [1, 10^12], broadcast against successes. alpha:
    in (0, 1). A float for scalars, else float64 of the broadcast shape. Raises InputError.
    """
    return _bound_each(_lower, successes, trials, alpha)


@overload
def binomial_upper(successes: Count, trials: Count, alpha: float) -> float: ...
@overload
def binomial_upper(
    successes: NDArray[np.integer[Any]], trials: Count | NDArray[np.integer[Any]], alpha: float
) -> NDArray[np.float64]: ...
def binomial_upper(
    successes: Count | NDArray[np.integer[Any]], trials: Count | NDArray[np.integer[Any]], alpha: float
) -> float | NDArray[np.float64]:
    """Return the one-sided upper confidence bound of Clopper & Pearson (1934), rounded up.

    Guarantee: for successes ~ Bin(trials, p), P(p ≤ bound) ≥ 1 − alpha, whatever p is; it is never below the
    exact bound, the smallest p with P(Bin(trials, p) ≤ successes) ≤ alpha (1 without failures). Arguments,
    shapes and errors are those of `binomial_lower`.
    """
    return _bound_each(_upper, successes, trials, alpha)


def normal_cdf_lower(x: float) -> float:
    """Return a float ≤ Φ(x), the largest or the one below it; x: any float but NaN (InputError)."""
    return normal_directed(_check_real("x", x))[0]


def normal_cdf_upper(x: float) -> float:
    """Return a float ≥ Φ(x), the smallest or the one above it; x: any float but NaN (InputError)."""
    return normal_directed(_check_real("x", x))[1]


def normal_quantile_lower(p: float) -> float:
    """Return a float ≤ Φ⁻¹(p), within 10^-12 relative; −inf at 0, inf at 1. InputError outside [0, 1]."""
    p = _check_probability("p", p)
    if p in (0.0, 0.5, 1.0):
        return float(special.ndtri(p))
    exact = Decimal(p)
    return furthest(lambda x: normal(x)[1] <= exact, float(special.ndtri(p)), -NORMAL_REACH, NORMAL_REACH, abs)


def normal_quantile_upper(p: float) -> float:
    """Return a float ≥ Φ⁻¹(p), within 10^-12 relative; −inf at 0, inf at 1. InputError outside [0, 1]."""
    p = _check_probability("p", p)
    if p in (0.0, 0.5, 1.0):
        return float(special.ndtri(p))
    exact = Decimal(p)
    return furthest(lambda x: normal(x)[0] >= exact, float(special.ndtri(p)), NORMAL_REACH, -NORMAL_REACH, abs)


def radius_lower(p_lower: float, sigma: float) -> float:
    """Return an ℓ2 radius ≤ σΦ⁻¹(p_lower), in σ's unit; 0.0 for p_lower ≤ ½ (Cohen et al. 2019, Theorem 1).

    p_lower: in [0, 1]. sigma: finite, > 0. Raises InputError.
    """
    p_lower = _check_probability("p_lower", p_lower)
    sigma = _check_sigma(sigma)
    if p_lower <= 0.5 or p_lower == 1.0:
        return 0.0 if p_lower <= 0.5 else math.inf
    with localcontext(context(rounding=ROUND_FLOOR)):
        return down(Decimal(normal_quantile_lower(p_lower)) * Decimal(sigma))


def truncate(radius: float, digits: int = 6) -> str:
    """Return the radius in plain decimal notation, cut after `digits` digits: never above the float itself.

    radius: finite, ≥ 0. digits: 0 to 300. Raises InputError.
    """
    radius = _check_real("radius", radius)
    if not 0 <= radius < math.inf:
        raise InputError(f"radius is {radius!r}, expected a finite number ≥ 0: write abstention as 0.0")
    if not 0 <= digits <= 300:
        raise InputError(f"digits is {digits!r}, expected 0 to 300: choose one in that range")
    kept = Decimal(radius).copy_abs().quantize(Decimal(1).scaleb(-digits), ROUND_DOWN, context(700))
    return f"{kept:f}"


# ---- binomial tails -------------------------------------------------------------------------------------


def _bound_each(
    bound: Callable[[int, int, float], float], successes: ArrayLike, trials: ArrayLike, alpha: float
) -> float | NDArray[np.float64]:
    """Return `bound` of every (successes, trials): a float for scalars, else a float64 array."""
    alpha = _check_alpha(alpha)
    hits = _check_counts("successes", successes)
    total = _check_counts("trials", trials)
    try:
        hits, total = np.broadcast_arrays(hits, total)
    except ValueError:
        raise InputError(
            f"successes has shape {hits.shape} and trials {total.shape}: give shapes that broadcast"
        ) from None
    if total.size and not 1 <= total.min() <= total.max() <= MAX_TRIALS:
        raise InputError(f"trials is in [{total.min()}, {total.max()}], expected 1 to 10^12: draw that many")
    if np.any(hits > total):
        where = int(np.argmax(hits > total))
        raise InputError(f"successes is {hits.flat[where]} of {total.flat[where]} trials, expected no more: swapped?")
    if hits.ndim == 0:
        return bound(int(hits), int(total), alpha)
    flat = [bound(int(k), int(n), alpha) for k, n in zip(hits.flat, total.flat, strict=True)]
    return np.array(flat, dtype=np.float64).reshape(hits.shape)


@lru_cache(maxsize=1 << 16)
def _lower(hits: int, trials: int, alpha: float) -> float:
    """Return a float p, close to the largest, with P(Bin(trials, p) ≥ hits) ≤ alpha verified."""
    if hits == 0:
        return 0.0
    level = Decimal(alpha)

    def verified(p: float) -> bool:
        return tail_at_most(trials, hits, Decimal(p), one_minus(p), level)

    guess = special.betaincinv(hits, trials - hits + 1, alpha)
    return furthest(verified, float(guess), 0.0, 1.0, distance_to_edge)


@lru_cache(maxsize=1 << 16)
def _upper(hits: int, trials: int, alpha: float) -> float:
    """Return a float p, close to the smallest, with P(Bin(trials, p) ≤ hits) ≤ alpha verified."""
    if hits == trials:
        return 1.0
    level = Decimal(alpha)

    def verified(p: float) -> bool:  # at most `hits` successes are at least trials − hits failures
        return tail_at_most(trials, trials - hits, one_minus(p), Decimal(p), level)

    guess = special.betainccinv(hits + 1, trials - hits, alpha)
    return furthest(verified, float(guess), 1.0, 0.0, distance_to_edge)


# ---- argument checks ------------------------------------------------------------------------------------


def _check_real(name: str, value: SupportsFloat | SupportsIndex) -> float:
    """Return `value` as a float; InputError where it is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise InputError(f"{name} is {value!r}, expected a number: pass a float")
    return number


def _check_alpha(alpha: float) -> float:
    alpha = _check_real("alpha", alpha)
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}, expected above 0 and below 1: 0.001 is usual")
    return alpha


def _check_sigma(sigma: float) -> float:
    sigma = _check_real("sigma", sigma)
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma!r}, expected finite and above 0: give it in image units")
    return sigma


def _check_probability(name: str, p: float) -> float:
    p = _check_real(name, p)
    if not 0 <= p <= 1:
        raise InputError(f"{name} is {p!r}, expected 0 to 1: pass a probability")
    return p


def _check_total_variation(value: float) -> Decimal:
    return Decimal(_check_probability("total_variation", value))


def _check_counts(name: str, counts: ArrayLike) -> NDArray[np.integer[Any]]:
    """Return counts as an array; InputError unless all are integers ≥ 0."""
    array = np.asarray(counts)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} is of type {array.dtype}, expected integers: pass counts, as int64")
    if array.size and array.min() < 0:
        raise InputError(f"{name} holds {array.min()}, expected 0 or more: pass counts of votes")
    return array


def _check_votes(name: str, counts: ArrayLike) -> NDArray[np.integer[Any]]:
    """Return the votes of each class; InputError unless integers ≥ 0 [classes], 1 to 10^12 in all."""
    array = _check_counts(name, counts)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}, expected [classes]: pass one image's counts")
    total = sum(map(int, array))
    if not 1 <= total <= MAX_TRIALS:
        raise InputError(f"{name} holds {total} votes, expected 1 to 10^12: draw that many")
    return array
