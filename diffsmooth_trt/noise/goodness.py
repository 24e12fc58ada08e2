"""Whether a law is the normal of its σ, and whether draws are of the law: the statistics of the self-test.

The limits on draws are inequalities for every sample size, not approximations: given ideal random bits,
`draws_fault` finds fault with draws of the law with probability at most FALSE_ALARM, whatever σ is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from ..dtypes import Floats64
from .law import GridLaw
from .weights import TOTAL_WEIGHT

FALSE_ALARM = 1e-9
_SIDES = 7  # of mean, variance and tails two each, and the histogram's one
_X = math.log(_SIDES / FALSE_ALARM)
_BINS = 64
_TAIL_DRAWS = 100  # expected beyond the point where the tails begin


def law_fault(law: GridLaw) -> str | None:
    """Return what is wrong with `law` in words, or None.

    Its weights have to sum to 2^64 and to be those of the normal of `law.sigma` within 1e-9 of each (which is
    as far as double precision carries; they are settled to the unit where they are made), and its packed
    table, which the compiled code draws from, has to give back exactly the weights.
    """
    count, columns = len(law.weights), 1 << law.column_bits
    if count % 2 == 0 or count > columns or len(law.table) != columns:
        return f"the law has {count} weights and {len(law.table)} columns, expected an odd number in {columns}"
    if (total := sum(law.weights)) != TOTAL_WEIGHT or min(law.weights) < 0:
        return f"the weights sum to {total}, expected {TOTAL_WEIGHT}, none negative"
    distance = np.abs(np.arange(count) - law.reach)
    scale = 255 * law.sigma
    normal = (ndtr((0.5 - distance) / scale) - ndtr((-0.5 - distance) / scale)) * float(TOTAL_WEIGHT)
    wrong = np.abs(np.array(law.weights, np.float64) - normal) > 1.01 + 1e-9 * normal
    if wrong.any():
        k = int(wrong.argmax()) - law.reach
        return f"the weight of k = {k} is {law.weights[k + law.reach]}, expected {normal[wrong.argmax()]:.12g}"
    # Sums modulo 2^64 decide: true masses and weights both add up to 2^64, and no weight reaches it.
    bits, capacity = np.uint64(law.column_bits), np.uint64(TOTAL_WEIGHT >> law.column_bits)
    given = law.table >> bits
    np.add.at(given, (law.table & np.uint64(columns - 1)).astype(np.intp), capacity - (law.table >> bits))
    wrong = given != np.array([*law.weights, *[0] * (columns - count)], np.uint64)
    if wrong.any():
        return f"the alias table gives k = {int(wrong.argmax()) - law.reach} another weight, expected exactly its own"
    return None


def draws_fault(law: GridLaw, noise: NDArray[np.int32]) -> str | None:
    """Return how `noise`, any shape, in units of 1/255, departs from the law's distribution, or None.

    Compares the mean, the variance about 0, the number beyond the point that 100 draws are expected to pass,
    and by Pearson's chi-square the histogram in up to 64 bins, each with 1/128 of the mass or more.
    Guarantee: independent draws of the law are found at fault with probability at most FALSE_ALARM = 1e-9.
    With 200,000 draws it finds, at even odds, a mean off by 0.015 σ, a variance off by 2.1 %, tails off by
    two thirds, and bins whose probabilities are off by 3 % (root mean square).
    """
    if noise.size == 0 or int(np.abs(noise).max()) > law.reach:
        return f"there are no draws, or some are outside the support, expected |k| up to {law.reach}"
    counts = np.bincount(noise.ravel() + law.reach, minlength=len(law.weights))
    p = np.array(law.weights, np.float64) / float(TOTAL_WEIGHT)
    z = law.support / (255 * law.sigma)
    beyond = np.cumsum(p) <= _TAIL_DRAWS / 2 / noise.size
    statistics = {"mean / σ": z, "variance / σ²": z * z, "share in the tails": (beyond | beyond[::-1]).astype(float)}
    for name, values in statistics.items():
        low, high = mean_limits(values, p, noise.size)
        if not low <= (observed := float(counts @ values) / noise.size) <= high:
            return f"{name} of {noise.size} draws is {observed:.6g}, expected {low:.6g} to {high:.6g}"
    bins = np.minimum((np.cumsum(p) - p / 2) * _BINS, _BINS - 1).astype(np.intp)
    mass = np.bincount(bins, weights=p)
    expected = mass[mass > 0] * noise.size
    observed = float(((np.bincount(bins, weights=counts)[mass > 0] - expected) ** 2 / expected).sum())
    if observed > (limit := chi_square_limit(expected)):
        return (
            f"chi-square of {noise.size} draws in {expected.size} bins is {observed:.6g}, expected {limit:.6g} at most"
        )
    return None


def mean_limits(values: Floats64, p: Floats64, draws: int, x: float = _X) -> tuple[float, float]:
    """Return (low, high): the mean of values[k] over independent draws of k ~ p leaves it on either side with ≤ e^-x.

    Chernoff's bound with the moment generating function summed over p: it holds for any slope, so the
    normal's best one does.
    """
    mean = float(p @ values)
    variance = float(p @ (values - mean) ** 2)
    slope = math.sqrt(2 * x / (draws * variance)) if variance > 0 else 1.0

    def reach(side: int) -> float:
        growth = math.log1p(float(p @ np.expm1(side * slope * (values - mean))))
        return (x / draws + growth) / slope

    return mean - reach(-1), mean + reach(1)


def chi_square_limit(expected: NDArray[Any], x: float = _X) -> float:
    """Return a limit that Pearson's statistic of a multinomial with these expected counts passes with ≤ e^-x.

    Its root is the norm of a sum of n independent centred vectors e_bin/√p_bin − √p: of mean at most √(bins −
    1), of variance at most 1/n in any direction, and none longer than 1/√p_min. Bousquet's form of Talagrand's
    inequality (2002) then bounds it; the χ² quantile would be smaller, and right only in the limit.
    """
    mean = math.sqrt(len(expected) - 1)
    longest = 1 / math.sqrt(float(expected.min()))
    return float((mean + math.sqrt(2 * x * (1 + 2 * longest * mean)) + longest * x / 3) ** 2)
