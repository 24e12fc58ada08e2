"""Noise as a pure function of (key, phase, image, sample, coordinate): the grid Gaussian, in integers.

`law` has the distribution and its bound on total variation, `reference` the NumPy form anyone can audit with,
`cpu` the C++ one, `selftest` the comparison of the two that runs begin with. What is left to assume is that
XChaCha20's output cannot be told from random bits: a standard assumption.
"""

from __future__ import annotations

from .counters import (
    DIFFUSION_CLASSIFIER,
    ESTIMATION,
    FIXED_DIFFUSION_CLASSIFIER,
    FIXED_LOCAL,
    LOCAL,
    NOISE_VERSION,
    OOD,
    PREDICTION,
    SELECTION,
    Key,
    seed_key,
)
from .law import SIGMA_MAX, SIGMA_MIN, GridLaw, check_noise_level, grid_law

__all__ = [
    "DIFFUSION_CLASSIFIER",
    "ESTIMATION",
    "FIXED_DIFFUSION_CLASSIFIER",
    "FIXED_LOCAL",
    "LOCAL",
    "NOISE_VERSION",
    "OOD",
    "PREDICTION",
    "SELECTION",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "GridLaw",
    "Key",
    "check_noise_level",
    "grid_law",
    "seed_key",
]
