"""Operators that give elements another shape or order: the axis of the batch is followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .nodes import Node, rule
from .values import (
    LIMIT,
    Data,
    Refused,
    Value,
    aligned,
    axis_of,
    batched,
    broadcast_shape,
    free,
    integers,
    known,
    only_free,
    reshaped,
)


def kept(x: Value, result: Value, data: Data | None) -> Value:
    """`result` with `data`, the moved elements of `x`, where they are few."""
    return result if x.value is None or data is None or result.size > LIMIT else replace(result, value=data)


def in_shape(x: Value, shape: Sequence[int]) -> Value:
    """`x` in another shape, with its elements where they are few."""
    result = reshaped(x, tuple(shape))
    return kept(x, result, None if x.value is None else x.value.reshape(result.shape))


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
    return [in_shape(x, sizes)]


@rule("Flatten")
def flatten(node: Node) -> Sequence[Value]:
    """Two axes."""
    x, axis = node[0], node.integer("axis", 1)
    axis = axis if axis == node[0].rank else axis_of(axis, x.rank)
    return [in_shape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))]


@rule("Squeeze")
def squeeze(node: Node) -> Sequence[Value]:
    """Without axes of length 1."""
    x, given = node[0], _axes(node, 13)
    axes = {a for a, size in enumerate(x.shape) if size == 1} if given is None else {axis_of(a, x.rank) for a in given}
    if any(x.shape[axis] != 1 for axis in axes):
        raise Refused("squeezes an axis that is longer than 1")
    return [in_shape(x, [size for axis, size in enumerate(x.shape) if axis not in axes])]


@rule("Unsqueeze")
def unsqueeze(node: Node) -> Sequence[Value]:
    """With more axes of length 1."""
    x, given = node[0], _axes(node, 13) or []
    rank = x.rank + len(given)
    axes = {axis_of(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise Refused("names an axis twice")
    sizes = iter(x.shape)
    return [in_shape(x, [1 if axis in axes else next(sizes) for axis in range(rank)])]


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
    return [kept(x, result, None if x.value is None else np.transpose(x.value, order))]


@rule("Expand")
def expand(node: Node) -> Sequence[Value]:
    """Broadcast to a known shape."""
    x, sizes = node[0], integers(node[1], "shape")
    if min(sizes, default=1) < 0:
        raise Refused(f"has an impossible shape {sizes}")
    shape = broadcast_shape([x.shape, tuple(sizes)])
    result = aligned([x, free(shape, [1] * len(shape))])
    return [kept(x, result, None if x.value is None or result.size > LIMIT else np.broadcast_to(x.value, shape).copy())]


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
    return [kept(x, free(shape, x.period), np.tile(x.value, times) if few and x.value is not None else None)]


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
