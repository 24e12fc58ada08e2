"""What is known of a tensor while a graph is read: its shape, and whether and where it holds the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Data = NDArray[Any]
Shape = tuple[int, ...]
LIMIT = 1 << 16  # elements of a value that is computed with; larger ones are weights


class Refused(Exception):
    """Why a node is not followed, said of the node: "takes the maximum over the batch axis"."""


@dataclass(frozen=True)
class Rows:
    """The batch lies along `axis`, of length before·B·count: of each of the `before` parts of it, row b owns places
    b·count to (b+1)·count.
    """

    axis: int
    count: int
    before: int = 1

    def at(self, axis: int) -> Rows:
        """The same along another axis."""
        return replace(self, axis=axis)


@dataclass(frozen=True)
class Value:
    """A tensor of known `shape`.

    With `rows` it holds the batch: row b's part of it is F(row b of the inputs), F the same for every b. Without, it does
    not depend on the inputs, and repeats itself along axis a every `period[a]` places (the axis' own length where no more
    is known); `value` are its elements where they are few and exact, `load` reads a stored tensor whose repetitions
    along an axis are this one's too.
    """

    shape: Shape
    rows: Rows | None = None
    period: Shape = ()
    value: Data | None = None
    load: Callable[[], Data] | None = None

    @property
    def rank(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Parts:
    """A sequence of tensors. It is no `Value`: what does not look for one fails on it, and is refused."""

    parts: tuple[Value, ...]


def free(shape: Iterable[int], period: Iterable[int] | None = None, load: Callable[[], Data] | None = None) -> Value:
    """A tensor that does not depend on the inputs; `period` is its shape unless more is known."""
    sizes = tuple(shape)
    known = sizes if period is None else tuple(period)
    known = tuple(
        1 if size <= 1 else p if p > 0 and size % p == 0 else size for p, size in zip(known, sizes, strict=True)
    )
    return Value(sizes, None, known, None, load)


def constant(data: Data) -> Value:
    """A small tensor of known elements."""
    return replace(free(data.shape), value=data)


def batched(shape: Iterable[int], rows: Rows) -> Value:
    """A tensor that holds the rows of the batch."""
    return Value(tuple(shape), rows)


def axis_of(axis: int, rank: int) -> int:
    """`axis` counted from the front."""
    if not -rank <= axis < rank:
        raise Refused(f"names axis {axis} of a tensor of {rank}")
    return axis % rank


def repeats(value: Value, axis: int, count: int) -> bool:
    """Whether a tensor without rows is the same for every `count` places along `axis`."""
    if count % value.period[axis] == 0:
        return True
    data = value.value if value.value is not None else value.load() if value.load is not None else None
    if data is None or data.shape != value.shape:
        return False
    parts = np.moveaxis(data, axis, 0).reshape(-1, count, *np.delete(value.shape, axis))
    return all(part.tobytes() == parts[0].tobytes() for part in parts)


def same_everywhere(value: Value, axis: int, count: int) -> None:
    """Refused unless a tensor without rows that meets the batch axis with its `axis` is the same for every row."""
    if value.rows is None and value.shape[axis] != 1 and not repeats(value, axis, count):
        raise Refused("uses a constant that differs between the places of the batch")


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The shape that tensors of `shapes` have together."""
    rank = max((len(shape) for shape in shapes), default=0)
    dims = []
    for place in range(-rank, 0):
        sizes = {shape[place] for shape in shapes if len(shape) >= -place} - {1}
        if len(sizes) > 1:
            raise Refused(f"combines shapes {', '.join(str(list(shape)) for shape in shapes)}")
        dims.append(sizes.pop() if sizes else 1)
    return tuple(dims)


def aligned(values: Sequence[Value]) -> Value:
    """Tensors combined element by element, with broadcasting: rows meet rows of the same place, or what is equal for all."""
    shape = broadcast_shape([value.shape for value in values])
    rank, rows = len(shape), None
    for value in values:
        if value.rows is not None:
            here = value.rows.at(value.rows.axis + rank - value.rank)
            if rows is not None and rows != here:
                raise Refused("combines rows with other rows of the batch")
            rows = here
    if rows is None:
        period = [
            math.lcm(*(v.period[a + v.rank - rank] for v in values if a + v.rank >= rank)) if size else 0
            for a, size in enumerate(shape)
        ]
        return free(shape, period)
    for value in values:
        axis = rows.axis + value.rank - rank
        if axis >= 0:
            same_everywhere(value, axis, rows.count)
    return batched(shape, rows)


def matched(value: Value, rows: Rows) -> None:
    """Refused unless `value` holds the batch just as `rows` says, or is equal for all rows along that axis."""
    if value.rows is not None:
        if value.rows != rows:
            raise Refused("combines rows with other rows of the batch")
    elif rows.axis < value.rank:
        same_everywhere(value, rows.axis, rows.count)


def only_free(value: Value | None, what: str) -> None:
    """Refused where `value` depends on the batch."""
    if value is not None and value.rows is not None:
        raise Refused(f"takes its {what} from the images of the batch")


def known(value: Value, what: str) -> Data:
    """The elements of `value`; Refused where they are not known before a run."""
    only_free(value, what)
    if value.value is None:
        raise Refused(f"has a {what} that is not known before a run")
    return value.value


def integers(value: Value, what: str) -> list[int]:
    """The elements of an integer tensor of at most one axis."""
    data = known(value, what)
    if data.ndim > 1 or data.dtype.kind not in "iu":
        raise Refused(f"has a {what} that is no list of integers")
    return [int(each) for each in data.reshape(-1)]


def reshaped(value: Value, shape: Shape) -> Value:
    """The same elements in the same order, in another shape.

    With P elements in front of those of the first row (of the axes before the batch's, and of its own parts), an element's
    place is p·(B·count·post) + (row·count + j)·post + q. The axis of the new shape in which place P lies splits the same way,
    into before'·B·count', if `front` elements before it divide P and its length is a multiple of before'·B with before' = P/front.
    """
    if math.prod(shape) != value.size:
        raise Refused(f"makes {list(shape)} of {list(value.shape)}")
    if value.rows is not None:
        axis, rows = value.rows.axis, value.rows
        batch = value.shape[axis] // (rows.count * rows.before)
        front, ahead = 1, math.prod(value.shape[:axis]) * rows.before
        for place, size in enumerate(shape):
            before = ahead // front
            if ahead % front == 0 and before < size and size % (before * batch) == 0:
                return batched(shape, Rows(place, size // (before * batch), before))
            front *= size
        raise Refused("folds rows of the batch into another axis")
    period = list(shape)
    for axis, size in enumerate(value.shape):
        same = _same_front(shape, math.prod(value.shape[:axis])) if value.period[axis] < size else None
        if same is not None:
            length, after = value.period[axis] * math.prod(value.shape[axis + 1 :]), math.prod(shape[same + 1 :])
            if after and length % after == 0 and shape[same] % (length // after) == 0:
                period[same] = min(period[same], length // after)
    return free(shape, [1] * len(shape) if set(value.period) <= {1} else period)


def _same_front(shape: Shape, front: int) -> int | None:
    """The first axis longer than 1 with `front` elements before it."""
    before = 1
    for place, size in enumerate(shape):
        if before == front and size > 1:
            return place
        before *= size
    return None
