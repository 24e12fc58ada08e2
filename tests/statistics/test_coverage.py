"""The probability guarantees themselves: exactly where n is small, else by simulation with fixed seeds.

A simulation counts failures in N runs and fails where they exceed the (1 − 10^-6)-quantile of Bin(N, alpha):
a false alarm rate of at most 10^-6 a test at alpha itself, and the seeds are fixed. Detectable: with N =
20,000 and alpha = 0.01, a true failure rate of 0.0145 is found with probability above 0.5.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffsmooth_trt.statistics.bounds import binomial_lower, binomial_upper, certificate, prediction

FALSE_ALARM = 1e-6


def allowed(runs: int, alpha: float) -> int:
    return int(stats.binom.isf(FALSE_ALARM, runs, alpha))


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("trials", [1, 10, 60])
def test_coverage_of_small_samples_exactly(trials: int, alpha: float) -> None:
    hits = np.arange(trials + 1)
    lower, upper = binomial_lower(hits, trials, alpha), binomial_upper(hits, trials, alpha)
    # just inside each bound too: there the coverage is at its worst
    for p in [
        *np.linspace(0.001, 0.999, 97),
        *(lower - 1e-9),
        *(lower + 1e-9),
        *(upper - 1e-9),
        *(upper + 1e-9),
    ]:
        if 0 < p < 1:
            weight = stats.binom.pmf(hits, trials, p)
            assert weight[lower > p].sum() <= alpha * (1 + 1e-9)
            assert weight[upper < p].sum() <= alpha * (1 + 1e-9)


@pytest.mark.parametrize("p", [0.003, 0.5, 0.93])
def test_coverage_of_the_bounds_by_simulation(p: float) -> None:
    runs, trials, alpha = 20_000, 10_000, 0.01
    hits, times = np.unique(np.random.default_rng(3).binomial(trials, p, runs), return_counts=True)
    assert times[binomial_lower(hits, trials, alpha) > p].sum() <= allowed(runs, alpha)
    assert times[binomial_upper(hits, trials, alpha) < p].sum() <= allowed(runs, alpha)


@pytest.mark.parametrize("distance", [0.02, 0.3, 0.7])
def test_certificate_of_a_half_space_keeps_its_level(distance: float) -> None:
    # f(x) = [x₀ > 0] at x₀ = distance: the smoothed classifier's radius is exactly that distance
    runs, n, sigma, alpha = 2000, 500, 0.25, 0.05
    rng = np.random.default_rng(4)
    too_far = certified = 0
    for _ in range(runs):
        select, estimate = (int(np.count_nonzero(distance + sigma * rng.normal(size=k) > 0)) for k in (20, n))
        found = certificate([20 - select, select], [n - estimate, estimate], alpha, sigma, 1e-12)
        too_far += found.predict == 0 or found.radius > distance
        certified += found.predict == 1
    assert too_far <= allowed(runs, alpha)
    assert certified > runs // 2 or distance < 0.1


@pytest.mark.parametrize("weights", [(0.501, 0.499), (0.26, 0.25, 0.25, 0.24), (0.4, 0.395, 0.205)])
def test_prediction_errs_at_most_at_its_level(weights: tuple[float, ...]) -> None:
    runs, alpha = 5000, 0.05
    counts = np.random.default_rng(5).multinomial(200, weights, size=runs)
    wrong = sum(prediction(row, alpha) > 0 for row in counts)
    assert wrong <= allowed(runs, alpha)
