"""Products: the batch may lie along what is kept, never along what is summed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .nodes import MICROSOFT, Node, rule
from .values import Refused, Rows, Value, aligned, batched, broadcast_shape, free, matched, only_free, same_everywhere


def product(a: Value, b: Value) -> Value:
    """The matrix product of two tensors."""
    if not a.rank or not b.rank:
        raise Refused("multiplies a number")
    left = (
        replace(a, shape=(1, *a.shape), rows=_moved(a, 1), period=(1, *a.period), value=None, load=None)
        if a.rank == 1
        else a
    )
    right = replace(b, shape=(*b.shape, 1), period=(*b.period, 1), value=None, load=None) if b.rank == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise Refused(f"multiplies {list(a.shape)} by {list(b.shape)}")
    front = broadcast_shape([left.shape[:-2], right.shape[:-2]])
    shape = (*front, left.shape[-2], right.shape[-1])
    if left.rows is None and right.rows is None:
        period = [*_front_period(left, right), left.period[-2], right.period[-1]]
        result = free(shape, period)
    else:
        result = batched(shape, _product_rows(left, right, len(front)))
    dropped = {len(front)} if a.rank == 1 else set()  # the axis that a vector stood in for
    dropped |= {len(front) + 1} if b.rank == 1 else set()
    kept = [axis for axis in range(len(shape)) if axis not in dropped]
    if len(kept) == len(shape):
        return result
    rows = None if result.rows is None else result.rows.at(kept.index(result.rows.axis))
    return replace(
        free([shape[axis] for axis in kept], None if rows else [result.period[axis] for axis in kept]), rows=rows
    )


def _moved(value: Value, by: int) -> Rows | None:
    return None if value.rows is None else value.rows.at(value.rows.axis + by)


def _front_period(left: Value, right: Value) -> list[int]:
    """How the leading axes of the product of two constants repeat themselves."""
    return list(aligned([Value(v.shape[:-2], None, v.period[:-2]) for v in (left, right)]).period)


def _product_rows(left: Value, right: Value, front: int) -> Rows:
    places = [None if v.rows is None else v.rows.axis - (v.rank - 2) for v in (left, right)]
    if places[0] == 1 or places[1] == 0:
        raise Refused("sums over the batch axis")
    inner = [place is not None and place >= 0 for place in places]
    if not any(inner):  # the batch is among the leading axes
        both = (left, right)
        candidates = {v.rows.at(v.rows.axis + front + 2 - v.rank) for v in both if v.rows is not None}
        if len(candidates) > 1:
            raise Refused("combines rows with other rows of the batch")
        rows = candidates.pop()
        for value in both:
            axis = rows.axis + value.rank - front - 2
            if axis >= 0:
                same_everywhere(value, axis, rows.count)
        return rows
    if left.rows is not None and right.rows is not None:
        raise Refused("multiplies rows by other rows of the batch")
    rows = next(value.rows for value in (left, right) if value.rows is not None)
    return rows.at(front + (0 if inner[0] else 1))


@rule("MatMul")
def matmul(node: Node) -> Sequence[Value]:
    """A matrix product."""
    return [product(node[0], node[1])]


@rule("MatMulInteger")
def matmul_integer(node: Node) -> Sequence[Value]:
    """A product of integers with constant zero points."""
    for zero in node.inputs[2:]:
        only_free(zero, "zero point")
        if zero is not None and zero.size != 1:
            raise Refused("has several zero points")
    return [product(node[0], node[1])]


@rule("FusedMatMul", domain=MICROSOFT)
def fused_matmul(node: Node) -> Sequence[Value]:
    """A matrix product of matrices that may be transposed first."""
    if node.integer("transBatchA", 0) or node.integer("transBatchB", 0):
        raise Refused("transposes the batch")
    return [product(_turned(node[0], node.integer("transA", 0)), _turned(node[1], node.integer("transB", 0)))]


def _turned(value: Value, turned: int) -> Value:
    if not turned or value.rank < 2:
        return value
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    shape = [value.shape[axis] for axis in order]
    if value.rows is None:
        return free(shape, [value.period[axis] for axis in order])
    return batched(shape, value.rows.at(order.index(value.rows.axis)))


@rule("QLinearMatMul")
def quantised_matmul(node: Node) -> Sequence[Value]:
    """A product with static scales of one element, or one for each column of a constant right side."""
    for place in (1, 2, 4, 5, 6, 7):
        only_free(node[place], "scale")
        if node[place].size != 1 and (place not in (4, 5) or node[3].rows is not None or node[3].rank != 2):
            raise Refused("has several scales")
    return [product(node[0], node[3])]


@rule("Gemm", "FusedGemm")
@rule("FusedGemm", domain=MICROSOFT)
def gemm(node: Node) -> Sequence[Value]:
    """A·B + C."""
    a, b, c = _turned(node[0], node.integer("transA", 0)), _turned(node[1], node.integer("transB", 0)), node.get(2)
    if a.rank != 2 or b.rank != 2:
        raise Refused("multiplies what are no matrices")
    return [_plus(product(a, b), c)]


def _plus(result: Value, added: Value | None) -> Value:
    if added is None:
        return result
    total = aligned([result, added])
    if total.shape != result.shape:
        raise Refused("adds something larger than the product")
    return total


@rule("QGemm", domain=MICROSOFT)
def quantised_gemm(node: Node) -> Sequence[Value]:
    """A·B + C with static scales of one element, or one for each column."""
    for place in (1, 2, 4, 5, 7, 8):
        only_free(node.get(place), "scale")
    for place in (1, 2, 7, 8):
        if (parameter := node.get(place)) is not None and parameter.size != 1:
            raise Refused("has several scales")
    only_free(node[3], "weights")
    a, b = _turned(node[0], node.integer("transA", 0)), _turned(node[3], node.integer("transB", 0))
    if a.rank != 2 or b.rank != 2:
        raise Refused("multiplies what are no matrices")
    return [_plus(product(a, b), node.get(6))]


def _labels(equation: str, values: Sequence[Value]) -> tuple[list[list[str]], list[str]]:
    """The label of every axis of the inputs and of the output; those of an ellipsis are its axes counted from behind."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(values):
        raise Refused(f"has an equation for {len(terms)} inputs")
    labels, longest = [], 0
    for term, value in zip(terms, values, strict=True):
        before, dots, after = term.partition("...")
        missing = value.rank - len(before) - len(after)
        if missing < 0 or (not dots and missing) or (not (before + after).isalpha() and before + after):
            raise Refused(f"has an equation {equation!r} that does not fit")
        longest = max(longest, missing)
        labels.append([*before, *(f".{place}" for place in range(missing, 0, -1)), *after])
    dots_there = [f".{place}" for place in range(longest, 0, -1)]
    if not arrow:
        once = sorted(each for each in set(left) - set(".,") if left.count(each) == 1)
        return labels, [*dots_there, *once]
    before, dots, after = right.partition("...")
    return labels, [*before, *(dots_there if dots else ()), *after]


@rule("Einsum")
def einsum(node: Node) -> Sequence[Value]:
    """The batch has one label, in the output too, and every input with that label has it for the same rows."""
    values = node.present()
    terms, out = _labels(node.text("equation", ""), values)
    sizes: dict[str, int] = {}
    for labels, value in zip(terms, values, strict=True):
        for label, size in zip(labels, value.shape, strict=True):
            known = sizes.get(label, 1)
            if 1 not in (size, known) and size != known:
                raise Refused("has sizes that do not fit its equation")
            sizes[label] = max(size, known)
    if len(set(out)) != len(out) or not set(out) <= set(sizes):
        raise Refused("has an output that does not fit its equation")
    shape = [sizes[label] for label in out]
    places = {
        (labels[v.rows.axis], v.rows.at(0)) for labels, v in zip(terms, values, strict=True) if v.rows is not None
    }
    if not places:
        return [free(shape)]
    if len(places) > 1:
        raise Refused("combines rows with other rows of the batch")
    ((label, rows),) = places
    if label not in out:
        raise Refused("sums over the batch axis")
    for labels, value in zip(terms, values, strict=True):
        if labels.count(label) > 1:
            raise Refused("takes a diagonal of the batch axis")
        if label in labels:
            matched(value, rows.at(labels.index(label)))
        elif value.rows is not None:
            raise Refused("combines rows with other rows of the batch")
    return [batched(shape, rows.at(out.index(label)))]
