"""Modules import one another in one direction: there is no circle, not even inside functions or for types alone."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "diffsmooth_trt"


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(name: str) -> set[str]:
    """The package's modules that a module imports; of a package its `__init__`, which importing anything in it runs anyway."""
    path, found = MODULES[name], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        base = ".".join([*above[: len(above) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found.add(inner if inner in MODULES else base)
    return found - {name, "diffsmooth_trt"}  # the root: its compiled module and its version


def test_no_circle() -> None:
    graph = {name: imported(name) for name in MODULES}
    assert sum(map(len, graph.values())) > 500
    assert set().union(*graph.values()) <= set(MODULES)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle
