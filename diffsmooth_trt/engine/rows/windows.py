"""Convolutions, pools and resizing: the batch is the first axis, and the sizes of the others are exactly known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .nodes import MICROSOFT, Node, rule
from .values import Refused, Value, batched, free, integers, known, matched, only_free


def batch_in_front(x: Value, rank: int = 3) -> None:
    """Refused unless the batch of `x` is its first axis."""
    if x.rank < rank:
        raise Refused(f"takes a tensor of {x.rank} axes")
    if x.rows is not None and x.rows.axis != 0:
        raise Refused("does not have the batch in front")


def like(x: Value, shape: Sequence[int]) -> Value:
    """A result of another shape whose batch lies where that of `x` does."""
    if x.rows is not None:
        return batched(shape, x.rows)
    return free(shape, [x.period[0], *shape[1:]] if shape[0] == x.shape[0] else None)


def _numbers(node: Node, name: str, count: int, default: int) -> list[int]:
    numbers = node.integers(name)
    numbers = [default] * count if numbers is None else numbers
    if len(numbers) != count or (name != "pads" and name != "output_padding" and min(numbers) < 1) or min(numbers) < 0:
        raise Refused(f"has {name} that do not fit")
    return numbers


def _extent(node: Node, sizes: Sequence[int], kernel: Sequence[int], ceil: bool = False) -> list[int]:
    """The lengths that a window of `kernel` leaves of `sizes`."""
    count, mode = len(sizes), node.text("auto_pad", "NOTSET")
    strides, dilations = _numbers(node, "strides", count, 1), _numbers(node, "dilations", count, 1)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if mode != "NOTSET" and (ceil or (node.integers("pads") or [0])[0:] != [0] * len(node.integers("pads") or [0])):
        raise Refused("has paddings of two kinds")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    if mode not in ("NOTSET", "VALID"):
        raise Refused(f"has an unknown auto_pad {mode}")
    pads = _numbers(node, "pads", 2 * count, 0)
    lengths = []
    for axis, size in enumerate(sizes):
        room = size + pads[axis] + pads[axis + count] - reach[axis]
        if room < 0:
            raise Refused("has a window larger than its input")
        length = (-(-room // strides[axis]) if ceil else room // strides[axis]) + 1
        if ceil and (length - 1) * strides[axis] >= size + pads[axis]:
            raise Refused("has a last window in its padding, which libraries treat in different ways")
        lengths.append(length)
    return lengths


def _convolved(node: Node, x: Value, w: Value) -> Value:
    batch_in_front(x)
    only_free(w, "weights")
    kernel, group = w.shape[2:], node.integer("group", 1)
    if w.rank != x.rank or group < 1 or w.shape[1] * group != x.shape[1] or w.shape[0] % group:
        raise Refused(f"has weights {list(w.shape)} for {list(x.shape)}")
    if tuple(node.integers("kernel_shape") or kernel) != kernel:
        raise Refused("has a kernel_shape that is not that of its weights")
    return like(x, (x.shape[0], w.shape[0], *_extent(node, x.shape[2:], kernel)))


@rule("Conv")
@rule("FusedConv", domain=MICROSOFT)
def convolution(node: Node) -> Sequence[Value]:
    """Image by image; FusedConv adds a tensor of the result's shape and applies a function."""
    result = _convolved(node, node[0], node[1])
    only_free(node.get(2), "bias")
    added = node.get(3)
    if added is not None:
        if added.shape != result.shape:
            raise Refused("adds something of another shape")
        if result.rows is not None:
            matched(added, result.rows)
        else:
            only_free(added, "sum")
    return [result]


@rule("ConvInteger")
def integer_convolution(node: Node) -> Sequence[Value]:
    """Of integers with constant zero points."""
    for zero in node.inputs[2:]:
        only_free(zero, "zero point")
    return [_convolved(node, node[0], node[1])]


@rule("QLinearConv")
def quantised_convolution(node: Node) -> Sequence[Value]:
    """Of integers with static scales."""
    for place in (1, 2, 4, 5, 6, 7, 8):
        only_free(node.get(place), "scale")
    return [_convolved(node, node[0], node[3])]


@rule("ConvTranspose")
def transposed_convolution(node: Node) -> Sequence[Value]:
    """Image by image."""
    x, w = node[0], node[1]
    batch_in_front(x)
    only_free(w, "weights")
    only_free(node.get(2), "bias")
    count, group = x.rank - 2, node.integer("group", 1)
    if w.rank != x.rank or group < 1 or w.shape[0] != x.shape[1] or w.shape[0] % group:
        raise Refused(f"has weights {list(w.shape)} for {list(x.shape)}")
    if node.text("auto_pad", "NOTSET") != "NOTSET" or node.integers("output_shape") is not None:
        raise Refused("has an output size that is not followed")
    if tuple(node.integers("kernel_shape") or w.shape[2:]) != w.shape[2:]:
        raise Refused("has a kernel_shape that is not that of its weights")
    strides, dilations = _numbers(node, "strides", count, 1), _numbers(node, "dilations", count, 1)
    pads, more = _numbers(node, "pads", 2 * count, 0), _numbers(node, "output_padding", count, 0)
    sizes = [
        strides[a] * (x.shape[a + 2] - 1)
        + more[a]
        + dilations[a] * (w.shape[a + 2] - 1)
        + 1
        - pads[a]
        - pads[a + count]
        for a in range(count)
    ]
    if min(sizes) < 1:
        raise Refused("has pads larger than its result")
    return [like(x, (x.shape[0], w.shape[1] * group, *sizes))]


@rule("MaxPool", "AveragePool", "LpPool")
def pool(node: Node) -> Sequence[Value]:
    """Image by image; places of maxima are counted through the batch and are not followed."""
    node.one_output()
    x, kernel = node[0], node.integers("kernel_shape") or []
    batch_in_front(x)
    if len(kernel) != x.rank - 2 or min(kernel) < 1:
        raise Refused("has a kernel_shape that does not fit")
    return [like(x, (*x.shape[:2], *_extent(node, x.shape[2:], kernel, bool(node.integer("ceil_mode", 0)))))]


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
@rule("QLinearGlobalAveragePool", domain=MICROSOFT)
def global_pool(node: Node) -> Sequence[Value]:
    """Image by image."""
    x = node[0]
    batch_in_front(x)
    for parameter in node.inputs[1:]:
        only_free(parameter, "scale")
    if node.integer("channels_last", 0):
        raise Refused("has its channels last")
    return [like(x, (*x.shape[:2], *([1] * (x.rank - 2))))]


STILL = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")  # keep an axis of scale 1 as it is


def _scaled(size: int, scale: float) -> int:
    """The length of a scaled axis; Refused where it depends on how the product is rounded."""
    if not math.isfinite(scale) or scale <= 0:
        raise Refused(f"has an impossible scale {scale}")
    length = math.floor(float(np.float32(scale)) * size)
    if length != int(np.floor(np.float32(scale) * np.float32(size))):
        raise Refused(f"has a scale {scale} whose size depends on rounding")
    return length


def _resized(node: Node, x: Value, scales: Value | None, sizes: Value | None) -> list[int]:
    axes = node.integers("axes") if node.version >= 18 else None
    places = list(range(x.rank)) if axes is None else [axis % x.rank for axis in axes if -x.rank <= axis < x.rank]
    if len(set(places)) != len(places) or (axes is not None and len(places) != len(axes)):
        raise Refused("has axes that do not fit")
    shape = list(x.shape)
    if sizes is not None:
        wanted = integers(sizes, "size")
        if len(wanted) != len(places) or min(wanted) < 1:
            raise Refused("has sizes that do not fit")
        for place, size in zip(places, wanted, strict=True):
            shape[place] = size
        return shape
    if scales is None:
        raise Refused("has neither sizes nor scales")
    factors = known(scales, "scale").reshape(-1)
    if len(factors) != len(places) or factors.dtype.kind != "f":
        raise Refused("has scales that do not fit")
    for place, factor in zip(places, factors, strict=True):
        if x.rows is not None and place == x.rows.axis and float(factor) != 1:
            raise Refused("resizes the batch axis")
        shape[place] = _scaled(shape[place], float(factor))
    return shape


def _given(value: Value | None) -> Value | None:
    """An input that is there and not empty, which stands for left out."""
    return None if value is None or value.size == 0 else value


@rule("Resize", "Upsample")
def resize(node: Node) -> Sequence[Value]:
    """Every axis but the batch's."""
    x = node[0]
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("keeps the aspect ratio in a way that is not followed")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel" if node.version >= 11 else "asymmetric")
    if coordinates not in STILL:
        raise Refused(f"has coordinates ({coordinates}) that are not followed")
    if node.op == "Upsample" and node.version < 9:
        factors = node.attributes.get("scales")
        if not isinstance(factors, list) or len(factors) != x.rank:
            raise Refused("has scales that do not fit")
        if x.rows is not None and factors[x.rows.axis] != 1:
            raise Refused("resizes the batch axis")
        _check_untouched(node, x)
        return [like(x, [_scaled(size, factor) for size, factor in zip(x.shape, factors, strict=True)])]
    if node.version < 11:
        shape = _resized(node, x, _given(node[1]), None)
    else:
        only_free(node.get(1), "region")
        scales, sizes = _given(node.get(2)), _given(node.get(3))
        if scales is not None and sizes is not None:
            raise Refused("has both sizes and scales")
        shape = _resized(node, x, scales, sizes)
    if x.rows is not None and shape[x.rows.axis] != x.shape[x.rows.axis]:
        raise Refused("resizes the batch axis")
    _check_untouched(node, x)
    return [like(x, shape)]


def _check_untouched(node: Node, x: Value) -> None:
    """Refused where the batch may be among the axes that are interpolated, be its scale 1.

    A neighbour of weight 0 that is infinite makes NaN. Libraries interpolate over two axes or three, of images in either layout.
    """
    if x.rows is not None and node.text("mode", "nearest") != "nearest" and (x.rows.axis or x.rank < 4):
        raise Refused("interpolates over axes that may hold the batch")


@rule("GridSample")
def grid_sample(node: Node) -> Sequence[Value]:
    """Image by image, at places of its own or at places that are the same for all."""
    x, grid = node[0], node[1]
    batch_in_front(x, 4)
    if grid.rank != x.rank or grid.shape[0] != x.shape[0] or grid.shape[-1] != x.rank - 2:
        raise Refused("has places that do not fit")
    rows = x.rows or grid.rows
    shape = (*x.shape[:2], *grid.shape[1:-1])
    if rows is None:
        return [free(shape)]
    if rows.axis != 0:
        raise Refused("does not have the batch in front")
    for value in (x, grid):
        matched(value, rows)
    return [batched(shape, rows)]
