"""The law against mpmath, which the package itself does not use, and the alias table against the law."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import GridLaw, grid_law, weights
from diffsmooth_trt.noise.law import alias_columns

SIGMAS = [0.01, 0.12, 0.25, 0.5, 1.0, 4.0]
BITS = 256


def exact_quotas(sigma: float, reach: int) -> list[mpmath.mpf]:
    """2^64·P(k), k = 0 … reach, to about 200 bits."""
    with mpmath.workprec(BITS):
        scale = 255 * mpmath.mpf(sigma) * mpmath.sqrt(2)
        half = [mpmath.erfc((k + mpmath.mpf(0.5)) / scale) * 2**63 for k in range(reach + 1)]
        return [2**64 - 2 * half[0], *(half[k - 1] - half[k] for k in range(1, reach + 1))]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_weights_are_the_largest_remainder_rounding_of_the_normal(sigma: float) -> None:
    law = grid_law(sigma)
    assert sum(law.weights) == 2**64
    quotas = exact_quotas(sigma, law.reach + 1)
    with mpmath.workprec(BITS):
        assert quotas[law.reach] >= 1 > quotas[law.reach + 1]
        up, down, excess = mpmath.mpf(1), mpmath.mpf(0), mpmath.mpf(0)
        for k, weight in zip(law.support.tolist(), law.weights, strict=True):
            quota = quotas[abs(k)]
            floor = int(mpmath.floor(quota))
            assert weight in (floor, floor + 1)
            if weight > floor:
                up, excess = min(up, quota - floor), excess + weight - quota
            else:
                down = max(down, quota - floor)
        assert up >= down
        assert excess / 2**64 <= law.tv_bound(1)
        assert excess / 2**64 >= law.tv_bound(1) / 8  # the bound is no gross overestimate either


@pytest.mark.parametrize("sigma", SIGMAS)
def test_columns_give_back_the_weights(sigma: float) -> None:
    law = grid_law(sigma)
    capacity = 2 ** (64 - law.column_bits)
    mass = dict.fromkeys(law.support.tolist(), 0)
    for threshold, primary, alias in zip(
        law.thresholds.tolist(), law.primary.tolist(), law.alias.tolist(), strict=True
    ):
        assert 0 <= threshold <= capacity
        mass[primary] += threshold
        mass[alias] += capacity - threshold
    assert tuple(mass.values()) == law.weights


@pytest.mark.parametrize("sigma", SIGMAS)
def test_packed_table_says_the_same_at_every_threshold(sigma: float) -> None:
    law = grid_law(sigma)
    capacity, mask = 2 ** (64 - law.column_bits), 2**law.column_bits - 1
    for column, (threshold, entry) in enumerate(zip(law.thresholds.tolist(), law.table.tolist(), strict=True)):
        for low in (0, max(0, threshold - 1), min(threshold, capacity - 1), capacity - 1):
            expected = law.primary[column] if low < threshold else law.alias[column]
            packed = column if (low << law.column_bits | mask) < entry else entry & mask
            assert packed - law.reach == expected


def test_law_is_symmetric_but_for_one_unit() -> None:
    for sigma in SIGMAS:
        values = grid_law(sigma).weights
        different = [k for k in range(len(values) // 2) if values[k] != values[-1 - k]]
        assert len(different) <= 1
        assert all(values[-1 - k] == values[k] + 1 for k in different)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.6))
def test_any_sigma_gives_an_exact_law(sigma: float) -> None:
    law = grid_law(sigma)  # the alias table is checked as it is built
    assert sum(law.weights) == 2**64
    assert min(law.weights) >= 1
    assert len(law.weights) == 2 * law.reach + 1 <= len(law.table)
    deviation = math.sqrt(sum(w * k * k for k, w in zip(law.support.tolist(), law.weights, strict=True)) / 2**64)
    assert deviation == pytest.approx(math.hypot(255 * sigma, math.sqrt(1 / 12)), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**60), min_size=1, max_size=15), st.integers(4, 6))
def test_alias_columns_are_exact_for_any_weights(some: list[int], bits: int) -> None:
    values = [*some, 2**64 - sum(some)]
    thresholds, aliases = alias_columns(values, bits)
    mass = [0] * 2**bits
    for column in range(2**bits):
        mass[column] += thresholds[column]
        mass[aliases[column]] += 2 ** (64 - bits) - thresholds[column]
    assert mass == values + [0] * (2**bits - len(values))


def test_alias_columns_refuse_weights_of_another_sum() -> None:
    with pytest.raises((ArithmeticError, IndexError)):
        alias_columns([1, 2, 3], 2)


def test_more_precision_changes_nothing_and_too_little_is_noticed() -> None:
    exact = grid_law(0.25).weights
    assert weights.round_quotas(*weights.quotas(0.25, 640), 640) == exact
    assert weights.round_quotas(*weights.quotas(0.25, 180), 180) is None


def test_digests_are_the_recorded_ones(answers: dict[str, Any]) -> None:
    for row in answers["laws"]:
        law = grid_law(row["sigma"])
        assert (len(law.weights), law.column_bits, law.digest) == (
            row["support"],
            row["column_bits"],
            row["digest"],
        )


def test_tv_bound_is_d_k_over_2_to_the_65_rounded_up() -> None:
    law = grid_law(0.25)
    for dimension in (1, 3072, 3 * 224 * 224, 2**43 + 1, 2**48):
        exact = Fraction(dimension * len(law.weights), 2**65)
        bound = Fraction(law.tv_bound(dimension))
        assert exact <= bound <= exact * (1 + Fraction(1, 2**51))


def test_tv_bound_refuses_what_is_no_dimension() -> None:
    for wrong in (0, -1, 2**48 + 1, 1.5):
        with pytest.raises(InputError, match="dimension is"):
            grid_law(0.25).tv_bound(wrong)  # type: ignore[arg-type]


def test_law_is_made_once_and_cannot_be_changed() -> None:
    law = grid_law(0.25)
    assert grid_law(np.float64(0.25)) is law
    assert isinstance(law, GridLaw)
    for array in (law.support, law.thresholds, law.primary, law.alias, law.table):
        assert not array.flags.writeable


@pytest.mark.parametrize("sigma", [0.0, 0.00999, 4.0001, -0.25, 63.75, math.nan, math.inf, "0.25x", None])
def test_sigma_outside_the_range_is_refused(sigma: object) -> None:
    with pytest.raises(InputError, match=r"sigma is .*expected"):
        grid_law(sigma)  # type: ignore[arg-type]
