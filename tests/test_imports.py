"""The house: modules import one another downwards only, functions are short, and whatever travels has one owner."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "diffsmooth_trt"
# The rooms from the ground up: a module imports those of its own floor and below.
FLOORS = (
    ("errors", "files", "locks", "ranges", "dtypes", "scaling", "stages"),
    ("grid", "statistics", "noise", "schedule", "prediction"),
    ("datasets",),
    ("images", "arrays"),
    ("device",),
    ("nets",),
    ("engine",),
    ("methods",),
    ("zoo",),
    ("certify",),
    ("runs",),
    ("report",),
    ("distributed",),
    ("smoothed", "api", "ood", "doctor", "exporting", "bench", "predictor", "transfer", "attack"),
    ("reproduce",),
    ("cli",),
)
LONGEST, MOST_BY_POSITION = 60, 6
# What the networks' constructors and the noise's functions are, which the house does not rewrite.
LONG = {"SongUNet.__init__", "UNet.__init__"}
MANY = {"grid_noise", "noisy_images", "add_noise"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """The package's modules that a module imports; of a package its `__init__`, which importing anything in it runs anyway."""
    path, found = MODULES[name], set()
    for node in ast.walk(parsed(name)):
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


def test_no_import_upwards() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {name: name.split(".")[1] for name in MODULES if name != "diffsmooth_trt"}
    assert set(rooms.values()) == set(floor)
    upwards = [
        f"{name} imports {other}"
        for name, room in rooms.items()
        for other in imported(name)
        if floor[rooms[other]] > floor[room]
    ]
    assert not upwards


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        name = f"{owner}{getattr(node, 'name', '')}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, node
        yield from functions(node, f"{name}." if isinstance(node, ast.ClassDef) else owner)


def test_functions_are_short_and_take_few_arguments_by_position() -> None:
    """The length is that of the code: a docstring that says all arguments of the API is no burden."""
    for module in MODULES:
        for name, node in functions(parsed(module)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = 0 if not body else (node.end_lineno or 0) - body[0].lineno + 1
            assert lines <= LONGEST or name in LONG, (module, name, lines)
            taken = [each.arg for each in (*node.args.posonlyargs, *node.args.args) if each.arg not in ("self", "cls")]
            assert len(taken) <= MOST_BY_POSITION or name in MANY, (module, name, taken)


def test_a_description_is_read_by_its_record_alone() -> None:
    """`meta`, the JSON values that a run says of itself, has one owner for each kind of run, and the store that holds them."""
    for name, path in MODULES.items():
        found = re.findall(r"\bmeta(?:\[|\.get\()", path.read_text(encoding="utf-8"))
        assert (
            not found or name.endswith(("runs.record", "runs.file", "ood.record", "ood.store")) or "exporting" in name
        ), name


def test_nobody_asks_for_a_method_by_its_class() -> None:
    methods = "Plain|Denoised|DenoisedSmoothing|DiffSmooth|DiffusionClassifier|Dc|Epndc|Apndc"
    for name, path in MODULES.items():
        if ".methods" not in name:
            text = path.read_text(encoding="utf-8")
            assert not re.search(rf"isinstance\([^()]*\b({methods})\b", text), name
