"""The DiffSmooth predictor (Zhang et al. 2023): a soft vote over denoised and locally smoothed draws. It certifies nothing."""

from __future__ import annotations

from .options import PredictorOptions
from .soft_vote import DiffSmoothPredictor, published_log_probabilities

__all__ = ["DiffSmoothPredictor", "PredictorOptions", "published_log_probabilities"]
