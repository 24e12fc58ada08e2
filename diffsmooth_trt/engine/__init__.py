"""Engines: files that run fixed-size batches on a device behind one interface."""

from .base import Engine, instruction_set
from .facts import METADATA_KEY, EngineFacts
from .opening import (
    BACKEND_NAMES,
    BACKENDS,
    CUDA_BACKENDS,
    ENGINE_SUFFIXES,
    PRECISIONS,
    choose_backend,
    fixed_batch,
    open_engine,
)

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
