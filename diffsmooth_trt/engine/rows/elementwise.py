"""Operators that compute each element from the elements at its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx

from .folding import FOLDS, cast, fold, usable
from .nodes import MICROSOFT, Node, rule
from .values import LIMIT, Refused, Value, aligned, axis_of, broadcast_shape, free, only_free, same_everywhere

UNARY = (
    *(
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitwiseNot",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
    ),
    *(
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
    ),
    *(
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
    ),
    *("Tan", "Tanh", "ThresholdedRelu"),
)
SEVERAL = (
    *(
        "Add",
        "And",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
    ),
    *("LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)


def with_value(node: Node, result: Value) -> Value:
    """`result` with its elements, where those of all inputs are known and few."""
    values = [each.value for each in node.present()]
    if result.rows is not None or result.size > LIMIT or node.op not in FOLDS:
        return result
    if any(each is None or not usable(each) for each in values) or (node.attributes and node.op != "Mod"):
        return result
    data = fold(node.op, [each for each in values if each is not None])
    return result if data is None or data.shape != result.shape else replace(result, value=data)


@rule(*UNARY)
@rule("Gelu", "FastGelu", "QuickGelu", "BiasGelu", domain=MICROSOFT)
def unary(node: Node) -> Sequence[Value]:
    """One input, or with it a bias (com.microsoft)."""
    if len(node.present()) > 1:
        return [aligned(node.present())]
    x = node[0]
    if x.rows is None:
        return [with_value(node, replace(x, value=None))]
    return [x]


@rule(*SEVERAL)
def several(node: Node) -> Sequence[Value]:
    """Several inputs, broadcast to one shape."""
    if node.version < 7:
        raise Refused("is of an operator set before 7")
    result = aligned(node.present())
    if node.op == "PRelu" and result.shape != node[0].shape:
        raise Refused("has a slope larger than its input")
    if node.op == "PRelu" and result.rows is not None and result.rows.axis and node[1].size > 1:
        raise Refused("has a slope for each place of an axis, which libraries take for different ones")
    return [with_value(node, result)]


@rule("Clip")
def clip(node: Node) -> Sequence[Value]:
    """Limits are constants of one element."""
    for limit in node.present()[1:]:
        only_free(limit, "limits")
        if limit.size != 1:
            raise Refused("has limits of several elements")
    return [replace(node[0], value=None)]


@rule("Cast", "CastLike")
def cast_to(node: Node) -> Sequence[Value]:
    """Another type of the same elements."""
    x, data = node[0], node[0].value
    if x.rows is not None or data is None or node.op == "CastLike":
        return [replace(x, value=None)]
    try:
        kind: Any = onnx.helper.tensor_dtype_to_np_dtype(node.integer("to", 0))
    except (KeyError, ValueError, TypeError):
        raise Refused("casts to an unknown type") from None
    return [replace(x, value=cast(data, kind) if usable(data) else None)]


@rule("Dropout")
def dropout(node: Node) -> Sequence[Value]:
    """Nothing at inference; random where it is told that it trains."""
    mode = node.get(2)
    if mode is not None and (mode.value is None or mode.value.size != 1 or bool(mode.value.reshape(-1)[0])):
        raise Refused("draws random numbers (Training mode is not off)")
    x = node[0]
    mask = replace(x, value=None, load=None)
    return [x, mask][: len(node.outputs)]


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def quantise(node: Node) -> Sequence[Value]:
    """Static scales: one, one for every place of an axis, or one for every block of it."""
    x, axis = node[0], node.integer("axis", 1)
    for parameter in node.present()[1:]:
        only_free(parameter, "scale")
        if parameter.size == 1:
            continue
        place = axis_of(axis, x.rank)
        if parameter.rank == 1:
            if parameter.shape[0] != x.shape[place]:
                raise Refused("has as many scales as fit no axis")
            if x.rows is not None and x.rows.axis == place:
                same_everywhere(parameter, 0, x.rows.count)
        elif x.rows is not None or parameter.rank != x.rank:
            raise Refused("has scales for blocks of what depends on the images")
    return [replace(x, value=None) if x.rows is not None else free(x.shape)]


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantised_several(node: Node) -> Sequence[Value]:
    """Static scales of one element around an addition or multiplication."""
    for place in (1, 2, 4, 5, 6, 7):
        _one(node.get(place))
    return [aligned([node[0], node[3]])]


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def quantised_unary(node: Node) -> Sequence[Value]:
    """Static scales of one element around a function."""
    for parameter in node.inputs[1:]:
        _one(parameter)
    return [replace(node[0], value=None)]


def _one(parameter: Value | None) -> None:
    only_free(parameter, "scale")
    if parameter is not None and parameter.size != 1:
        raise Refused("has several scales")


def as_shape_of(x: Value, *others: Value) -> None:
    """Refused unless `others` broadcast to the shape of `x`."""
    if broadcast_shape([x.shape, *(other.shape for other in others)]) != x.shape:
        raise Refused("combines its input with something larger")
