"""Operators whose results are known before a run: shapes, stored tensors, ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from .folding import usable
from .nodes import Node, rule
from .values import (
    LIMIT,
    Data,
    Refused,
    Value,
    constant,
    free,
    integers,
    known,
)

FEW = 64  # stored numbers that are no integers and read at once: scales of sizes


@rule("Shape")
def shape_of(node: Node) -> Sequence[Value]:
    """Known for every tensor."""
    shape = list(node[0].shape)
    start, end = node.integer("start", 0), node.integer("end", len(shape))
    limits = [min(max(place + len(shape) if place < 0 else place, 0), len(shape)) for place in (start, end)]
    return [constant(np.array(shape[limits[0] : limits[1]], np.int64))]


@rule("Size")
def size_of(node: Node) -> Sequence[Value]:
    """Known for every tensor."""
    return [constant(np.array(node[0].size, np.int64))]


@rule("Constant")
def constant_node(node: Node) -> Sequence[Value]:
    """A stored tensor, list or number."""
    if len(node.attributes) != 1:
        raise Refused("has several values")
    ((name, data),) = node.attributes.items()
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if name == "value":
        return [stored(data)]
    if name not in kinds:
        raise Refused(f"holds a {name}")
    return [constant(np.array(data, kinds[name]))]


def stored(tensor: onnx.TensorProto, folder: str = "") -> Value:
    """A stored tensor: its elements where they are few, else its shape and a way to read it."""
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise Refused(f"has an impossible shape {list(shape)}")

    def load() -> Data:
        read = tensor
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            read = onnx.TensorProto()  # what is read from its file does not stay in the model
            read.CopyFrom(tensor)
        try:
            data: Data = onnx.numpy_helper.to_array(read, folder)
        except (ValueError, TypeError, KeyError, OSError, onnx.checker.ValidationError) as error:
            raise Refused(f"cannot be read ({' '.join(str(error).split())[:80]})") from None
        return data

    result = free(shape, None, load)
    whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    if result.size > (LIMIT if whole else FEW) or tensor.data_type == onnx.TensorProto.STRING:
        return result
    data = load()
    return replace(result, value=data) if usable(data) and data.shape == shape else result


@rule("ConstantOfShape")
def constant_of_shape(node: Node) -> Sequence[Value]:
    """One value everywhere."""
    shape = integers(node[0], "shape")
    if min(shape, default=0) < 0:
        raise Refused(f"has an impossible shape {shape}")
    result = free(shape, [1] * len(shape))
    tensor = node.attributes.get("value")
    data = np.zeros(1, np.float32) if tensor is None else stored(tensor).value
    if data is None or result.size > LIMIT:
        return [result]
    return [replace(result, value=np.full(shape, data.reshape(-1)[0], data.dtype))]


@rule("Range")
def count(node: Node) -> Sequence[Value]:
    """Numbers from start to limit."""
    parts = [known(node[place], "range").reshape(-1) for place in range(3)]
    ends = [float(part[0]) if len(part) == 1 and part.dtype.kind in "if" else 0.5 for part in parts]
    if not all(end.is_integer() and abs(end) < 1 << 24 for end in ends) or not ends[2]:
        raise Refused("has a range that is not of whole numbers")
    places = range(*(int(end) for end in ends))
    return [constant(np.array(places, parts[0].dtype)) if len(places) <= LIMIT else free((len(places),))]


@rule("EyeLike")
def eye(node: Node) -> Sequence[Value]:
    """Ones on a diagonal, whatever the input holds."""
    return [free(node[0].shape)]


@rule("NonZero")
def non_zero(node: Node) -> Sequence[Value]:
    """Of known elements alone: how many there are decides a shape."""
    return [constant(np.array(np.nonzero(known(node[0], "number of elements to find")), np.int64))]
