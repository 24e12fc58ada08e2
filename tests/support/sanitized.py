"""A pytest plugin: the compiled module is the one of `make sanitize`, which stops at the first wrong access to memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

(PATH,) = Path("build/sanitized").rglob("_core*.so")
spec = importlib.util.spec_from_file_location("diffsmooth_trt._core", PATH)
assert spec is not None and spec.loader is not None
sys.modules["diffsmooth_trt._core"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["diffsmooth_trt._core"])
