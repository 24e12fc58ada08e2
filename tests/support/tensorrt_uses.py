"""What source code takes of TensorRT, held to what bindings offer (the JSON of tensorrt_bindings.py).

The module goes by the name `trt`. Types follow from annotations, constructors, and the return types in the bindings' own
docstrings; then every attribute, enumeration member, method, number of arguments, keyword and assignment is looked up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MODULE = "trt"
ALIASES = {"IParserError": "ParserError"}  # C++ names in docstrings


@dataclass(frozen=True)
class Is:
    """The type of an expression: instances of any of `classes`, a list of such, a class itself, or a bound method."""

    kind: str  # "instance", "list", "class", "module", "method", "function"
    classes: tuple[str, ...] = ()
    name: str = ""


def _split(text: str) -> list[str]:
    """Parameters at the top level of a signature."""
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return [*parts, part.strip()] if part.strip() else parts


def parameters(signature: str) -> list[tuple[str, bool]]:
    """The parameters of a signature line after `self`: name, and whether a value is required."""
    inner = signature.partition("(")[2].rpartition(") -> ")[0]
    found = [(part.partition(":")[0].strip(), " = " not in part) for part in _split(inner)]
    return [(name, needed) for name, needed in found if name != "self"]


def fits(signature: str, call: ast.Call) -> str | None:
    """Why `call` does not fit a signature line; None where it does."""
    expected = parameters(signature)
    if any(name.startswith("*") for name, _ in expected) or any(isinstance(a, ast.Starred) for a in call.args):
        return None
    names = [name for name, _ in expected]
    given = [*names[: len(call.args)], *(word.arg for word in call.keywords if word.arg)]
    if len(call.args) > len(names):
        return f"takes {len(names)} arguments, {len(call.args)} are given"
    if unknown := [name for name in given if name not in names]:
        return f"has no keyword {unknown[0]}"
    if missing := [name for name, needed in expected if needed and name not in given]:
        return f"needs {missing[0]}"
    return None


@dataclass
class Checker(ast.NodeVisitor):
    """Walks one file twice: types of `self.…` first, then every use."""

    api: dict[str, Any]
    problems: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    env: dict[str, Is] = field(default_factory=dict)

    def check(self, source: str) -> None:
        tree = ast.parse(source)
        for _ in range(2):
            self.problems.clear()
            self.uses.clear()
            self.visit(tree)

    def _class(self, path: str) -> dict[str, Any] | None:
        first, *rest = path.split(".")
        found: dict[str, Any] | None = self.api["classes"].get(first)
        for name in rest:
            found = found["classes"].get(name) if found else None
        return found

    def _named(self, text: str) -> Is | None:
        """A type as docstrings write it."""
        if inner := re.fullmatch(r"(?:collections\.abc\.Sequence|list|List)\[(.+)\]", text):
            element = self._named(inner[1])
            return Is("list", element.classes) if element else None
        for module in ("tensorrt_bindings.tensorrt.", "tensorrt_rtx_bindings.tensorrt_rtx."):
            text = text.replace(module, "")
        name = text.rpartition("::")[2].replace(" | None", "")
        name = ALIASES.get(name, name)
        return Is("instance", (name,)) if self._class(name) else None

    def _annotated(self, node: ast.expr | None) -> Is | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.BinOp):
            sides = [side for side in (self._annotated(node.left), self._annotated(node.right)) if side]
            return Is("instance", tuple(name for side in sides for name in side.classes)) if sides else None
        if isinstance(node, ast.Subscript):
            element = self._annotated(node.slice)
            return Is("list", element.classes) if element else None
        found = self.infer(node) if isinstance(node, ast.Attribute) else None
        return Is("instance", found.classes) if found and found.kind == "class" else None

    def _line(self, node: ast.AST) -> str:
        return f"line {getattr(node, 'lineno', 0)}: "

    def infer(self, node: ast.expr | None) -> Is | None:
        """The type of an expression as far as it is TensorRT's; notes what of it does not exist."""
        if isinstance(node, ast.Name):
            return Is("module") if node.id == MODULE else self.env.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Subscript):
            whole = self.infer(node.value)
            return Is("instance", whole.classes) if whole and whole.kind == "list" else None
        return None

    def _attribute(self, node: ast.Attribute) -> Is | None:
        if node.attr == MODULE:
            return Is("module")
        base = self.infer(node.value)
        if base is None:
            return self.env.get(ast.unparse(node))
        if base.kind == "module":
            self.uses.add(node.attr)
            if self._class(node.attr):
                return Is("class", (node.attr,))
            if node.attr in self.api["functions"]:
                return Is("function", (), node.attr)
            if not node.attr.startswith("__"):
                self.problems.add(f"{self._line(node)}trt.{node.attr} does not exist")
            return None
        paths = base.classes if base.kind in ("instance", "class") else ()
        found = [member for path in paths if (member := self._member(path, base.kind, node))]
        return (
            Is(found[0].kind, tuple(path for each in found for path in each.classes), found[0].name) if found else None
        )

    def _member(self, path: str, kind: str, node: ast.Attribute) -> Is | None:
        known, name = self._class(path), node.attr
        if known is None or (name.startswith("__") and name != "__init__"):
            return None
        self.uses.add(f"{path}.{name}")
        if name in known["classes"]:
            return Is("class", (f"{path}.{name}",))
        if name in known["members"]:
            return Is("instance", (path,))
        if name in known["methods"]:
            return Is("method" if kind == "instance" else "function", (path,), name)
        if name in known["properties"]:
            return self._named(known["properties"][name]["type"])
        self.problems.add(f"{self._line(node)}{path}.{name} does not exist")
        return None

    def _call(self, node: ast.Call) -> Is | None:
        called = self.infer(node.func)
        if called is None or called.kind not in ("class", "method", "function"):
            return None
        if called.kind == "class":
            known = self._class(called.classes[0])
            self._fit(f"{called.classes[0]}()", (known or {"methods": {}})["methods"].get("__init__", []), node)
            return Is("instance", called.classes)
        if called.kind == "function":
            return None  # of the module, or a class's method with an explicit self
        result: Is | None = None
        for path in called.classes:
            offered = (self._class(path) or {"methods": {}})["methods"].get(called.name, [])
            self._fit(f"{path}.{called.name}", offered, node)
            result = self._named(offered[0].rpartition(" -> ")[2]) if offered else None
        return result

    def _fit(self, name: str, offered: list[str], node: ast.Call) -> None:
        self.uses.update(f"{name}({word.arg}=)" for word in node.keywords if word.arg)
        reasons = [fits(signature, node) for signature in offered]
        if reasons and None not in reasons:
            self.problems.add(f"{self._line(node)}{name} {reasons[0]}")

    def _bind(self, target: ast.expr, found: Is | None) -> None:
        if isinstance(target, ast.Attribute):
            owner = self.infer(target.value)
            for path in owner.classes if owner and owner.kind == "instance" else ():
                known = self._class(path)
                self.uses.add(f"{path}.{target.attr} =")
                if known and not known["properties"].get(target.attr, {}).get("settable"):
                    self.problems.add(f"{self._line(target)}{path}.{target.attr} cannot be set")
        if found is not None and isinstance(target, ast.Name | ast.Attribute):
            self.env[ast.unparse(target)] = found

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for each, value in zip(target.elts, node.value.elts, strict=False):
                    self._bind(each, self.infer(value))
            else:
                self._bind(target, self.infer(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._bind(node.target, self._annotated(node.annotation) or self.infer(node.value))
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        if found := self._annotated(node.annotation):
            self.env[node.arg] = found

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [found for base in node.bases if (found := self.infer(base)) and found.kind == "class"]
        if bases:
            self.env[node.name] = Is("instance", bases[0].classes)  # its own constructor is not TensorRT's
        self.generic_visit(node)

    def _over(self, generators: Iterator[tuple[ast.expr, ast.expr]]) -> None:
        for target, iterated in generators:
            whole = self.infer(iterated)
            if isinstance(target, ast.Name) and whole and whole.kind == "list":
                self.env[target.id] = Is("instance", whole.classes)

    def visit_For(self, node: ast.For) -> None:
        self._over(iter([(node.target, node.iter)]))
        self.generic_visit(node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self._over((part.target, part.iter) for part in node.generators)
        self.generic_visit(node)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.infer(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.infer(node)
        self.generic_visit(node)
