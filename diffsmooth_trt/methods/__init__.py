"""Methods: maps from noisy batches to labels (rs, dds, diffsmooth)."""

from .base import Denoised, Method, Rows
from .dds import DenoisedSmoothing
from .diffsmooth import DiffSmooth
from .rs import Plain

METHODS = ("rs", "dds", "diffsmooth")

__all__ = ["METHODS", "Denoised", "DenoisedSmoothing", "DiffSmooth", "Method", "Plain", "Rows"]
