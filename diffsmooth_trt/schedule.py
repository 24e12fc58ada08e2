"""Noise level ↔ timestep for DDPM schedules: images in [0, 1] with noise σ are model images in [-1, 1] with noise 2σ.

Sources: Ho et al. 2020 (linear), Nichol & Dhariwal 2021 (cosine), Carlini et al. 2023 (the one-shot step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

SCHEDULES = ("linear", "cosine")
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Schedule:
    """A named schedule of `steps` timesteps; `rescale` multiplies what the network embeds by 1000/steps.

    `given` are the ᾱ_t of a schedule that its name does not determine.
    """

    name: str
    steps: int
    rescale: bool = False
    given: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.given is None and self.name not in SCHEDULES:
            raise InputError(f"noise schedule {self.name!r} is unknown: use one of {', '.join(SCHEDULES)}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise InputError(f"diffusion steps must be at least 1 and at most {MOST_STEPS}, got {self.steps}")
        values = self.alphas_bar
        if values.shape != (self.steps,) or not ((values > 0) & (values < 1)).all() or (np.diff(values) >= 0).any():
            remedy = "save the scheduler again" if self.given is not None else "use more diffusion_steps"
            raise InputError(
                f"noise schedule {self.name!r} is not usable: expected {self.steps} values of ᾱ falling inside (0, 1); {remedy}"
            )

    @cached_property
    def alphas_bar(self) -> NDArray[np.float64]:
        """ᾱ_t `[steps]`, the cumulative product of 1 − β."""
        if self.given is not None:
            return np.asarray(self.given, dtype=np.float64)
        if self.name == "linear":
            scale = 1000 / self.steps
            betas = np.linspace(scale * 0.0001, scale * 0.02, self.steps, dtype=np.float64)
        else:
            grid = np.arange(self.steps + 1) / self.steps
            bar = np.array([math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in grid])
            betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
        return np.asarray(np.cumprod(1.0 - betas), dtype=np.float64)

    @cached_property
    def ratios(self) -> NDArray[np.float64]:
        """Noise-to-signal ratio √((1 − ᾱ_t)/ᾱ_t) `[steps]`, rising: the model-unit noise level of timestep t."""
        return np.asarray(np.sqrt((1.0 - self.alphas_bar) / self.alphas_bar), dtype=np.float64)

    def timestep(self, sigma: float) -> int:
        """t*, the first t with ratio ≥ 2σ (Carlini et al. 2023); `sigma` in image units, inside the schedule's range."""
        self.check_sigma(sigma)
        return int(np.searchsorted(self.ratios, 2 * sigma, side="left"))

    def check_sigma(self, sigma: float) -> None:
        """Raise InputError unless noise `sigma` (image units) lies inside the schedule."""
        if not (math.isfinite(sigma) and 0 < 2 * sigma <= self.ratios[-1]):
            raise InputError(
                f"sigma must lie in (0, {self.ratios[-1] / 2:.4g}] for the {self.name} schedule with "
                f"{self.steps} steps, got {sigma}"
            )

    def fractional_timestep(self, s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Timesteps at which networks meet the noise levels `s` (model units), by linear interpolation of `ratios`.

        Clipped to 0 below the first ratio and to the last timestep above the last one; float64 of the shape of `s`.
        """
        return np.asarray(np.interp(s, self.ratios, np.arange(self.steps)), dtype=np.float64)

    def embedded(self, timestep: float) -> float:
        """The number that the network embeds for `timestep`."""
        return timestep * (1000.0 / self.steps) if self.rescale else float(timestep)
