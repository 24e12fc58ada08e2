"""AUROC, AUPR and FPR against brute force and scikit-learn, ties and infinities included."""

from __future__ import annotations

import numpy as np
import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.ood.metrics import Metrics, auroc, bounded, fpr_nearest, labelled, metrics
from diffsmooth_trt.ood.report import shown

CASES = {
    "apart": lambda rng: (rng.normal(3, 1, 200), rng.normal(0, 1, 150)),
    "mixed": lambda rng: (rng.normal(0.2, 1, 37), rng.normal(0, 1, 211)),
    "ties": lambda rng: (rng.integers(0, 5, 90) / 4, rng.integers(0, 4, 70) / 4),
    "equal": lambda rng: (np.full(20, 0.5), np.full(30, 0.5)),
    "saturated": lambda rng: (np.r_[np.ones(40), rng.random(40)], np.r_[np.ones(11), rng.random(60)]),
    "one": lambda rng: (np.array([0.3]), np.array([0.1])),
}


@pytest.mark.parametrize("name", CASES)
def test_against_scikit_learn(name):
    sk = pytest.importorskip("sklearn.metrics")
    inside, outside = CASES[name](np.random.default_rng(3))
    labels = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    scores = np.r_[inside, outside]
    found = metrics(inside, outside)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    assert found.auroc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert found.aupr == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    assert found.fpr == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)
    assert labelled(scores, labels.astype(int)) == found


@pytest.mark.parametrize("name", CASES)
def test_against_the_definitions(name):
    inside, outside = CASES[name](np.random.default_rng(4))
    wins = sum(float(a > b) + 0.5 * float(a == b) for a in inside for b in outside) / (len(inside) * len(outside))
    found = metrics(inside, outside)
    assert found.auroc == pytest.approx(wins, abs=1e-12)
    best = max(t for t in np.r_[inside, outside] if np.mean(inside >= t) >= 0.95)
    assert found.fpr == np.mean(outside >= best)
    area, before = 0.0, 0.0
    for t in sorted(set(np.r_[inside, outside]), reverse=True):
        recall, hits, misses = np.mean(inside >= t), np.sum(inside >= t), np.sum(outside >= t)
        area, before = area + (recall - before) * hits / (hits + misses), recall
    assert found.aupr == pytest.approx(area, abs=1e-12)


def worse_or_equal(worse: Metrics, better: Metrics) -> bool:
    return worse.auroc <= better.auroc + 1e-12 and worse.aupr <= better.aupr + 1e-12 and worse.fpr >= better.fpr - 1e-12


def test_raising_any_out_of_distribution_score_makes_every_metric_worse_or_equal():
    rng = np.random.default_rng(5)
    for _ in range(200):
        inside, outside = rng.integers(0, 8, 15) / 8, rng.integers(0, 8, 12) / 8
        raised = outside + rng.integers(0, 3, 12) / 8 * (rng.random(12) < 0.3)
        assert worse_or_equal(metrics(inside, raised), metrics(inside, outside))


def test_what_is_computed_from_bounds_bounds_every_world_inside_them():
    """Few values, many ties; some worlds at the bounds, some a hair off them. Conventional AUPR fails it often."""
    rng, failed = np.random.default_rng(6), 0
    for _ in range(3000):
        lower, upper = (
            rng.integers(0, 5, rng.integers(1, 9)).astype(float),
            rng.integers(0, 5, rng.integers(1, 9)).astype(float),
        )
        some, others = rng.random(len(lower)) < 0.5, rng.random(len(upper)) < 0.5
        size = rng.choice([1e-9, 1.0, 3.0])
        inside = lower + some * size * rng.integers(0, 3, len(lower))
        outside = upper - others * size * rng.integers(0, 3, len(upper))
        bound = bounded(lower, upper)
        assert worse_or_equal(bound, metrics(inside, outside)) and worse_or_equal(bound, bounded(inside, outside))
        failed += metrics(lower, upper).aupr > metrics(inside, outside).aupr + 1e-12
    assert failed > 50


def test_ties_count_against_bounds():
    assert bounded([0.0, 0.0], [0.0]) == Metrics(0.0, (1 / 2 + 2 / 3) / 2, 1.0)
    assert bounded([2.0, 1.0], [2.0]) == Metrics(0.0, (1 / 2 + 2 / 3) / 2, 1.0)
    assert bounded([np.inf, 1.0], [0.5, -np.inf]) == Metrics(1.0, 1.0, 0.0)
    worst = bounded(np.full(200, 1 - 2.0**-24), np.ones(200))
    assert worst.aupr == pytest.approx(np.mean(np.arange(1, 201) / np.arange(201, 401)))
    assert metrics(np.full(200, 1 - 2.0**-24), np.ones(200)).aupr == 0.5


def test_without_ties_both_are_one():
    rng = np.random.default_rng(8)
    inside, outside = rng.normal(0.5, 1, 150), rng.normal(0, 1, 120)
    found, bound = metrics(inside, outside), bounded(inside, outside)
    assert (found.auroc, found.aupr, found.fpr) == pytest.approx((bound.auroc, bound.aupr, bound.fpr), abs=1e-12)


def test_infinite_scores_are_compared():
    assert auroc([np.inf, 1.0], [np.inf, -np.inf]) == (0.5 + 1 + 0 + 1) / 4


def test_bad_input():
    with pytest.raises(InputError, match="one class only"):
        labelled([0.1, 0.2], [1, 1])
    with pytest.raises(InputError, match="labels must be 0 or 1"):
        labelled([0.1, 0.2], [1, 2])
    with pytest.raises(InputError, match="NaN for 1 of 2"):
        metrics([0.1, np.nan], [0.2])
    with pytest.raises(InputError, match="expected \\[N\\]"):
        metrics([], [0.2])
    with pytest.raises(InputError, match="NaN for 1 of 1"):
        bounded([0.1], [np.nan])


def test_percentages_are_rounded_against_us():
    for value, down, up in (
        (0.123499999999999, "12.34", "12.35"), (0.1235, "12.35", "12.35"), (0.07, "7.00", "7.00"), (1.0, "100.00", "100.00"),
        (0.0, "0.00", "0.00"), (0.99999999999, "99.99", "100.00"), (1e-12, "0.00", "0.01"), (2 / 3, "66.66", "66.67"),
    ):  # fmt: skip
        assert (shown(value, False), shown(value, True)) == (down, up)


def test_fpr_at_the_nearest_recall_is_the_published_codes():
    """Restated with its sorting, distinct thresholds and reversed lists; on small sets it is not the one at 95 % or more."""
    rng, other = np.random.default_rng(2), 0
    for count in (7, 19, 30, 100):
        inside, outside = np.round(rng.normal(1, 1, count), 1), np.round(rng.normal(0, 1, 40), 1)
        scores, labels = np.r_[inside, outside], np.r_[np.ones(count), np.zeros(40)]
        order = np.argsort(scores, kind="mergesort")[::-1]
        last = np.r_[np.where(np.diff(scores[order]))[0], len(scores) - 1]
        hits = np.cumsum(labels[order])[last]
        misses, recall = 1 + last - hits, hits / hits[-1]
        back = slice(int(hits.searchsorted(hits[-1])), None, -1)
        recall, misses = np.r_[recall[back], 1], np.r_[misses[back], 0]
        expected = misses[np.argmin(np.abs(recall - 0.95))] / 40
        assert fpr_nearest(inside, outside) == expected
        other += expected != metrics(inside, outside).fpr
    assert other
    assert fpr_nearest([3.0, 2.0, 1.0], [2.5, 0.5]) == 0.5
