"""What TensorRT's builder says of its layers: which products run in which type. Without a GPU there is no other proof."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from .onnx_half import MULTIPLYING

POINTWISE = frozenset({"kgen", "signal", "wait"})  # kernels that compute elements and sums, and the order of streams
TYPE = re.compile(r"Datatype: (\w+)")
PRECISION = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8", "FP8": "fp8"}


@dataclass(frozen=True)
class Layer:
    """One fused layer: its kind ("correlation", "gemm", "kgen", …), the types that go in, of constants, and out, its ONNX nodes."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: frozenset[str]

    @property
    def multiplies_in(self) -> str:
        """The precision of what it multiplies: of its first input and, where its weights are constants, of these."""
        kinds = {*self.inputs[:1], *(self.constants[:1] if self.kind == "correlation" else ())}
        return "+".join(sorted(PRECISION.get(kind, kind) for kind in kinds))


def layer_of(line: str) -> Layer:
    """The layer that one line of the builder's listing describes."""
    head, _, rest = line.partition("Inputs: ")
    inputs, _, rest = rest.partition("Constants: ")
    constants, _, rest = rest.partition("Outputs: ")
    outputs, _, tail = rest.partition("TacticName: ")
    name, kind = re.findall(r"(?:Name|LayerType): ([^,]+)", head)[:2]
    types = [tuple(TYPE.findall(part)) for part in (inputs, constants, outputs)]
    return Layer(name, kind, types[0], types[1], types[2], frozenset(re.findall(r"ONNX Layer: ([^\]]+)\]", tail)))


def products(lines: Iterable[str], graph: onnx.GraphProto) -> dict[str, str]:
    """The precision that each multiplication of `graph` runs in, by its node's name, as the builder's `lines` have it.

    A node that no layer of products names is missing; one that several make has their precisions, joined by "+".
    """
    multiplying = {node.name for node in graph.node if node.op_type in MULTIPLYING}
    precisions: dict[str, set[str]] = {}
    for layer in map(layer_of, lines):
        if layer.kind not in POINTWISE:
            for node in layer.nodes & multiplying:
                precisions.setdefault(node, set()).add(layer.multiplies_in)
    return {node: "+".join(sorted(kinds)) for node, kinds in precisions.items()}
