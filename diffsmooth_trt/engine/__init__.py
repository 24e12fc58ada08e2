"""Engines: files that run fixed-size batches on a device behind one interface."""

from .base import (
    BACKEND_NAMES,
    BACKENDS,
    CUDA_BACKENDS,
    ENGINE_SUFFIXES,
    PRECISIONS,
    Engine,
    choose_backend,
    fixed_batch,
    instruction_set,
    open_engine,
)
from .facts import METADATA_KEY, EngineFacts

__all__ = [
    "BACKENDS",
    "BACKEND_NAMES",
    "CUDA_BACKENDS",
    "ENGINE_SUFFIXES",
    "METADATA_KEY",
    "PRECISIONS",
    "Engine",
    "EngineFacts",
    "choose_backend",
    "fixed_batch",
    "instruction_set",
    "open_engine",
]
