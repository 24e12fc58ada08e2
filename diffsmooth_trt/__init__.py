"""diffsmooth-trt: certified robustness of image classifiers by diffusion-denoised randomized smoothing."""

from __future__ import annotations

from importlib.metadata import version as _version

from .api import certify, predict, verify
from .engine import Engine, EngineFacts, open_engine
from .errors import AuditError, DiffsmoothError, EngineError, InputError, Stopped, StoreError
from .images import Image, Images, open_images
from .runs.config import RunConfig
from .runs.merge import merge
from .runs.status import Status, status
from .runs.store import Result, RunStore, open_run
from .runs.verify import Verification
from .smoothed import Certificates, SmoothedClassifier

__version__ = _version("diffsmooth-trt")

__all__ = [
    "AuditError",
    "Certificates",
    "DiffsmoothError",
    "Engine",
    "EngineError",
    "EngineFacts",
    "Image",
    "Images",
    "InputError",
    "Result",
    "RunConfig",
    "RunStore",
    "SmoothedClassifier",
    "Status",
    "Stopped",
    "StoreError",
    "Verification",
    "__version__",
    "certify",
    "merge",
    "open_engine",
    "open_images",
    "open_run",
    "predict",
    "status",
    "verify",
]
