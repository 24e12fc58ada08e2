"""Numbers of a run as a whole: certified accuracy at radii, its interval, average radius, abstentions.

All take what a run holds per image: labels, int [N]; predicted, int [N], −1 where the classifier abstains;
radii, float [N], in image units, ≥ 0 and finite, 0 for abstentions. `missing` is the number of images that the run was asked
for and has no row of yet: they count in every denominator, as not certified. All raise InputError for other shapes or
values, and for no images.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import NO_NUMBER, InputError
from ..statistics.bounds import ABSTAIN, binomial_lower, binomial_upper
from ..statistics.exact import context, down, one_minus, tail_at_most


def certified_accuracy(
    labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, at: ArrayLike, missing: int = 0
) -> NDArray[np.float64]:
    """Return the share of images that are classified correctly with radius ≥ r, for each r of `at`.

    At r = 0 that is correct and not abstained. at: float ≥ 0, in image units, any shape: the result's shape.
    """
    certified, images = certified_counts(labels, predicted, radii, at, missing)
    return certified / images


def certified_counts(
    labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, at: ArrayLike, missing: int = 0
) -> tuple[NDArray[np.int64], int]:
    """Return how many images are classified correctly with radius ≥ r, for each r of `at`, and how many there are."""
    correct, radius = _rows(labels, predicted, radii)
    wanted = _lengths("radii to report (--radii)", at)
    reached = np.sort(radius[correct])
    return np.asarray(reached.size - np.searchsorted(reached, wanted, side="left"), np.int64), radius.size + missing


def certified_accuracy_interval(
    labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, at: ArrayLike, alpha: float = 0.05, wrong: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bounds on the certified accuracy of the distribution that the images come from.

    Guarantee: for N independent images of it, each r's interval holds the probability q that a new image's row is correct
    with radius ≥ r, with probability at least 1 − alpha; for one r, not for all at once. Its upper end is Clopper & Pearson's
    (1934, exact, alpha/2 a side), its lower end (L − wrong)/(1 − wrong), L being theirs; both rounded outward.

    `wrong` is the probability with which each image's certificate may be false. For the lower end then bounds the robust
    accuracy A of the distribution too, the probability that the smoothed classifier is right on all of a new image's ball: of
    images where it is not, a share of at most `wrong` gets a certificate of r, so q ≤ A + (1 − A)·wrong. A may lie above the
    upper end, as what is certified is less than what is robust.

    The images have to be all that were asked for: those finished first are the easy ones. at: as above. alpha: in (0, 1).
    wrong: ≥ 0, of several runs' certificates together the sum; from 1 on the lower end is 0. It is 0 for certificates that are
    right together (family-wise): then A ≥ the lower end with probability at least 1 − alpha/2 less the family's own alpha,
    because the images certified are robust together. Under Holm's procedure, where rows depend on each other, that is all that
    the interval says.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}, expected above 0 and below 1: 0.05 is usual")
    if not 0 <= wrong < math.inf:
        raise InputError(f"wrong is {wrong!r}, expected 0 or more: the runs' alpha")
    certified, images = certified_counts(labels, predicted, radii, at)
    low = np.asarray(binomial_lower(certified, images, alpha / 2))
    if wrong:
        low = np.array([_less_wrong(each, wrong) for each in low.ravel().tolist()]).reshape(low.shape)
    return low, np.asarray(binomial_upper(certified, images, alpha / 2))


def _less_wrong(bound: float, wrong: float) -> float:
    """(bound − wrong)/(1 − wrong), rounded down, at least 0."""
    if bound <= wrong or wrong >= 1:
        return 0.0
    with localcontext(context(rounding=ROUND_CEILING)):
        rest = 1 - Decimal(wrong)
    with localcontext(context(rounding=ROUND_FLOOR)):
        return down((Decimal(bound) - Decimal(wrong)) / rest)


def most_wrong(images: int, alpha: float, confidence: float = 0.975) -> int:
    """Return the number of certificates than which more are wrong with probability at most 1 − confidence.

    Of `images` certificates, each wrong with probability at most alpha whatever the others are: the number of wrong ones is
    stochastically at most Bin(images, alpha), whose quantile this is.
    """
    level, count = Decimal(1) - Decimal(confidence), int(images * alpha)
    while count < images and not tail_at_most(images, count + 1, Decimal(alpha), one_minus(alpha), level):
        count += 1
    return count


def average_certified_radius(labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, missing: int = 0) -> float:
    """Return the mean over all images of radius·1[correct], in image units (ACR; Zhai et al. 2020, MACER).

    It is summed exactly and rounded down: never above the mean of the radii given.
    """
    correct, radius = _rows(labels, predicted, radii)
    exact = sum(map(Fraction, radius[correct].tolist()), Fraction(0)) / (radius.size + missing)
    mean = float(exact)
    return mean if mean <= exact else math.nextafter(mean, 0.0)


def abstention_rate(predicted: ArrayLike) -> float:
    """Return the share of images on which the classifier abstained; predicted: int [N], N ≥ 1."""
    return float(np.mean(_classes("predicted", predicted) == ABSTAIN))


def _rows(labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return, per image, whether it was classified correctly, and its radius."""
    truth, answer, radius = (
        _classes("labels", labels),
        _classes("predicted", predicted),
        _lengths("radii", radii),
    )
    if not truth.shape == answer.shape == radius.shape:
        raise InputError(
            f"labels, predicted and radii have shapes {truth.shape}, {answer.shape} and {radius.shape}, "
            "expected one: give a row for each image"
        )
    return (truth == answer) & (answer != ABSTAIN), radius


def _classes(name: str, values: ArrayLike) -> NDArray[np.integer[Any]]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected integers [N], N ≥ 1: one an image")
    return array


def _lengths(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except NO_NUMBER:
        raise InputError(f"{name} hold a value that is no number, expected floats: give lengths ≥ 0") from None
    wrong = array[~((array >= 0) & np.isfinite(array))]
    if wrong.size:
        raise InputError(f"{name} hold {wrong[0]}, expected finite numbers ≥ 0: give lengths in image units")
    return array
