"""Schedules against the papers' formulas, evaluated with 50 digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.schedule import Schedule


def exact_alpha_bar(name: str, steps: int) -> list[mp.mpf]:
    def bar(t: int) -> mp.mpf:
        return mp.cos((mp.mpf(t) / steps + mp.mpf("0.008")) / mp.mpf("1.008") * mp.pi / 2) ** 2

    product, result = mp.mpf(1), []
    for t in range(steps):
        if name == "linear":
            low, high = (mp.mpf(1000) / steps * mp.mpf(end) for end in ("0.0001", "0.02"))
            beta = low + (high - low) * t / (steps - 1)
        else:
            beta = min(1 - bar(t + 1) / bar(t), mp.mpf("0.999"))
        product *= 1 - beta
        result.append(product)
    return result


@pytest.mark.parametrize(("name", "steps"), [("linear", 1000), ("cosine", 1000), ("cosine", 400), ("linear", 250)])
def test_alphas_bar_match_the_formula(name: str, steps: int) -> None:
    with mp.workdps(50):
        exact = np.array([float(value) for value in exact_alpha_bar(name, steps)])
    np.testing.assert_allclose(Schedule(name, steps).alphas_bar, exact, rtol=1e-10)


def test_published_first_ratios() -> None:
    assert Schedule("cosine", 4000).ratios[0] == pytest.approx(0.0031, abs=5e-5)
    assert Schedule("linear", 1000).ratios[0] == pytest.approx(0.0100, abs=5e-5)


@pytest.mark.parametrize("schedule", [Schedule("linear", 1000), Schedule("cosine", 4000, rescale=True)])
def test_ratios_rise_and_the_timestep_is_the_first_at_or_above(schedule: Schedule) -> None:
    assert (np.diff(schedule.ratios) > 0).all()
    for sigma in (0.001, 0.12, 0.25, 0.5, 1.0, float(schedule.ratios[700]) / 2, float(schedule.ratios[-1]) / 2):
        t = schedule.timestep(sigma)
        assert schedule.ratios[t] >= 2 * sigma
        assert t == 0 or schedule.ratios[t - 1] < 2 * sigma
    assert schedule.timestep(float(schedule.ratios[700]) / 2) == 700


@pytest.mark.parametrize("schedule", [Schedule("linear", 1000), Schedule("cosine", 4000)])
def test_fractional_timesteps_invert_the_ratios(schedule: Schedule) -> None:
    np.testing.assert_array_equal(schedule.fractional_timestep(schedule.ratios), np.arange(schedule.steps))
    middle = (schedule.ratios[:-1] + schedule.ratios[1:]) / 2
    np.testing.assert_allclose(schedule.fractional_timestep(middle), np.arange(schedule.steps - 1) + 0.5, atol=1e-6)
    outside = np.array([[0.0, 1e-9], [schedule.ratios[-1] * 2, np.inf]])
    last = float(schedule.steps - 1)
    assert schedule.fractional_timestep(outside).tolist() == [[0, 0], [last, last]]


def test_rescaled_timesteps() -> None:
    assert Schedule("cosine", 4000, rescale=True).embedded(1158) == 289.5
    assert Schedule("linear", 1000).embedded(7) == 7.0


@pytest.mark.parametrize("sigma", [0.0, -0.25, float("nan"), float("inf"), 1e6])
def test_sigma_outside_the_schedule_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma must lie in"):
        Schedule("linear", 1000).timestep(sigma)


def test_unknown_schedule_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="linear, cosine"):
        Schedule("sigmoid", 1000)
    with pytest.raises(InputError, match="at least 1"):
        Schedule("linear", 0)
