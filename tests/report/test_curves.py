"""Curves against counting by hand and SciPy's exact interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.report.curves import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    certified_accuracy_interval,
    most_wrong,
)

LABELS = [0, 1, 2, 3, 4]
PREDICTED = [0, 1, 2, -1, 0]  # three correct, one abstention, one wrong
RADII = [0.0, 0.5, 1.0, 0.0, 2.0]


def test_certified_accuracy_counts_correct_rows_that_reach_the_radius() -> None:
    found = certified_accuracy(LABELS, PREDICTED, RADII, [0, 1e-9, 0.5, math.nextafter(0.5, 1), 1.0, 2.0])
    assert found.tolist() == [0.6, 0.4, 0.4, 0.2, 0.2, 0.0]
    assert certified_accuracy(LABELS, PREDICTED, RADII, 0.0).shape == ()


def test_an_abstention_is_never_correct() -> None:
    assert certified_accuracy([-1, 3], [-1, 3], [0.0, 0.0], 0.0) == 0.5


def test_average_radius_and_abstentions() -> None:
    assert average_certified_radius(LABELS, PREDICTED, RADII) == pytest.approx(0.3)
    assert abstention_rate(PREDICTED) == 0.2


def test_the_average_radius_is_never_above_the_exact_mean() -> None:
    """Floats next below ¼ and ¼ − 2⁻⁵⁵ have a mean between floats, which a plain mean rounds to the upper one."""
    rng = np.random.default_rng(0)
    cases = [rng.uniform(0, 1, 3) for _ in range(50)] + [np.array([math.nextafter(0.25, 0), 0.25])]
    for radii in cases:
        zeros = np.zeros(len(radii), np.int64)
        found = average_certified_radius(zeros, zeros, radii)
        exact = sum(map(Fraction, radii.tolist())) / len(radii)
        assert found <= exact < math.nextafter(found, 1)


ROW = st.tuples(st.integers(0, 2), st.integers(-1, 2), st.sampled_from([0.0, 0.25, 0.5, 0.7]))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(ROW, min_size=1, max_size=30))
def test_the_curve_is_what_counting_gives_and_its_area_is_the_average_radius(
    rows: list[tuple[int, int, float]],
) -> None:
    labels, predicted, radii = zip(*rows, strict=True)
    at = np.array([0.0, 0.25, 0.5, 0.7])
    found = certified_accuracy(labels, predicted, radii, at)
    by_hand = [sum(y == c and r >= a for y, c, r in rows) / len(rows) for a in at]
    assert found.tolist() == by_hand
    area = float(np.sum(found[1:] * np.diff(at)))
    assert average_certified_radius(labels, predicted, radii) == pytest.approx(area)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_interval_is_the_exact_one_rounded_outward(alpha: float) -> None:
    radii = np.arange(500) / 500
    zeros = np.zeros(500, np.int64)
    low, high = certified_accuracy_interval(zeros, zeros, radii, [0.0, 0.3, 0.9, 5.0], alpha)
    for found, certified in zip(zip(low, high, strict=True), [500, 350, 50, 0], strict=True):
        exact = stats.binomtest(certified, 500).proportion_ci(1 - alpha, method="exact")
        assert found == pytest.approx((exact.low, exact.high), rel=1e-9, abs=1e-12)
    one_low, one_high = certified_accuracy_interval(zeros, zeros, radii, 0.3, alpha)
    assert (one_low, one_high) == (low[1], high[1])
    assert one_low.shape == one_high.shape == ()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: certified_accuracy([0], [0, 1], [0.0, 0.0], 0.0), "labels"),
        (lambda: certified_accuracy([], [], [], 0.0), "labels"),
        (lambda: certified_accuracy([0.0], [0], [0.0], 0.0), "labels"),
        (lambda: certified_accuracy([0], [0], [None], 0.0), "radii"),  # type: ignore[arg-type]
        (lambda: certified_accuracy([0], [0], [math.nan], 0.0), "radii"),
        (lambda: certified_accuracy([0], [0], ["far"], 0.0), "radii"),
        (lambda: certified_accuracy([0], [0], [0.0], -1.0), r"^radii to report \(radii\) hold -1\.0"),
        (lambda: certified_accuracy([0], [0], [0.0], [0.5, math.nan]), r"^radii to report \(radii\) hold nan"),
        (lambda: certified_accuracy([0], [0], [0.0], math.inf), r"^radii to report \(radii\) hold inf"),
        (lambda: certified_accuracy_interval([0], [0], [0.0], 0.0, 0.0), "alpha"),
        (lambda: certified_accuracy_interval([0], [0], [0.0], 0.0, 1.5), "alpha"),
        (lambda: average_certified_radius([0], [0], [-1.0]), "radii"),
        (lambda: abstention_rate([]), "predicted"),
    ],
)
def test_errors_are_one_line_and_name_the_argument(call: Callable[[], object], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- what each certificate's own error means -------------------------------------------------------------


def lower_ends(images: int, wrong: float) -> list[float]:
    """The lower end of the 95 % interval by how many of `images` are certified."""
    zeros, ends = np.zeros(images, np.int64), []
    for count in range(images + 1):
        predicted = np.where(np.arange(images) < count, 0, -1)
        low, _ = certified_accuracy_interval(zeros, predicted, np.zeros(images), 0.0, wrong=wrong)
        ends.append(float(low))
    return ends


@pytest.mark.parametrize("images", [25, 60])
def test_the_lower_end_bounds_the_robust_accuracy_where_certificates_err_as_often_as_they_may(images: int) -> None:
    """Exactly: every robust image is certified, and of the others a share of alpha. Without alpha it fails too often."""
    alpha, ends = 0.1, {wrong: lower_ends(images, wrong) for wrong in (0.0, 0.1)}
    worst = dict.fromkeys(ends, 0.0)
    for robust in np.linspace(0, 0.99, 67):
        mass = stats.binom.pmf(np.arange(images + 1), images, robust + (1 - robust) * alpha)
        for wrong, found in ends.items():
            worst[wrong] = max(worst[wrong], float(mass[np.array(found) > robust].sum()))
    assert worst[0.1] <= 0.025 + 1e-12 < 0.1 < worst[0.0]


def test_the_lower_end_is_rounded_down_and_the_upper_one_is_as_it_was() -> None:
    labels, predicted, radii = np.zeros(9, np.int64), np.zeros(9, np.int64), np.full(9, 0.5)
    for wrong in (0.0, 1e-300, 0.001, 0.3, 0.999):
        low, high = certified_accuracy_interval(labels, predicted, radii, [0.25, 1.0], wrong=wrong)
        plain, same = certified_accuracy_interval(labels, predicted, radii, [0.25, 1.0])
        exact = (Fraction(float(plain[0])) - Fraction(wrong)) / (
            1 - Fraction(wrong)
        )  # of several runs it may be 1 and more
        assert max(0, exact) - Fraction(1, 10**15) <= Fraction(float(low[0])) <= max(0, exact)
        assert low[1] == 0.0 and high.tolist() == same.tolist()
    for wrong in (1.0, 7.0):
        assert certified_accuracy_interval(labels, predicted, radii, 0.0, wrong=wrong)[0] == 0.0
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(InputError, match="^wrong is"):
            certified_accuracy_interval(labels, predicted, radii, 0.0, wrong=wrong)


@pytest.mark.parametrize(
    ("images", "alpha"), [(1, 0.001), (20, 0.001), (500, 0.001), (500, 0.05), (7, 0.9), (10_000, 0.001)]
)
def test_how_many_certificates_may_be_wrong(images: int, alpha: float) -> None:
    found = most_wrong(images, alpha)
    assert stats.binom.sf(found, images, alpha) <= 0.025
    assert found == 0 or stats.binom.sf(found - 1, images, alpha) > 0.025


def test_missing_images_count_in_every_denominator() -> None:
    assert certified_accuracy(LABELS, PREDICTED, RADII, [0.0, 1.0], 5).tolist() == [0.3, 0.1]
    assert average_certified_radius(LABELS, PREDICTED, RADII, 5) == pytest.approx(0.15)
