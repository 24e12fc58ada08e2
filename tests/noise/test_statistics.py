"""Ten million draws against the exact law.

The key is fixed, so each check passes always or never; a correct sampler would fail one under a random key
with probability 1e-9. With n = 10^7 that still finds, at even odds, a mean off by 0.002 standard deviations,
a variance off by 0.3 %, a correlation of 0.002 between neighbours or rows, and an event of probability p off
by 6.1·√(p/n): 1 % of it at p = 0.04, 12 % at p = 2.7e-4.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from diffsmooth_trt.noise import GridLaw, grid_law, sampler

KEY = 0xB7E151628AED2A6ABF7158809CF4F3C762E7160F38B4DA56A784D9045190CFEF
ROWS, COUNT = 1000, 10_000
FALSE_ALARM = 1e-9
Z = float(stats.norm.isf(FALSE_ALARM / 2))


def draws(law: GridLaw) -> NDArray[np.int32]:
    images = np.arange(ROWS, dtype=np.uint64) // 10
    return sampler.grid_noise(law, KEY, 1, images, np.arange(ROWS, dtype=np.uint64) % 10, COUNT)


def p_value(law: GridLaw, noise: NDArray[np.int32]) -> float:
    """The chi-square test of the counts of every k, tails pooled until each cell expects at least 30."""
    counts = np.bincount(noise.ravel() + law.reach, minlength=2 * law.reach + 1)
    expected = np.array([weight / 2**64 for weight in law.weights]) * noise.size
    inside = np.flatnonzero(expected >= 30)
    low, high = inside[0], inside[-1] + 1
    cells, means = (
        np.concatenate([[v[: low + 1].sum()], v[low + 1 : high - 1], [v[high - 1 :].sum()]]) for v in (counts, expected)
    )
    return float(stats.chi2.sf(((cells - means) ** 2 / means).sum(), len(cells) - 1))


def tail(law: GridLaw, limit: int) -> float:
    """P(|k| ≥ limit), exactly rounded."""
    return sum(w for k, w in zip(law.support.tolist(), law.weights, strict=True) if abs(k) >= limit) / 2**64


@pytest.mark.parametrize("sigma", [0.01, 0.25, 1.0])
def test_counts_moments_and_tails(sigma: float) -> None:
    law = grid_law(sigma)
    noise = draws(law)
    assert p_value(law, noise) > FALSE_ALARM
    moments = [
        sum(w * k**order for k, w in zip(law.support.tolist(), law.weights, strict=True)) / 2**64 for order in (2, 4)
    ]
    values = noise.astype(np.float64)
    assert abs(values.mean()) <= Z * np.sqrt(moments[0] / noise.size)
    assert abs((values**2).mean() - moments[0]) <= Z * np.sqrt((moments[1] - moments[0] ** 2) / noise.size)
    for deviations in (1, 2, 3, 4, 5):
        limit = round(deviations * 255 * sigma) + 1
        beyond = int((np.abs(noise) >= limit).sum())
        assert stats.binomtest(beyond, noise.size, tail(law, limit)).pvalue > FALSE_ALARM


def test_neighbours_and_rows_are_uncorrelated() -> None:
    noise = draws(grid_law(0.25)).astype(np.float64)
    noise /= noise.std()
    shifted = [(noise[:, :-lag], noise[:, lag:]) for lag in (1, 2, 3, 4, 8, 32)]
    shifted += [(noise[:-lag], noise[lag:]) for lag in (1, 10)]  # the next sample; the next image
    for first, second in shifted:
        assert abs((first * second).mean()) <= Z / np.sqrt(first.size)


def test_streams_of_other_phases_and_keys_are_unrelated() -> None:
    law = grid_law(0.25)
    images, samples = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    rows = [
        sampler.grid_noise(law, key, phase, images, samples, 10**6)[0].astype(np.float64)
        for key, phase in ((KEY, 0), (KEY, 1), (KEY, 2), (KEY ^ 1, 1), (KEY ^ 1 << 255, 1))
    ]
    correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    assert np.abs(correlations).max() <= Z / 1000


def test_a_slightly_wrong_law_is_found() -> None:
    noise = draws(grid_law(0.251))
    assert p_value(grid_law(0.25), noise) < FALSE_ALARM
