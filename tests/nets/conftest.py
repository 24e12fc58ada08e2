"""The restated network, loaded by path."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """`plain_unet.py`."""
    pytest.importorskip("torch", reason="networks need torch")
    spec = importlib.util.spec_from_file_location("plain_unet", Path(__file__).with_name("plain_unet.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
