"""The betting bound: what it counts, what it computes, and that it holds however long one draws."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.ood import bounds
from diffsmooth_trt.ood.bounds import (
    BETS,
    BINS,
    EDGES,
    SHARES,
    bin_values,
    complement_lower,
    edge_mean,
    mean_upper,
    shifted_lower,
    shifted_upper,
    with_total_variation,
)


def counted(values):
    return np.bincount(bin_values(values), minlength=BINS)


def test_edges_have_eight_bits_and_values_are_rounded_up_to_them():
    assert len(EDGES) == BINS and EDGES[-1] == 1 and (np.diff(EDGES) > 0).all()
    mantissa, _ = np.frexp(EDGES)
    assert (mantissa * 256 == np.round(mantissa * 256)).all()
    rng = np.random.default_rng(0)
    values = np.r_[0.0, 1.0, EDGES, np.nextafter(EDGES[:-1], 2), rng.random(5000), 2.0 ** -rng.uniform(0, 40, 5000)]
    edges = EDGES[bin_values(values)]
    assert (edges >= values).all()
    assert (edges <= np.maximum(values * (1 + 2**-7), 2.0**-24)).all()
    assert (EDGES[bin_values(EDGES)] == EDGES).all()


def test_shares_and_bets_are_what_the_proof_needs():
    assert SHARES.sum() <= 1 and (SHARES > 0).all() and ((BETS > 0) & (BETS <= 1)).all()
    exact = [mpmath.mpf(1) - mpmath.mpf(float(bet)) * mpmath.mpf(float(edge)) for bet in BETS for edge in EDGES[::97]]
    found = [1 - bet * edge for bet in BETS for edge in EDGES[::97]]
    assert all(mpmath.mpf(float(a)) == b for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("alpha", [0.2, 1e-3, 1e-9])
@pytest.mark.parametrize("case", ["zeros", "ones", "beta", "rare", "one"])
def test_bound_is_the_exact_one_rounded_up(case, alpha):
    """At the bound the capital, in 50 digits, has reached 1/alpha; a little below it has not."""
    rng = np.random.default_rng(1)
    draws = {
        "zeros": np.zeros(300), "ones": np.ones(50), "beta": rng.beta(5, 2, 700), "one": np.array([0.2]),
        "rare": (rng.random(2000) < 0.01) * 0.7,
    }[case]  # fmt: skip
    counts = counted(draws)
    bound = mean_upper(counts, alpha)
    used = np.flatnonzero(counts)
    with mpmath.workdps(50):

        def capital(m: float):
            total = mpmath.mpf(0)
            for bet, share in zip(BETS, SHARES, strict=True):
                logs = (
                    int(counts[i]) * mpmath.log(1 - mpmath.mpf(bet) * (mpmath.mpf(EDGES[i]) - mpmath.mpf(m)))
                    for i in used
                )
                total += mpmath.mpf(share) * mpmath.exp(mpmath.fsum(logs))
            return total

        if bound < 1:
            assert capital(bound) >= 1 / mpmath.mpf(alpha)
        assert capital(edge_mean(counts) + (bound - edge_mean(counts)) * (1 - 1e-3)) < 1 / mpmath.mpf(alpha)
    assert bound >= edge_mean(counts)


def test_bound_of_zeros_is_close_to_clopper_pearson():
    for n in (100, 1000, 10_000):
        best = 1 - 0.001 ** (1 / n)
        assert best < mean_upper(counted(np.zeros(n)), 0.001) < 1.3 * best


@pytest.mark.parametrize("law", ["bernoulli", "beta", "skewed"])
def test_coverage_with_the_worst_stopping(law):
    """Stop where the bound is lowest over all looks: it falls below the mean in at most a share alpha of 400 runs.

    At alpha = 0.1 the count of failures is at most Bin(400, 0.1), so this fails by chance with less than 1e-6. The seed is fixed.
    """
    rng = np.random.default_rng(7)
    draw, mean = {
        "bernoulli": (lambda n: (rng.random(n) < 0.1).astype(float), 0.1),
        "beta": (lambda n: rng.beta(8, 2, n), 0.8),
        "skewed": (lambda n: rng.random(n) ** 20, 1 / 21),
    }[law]
    failures = 0
    for _ in range(400):
        counts, seen = np.zeros(BINS, np.int64), []
        for size in (5, 10, 20, 40, 80, 160):
            counts += counted(draw(size))
            seen.append(mean_upper(counts, 0.1))
        failures += min(seen) < mean
    assert failures <= stats.binom.isf(1e-6, 400, 0.1)


def test_shift_is_the_theorem_rounded_against_us():
    rng = np.random.default_rng(2)
    for p, r, sigma in zip(
        10.0 ** -rng.uniform(0.01, 12, 40), rng.uniform(0, 2, 40), rng.uniform(0.1, 1, 40), strict=True
    ):
        with mpmath.workdps(60):
            z = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)
            up, down = (mpmath.ncdf(z + s * mpmath.mpf(r) / mpmath.mpf(sigma)) for s in (1, -1))
        assert up <= shifted_upper(p, r, sigma) <= up * (1 + 1e-9)
        assert down * (1 - 1e-9) <= shifted_lower(p, r, sigma) <= down
    assert (
        shifted_upper(0.3, 0.0, 0.1) == 0.3
        and shifted_upper(1.0, 1.0, 0.1) == 1.0
        and shifted_upper(0.0, 1.0, 0.1) == 0.0
    )


def test_additions_round_outward():
    assert with_total_variation(0.1, 1e-30) > 0.1
    assert with_total_variation(1.0, 0.5) == 1.0
    assert complement_lower(1e-30) < 1.0
    assert complement_lower(1.0) == 0.0


def test_bad_input():
    for values in ([np.nan], [-0.1], [1.1]):
        with pytest.raises(InputError, match="expected 0 to 1"):
            bin_values(values)
    with pytest.raises(InputError, match="counts hold 0 draws"):
        mean_upper(np.zeros(BINS, np.int64), 0.1)
    with pytest.raises(InputError, match="integers of 0 or more"):
        mean_upper(np.zeros(5, np.int64), 0.1)
    with pytest.raises(InputError, match="alpha"):
        mean_upper(counted([0.1]), 0.0)
    with pytest.raises(InputError, match="radius -1"):
        shifted_upper(0.1, -1.0, 0.1)
    assert bounds.MAX_DRAWS == 10**9
