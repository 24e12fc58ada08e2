"""Methods: maps from noisy batches to labels. A new one is a class in a file of its own, and one line in `METHODS`."""

from __future__ import annotations

from .base import Denoised, Method, MethodOptions, PackedRows, Rows, Slot, option
from .dds import DenoisedSmoothing
from .diffsmooth import DiffSmooth
from .diffusion_classifier import Apndc, Dc, DiffusionClassifier, Epndc
from .rs import Plain

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Plain, DenoisedSmoothing, DiffSmooth, Dc, Epndc, Apndc)
}


def owners(name: str) -> list[str]:
    """The methods that have an option `name`, or that take an engine by it."""
    return [each for each, method in METHODS.items() if name in method.Options.names() or name in method.slots]


__all__ = [
    "METHODS",
    "Denoised",
    "DenoisedSmoothing",
    "DiffSmooth",
    "DiffusionClassifier",
    "Method",
    "MethodOptions",
    "PackedRows",
    "Plain",
    "Rows",
    "Slot",
    "option",
    "owners",
]
