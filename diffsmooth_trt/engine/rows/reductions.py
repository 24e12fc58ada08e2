"""Reductions, sorts, cumulative sums and normalisations: never along the batch axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .elementwise import as_shape_of
from .nodes import MICROSOFT, Node, rule
from .values import LIMIT, Data, Refused, Value, aligned, axis_of, batched, free, integers, known, only_free
from .windows import batch_in_front

VERBS = {
    "ReduceMax": "takes the maximum",
    "ReduceMin": "takes the minimum",
    "ReduceMean": "takes the mean",
    "ReduceSum": "takes the sum",
    "ArgMax": "takes the place of the maximum",
    "ArgMin": "takes the place of the minimum",
    "TopK": "sorts",
    "CumSum": "sums up",
    "CumProd": "multiplies up",
}
AXES_FROM = {"ReduceSum": 13}  # the operator set in which axes became an input; 18 for all others


def apart(node: Node, x: Value, axes: Iterable[int]) -> None:
    """Refused where one of `axes` is the batch's."""
    if x.rows is not None and x.rows.axis in set(axes):
        raise Refused(f"{VERBS.get(node.op, 'computes one result')} over the batch axis")


def _without(x: Value, axes: set[int], keep: bool) -> Value:
    """What is left of `x` when `axes` are reduced."""
    left = [axis for axis in range(x.rank) if keep or axis not in axes]
    shape = [1 if axis in axes else x.shape[axis] for axis in left]
    if x.rows is not None:
        return batched(shape, x.rows.at(left.index(x.rows.axis)))
    return free(shape, [1 if axis in axes else x.period[axis] for axis in left])


@rule(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
def reduce(node: Node) -> Sequence[Value]:
    """One result over axes that are not the batch's."""
    x = node[0]
    if node.version < AXES_FROM.get(node.op, 18):
        given = node.integers("axes")
    else:
        given = None if node.get(1) is None else integers(node[1], "list of axes")
    if not given and node.integer("noop_with_empty_axes", 0):
        return [replace(x, value=None)]
    axes = {axis_of(axis, x.rank) for axis in given} if given else set(range(x.rank))
    apart(node, x, axes)
    result = _without(x, axes, bool(node.integer("keepdims", 1)))
    return [_reduced(node, x, axes, result)]


def _reduced(node: Node, x: Value, axes: set[int], result: Value) -> Value:
    """The result's elements, where integers are multiplied, summed or compared."""
    data = x.value
    if data is None or result.rows is not None or data.dtype.kind != "i" or not data.size:
        return result
    compute: Any = {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}.get(node.op)
    if compute is None or result.size > LIMIT:
        return result
    exact = np.asarray(compute(data.astype(object), axis=tuple(sorted(axes)))).reshape(result.shape)
    if any(abs(int(each)) >= 2**31 for each in exact.reshape(-1)):
        return result
    elements: Data = exact.astype(data.dtype)
    return replace(result, value=elements)


@rule("ArgMax", "ArgMin")
def place_of(node: Node) -> Sequence[Value]:
    """The place of an extremum along an axis that is not the batch's."""
    x, axis = node[0], axis_of(node.integer("axis", 0), node[0].rank)
    apart(node, x, [axis])
    return [_without(x, {axis}, bool(node.integer("keepdims", 1)))]


@rule("TopK")
def top(node: Node) -> Sequence[Value]:
    """The largest along an axis that is not the batch's."""
    x, axis = node[0], axis_of(node.integer("axis", -1), node[0].rank)
    apart(node, x, [axis])
    count = node.integer("k", 0) if node.version < 10 else known(node[1], "number of elements").reshape(-1)
    number = count if isinstance(count, int) else int(count[0]) if len(count) == 1 else 0
    if not 1 <= number <= x.shape[axis]:
        raise Refused(f"takes {number} of {x.shape[axis]}")
    shape = (*x.shape[:axis], number, *x.shape[axis + 1 :])
    output = free(shape) if x.rows is None else batched(shape, x.rows)
    return [output, output][: len(node.outputs)]


@rule("CumSum", "CumProd")
def cumulative(node: Node) -> Sequence[Value]:
    """Along an axis that is not the batch's."""
    x, places = node[0], known(node[1], "axis").reshape(-1)
    if len(places) != 1 or places.dtype.kind != "i":
        raise Refused("has several axes")
    axis = axis_of(int(places[0]), x.rank)
    apart(node, x, [axis])
    if x.rows is not None:
        return [x]
    return [free(x.shape, [*x.period[:axis], x.shape[axis], *x.period[axis + 1 :]])]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node) -> Sequence[Value]:
    """Along an axis that is not the batch's; before operator set 13 along that axis and all after it."""
    x = node[0]
    axis = axis_of(node.integer("axis", -1 if node.version >= 13 else 1), x.rank)
    axes = [axis] if node.version >= 13 else list(range(axis, x.rank))
    apart(node, x, axes)
    return [
        x if x.rows is not None else free(x.shape, [s if a in axes else x.period[a] for a, s in enumerate(x.shape)])
    ]


@rule("LpNormalization")
def lp_norm(node: Node) -> Sequence[Value]:
    """Along an axis that is not the batch's."""
    x = node[0]
    apart(node, x, [axis_of(node.integer("axis", -1), x.rank)])
    return [x if x.rows is not None else free(x.shape)]


@rule("MeanVarianceNormalization")
def mean_variance(node: Node) -> Sequence[Value]:
    """Over axes that are not the batch's; by default they hold it."""
    x, axes = node[0], node.integers("axes")
    apart(node, x, [axis_of(axis, x.rank) for axis in ([0, 2, 3] if axes is None else axes)])
    return [x if x.rows is not None else free(x.shape)]


@rule("BatchNormalization")
def batch_norm(node: Node) -> Sequence[Value]:
    """With the statistics of training, not those of the batch."""
    x = node[0]
    if all(value.rows is None for value in node.present()):  # of weights: how some networks standardise them
        return [free(x.shape), *(free((x.shape[1],)) for _ in node.outputs[1:])]
    if node.integer("training_mode", 0) or sum(node.outputs) > 1:
        raise Refused("normalises by the statistics of the batch (it is in training mode)")
    if not node.integer("spatial", 1):
        raise Refused("normalises every place of its own, which is not followed")
    node.one_output()
    if x.rank < 2 or (x.rows is not None and x.rows.axis == 1):
        raise Refused("normalises along the batch axis")
    for parameter in node.inputs[1:]:
        only_free(parameter, "statistics")
        if parameter is not None and parameter.shape != (x.shape[1],):
            raise Refused("has statistics that do not fit")
    return [x if x.rows is not None else free(x.shape)]


@rule("InstanceNormalization", "GroupNormalization", "LRN")
@rule("GroupNorm", domain=MICROSOFT)
def image_norm(node: Node) -> Sequence[Value]:
    """Over channels and places of one image."""
    x = node[0]
    node.one_output()
    batch_in_front(x)
    for parameter in node.inputs[1:]:
        only_free(parameter, "scale")
    return [x if x.rows is not None else free(x.shape)]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
@rule("LayerNormalization", "SimplifiedLayerNormalization", domain=MICROSOFT)
def layer_norm(node: Node) -> Sequence[Value]:
    """Over the last axes."""
    x = node[0]
    axis = axis_of(node.integer("axis", -1), x.rank)
    apart(node, x, range(axis, x.rank))
    as_shape_of(x, *node.present()[1:])
    for parameter in node.present()[
        1:
    ]:  # OpenVINO spreads one that is larger than what is normalised in a way of its own
        only_free(parameter, "scale")
        if any(size > 1 for size in parameter.shape[: parameter.rank - (x.rank - axis)]):
            raise Refused("has a scale larger than what it normalises")
    result = x if x.rows is not None else free(x.shape, [*x.period[:axis], *x.shape[axis:]])
    statistics = _without(x, set(range(axis, x.rank)), True)
    return [result, statistics, statistics][: len(node.outputs)]


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(node: Node) -> Sequence[Value]:
    """A sum, then over the last axis."""
    x = node[0]
    as_shape_of(x, *node.present()[1:])
    for parameter in node.inputs[2:]:
        only_free(parameter, "scale")
        if parameter is not None and parameter.rank > 1:
            raise Refused("has a scale larger than what it normalises")
    result = aligned([x, node[1]])
    apart(node, result, [x.rank - 1])
    node.one_output()
    return [result if result.rows is not None else free(x.shape)]


@rule("DynamicQuantizeLinear")
def dynamic_scale(node: Node) -> Sequence[Value]:
    """Of constants alone: the scale is that of the extremes of all elements."""
    x = node[0]
    if x.rows is not None:
        raise Refused(
            "quantises dynamically: its scale is that of the extremes of all rows of the batch; quantise it statically"
        )
    return [free(x.shape), free(()), free(())][: len(node.outputs)]
