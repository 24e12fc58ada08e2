"""Projected gradient ascent within an ℓ2 ball, and the 8-bit image that it ends at."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..dtypes import Floats32, Labels, Words
from ..grid import Pixels
from .gradients import SmoothedLoss, unit
from .rule import reach, squared

HALVINGS = 40


def ascend(
    loss: SmoothedLoss,
    centres: Tensor,
    starts: Tensor,
    epsilon: float,
    *,
    images: Words,
    classes: Labels,
    steps: int,
    draws: int,
    first: int,
) -> Floats32:
    """Where `steps` steps of length 2ε/steps along the gradient lead, float32 `[N, C, H, W]`, within ε of the centres and [0, 1].

    Step i sees the draws first + i·draws … first + (i + 1)·draws − 1: none is seen twice.
    """
    x = project(starts, centres, epsilon)
    for step in range(steps):
        samples = np.arange(first + step * draws, first + (step + 1) * draws, dtype=np.uint64)
        gradient = loss.gradient(x, images, classes, samples)
        x = project(x + 2 * epsilon / steps * unit(gradient), centres, epsilon)
    ends: Floats32 = x.numpy()
    return ends


def project(x: Tensor, centres: Tensor, epsilon: float) -> Tensor:
    """Points `[N, …]` moved into the ℓ2 ball, then into [0, 1], which leaves them in it as the centres are in [0, 1]."""
    away = (x - centres).flatten(1)
    short = (epsilon / away.norm(dim=1).clamp_min(1e-30)).clamp(max=1.0)
    projected: Tensor = (centres + (away * short[:, None]).reshape(x.shape)).clamp(0, 1)
    return projected


def on_grid_within(centre: Pixels, point: Floats32, epsilon: float) -> Pixels:
    """The 8-bit image centre + t·(point − centre), rounded, for the greatest t ≤ 2 found that leaves it within ε, exactly.

    centre: uint8, point: float32 in [0, 1], of one shape. No coordinate's distance falls with t, so t is halved in on.
    """
    most, away = reach(epsilon), 255.0 * point.astype(np.float64) - centre

    def at(t: float) -> Pixels:
        return np.clip(np.rint(centre + t * away), 0, 255).astype(np.uint8)

    low, high = 0.0, 2.0
    if squared(at(high), centre) <= most:
        return at(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if squared(at(middle), centre) <= most else (low, middle)
    return at(low)
