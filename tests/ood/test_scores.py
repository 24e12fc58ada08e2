"""The published formulas, written out in plain arithmetic, and the bounds above them."""

from __future__ import annotations

import numpy as np
import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.ood.scores import Score, joint_log_probabilities, upper_from_detector, upper_from_logits

LOGITS = np.random.default_rng(0).normal(0, 3, (50, 7)).astype(np.float32)
D = np.random.default_rng(1).normal(0, 4, 50).astype(np.float32)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def test_scores_of_a_classifier():
    x = LOGITS.astype(np.float64)
    assert Score().of(LOGITS) == pytest.approx(softmax(x).max(1))
    assert Score("energy", 2.5).of(LOGITS) == pytest.approx(2.5 * np.log(np.exp(x / 2.5).sum(1)))
    assert Score("reject").of(LOGITS) == pytest.approx(-np.log(softmax(x)[:, -1]))


def test_joint_model_is_the_mixture_of_the_paper():
    inside = 1 / (1 + np.exp(-D.astype(np.float64)))
    p = inside[:, None] * softmax(LOGITS.astype(np.float64)) + (1 - inside[:, None]) / 7
    assert np.exp(joint_log_probabilities(LOGITS.astype(np.float64), D.astype(np.float64))) == pytest.approx(p)
    assert p.sum(1) == pytest.approx(np.ones(50))
    assert Score().of(LOGITS, D) == pytest.approx(p.max(1))
    u = inside * (7 * softmax(LOGITS.astype(np.float64)).max(1) - 1) / 6
    assert Score().confidence(LOGITS, D) == pytest.approx(u, abs=1e-12)
    assert Score().stretch(u, 7) == pytest.approx(p.max(1))


def test_confidences_lie_in_the_unit_interval_and_keep_the_order():
    extreme = np.array([[1e4, -1e4, 0], [0, 0, 0], [-1e4, -1e4, 1e4], [88, 87.9, 0]], np.float32)
    for score in (Score(), Score("reject")):
        u, s = score.confidence(extreme), score.of(extreme)
        assert ((u >= 0) & (u <= 1)).all() and np.isfinite(u).all()
        assert (np.diff(u[np.argsort(s)]) >= 0).all()


def test_upper_bounds_hold_for_everything_in_the_box():
    """10,000 logits in each box; those of `high` and `low` themselves are among them."""
    rng = np.random.default_rng(2)
    low = rng.normal(0, 2, (20, 5))
    high = low + rng.random((20, 5)) * 2
    share = np.concatenate([np.round(rng.random((5000, 20, 5))), rng.random((5000, 20, 5))])
    inside = (low + share * (high - low)).astype(np.float64)
    for score in (Score(), Score("energy", 0.7), Score("reject")):
        bound = upper_from_logits(score, low, high)
        worst = np.max([score.of(part) for part in inside], axis=0)
        assert (worst <= bound).all()
        assert (bound - worst).max() < 0.02  # corners are among the samples, so it is also nearly reached
    d = rng.normal(0, 3, 20)
    bound = upper_from_detector(d, 5)
    assert (np.max([Score().of(part, d - rng.random(20)) for part in inside * 50], axis=0) <= bound).all()
    assert Score().of(np.tile([1e3, 0, 0, 0, 0], (20, 1)), d) == pytest.approx(bound, rel=1e-12)


def test_bad_scores():
    for options, words in (
        ({"kind": "max"}, "unknown"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": np.nan}, "above 0"),
    ):
        with pytest.raises(InputError, match=words):
            Score(**options)
    with pytest.raises(InputError, match="no bounds"):
        Score("energy").confidence(LOGITS)
    with pytest.raises(InputError, match="joint model has none"):
        Score("energy").of(LOGITS, D)
