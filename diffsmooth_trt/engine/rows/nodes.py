"""One node as its rule sees it: inputs by place, attributes by name, the operator's version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from .values import Refused, Value

Rule = Callable[["Node"], Sequence[Value]]
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Node:
    """An operator `op` of `domain` at `version` (of the operator set) with the values of its inputs, None for those left out.

    `attributes` hold those that the node gives, as Python values (graphs and tensors as they are). `outputs` says which
    outputs are used. `batch` is the number of rows.
    """

    op: str
    domain: str
    version: int
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    outputs: Sequence[bool]
    batch: int

    def __getitem__(self, place: int) -> Value:
        value = self.get(place)
        if value is None:
            raise Refused(f"lacks its input {place}")
        return value

    def get(self, place: int) -> Value | None:
        """The input at `place`, None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def present(self) -> list[Value]:
        """All inputs that are there."""
        return [value for value in self.inputs if value is not None]

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        if type(value) is not int:
            raise Refused(f"has an attribute {name} that is no integer")
        return value

    def integers(self, name: str) -> list[int] | None:
        """An attribute of integers, None where it is left out."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(each) is int for each in value):
            raise Refused(f"has an attribute {name} that is no list of integers")
        return value

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def one_output(self) -> None:
        """Refused where more than the first output is used."""
        if sum(self.outputs) > 1 or not self.outputs[0]:
            raise Refused("gives more outputs than are followed")


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute's Python value; tensors and graphs stay messages, so that no weight is copied."""
    value = onnx.helper.get_attribute_value(attribute)
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


RULES: dict[tuple[str, str], Rule] = {}


def rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Make a function the rule of the operators `names`."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[domain, name] = function
        return function

    return register
