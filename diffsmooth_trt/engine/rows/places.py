"""Operators that take places of an axis, or join them: never across the rows of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .layout import in_shape, kept
from .nodes import Node, rule
from .values import (
    LIMIT,
    Parts,
    Refused,
    Rows,
    Value,
    axis_of,
    batched,
    constant,
    free,
    integers,
    matched,
    only_free,
)


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
    return [kept(x, free(shape, period), None if x.value is None else x.value[tuple(place)])]


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
    parts, start = [], 0
    for length in sizes:
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        if x.rows is not None:
            parts.append(batched(shape, x.rows))
        else:
            part = [slice(None)] * axis + [slice(start, start + length)]
            period = [*x.period[:axis], 1 if x.period[axis] == 1 else length, *x.period[axis + 1 :]]
            parts.append(kept(x, free(shape, period), None if x.value is None else x.value[tuple(part)]))
        start += length
    return parts


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
        parts = [in_shape(part, (*x.shape[:axis], *x.shape[axis + 1 :])) for part in parts]
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
