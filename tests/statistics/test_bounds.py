"""Every bound against exact or 60-digit references: on the safe side always, and close."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.statistics import bounds
from diffsmooth_trt.statistics.bounds import (
    Certificate,
    binomial_lower,
    binomial_upper,
    certificate,
    normal_cdf_lower,
    normal_cdf_upper,
    normal_quantile_lower,
    normal_quantile_upper,
    prediction,
    radius_lower,
    truncate,
)

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
ALPHAS = [1e-12, 1e-3, 0.05, 0.5, 0.7]


def regularised_beta(a: int, b: int, x: Any) -> Any:
    """I_x(a, b) by its continued fraction (Lentz): another algorithm than the package's sum over votes."""
    if x * (a + b + 2) > a + 1:
        return 1 - regularised_beta(b, a, 1 - x)
    front = a * mpmath.log(x) + b * mpmath.log1p(-x) - mpmath.log(a)
    front += mpmath.loggamma(a + b) - mpmath.loggamma(a) - mpmath.loggamma(b)
    c, d = mpmath.mpf(1), 1 / (1 - (a + b) * x / (a + 1))
    h = d
    for m in range(1, 10**7):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / (1 + even * d), 1 + even / c
        h *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / (1 + odd * d), 1 + odd / c
        h *= d * c
        if abs(d * c - 1) < mpmath.mpf(10) ** -30:
            return mpmath.exp(front) * h
    raise AssertionError("no convergence")


def beside(p: float, sign: int) -> float:
    """`p` moved by what the module allows as looseness: 1e-9 of min(p, 1 − p), or two floats."""
    return p + sign * max(1e-9 * min(p, 1 - p), 2 * math.ulp(p))


def votes_of(trials: int) -> list[int]:
    picked = {0, 1, 2, trials // 1000, trials // 2, int(0.6 * trials), int(0.99 * trials), trials - 1, trials}
    return sorted(k for k in picked if 0 <= k <= trials)


@pytest.mark.parametrize("trials", [1, 10, 1000, 10**5, 10**7])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_binomial_bounds_never_pass_the_true_bound_and_are_within_1e_9(trials: int, alpha: float) -> None:
    for hits in votes_of(trials):
        check_against_reference(hits, trials, alpha)


@pytest.mark.parametrize("alpha", [1e-12, 1e-3])
@pytest.mark.parametrize("hits", [1, 10**6, 999_000_000, 10**9 - 1, 10**9])
def test_binomial_bounds_at_a_thousand_million_trials(hits: int, alpha: float) -> None:
    check_against_reference(hits, 10**9, alpha)


def check_against_reference(hits: int, trials: int, alpha: float) -> None:
    with mpmath.workdps(50):
        lower, upper = binomial_lower(hits, trials, alpha), binomial_upper(hits, trials, alpha)
        if hits == 0:
            assert lower == 0.0
        else:
            assert regularised_beta(hits, trials - hits + 1, mpmath.mpf(lower)) <= alpha
            more = mpmath.mpf(beside(lower, 1))
            assert more >= 1 or regularised_beta(hits, trials - hits + 1, more) > alpha
        if hits == trials:
            assert upper == 1.0
        else:
            assert regularised_beta(trials - hits, hits + 1, 1 - mpmath.mpf(upper)) <= alpha
            less = 1 - mpmath.mpf(beside(upper, -1))
            assert less >= 1 or regularised_beta(trials - hits, hits + 1, less) > alpha


@pytest.mark.parametrize("trials", [1, 2, 7, 40])
@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.3, 0.5, 0.999])
def test_small_binomial_bounds_by_exact_fractions(trials: int, alpha: float) -> None:
    level = Fraction(alpha)
    for hits in range(trials + 1):

        def tail(p: float, ks: range) -> Fraction:
            x = Fraction(p)
            return sum((math.comb(trials, k) * x**k * (1 - x) ** (trials - k) for k in ks), Fraction(0))

        lower, upper = binomial_lower(hits, trials, alpha), binomial_upper(hits, trials, alpha)
        if hits:
            assert tail(lower, range(hits, trials + 1)) <= level < tail(beside(lower, 1), range(hits, trials + 1))
        if hits < trials:
            assert tail(upper, range(hits + 1)) <= level < tail(beside(upper, -1), range(hits + 1))


@pytest.mark.parametrize("proposal", [math.nan, 0.0, 1.0, 1e-300, 0.1, 0.7, 1 - 1e-16])
def test_a_wrong_proposal_costs_time_but_no_soundness(monkeypatch: pytest.MonkeyPatch, proposal: float) -> None:
    for name in ("betaincinv", "betainccinv"):
        monkeypatch.setattr(special, name, lambda a, b, y: proposal)
    monkeypatch.setattr(bounds, "_lower", bounds._lower.__wrapped__)  # past the cache
    monkeypatch.setattr(bounds, "_upper", bounds._upper.__wrapped__)
    for hits, trials in [(3, 10), (600, 1000), (99_999, 100_000)]:
        check_against_reference(hits, trials, 0.001)


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.5])
def test_all_votes_have_the_closed_form(alpha: float) -> None:
    for trials in (1, 1000, 10**9):
        with mpmath.workdps(50):
            exact = mpmath.mpf(alpha) ** (mpmath.mpf(1) / trials)
            found = binomial_lower(trials, trials, alpha)
            assert 0 <= exact - found < 4 * math.ulp(found) + 1e-12 * float(1 - exact)


def test_arrays_give_what_scalars_give() -> None:
    hits = np.array([[0, 1], [50, 100]])
    lower, upper = binomial_lower(hits, 100, 0.01), binomial_upper(hits, np.array([100, 200]), 0.01)
    assert lower.shape == upper.shape == (2, 2)
    assert lower.dtype == np.float64
    assert lower[1, 0] == binomial_lower(50, 100, 0.01)
    assert upper[1, 1] == binomial_upper(100, 200, 0.01)
    assert isinstance(binomial_lower(np.int64(3), np.uint8(7), 0.01), float)
    assert binomial_lower(np.zeros((0,), np.int64), 5, 0.01).shape == (0,)


@PROPERTY
@given(st.data())
def test_bounds_and_radius_are_monotone_in_votes(data: st.DataObject) -> None:
    trials = data.draw(st.integers(2, 10**6))
    fewer = data.draw(st.integers(0, trials - 1))
    more = data.draw(st.integers(fewer + 1, trials))
    alpha = data.draw(st.floats(1e-12, 0.5))
    assert binomial_lower(fewer, trials, alpha) <= binomial_lower(more, trials, alpha)
    assert binomial_upper(fewer, trials, alpha) <= binomial_upper(more, trials, alpha)
    assert binomial_lower(more, trials, alpha) <= more / trials <= binomial_upper(more, trials, alpha)
    radius = [radius_lower(binomial_lower(k, trials, alpha), 0.25) for k in (fewer, more)]
    assert radius[0] <= radius[1]


def test_normal_cdf_and_quantile_are_directed_and_close() -> None:
    with mpmath.workdps(60):
        small = 10.0 ** np.arange(-300.0, 0.0, 7.3)
        for x in [*np.linspace(-37.5, 37.5, 151), *small, *-small, -38.4, 0.0, 8.2, 8.3, 39.9, 50.0]:
            exact = mpmath.ncdf(mpmath.mpf(float(x)))
            lower, upper = normal_cdf_lower(float(x)), normal_cdf_upper(float(x))
            assert lower <= exact <= upper
            assert math.nextafter(lower, math.inf) >= upper
        rng = np.random.default_rng(1)
        inner = [
            *rng.random(60),
            *(1 - small[-2:]),
            *small,
            5e-324,
            0.5 + 2.0**-53,
            0.5 - 2.0**-54,
            1 - 2.0**-53,
        ]
        for p in map(float, inner):
            lower, upper = normal_quantile_lower(p), normal_quantile_upper(p)
            assert mpmath.ncdf(mpmath.mpf(lower)) <= p <= mpmath.ncdf(mpmath.mpf(upper))
            assert 0 <= upper - lower <= 1e-11 * abs(lower)
    assert (normal_cdf_lower(-math.inf), normal_cdf_upper(math.inf)) == (0.0, 1.0)
    for quantile in (normal_quantile_lower, normal_quantile_upper):
        assert [quantile(p) for p in (0.0, 0.5, 1.0)] == [-math.inf, 0.0, math.inf]


def test_radius_is_never_above_the_true_one() -> None:
    rng = np.random.default_rng(2)
    with mpmath.workdps(60):
        for p in [*(0.5 + rng.random(100) / 2), 1 - 1e-9, 1 - 2.0**-53, 0.5 + 2.0**-53]:
            for sigma in (0.12, 0.25, 1.0, 1 / 3):
                found = mpmath.mpf(radius_lower(float(p), sigma))
                # Φ(R/σ) ≤ p, and a little more is beyond
                assert mpmath.ncdf(found / mpmath.mpf(sigma)) <= float(p)
                assert mpmath.ncdf(found * (1 + mpmath.mpf(1e-9)) / mpmath.mpf(sigma)) > float(p)
    assert radius_lower(0.5, 1.0) == radius_lower(0.3, 1.0) == 0.0
    assert radius_lower(1.0, 1.0) == math.inf


@pytest.mark.parametrize(("trials", "largest"), [(10**3, 2.463), (10**4, 3.198), (10**5, 3.811)])
def test_largest_radius_as_published(trials: int, largest: float) -> None:
    assert math.floor(1000 * radius_lower(binomial_lower(trials, trials, 0.001), 1.0)) / 1000 == largest


@PROPERTY
@given(st.floats(0, 1e12), st.integers(0, 12))
def test_truncation_is_below_by_less_than_one_last_digit(radius: float, digits: int) -> None:
    text = truncate(radius, digits)
    assert 0 <= Decimal(radius) - Decimal(text) < Decimal(10) ** -digits
    assert len(text.partition(".")[2]) == digits


def test_truncation_is_plain_decimal_notation() -> None:
    assert truncate(0.9999999) == "0.999999"
    assert truncate(1e-300) == truncate(-0.0) == truncate(0.0) == "0.000000"
    assert truncate(0.1, 20) == "0.10000000000000000555"
    assert truncate(1e300) == f"{int(1e300)}.000000"


def test_certificate_counts_hits_among_fresh_votes_only() -> None:
    found = certificate([30, 70, 0], [5, 990, 5], 0.001, 0.25, 1e-9)
    p_lower = binomial_lower(990, 1000, 0.001)
    assert (found.predict, found.hits, found.trials) == (1, 990, 1000)
    assert found.p_lower <= p_lower - 1e-9 <= math.nextafter(found.p_lower, 1)
    assert found.radius == radius_lower(found.p_lower, 0.25) > 0
    # selection decides the class even where the fresh votes favour another
    assert certificate([100, 0], [1, 999], 0.001, 0.25, 0.0).predict == -1
    # the lowest of equals
    assert certificate([0, 50, 50], [0, 1000, 0], 0.001, 0.25, 0.0).predict == 1


def test_certificate_abstains_at_one_half_and_below() -> None:
    excess = binomial_lower(990, 1000, 0.001) - 0.5
    assert certificate([1, 0], [990, 10], 0.001, 0.25, excess) == Certificate(-1, 0.0, 0.5, 990, 1000)
    more = certificate([1, 0], [990, 10], 0.001, 0.25, excess - 2.0**-52)
    assert more.predict == 0
    assert more.p_lower > 0.5
    assert 0 < more.radius < 2e-16
    assert certificate([1, 0], [1, 0], 0.5, 0.25, 0.0).predict == -1
    assert certificate([1, 0], [1000, 0], 0.001, 0.25, 1.0) == Certificate(-1, 0.0, 0.0, 1000, 1000)


def test_tiny_total_variation_still_lowers_the_bound() -> None:
    p_lower = binomial_lower(990, 1000, 0.001)
    assert certificate([1, 0], [990, 10], 0.001, 0.25, 1e-40).p_lower == math.nextafter(p_lower, 0)


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-9])
def test_prediction_agrees_with_the_exact_test(alpha: float) -> None:
    for total in (1, 5, 17, 100, 1001):
        for first in range(total // 2, total + 1):
            counts = [3, total - first, first] if 2 * first > total and total - first > 3 else [0, total - first, first]
            p_value = stats.binomtest(first, total, 0.5).pvalue
            assert prediction(counts, alpha) == (2 if p_value <= alpha else -1)


def test_prediction_pays_for_total_variation_of_every_draw() -> None:
    p_value = stats.binomtest(70, 100, 0.5).pvalue
    alpha, draws = 0.001, 110
    spare = (alpha - p_value) / draws
    assert prediction([70, 30, 10], alpha, spare * 0.999) == 0
    assert prediction([70, 30, 10], alpha, spare * 1.001) == -1
    assert prediction([70, 30], 0.5, 1.0) == -1


def test_prediction_abstains_on_ties_and_on_exact_equality() -> None:
    assert prediction([5, 5], 0.999) == -1
    assert prediction([10, 0], 2.0**-9) == -1  # the p-value is 2^-9 exactly
    assert prediction([10, 0], 2.0**-9 * (1 + 1e-13)) == 0
    assert prediction([100], 0.001) == 0


VOTES = [1, 2]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: binomial_lower(1, 2, 0.0), "alpha"),
        (lambda: binomial_lower(1, 2, 1.0), "alpha"),
        (lambda: binomial_upper(1, 2, math.nan), "alpha"),
        (lambda: binomial_upper(1, 2, "a lot"), "alpha"),  # type: ignore[call-overload]
        (lambda: binomial_lower(-1, 2, 0.1), "successes"),
        (lambda: binomial_lower(3, 2, 0.1), "successes"),
        (lambda: binomial_lower(1.0, 2, 0.1), "successes"),  # type: ignore[call-overload]
        (lambda: binomial_lower(0, 0, 0.1), "trials"),
        (lambda: binomial_lower(0, 10**12 + 1, 0.1), "trials"),
        (lambda: binomial_lower(np.array([1, 2]), np.array([3, 4, 5]), 0.1), "shape"),
        (lambda: normal_quantile_lower(1.5), "p"),
        (lambda: normal_quantile_upper(math.nan), "p"),
        (lambda: normal_cdf_lower(math.nan), "x"),
        (lambda: radius_lower(0.9, 0.0), "sigma"),
        (lambda: radius_lower(0.9, math.inf), "sigma"),
        (lambda: radius_lower(math.nan, 1.0), "p_lower"),
        (lambda: truncate(math.inf), "radius"),
        (lambda: truncate(-1.0), "radius"),
        (lambda: truncate(1.0, -1), "digits"),
        (lambda: certificate(VOTES, [1, 2, 3], 0.1, 1.0, 0.0), "estimation_counts"),
        (lambda: certificate(VOTES, [0, 0], 0.1, 1.0, 0.0), "estimation_counts"),
        (lambda: certificate([0.5, 1], VOTES, 0.1, 1.0, 0.0), "selection_counts"),
        (lambda: certificate([VOTES], VOTES, 0.1, 1.0, 0.0), "selection_counts"),
        (lambda: certificate(VOTES, VOTES, 0.1, -1.0, 0.0), "sigma"),
        (lambda: certificate(VOTES, VOTES, 2.0, 1.0, 0.0), "alpha"),
        (lambda: certificate(VOTES, VOTES, 0.1, 1.0, -1e-9), "total_variation"),
        (lambda: certificate(VOTES, VOTES, 0.1, 1.0, math.nan), "total_variation"),
        (lambda: prediction([-1, 2], 0.1), "counts"),
        (lambda: prediction([], 0.1), "counts"),
        (lambda: prediction(VOTES, 0.0), "alpha"),
    ],
)
def test_errors_are_one_line_and_name_the_argument(call: Callable[[], object], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)
