"""A pytest plugin: `--launched=FILE` writes the names of the GPU kernels that tests launch; arrays are allocations of their own.

From CuPy's pool an array is a part of a larger allocation, and a checker does not see where it ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NAMES: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--launched", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    import cupy

    cupy.cuda.set_allocator(None)
    plain = cupy.RawModule

    class Recorded:
        """cupy.RawModule, which takes no attributes of others; notes the kernels that are asked for."""

        def __init__(self, *given: Any, **named: Any) -> None:
            self.module = plain(*given, **named)

        def get_function(self, name: str) -> Any:
            NAMES.add(name)
            return self.module.get_function(name)

    cupy.RawModule = Recorded


def pytest_unconfigure(config: pytest.Config) -> None:
    path = config.getoption("--launched")
    if path is not None:
        path.write_text("\n".join(sorted(NAMES)) + "\n")
