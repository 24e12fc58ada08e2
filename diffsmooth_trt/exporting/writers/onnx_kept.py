"""What operators that stay in fp32 take, as the tools that convert graphs to half precision do not leave it: in fp32.

onnxconverter-common stores the constants of such an operator in half precision and casts them back, and leaves a cast to half
precision and one back between two of them where a value has several takers. Either rounds, and is wrong beyond 65504.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def constants_of(graph: onnx.GraphProto, kept: Iterable[str]) -> dict[str, onnx.TensorProto]:
    """Copies of the float32 constants that the operators `kept` take, by name."""
    names = set(kept)
    taken = {name for node in graph.node if node.name in names for name in node.input}
    copies = {}
    for tensor in graph.initializer:
        if tensor.name in taken and tensor.data_type == TensorProto.FLOAT:
            copies[tensor.name] = onnx.TensorProto()
            copies[tensor.name].CopyFrom(tensor)
    return copies


def rejoin(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Give operators in fp32 their `constants` and one another's values as they are, in place."""
    casts = [node for node in graph.node if node.op_type == "Cast"]
    to = {node.output[0]: next(a.i for a in node.attribute if a.name == "to") for node in casts}
    halved = {node.output[0]: node.input[0] for node in casts if to[node.output[0]] in _HALF}
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type in _HALF}
    instead: dict[str, str] = {}
    for node in casts:
        given, made = node.input[0], node.output[0]
        if to[made] != TensorProto.FLOAT:
            continue
        if given in constants and given in halves:
            instead[made] = f"{given}_fp32"
        elif given in halved and _type_of(graph, halved[given]) == TensorProto.FLOAT:
            instead[made] = halved[given]
    outputs = {value.name for value in graph.output}
    instead = {made: given for made, given in instead.items() if made not in outputs}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
    for name, tensor in constants.items():
        if f"{name}_fp32" in instead.values():
            stored = graph.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = f"{name}_fp32"
    _drop_unused(graph, {*instead, *instead.values(), *halved, *constants})


def _type_of(graph: onnx.GraphProto, name: str) -> int:
    """The element type of a value that the graph says it of; 0 of others."""
    values = (*graph.input, *graph.value_info)
    return next((value.type.tensor_type.elem_type for value in values if value.name == name), 0)


def _drop_unused(graph: onnx.GraphProto, among: set[str]) -> None:
    """Remove casts, constants and descriptions of `among` that nothing takes any more."""
    taken = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    gone = {node.output[0] for node in graph.node if node.op_type == "Cast"} & among - taken
    gone |= {tensor.name for tensor in graph.initializer} & among - taken
    for nodes in (graph.node, graph.initializer, graph.value_info):
        for each in [each for each in nodes if (each.output[0] if nodes is graph.node else each.name) in gone]:
            nodes.remove(each)
