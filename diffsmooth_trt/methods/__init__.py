"""Methods: maps from noisy batches to labels (rs, dds, diffsmooth, and the diffusion classifiers dc, epndc, apndc)."""

from .base import Denoised, Method, PackedRows, Rows
from .dds import DenoisedSmoothing
from .diffsmooth import DiffSmooth
from .diffusion_classifier import DiffusionClassifier
from .rs import Plain

DIFFUSION_CLASSIFIERS = ("dc", "epndc", "apndc")
METHODS = ("rs", "dds", "diffsmooth", *DIFFUSION_CLASSIFIERS)

__all__ = [
    "DIFFUSION_CLASSIFIERS",
    "METHODS",
    "Denoised",
    "DenoisedSmoothing",
    "DiffSmooth",
    "DiffusionClassifier",
    "Method",
    "PackedRows",
    "Plain",
    "Rows",
]
