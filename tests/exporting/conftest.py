"""Exports in tests are compared with their source on few images."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few multiply-adds for verification: test_precision.py has the tests of it."""
    if importlib.util.find_spec("torch") is None:
        return  # nothing is exported
    from diffsmooth_trt.exporting.checks import verification

    monkeypatch.setattr(verification, "BUDGET", 10**9)
