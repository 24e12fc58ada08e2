"""AUROC, AUPR and FPR at 95 % TPR, in-distribution positive, larger scores = more in-distribution; ties handled exactly.

`metrics` treats equal scores as scikit-learn does: half of a tied pair counts (roc_auc_score), and all scores of one value are
accepted at once (average_precision_score, roc_curve). That average precision may grow when an in-distribution score falls, to
where others are. So what is computed from bounds is `bounded`: each in-distribution score on its own, with all
out-of-distribution ones that equal it before it.

Claim: let true scores a_i ≥ l_i in-distribution and b_j ≤ u_j out of it. Then `bounded(l, u)` is no better than
`metrics(a, b)` in any of the three. Sort a and l descending: a_(k) ≥ l_(k) for each k, so #{j: b_j ≥ a_(k)} is at most
n_k := #{j: u_j ≥ l_(k)}. AUPR: `bounded` is the mean over k of k/(k + n_k). In `metrics` the term of k is e/(e + #{b ≥ a_(k)}),
e ≥ k the last rank with the value a_(k): no less than k/(k + n_k), as x/(x + n) grows with x and falls with n. AUROC: `bounded` is
the mean of 1 − n_k/M; in `metrics` the part of k is 1 − (#{b > a_(k)} + ½#{b = a_(k)})/M. FPR: #{u ≥ l_(k)}/M or #{b ≥ a_(k)}/M at
the least k that is 95 % of all.

Where in-distribution scores are known and only the others are bounded (guaranteed), `metrics` of the bounds is such a bound
itself: its thresholds are then the same in all worlds, and with them everything but #{b ≥ a_(k)}, or ½ for each tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..dtypes import Floats64
from ..errors import InputError

TPR = 0.95


@dataclass(frozen=True)
class Metrics:
    """What separates two sets of scores: `auroc` and `aupr` (larger is better), `fpr` at 95 % TPR (smaller is better)."""

    auroc: float
    aupr: float
    fpr: float


def check_scores(name: str, scores: ArrayLike) -> Floats64:
    """`scores` as float64 `[N]`; InputError where there are none, or NaN among them. Infinite ones are compared as such."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise InputError(
            f"{name} has scores of shape {values.shape}, expected [N], N at least 1: give both kinds of images"
        )
    if np.isnan(values).any():
        raise InputError(
            f"{name} has NaN for {int(np.isnan(values).sum())} of {len(values)} scores: the model is not usable on them"
        )
    return values


def curve(inside: ArrayLike, outside: ArrayLike) -> tuple[Floats64, Floats64, Floats64]:
    """Thresholds descending, and the shares of in- and out-of-distribution scores at or above each, `[distinct]` each."""
    first, second = check_scores("the in-distribution set", inside), check_scores("an out-of-distribution set", outside)
    thresholds = np.unique(np.concatenate([first, second]))[::-1]

    def share(values: Floats64) -> Floats64:
        below = np.searchsorted(np.sort(values), thresholds, side="left")
        return (len(values) - below) / len(values)

    return thresholds, share(first), share(second)


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """P(an in-distribution score exceeds an out-of-distribution one) + ½·P(they are equal), over all pairs."""
    first, second = check_scores("the in-distribution set", inside), np.sort(check_scores("an OOD set", outside))
    below, upto = (int(np.searchsorted(second, first, side=side).sum()) for side in ("left", "right"))
    return (below + upto) / (2 * len(first) * len(second))


def aupr(inside: ArrayLike, outside: ArrayLike) -> float:
    """Average precision: Σ (recall − recall before)·precision over the distinct thresholds, in-distribution positive."""
    first, second = np.asarray(inside), np.asarray(outside)
    _, tpr, fpr = curve(first, second)
    hits, misses = tpr * len(first), fpr * len(second)
    precision = hits / (hits + misses)
    return float(np.sum(np.diff(tpr, prepend=0.0) * precision))


def fpr_at_tpr(inside: ArrayLike, outside: ArrayLike, tpr: float = TPR) -> float:
    """The share of out-of-distribution scores at or above the highest threshold that at least `tpr` of the others reach."""
    _, reached, passed = curve(inside, outside)
    return float(passed[int(np.argmax(reached >= tpr))])


def fpr_nearest(inside: ArrayLike, outside: ArrayLike, tpr: float = TPR) -> float:
    """The same at the threshold whose share of in-distribution scores is nearest to `tpr`, the lower threshold of equals.

    So the published code of DISTRO has it; thresholds below the one that accepts all in-distribution scores do not count.
    """
    _, reached, passed = curve(inside, outside)
    last = int(np.argmax(reached >= 1))
    distance = np.abs(reached[: last + 1][::-1] - tpr)
    return float(passed[last - int(np.argmin(distance))])


def bounded(inside: ArrayLike, outside: ArrayLike) -> Metrics:
    """Bounds of all three from lower bounds of in-distribution and upper bounds of out-of-distribution scores (see above).

    `auroc` and `aupr` are at most, `fpr` is at least what `metrics` gives for any scores within those bounds. Raises
    InputError for an empty set or NaN.
    """
    first, second = check_scores("the in-distribution set", inside), np.sort(check_scores("an OOD set", outside))
    ahead = len(second) - np.searchsorted(second, np.sort(first)[::-1], side="left")
    ranks = np.arange(1, len(first) + 1)
    area = 1 - int(ahead.sum()) / (len(first) * len(second))
    return Metrics(area, float(np.mean(ranks / (ranks + ahead))), fpr_at_tpr(first, second))


def metrics(inside: ArrayLike, outside: ArrayLike) -> Metrics:
    """All three. Raises InputError for an empty set or NaN."""
    return Metrics(auroc(inside, outside), aupr(inside, outside), fpr_at_tpr(inside, outside))


def labelled(scores: ArrayLike, labels: ArrayLike) -> Metrics:
    """The metrics of scores `[N]` with labels `[N]`, 1 for in-distribution and 0 for out-of-distribution.

    Raises InputError where the labels are of one class only, or are not 0 and 1.
    """
    values, kinds = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if kinds.shape != values.shape or not np.isin(kinds, (0, 1)).all():
        raise InputError(f"labels must be 0 or 1, one a score, got {kinds.shape} for {values.shape} scores")
    if len(np.unique(kinds)) < 2:
        raise InputError("the labels are of one class only: metrics need in- (1) and out-of-distribution (0) scores")
    return metrics(values[kinds == 1], values[kinds == 0])
