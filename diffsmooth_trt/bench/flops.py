"""How many floating-point operations an ONNX graph takes: those of its products, a multiplication and an addition each."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
UNCOUNTED = (
    "Attention",
    "Einsum",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "LSTM",
    "GRU",
    "RNN",
)
SUBGRAPHS = ("If", "Loop", "Scan")


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The shape of every value that has one; a dimension that is not known is 0."""
    graph = model.graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    for node in graph.node:
        if node.op_type == "Constant":
            values = [list(each.t.dims) for each in node.attribute if each.name == "value"]
            shapes |= dict.fromkeys(node.output, *values) if values else {}
    return shapes


def operations(path: Path, rows: int) -> int | None:
    """Floating-point operations of the ONNX file at `path` for `rows` rows: twice the multiplications of its convolutions and
    matrix products, other nodes being small beside them. None where a node's products or a shape are not known."""
    model = onnx.load(path, load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in names:
            value.type.tensor_type.shape.dim[0].dim_value = rows
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return None
    shapes, total = _shapes(model), 0
    for node in model.graph.node:
        if node.op_type in (*UNCOUNTED, *SUBGRAPHS) or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in PRODUCTS:
            counted = _multiplications(node, shapes)
            if not counted:
                return None
            total += 2 * counted
    return total


def _multiplications(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """The multiplications of one product; 0 where a shape is not known."""
    first, second, out = (shapes.get(name, [0]) for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":  # weights [out, in/groups, …]
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weights [in, out/groups, …]
        return math.prod(first) * math.prod(second[1:])
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return math.prod(out) * (first[0] if transposed else first[-1])
