"""Numbers of a run as a whole: certified accuracy at radii, its interval, average radius, abstentions.

All take what a run holds per image: labels, int [N]; predicted, int [N], −1 where the classifier abstains;
radii, float [N], in image units, ≥ 0 and finite, 0 for abstentions. All raise InputError for other shapes or
values, and for no images.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..certify.bounds import ABSTAIN, binomial_lower, binomial_upper
from ..errors import InputError


def certified_accuracy(labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Return the share of images that are classified correctly with radius ≥ r, for each r of `at`.

    At r = 0 that is correct and not abstained. at: float ≥ 0, in image units, any shape: the result's shape.
    """
    certified, images = certified_counts(labels, predicted, radii, at)
    return certified / images


def certified_counts(
    labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, at: ArrayLike
) -> tuple[NDArray[np.int64], int]:
    """Return how many images are classified correctly with radius ≥ r, for each r of `at`, and how many there are."""
    correct, radius = _rows(labels, predicted, radii)
    wanted = _lengths("radii to report (--radii)", at)
    reached = np.sort(radius[correct])
    return np.asarray(reached.size - np.searchsorted(reached, wanted, side="left"), np.int64), radius.size


def certified_accuracy_interval(
    labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike, at: ArrayLike, alpha: float = 0.05
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bounds on the certified accuracy of the distribution that the images come from.

    Guarantee: for N independent images of it, each r's interval (exact, Clopper & Pearson 1934, alpha/2 a
    side, rounded outward) holds the probability that a new image's row is correct with radius ≥ r, with
    probability at least 1 − alpha; for one r, not for all at once. It speaks of which images were drawn; that
    each certificate itself may fail is in the run's own alpha. at: as above. alpha: in (0, 1).
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}, expected above 0 and below 1: 0.05 is usual")
    certified, images = certified_counts(labels, predicted, radii, at)
    low = binomial_lower(certified, images, alpha / 2)
    return np.asarray(low), np.asarray(binomial_upper(certified, images, alpha / 2))


def average_certified_radius(labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike) -> float:
    """Return the mean over all images of radius·1[correct], in image units (ACR; Zhai et al. 2020, MACER).

    It is summed exactly and rounded down: never above the mean of the radii given.
    """
    correct, radius = _rows(labels, predicted, radii)
    exact = sum(map(Fraction, radius[correct].tolist()), Fraction(0)) / radius.size
    mean = float(exact)
    return mean if mean <= exact else math.nextafter(mean, 0.0)


def abstention_rate(predicted: ArrayLike) -> float:
    """Return the share of images on which the classifier abstained; predicted: int [N], N ≥ 1."""
    return float(np.mean(_classes("predicted", predicted) == ABSTAIN))


def _rows(labels: ArrayLike, predicted: ArrayLike, radii: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return, per image, whether it was classified correctly, and its radius."""
    truth, found, radius = (
        _classes("labels", labels),
        _classes("predicted", predicted),
        _lengths("radii", radii),
    )
    if not truth.shape == found.shape == radius.shape:
        raise InputError(
            f"labels, predicted and radii have shapes {truth.shape}, {found.shape} and {radius.shape}, "
            "expected one: give a row for each image"
        )
    return (truth == found) & (found != ABSTAIN), radius


def _classes(name: str, values: ArrayLike) -> NDArray[np.integer[Any]]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected integers [N], N ≥ 1: one an image")
    return array


def _lengths(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} hold a value that is no number, expected floats: give lengths ≥ 0") from None
    wrong = array[~((array >= 0) & np.isfinite(array))]
    if wrong.size:
        raise InputError(f"{name} hold {wrong[0]}, expected finite numbers ≥ 0: give lengths in image units")
    return array
