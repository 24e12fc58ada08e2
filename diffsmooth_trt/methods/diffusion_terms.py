"""The weighted denoising losses of diffusion classifiers as sums of terms (Chen et al. 2024).

Units are the model's, [−1, 1], in which noise σ has the level s_τ = 2σ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..dtypes import Floats64

S_MIN = 1e-4
S_DATA = 0.5
LOG_MEAN, LOG_STD = -1.2, 1.2
PUBLISHED_DROP, PUBLISHED_STEPS = 5, 126
WEIGHTS = ("paper", "published")


@dataclass(frozen=True)
class Terms:
    """The loss as a sum: w_i · mean(residual_i²), residual = a·(D(x + c·ε; s, y) − x_in) + b·ε + d·(x_in − reference).

    float64 [terms] each: `levels` s of the evaluation, `noise` c, `weights` w, and the residual's a, b, d. For dc and apndc
    a = d = 1 and b = 0: the residual is D − reference; for epndc it is that of `exact_terms`.
    """

    levels: Floats64
    noise: Floats64
    weights: Floats64
    a: Floats64
    b: Floats64
    d: Floats64


def level_weights(s: Floats64, step: float, kind: str) -> Floats64:
    """(s² + s_d²)/(s·s_d)² · p(s) · Δs, p the log-normal density (mean −1.2, std 1.2 of ln s), s_d = 0.5.

    `kind` "published" is the published code's density, which multiplies (ln s − mean)² by std²/2 instead of dividing it by 2·std².
    """
    power = -((np.log(s) - LOG_MEAN) ** 2) / 2 * (LOG_STD**2 if kind == "published" else LOG_STD**-2)
    density = np.exp(power) / (s * LOG_STD * math.sqrt(2 * math.pi))
    return np.asarray((s**2 + S_DATA**2) / (s * S_DATA) ** 2 * density * step)


def plain_terms(lowest: float, highest: float, steps: int, kind: str) -> Terms:
    """Of the diffusion classifier: s_i evenly spaced on [lowest, highest], residual D(x + s_i·ε_i; s_i, y) − x."""
    s, step = np.linspace(lowest, highest, steps, retstep=True)
    one, zero = np.ones(steps), np.zeros(steps)
    return Terms(s, s, level_weights(s, float(step), kind), one, zero, one)


def exact_terms(s_tau: float, highest: float, steps: int, drop: int, kind: str) -> Terms:
    """Of EPNDC: pairs (s_i, s_{i+1}) of `steps` levels evenly spaced on [s_τ, highest], the first `drop` left out.

    With s₊ = s_{i+1}, x₊ = x_τ + √(s₊² − s_τ²)·ε, the residual μ_p − μ_q is
    (s₊² − s_i²)·[(D − x₊)/s₊² + (x₊ − x_τ)/(s₊² − s_τ²)], without cancellation.
    """
    s, step = np.linspace(s_tau, highest, steps, retstep=True)
    low, high = s[drop:-1], s[drop + 1 :]
    over, under, between = high**2 - s_tau**2, low**2 - s_tau**2, high**2 - low**2
    weights = level_weights(low, float(step), kind) * high**2 * over / (4 * (high - low) ** 2 * under)
    return Terms(high, np.sqrt(over), weights, between / high**2, between / np.sqrt(over), np.zeros(len(low)))


def default_drop(steps: int) -> int:
    """How many leading steps EPNDC leaves out: 5 of 126 as published, the same share of others, at least 1."""
    return max(1, round(PUBLISHED_DROP * steps / PUBLISHED_STEPS))


def lipschitz_constant(terms: Terms) -> float:
    """(1 + √(2/π))·Σ w_i/s_i, rounded up a little, for logits −Σ w_i·(…), in model units (Chen et al. 2024).

    Published is the mean of w_i/s_i, for logits that are means over the levels; sums on both sides give the same radius.
    """
    return (1 + math.sqrt(2 / math.pi)) * float(np.sum(terms.weights / terms.levels)) * (1 + 1e-12)
