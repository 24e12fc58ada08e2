"""Two runs on the same images: what one certifies and the other does not.

Of images drawn from some distribution, run 1 certifies a new one at radius r with probability q₁ and run 2 with q₂. As both
looked at the same images, only those that one of them certifies alone tell q₂ − q₁.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..statistics.bounds import binomial_lower, binomial_upper
from .tables import Summary


@dataclass(frozen=True)
class Difference:
    """At one radius: how many of the images both runs certify with the right class, how many only one of them, and of q₂ − q₁ the
    estimate and the ends of an interval, in [−1, 1].
    """

    radius: float
    both: int
    only_first: int
    only_second: int
    images: int
    low: float
    high: float

    @property
    def estimate(self) -> float:
        """(only second − only first)/images."""
        return (self.only_second - self.only_first) / self.images


@dataclass(frozen=True)
class Pair:
    """Two runs on `images` images that both have. Radii of right answers: larger in the second, smaller, equal."""

    images: int
    differences: tuple[Difference, ...]
    larger: int
    smaller: int
    equal: int


def difference(radius: float, first: Sequence[bool], second: Sequence[bool], alpha: float = 0.05) -> Difference:
    """The difference at `radius` of runs that certify the images `first` and `second`, bool [N] each, N ≥ 1.

    Guarantee: for N independent images of a distribution, the interval holds q₂ − q₁ with probability at least 1 − alpha. It is
    that of Clopper and Pearson for each probability that one run alone certifies, at alpha/4 an end, and the union bound: low is
    the lower end for "only second" less the upper one for "only first". Its ends are rounded outward.
    """
    one, two = np.asarray(first, bool), np.asarray(second, bool)
    images, alone, other = len(one), int((one & ~two).sum()), int((two & ~one).sum())
    low = float(binomial_lower(other, images, alpha / 4)) - float(binomial_upper(alone, images, alpha / 4))
    high = float(binomial_upper(other, images, alpha / 4)) - float(binomial_lower(alone, images, alpha / 4))
    return Difference(
        radius=radius,
        both=int((one & two).sum()),
        only_first=alone,
        only_second=other,
        images=images,
        low=max(-1.0, math.nextafter(low, -math.inf)),
        high=min(1.0, math.nextafter(high, math.inf)),
    )


def unlike(first: Summary, second: Summary) -> str | None:
    """Why two runs have no paired differences; None where they have."""
    for summary in (first, second):
        if not summary.certified:
            return f"{summary.name} is a predict run, which has no radii"
        if summary.missing:
            return f"{summary.name} is unfinished, and images finish in the order of their difficulty"
    ours, theirs = (_facts(each) for each in (first, second))
    common = sorted({*ours} & {*theirs})
    if not common:
        return "they have no image in common"
    names = ("other pixels", "another label", "another distance from its pixels")
    for image in common:
        for name, a, b in zip(names, ours[image], theirs[image], strict=True):
            if a != b:
                return f"they are of different data (image {image} has {name})"
    return None


def pair(first: Summary, second: Summary, radii: Sequence[float]) -> Pair:
    """The second run held against the first at `radii`, on the images that both have; only for runs that are not `unlike`."""
    common = np.intersect1d(first.images, second.images)
    radius = [_right(each, common) for each in (first, second)]
    differences = [difference(r, (radius[0] >= r).tolist(), (radius[1] >= r).tolist()) for r in radii]
    larger, smaller = int((radius[1] > radius[0]).sum()), int((radius[1] < radius[0]).sum())
    return Pair(len(common), tuple(differences), larger, smaller, len(common) - larger - smaller)


def _right(summary: Summary, images: np.ndarray) -> np.ndarray:
    """The radii of `images`, −1 where the answer is wrong or none."""
    rows = np.searchsorted(summary.images, images)
    right = (summary.predicted == summary.truth) & (summary.predicted >= 0)
    radii: np.ndarray = np.where(right, summary.radii, -1.0)[rows]
    return radii


def _facts(summary: Summary) -> dict[int, tuple[str, int, float]]:
    """Pixels, label and distance by image."""
    moved = np.full(len(summary.images), -1.0) if summary.distances is None else summary.distances
    facts = zip(summary.digests, summary.labels.tolist(), moved.tolist(), strict=True)
    return dict(zip(summary.images.tolist(), facts, strict=True))
