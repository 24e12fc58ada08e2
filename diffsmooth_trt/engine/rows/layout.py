"""Operators that move elements: the axis of the batch is followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from .folding import usable
from .nodes import Node, rule
from .values import (
    LIMIT,
    Data,
    Parts,
    Refused,
    Rows,
    Value,
    aligned,
    axis_of,
    batched,
    broadcast_shape,
    constant,
    free,
    integers,
    known,
    matched,
    only_free,
    reshaped,
)

FEW = 64  # stored numbers that are no integers and read at once: scales of sizes


def _kept(x: Value, result: Value, data: Data | None) -> Value:
    """`result` with `data`, the moved elements of `x`, where they are few."""
    return result if x.value is None or data is None or result.size > LIMIT else replace(result, value=data)


def _reshaped(x: Value, shape: Sequence[int]) -> Value:
    result = reshaped(x, tuple(shape))
    return _kept(x, result, None if x.value is None else x.value.reshape(result.shape))


def _axes(node: Node, since: int, place: int = 1) -> list[int] | None:
    """The axes of a node: an attribute before version `since`, an input from then on; None where there are none."""
    if node.version < since:
        return node.integers("axes")
    given = node.get(place)
    return None if given is None else integers(given, "list of axes")


@rule("Reshape")
def reshape(node: Node) -> Sequence[Value]:
    """The sizes are known; 0 keeps one, −1 is what is left."""
    x, sizes = node[0], integers(node[1], "shape")
    if not node.integer("allowzero", 0):
        if any(size == 0 and place >= x.rank for place, size in enumerate(sizes)):
            raise Refused("keeps a size that its input has not")
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1:
        raise Refused(f"has an impossible shape {sizes}")
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        if rest < 1 or x.size % rest:
            raise Refused(f"makes {sizes} of {list(x.shape)}")
        sizes[sizes.index(-1)] = x.size // rest
    return [_reshaped(x, sizes)]


@rule("Flatten")
def flatten(node: Node) -> Sequence[Value]:
    """Two axes."""
    x, axis = node[0], node.integer("axis", 1)
    axis = axis if axis == node[0].rank else axis_of(axis, x.rank)
    return [_reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))]


@rule("Squeeze")
def squeeze(node: Node) -> Sequence[Value]:
    """Without axes of length 1."""
    x, given = node[0], _axes(node, 13)
    axes = {a for a, size in enumerate(x.shape) if size == 1} if given is None else {axis_of(a, x.rank) for a in given}
    if any(x.shape[axis] != 1 for axis in axes):
        raise Refused("squeezes an axis that is longer than 1")
    return [_reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in axes])]


@rule("Unsqueeze")
def unsqueeze(node: Node) -> Sequence[Value]:
    """With more axes of length 1."""
    x, given = node[0], _axes(node, 13) or []
    rank = x.rank + len(given)
    axes = {axis_of(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise Refused("names an axis twice")
    sizes = iter(x.shape)
    return [_reshaped(x, [1 if axis in axes else next(sizes) for axis in range(rank)])]


@rule("Transpose")
def transpose(node: Node) -> Sequence[Value]:
    """Axes in another order."""
    x = node[0]
    order = node.integers("perm") or list(range(x.rank))[::-1]
    if sorted(order) != list(range(x.rank)):
        raise Refused(f"has an impossible order of axes {order}")
    shape = [x.shape[axis] for axis in order]
    if x.rows is not None:
        return [batched(shape, x.rows.at(order.index(x.rows.axis)))]
    result = free(shape, [x.period[axis] for axis in order])
    return [_kept(x, result, None if x.value is None else np.transpose(x.value, order))]


def _ranges(node: Node, rank: int) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a Slice."""
    if node.version < 10:
        starts, ends, axes = node.integers("starts"), node.integers("ends"), node.integers("axes")
        steps = None
    else:
        starts, ends = integers(node[1], "start"), integers(node[2], "end")
        axes = None if node.get(3) is None else integers(node[3], "list of axes")
        steps = None if node.get(4) is None else integers(node[4], "step")
    if starts is None or ends is None:
        raise Refused("has no start or end")
    axes = [axis_of(axis, rank) for axis in (range(len(starts)) if axes is None else axes)]
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or len(set(axes)) != len(axes) or 0 in steps:
        raise Refused("has starts, ends, axes and steps that do not fit")
    return list(zip(axes, starts, ends, steps, strict=True))


@rule("Slice")
def cut(node: Node) -> Sequence[Value]:
    """A part of the axes that are not the batch's."""
    x, place = node[0], [slice(None)] * node[0].rank
    for axis, start, end, step in _ranges(node, x.rank):
        size = x.shape[axis]
        first = start + size if start < 0 else start
        last = end + size if end < 0 else end
        if step > 0:
            first, last = min(max(first, 0), size), min(max(last, 0), size)
            place[axis] = slice(first, max(first, last), step)
        else:
            first, last = min(max(first, 0), size - 1), min(max(last, -1), size - 1)
            place[axis] = slice(first, None if last < 0 else last, step)
    shape = [len(range(*part.indices(size))) for part, size in zip(place, x.shape, strict=True)]
    if x.rows is not None:
        axis = x.rows.axis
        if place[axis].step not in (None, 1) or shape[axis] != x.shape[axis]:
            raise Refused("takes a part of the batch axis")
        return [batched(shape, x.rows)]
    whole = [part.step in (None, 1) and n == size for part, n, size in zip(place, shape, x.shape, strict=True)]
    period = [p if same or p == 1 else n for p, same, n in zip(x.period, whole, shape, strict=True)]
    return [_kept(x, free(shape, period), None if x.value is None else x.value[tuple(place)])]


@rule("Split")
def split(node: Node) -> Sequence[Value]:
    """Parts of an axis that is not the batch's."""
    x, axis = node[0], axis_of(node.integer("axis", 0), node[0].rank)
    parts, size = len(node.outputs), node[0].shape[axis]
    given = node.get(1)
    sizes = node.integers("split") if node.version < 13 else None if given is None else integers(given, "list of sizes")
    if sizes is None:
        chunk = -(-size // parts)
        if (
            node.integer("num_outputs", parts) != parts
            or chunk * (parts - 1) >= size
            or (size % parts and node.version < 18)
        ):
            raise Refused(f"splits {size} into {parts}")
        sizes = [chunk] * (parts - 1) + [size - chunk * (parts - 1)]
    if len(sizes) != parts or sum(sizes) != size or min(sizes) < 0:
        raise Refused(f"splits {size} into {sizes}")
    return _cut(x, axis, sizes)


def _cut(x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    """`x` in parts of these sizes."""
    if x.rows is not None and x.rows.axis == axis and len(sizes) > 1:
        raise Refused("splits the batch axis")
    found, start = [], 0
    for length in sizes:
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        if x.rows is not None:
            found.append(batched(shape, x.rows))
        else:
            part = [slice(None)] * axis + [slice(start, start + length)]
            period = [*x.period[:axis], 1 if x.period[axis] == 1 else length, *x.period[axis + 1 :]]
            found.append(_kept(x, free(shape, period), None if x.value is None else x.value[tuple(part)]))
        start += length
    return found


@rule("SplitToSequence")
def split_to_sequence(node: Node) -> Sequence[Any]:
    """Parts of an axis that is not the batch's, as a sequence."""
    x, axis, given = node[0], axis_of(node.integer("axis", 0), node[0].rank), node.get(1)
    size = x.shape[axis]
    sizes = [1] * size if given is None else integers(given, "list of sizes")
    if given is not None and not given.rank:
        if sizes[0] < 1:
            raise Refused(f"splits into parts of {sizes[0]}")
        sizes = [min(sizes[0], size - start) for start in range(0, size, sizes[0])]
    if sum(sizes) != size or min(sizes) < 1 or len(sizes) > LIMIT:
        raise Refused(f"splits {size} into {sizes[:8]}")
    parts = _cut(x, axis, sizes)
    if given is None and not node.integer("keepdims", 1):
        parts = [_reshaped(part, (*x.shape[:axis], *x.shape[axis + 1 :])) for part in parts]
    return [Parts(tuple(parts))]


@rule("SequenceAt")
def sequence_at(node: Node) -> Sequence[Value]:
    """A part whose place is known."""
    given: Any = node[0]
    (place,) = integers(node[1], "place")
    if not isinstance(given, Parts):
        raise Refused("takes no sequence")
    return [given.parts[axis_of(place, len(given.parts))]]


@rule("Concat")
def concat(node: Node) -> Sequence[Value]:
    """Behind one another along an axis that is not the batch's."""
    parts = node.present()
    if node.integer("axis", 1) < 0 and node.version < 11:
        raise Refused("names an axis from behind before operator set 11")
    axis = axis_of(node.integer("axis", 1), parts[0].rank)
    if len(parts) == 1:
        return parts
    rest = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    if len(rest) > 1 or len({part.rank for part in parts}) > 1:
        raise Refused("joins shapes that do not fit")
    shape = (*parts[0].shape[:axis], sum(part.shape[axis] for part in parts), *parts[0].shape[axis + 1 :])
    rows = next((part.rows for part in parts if part.rows is not None), None)
    if rows is not None:
        if rows.axis == axis:
            raise Refused("joins along the batch axis")
        for part in parts:
            matched(part, rows)
        return [batched(shape, rows)]
    period = [math.lcm(*(part.period[a] for part in parts)) if size else 1 for a, size in enumerate(shape)]
    period[axis] = shape[axis]
    values = [part.value for part in parts]
    result = free(shape, period)
    if (
        result.size > LIMIT
        or any(data is None for data in values)
        or len({d.dtype for d in values if d is not None}) > 1
    ):
        return [result]
    return [replace(result, value=np.concatenate([data for data in values if data is not None], axis))]


@rule("Gather")
def gather(node: Node) -> Sequence[Value]:
    """Fixed places of an axis that is not the batch's, or entries of a table that each row names."""
    data, index = node[0], node[1]
    axis = axis_of(node.integer("axis", 0), data.rank)
    shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
    if index.value is not None:
        _check_there(index, [data.shape[axis]])
    if data.rows is not None:
        only_free(index, "places to gather")
        if data.rows.axis == axis:
            return [batched(shape, Rows(axis, _own_places(index, data.rows, data.shape[axis])))]
        moved = data.rows.axis + (index.rank - 1 if data.rows.axis > axis else 0)
        return [batched(shape, data.rows.at(moved))]
    if index.rows is not None:
        return [batched(shape, index.rows.at(axis + index.rows.axis))]
    period = [*data.period[:axis], *index.period, *data.period[axis + 1 :]]
    result = free(shape, period)
    if data.value is None or index.value is None or result.size > LIMIT:
        return [result]
    return [replace(result, value=np.asarray(np.take(data.value, index.value, axis)))]


def _own_places(index: Value, rows: Rows, size: int) -> int:
    """How many places of each row known places of the batch axis take; Refused unless all rows take the same of their own."""
    batch, places = size // rows.count, index.value
    if (
        rows.before > 1
        or places is None
        or places.dtype.kind != "i"
        or not index.rank
        or index.shape[0] % batch
        or not index.size
    ):
        raise Refused("gathers places of the batch axis")
    by_row = places.reshape(batch, -1)
    first = by_row[0]
    if (first < 0).any() or (first >= rows.count).any():
        raise Refused("gathers places of the batch axis")
    if not np.array_equal(by_row, first + rows.count * np.arange(batch)[:, None]):
        raise Refused("gathers places of the batch axis")
    return index.shape[0] // batch


@rule("GatherElements")
def gather_elements(node: Node) -> Sequence[Value]:
    """Fixed places of an axis that is not the batch's, named for every element."""
    data, index = node[0], node[1]
    axis, rows = axis_of(node.integer("axis", 0), data.rank), data.rows
    if data.rank != index.rank:
        raise Refused("has data and places of unlike axes")
    _check_there(index, [data.shape[axis]])
    if rows is None:
        return [free(index.shape)]
    if rows.axis == axis or data.shape[rows.axis] != index.shape[rows.axis]:
        raise Refused("gathers places of the batch axis")
    matched(index, rows)
    return [batched(index.shape, rows)]


@rule("GatherND")
def gather_nd(node: Node) -> Sequence[Value]:
    """Fixed places of axes that are not the batch's."""
    data, index = node[0], node[1]
    if node.integer("batch_dims", 0) or not index.rank or not 1 <= index.shape[-1] <= data.rank:
        raise Refused("gathers in a form that is not followed")
    depth = index.shape[-1]
    shape = (*index.shape[:-1], *data.shape[depth:])
    _check_there(index, data.shape[:depth])
    if data.rows is not None:
        if data.rows.axis < depth:
            raise Refused("gathers places of the batch axis")
        return [batched(shape, data.rows.at(data.rows.axis - depth + index.rank - 1))]
    return [free(shape)]


def _check_there(index: Value, sizes: Sequence[int]) -> None:
    """Refused unless `index` names places that are there: some libraries read on behind a tensor, where other rows may lie."""
    only_free(index, "places to gather")
    places = index.value if index.value is not None else index.load() if index.load is not None else None
    if places is None or places.shape != index.shape or places.dtype.kind != "i":
        raise Refused("has places to gather that are not known before a run")
    if ((places < -np.array(sizes)) | (places >= np.array(sizes))).any():
        raise Refused("gathers places that are not there")


@rule("ScatterND", "ScatterElements", "Scatter")
def scatter(node: Node) -> Sequence[Value]:
    """Of constants alone."""
    for value in node.present():
        only_free(value, "elements to be written")
    x, index, new = node[0], node[1], node[2]
    if node.op != "ScatterND" or x.value is None or index.value is None or new.value is None:
        return [free(x.shape)]
    data, places = x.value.copy(), index.value
    limits = x.shape[: places.shape[-1]] if places.ndim else ()
    flat = places.reshape(-1, places.shape[-1]) if limits else places
    plain = node.text("reduction", "none") == "none" and data.dtype == new.value.dtype and places.dtype == np.int64
    if (
        not plain
        or not limits
        or (flat < 0).any()
        or (flat >= limits).any()
        or len(np.unique(flat, axis=0)) != len(flat)
    ):
        return [free(x.shape)]
    if new.shape != (*index.shape[:-1], *x.shape[len(limits) :]):
        raise Refused("writes elements that do not fit")
    data[tuple(np.moveaxis(places, -1, 0))] = new.value
    return [constant(data)]


@rule("Expand")
def expand(node: Node) -> Sequence[Value]:
    """Broadcast to a known shape."""
    x, sizes = node[0], integers(node[1], "shape")
    if min(sizes, default=1) < 0:
        raise Refused(f"has an impossible shape {sizes}")
    shape = broadcast_shape([x.shape, tuple(sizes)])
    result = aligned([x, free(shape, [1] * len(shape))])
    return [
        _kept(x, result, None if x.value is None or result.size > LIMIT else np.broadcast_to(x.value, shape).copy())
    ]


@rule("Tile")
def tile(node: Node) -> Sequence[Value]:
    """Repeated along axes that are not the batch's."""
    x, times = node[0], integers(node[1], "list of repeats")
    if len(times) != x.rank or min(times, default=1) < 0:
        raise Refused("has repeats that do not fit")
    shape = [size * each for size, each in zip(x.shape, times, strict=True)]
    if x.rows is not None:
        if times[x.rows.axis] != 1:
            raise Refused("repeats the batch axis")
        return [batched(shape, x.rows)]
    few = x.value is not None and math.prod(shape) <= LIMIT
    return [_kept(x, free(shape, x.period), np.tile(x.value, times) if few and x.value is not None else None)]


@rule("Pad")
def pad(node: Node) -> Sequence[Value]:
    """Padded along axes that are not the batch's."""
    x = node[0]
    pads = node.integers("pads") if node.version < 11 else integers(node[1], "list of pads")
    given = node.get(3) if node.version >= 18 else None
    axes = [axis_of(a, x.rank) for a in (range(x.rank) if given is None else integers(given, "list of axes"))]
    if pads is None or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise Refused("has pads that do not fit")
    if node.version >= 11:
        only_free(node.get(2), "padding")
    around = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if x.rows is not None and around.get(x.rows.axis, (0, 0)) != (0, 0):
        raise Refused("pads the batch axis")
    shape = [size + sum(around.get(axis, (0, 0))) for axis, size in enumerate(x.shape)]
    if min(shape, default=1) < 1:
        raise Refused("cuts everything off")
    period = [p if around.get(axis, (0, 0)) == (0, 0) else shape[axis] for axis, p in enumerate(x.period)]
    return [free(shape, period) if x.rows is None else batched(shape, x.rows)]


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


@rule("Trilu")
def triangle(node: Node) -> Sequence[Value]:
    """A triangle of the last two axes."""
    x = node[0]
    only_free(node.get(1), "diagonal")
    if x.rank < 2 or (x.rows is not None and x.rows.axis >= x.rank - 2):
        raise Refused("takes a triangle of the batch axis")
    return [free(x.shape, [*x.period[:-2], *x.shape[-2:]]) if x.rows is None else x]


@rule("OneHot")
def one_hot(node: Node) -> Sequence[Value]:
    """One more axis of a known length."""
    x, depth = node[0], known(node[1], "depth")
    only_free(node[2], "values")
    if depth.size != 1:
        raise Refused("has several depths")
    axis = axis_of(node.integer("axis", -1), x.rank + 1)
    shape = (*x.shape[:axis], int(depth.reshape(-1)[0]), *x.shape[axis:])
    if x.rows is None:
        return [free(shape)]
    return [batched(shape, x.rows.at(x.rows.axis + (x.rows.axis >= axis)))]


@rule("DepthToSpace", "SpaceToDepth")
def blocks(node: Node) -> Sequence[Value]:
    """Channels and places of one image exchanged."""
    x, size = node[0], node.integer("blocksize", 0)
    if x.rank != 4 or size < 1 or (x.rows is not None and x.rows.axis != 0):
        raise Refused("does not have the batch in front")
    n, c, h, w = x.shape
    if c % (size * size) if node.op == "DepthToSpace" else h % size or w % size:
        raise Refused("has blocks that do not fit")
    there = node.op == "DepthToSpace"
    shape = (n, c // size**2, h * size, w * size) if there else (n, c * size**2, h // size, w // size)
    return [free(shape) if x.rows is None else batched(shape, x.rows)]
