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
PUBLISHED_DROP, PUBLISHED_STEPS, PUBLISHED_SIEVE = 5, 126, 50
WEIGHTS = ("paper", "published")


@dataclass(frozen=True)
class Terms:
    """The loss as a sum: w_i · mean(residual_i²), residual = a·(D(x + c·ε; s, y) − x_in) + b·ε + d·(x_in − reference).

    float64 [terms] each: `levels` s of the evaluation, `noise` c, `weights` w, and the residual's a, b, d. For dc and apndc
    a = d = 1 and b = 0: the residual is D − reference; for epndc it is that of `exact_terms`.
    The noises of its terms are numbered from `first_noise` on.
    """

    levels: Floats64
    noise: Floats64
    weights: Floats64
    a: Floats64
    b: Floats64
    d: Floats64
    first_noise: int = 0


def density(s: Floats64, kind: str) -> Floats64:
    """p(s), the log-normal density with mean −1.2 and std 1.2 of ln s.

    `kind` "published" is the published code's, which multiplies (ln s − mean)² by std²/2 instead of dividing it by 2·std².
    """
    power = -((np.log(s) - LOG_MEAN) ** 2) / 2 * (LOG_STD**2 if kind == "published" else LOG_STD**-2)
    return np.asarray(np.exp(power) / (s * LOG_STD * math.sqrt(2 * math.pi)))


def level_weights(s: Floats64, p: Floats64, step: float) -> Floats64:
    """(s² + s_d²)/(s·s_d)² · p · Δs, s_d = 0.5, of levels s with densities p."""
    return np.asarray((s**2 + S_DATA**2) / (s * S_DATA) ** 2 * p * step)


def plain_terms(lowest: float, highest: float, steps: int, kind: str) -> Terms:
    """Of the diffusion classifier: s_i evenly spaced on [lowest, highest], residual D(x + s_i·ε_i; s_i, y) − x.

    The published code leaves out the first and the last of them, and takes p at the level before the evaluated one.
    """
    s, step = np.linspace(lowest, highest, steps, retstep=True)
    levels, before = (s[1:-1], s[:-2]) if kind == "published" else (s, s)
    return _plain(levels, level_weights(levels, density(before, kind), float(step)))


def sift_terms(lowest: float, highest: float, steps: int) -> tuple[Terms, Terms]:
    """Of the published sift-and-refine: the sieve's 50 levels, then 126 with noises of their own, p at each level itself.

    Both are weighted with the Δs of the classifier's own list of `steps` levels, of which they use nothing else.
    """
    gap = (highest - lowest) / (steps - 1)
    terms, first = [], 0
    for count in (PUBLISHED_SIEVE, PUBLISHED_STEPS):
        s = np.linspace(lowest, highest, count)
        terms.append(_plain(s, level_weights(s, density(s, "published"), gap), first))
        first += count
    return terms[0], terms[1]


def _plain(s: Floats64, weights: Floats64, first_noise: int = 0) -> Terms:
    one, zero = np.ones(len(s)), np.zeros(len(s))
    return Terms(s, s, weights, one, zero, one, first_noise)


def exact_terms(s_tau: float, highest: float, steps: int, drop: int, kind: str) -> Terms:
    """Of EPNDC: pairs (s_i, s_{i+1}) of `steps` levels evenly spaced on [s_τ, highest], the first `drop` left out.

    With s₊ = s_{i+1}, x₊ = x_τ + √(s₊² − s_τ²)·ε, the residual μ_p − μ_q is
    (s₊² − s_i²)·[(D − x₊)/s₊² + (x₊ − x_τ)/(s₊² − s_τ²)], without cancellation. The published code leaves out the last pair.
    """
    s, step = np.linspace(s_tau, highest, steps, retstep=True)
    last = steps - 1 if kind == "published" else steps
    low, high = s[drop : last - 1], s[drop + 1 : last]
    over, under, between = high**2 - s_tau**2, low**2 - s_tau**2, high**2 - low**2
    weights = level_weights(low, density(low, kind), float(step)) * high**2 * over / (4 * (high - low) ** 2 * under)
    return Terms(high, np.sqrt(over), weights, between / high**2, between / np.sqrt(over), np.zeros(len(low)))


def default_drop(steps: int, kind: str) -> int:
    """How many leading steps EPNDC leaves out: 5 of 126, the same share of others, at least 1; the published code always 5."""
    return PUBLISHED_DROP if kind == "published" else max(1, round(PUBLISHED_DROP * steps / PUBLISHED_STEPS))


def lipschitz_constant(terms: Terms) -> float:
    """(1 + √(2/π))·Σ w_i/s_i, rounded up a little, for logits −Σ w_i·(…), in model units (Chen et al. 2024).

    Published is the mean of w_i/s_i, for logits that are means over the levels; sums on both sides give the same radius.
    """
    return (1 + math.sqrt(2 / math.pi)) * float(np.sum(terms.weights / terms.levels)) * (1 + 1e-12)
