"""Exports in tests are compared with their source on few images."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffsmooth_trt.device.nvidia import import_tensorrt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few multiply-adds for verification: test_precision.py has the tests of it."""
    if importlib.util.find_spec("torch") is None:
        return  # nothing is exported
    from diffsmooth_trt.exporting.checks import verification

    monkeypatch.setattr(verification, "BUDGET", 10**9)


@pytest.fixture(scope="session")
def traced_once() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """`with traced_once(graph):` exports of one network read the graph that the first one traced, and compare it as ever.

    Tracing is most of an export's time; test_export.py has that the same network gives the same graph.
    """
    from diffsmooth_trt.exporting.writers import onnx as writer

    @contextlib.contextmanager
    def reading(graph: Path) -> Iterator[None]:
        trace = writer.trace

        def read(*given: Any) -> Any:
            if not graph.exists():
                writer.ir.save(trace(*given), graph)
            return writer.ir.load(graph)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "trace", read)
            yield

    return reading


@pytest.fixture
def tensorrt_rtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """TensorRT for RTX: where `make test` puts it, else anywhere on the path."""
    own = ROOT / ".venv" / "rtx"
    if own.is_dir():
        monkeypatch.syspath_prepend(str(own))
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("no TensorRT for RTX: `make test` installs it where there is one for the platform")
    yield import_tensorrt("tensorrt-rtx")
    del sys.modules["tensorrt_rtx"]  # other tests of this process take the full library, or its stand-in
