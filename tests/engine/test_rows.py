"""The proof of independent rows: what each rule says of a tensor is held against what the operator computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from diffsmooth_trt.engine.rows.nodes import RULES, Node, attribute_value
from diffsmooth_trt.engine.rows.values import Refused, Rows, Value, batched, constant, free

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
OPSET, BATCH = 18, 3
node = helper.make_node
Array = NDArray[Any]


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Array] | None = None,
    shape: Sequence[int | str] = ("B", 3, 4, 4),
    *,
    opset: int = OPSET,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info("x", FLOAT, shape), helper.make_tensor_value_info("y", FLOAT, None)]
    stored = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, functions=functions)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


# What a rule says, against the operator: three batches, of which the second has other rows in all places but one, the third
# the rows of the first in another order.
ORDER = np.array([2, 0, 1])


class Tensors:
    """Tensors of a growing graph: what the rules say of each, and its elements for the three batches."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.known: list[Value] = []
        self.arrays: list[tuple[Array, Array, Array]] = []
        for shape in ((BATCH, 2, 4, 4), (BATCH, 4)):
            first, other = (rng.integers(-8, 9, shape).astype(np.float32) for _ in range(2))
            other[1] = first[1]
            self._keep(batched(shape, Rows(0, 1)), (first, other, first[ORDER]))
        for shape in ((1, 2, 1, 1), (4,), (4, 4), (BATCH, 1, 1, 1), (2 * BATCH, 4)):
            self.constant(rng.integers(1, 4, shape).astype(np.float32))
        self.constant(np.repeat(rng.random((1, 4), np.float32), BATCH, axis=0))

    def _keep(self, value: Value, arrays: tuple[Array, Array, Array]) -> None:
        self.known.append(value)
        self.arrays.append(arrays)

    def constant(self, data: Array) -> int:
        self._keep(constant(data) if data.dtype == np.int64 else free(data.shape, None, lambda: data), (data,) * 3)
        return len(self.known) - 1

    def some(self, rank: int | None = None) -> int:
        fits = [n for n, v in enumerate(self.known) if self.arrays[n][0].dtype == np.float32]
        fits = [n for n in fits if rank is None or self.known[n].rank == rank] or fits
        batch = [n for n in fits if self.known[n].rows is not None]
        return int(self.rng.choice(batch if batch and self.rng.random() < 0.75 else fits))

    def apply(self, op: str, inputs: Sequence[int], outputs: int = 1, **attributes: Any) -> bool:
        """Whether the rule follows the node; then what it says is checked and kept."""
        proto = node(op, [f"i{n}" for n in range(len(inputs))], [f"o{n}" for n in range(outputs)], **attributes)
        given = {each.name: attribute_value(each) for each in proto.attribute}
        seen = Node(op, "", OPSET, [self.known[n] for n in inputs], given, [True] * outputs, BATCH)
        try:
            results = RULES["", op](seen)
        except Refused:
            return False
        if any(0 in value.shape for value in results):
            return False
        runs = []
        for batch in range(3):
            feeds = {f"i{n}": self.arrays[place][batch] for n, place in enumerate(inputs)}
            values = [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
                for name, each in feeds.items()
            ]
            out = [helper.make_tensor_value_info(name, FLOAT, None) for name in proto.output]
            graph = helper.make_graph([proto], "g", values, out)
            one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
            with np.errstate(all="ignore"):
                runs.append(ReferenceEvaluator(one).run(None, feeds))
        for number, value in enumerate(results):
            arrays = tuple(np.asarray(run[number]) for run in runs)
            check(op, value, arrays)
            if all(np.isfinite(each).all() and np.abs(each).max(initial=0) < 1e6 for each in arrays):
                self._keep(value, arrays)
        return True


def check(op: str, value: Value, arrays: tuple[Array, ...]) -> None:
    """What `value` says is true of the three `arrays`."""
    first, other, ordered = arrays
    assert first.shape == value.shape, op
    if value.rows is None:
        assert first.tobytes() == other.tobytes() == ordered.tobytes(), op
        for axis, period in enumerate(value.period):
            assert first.shape[axis] % period == 0
            parts = np.moveaxis(first, axis, 0).reshape(-1, period, *np.delete(first.shape, axis))
            assert all(np.array_equal(part, parts[0], equal_nan=True) for part in parts), (op, axis, period)
        assert value.value is None or np.array_equal(value.value, first), op
        return
    axis, count = value.rows.axis, value.rows.count
    assert first.shape[axis] == BATCH * count, op
    rows, changed, moved = (
        np.moveaxis(each, axis, 0).reshape(BATCH, count, *np.delete(first.shape, axis)) for each in arrays
    )
    close = {"rtol": 1e-4, "atol": 1e-4, "equal_nan": True}
    assert np.allclose(rows[1], changed[1], **close), (op, "another row came in")
    assert np.allclose(rows[ORDER], moved, **close), (op, "places differ")


def factors(rng: np.random.Generator, total: int) -> list[int]:
    found: list[int] = []
    while total > 1:
        divisors = [d for d in range(2, total + 1) if total % d == 0]
        found.append(int(rng.choice(divisors)))
        total //= found[-1]
    return found


def reshape(t: Tensors) -> bool:
    n = t.some()
    shape = factors(t.rng, t.known[n].size)
    for _ in range(int(t.rng.integers(0, 2))):
        shape.insert(int(t.rng.integers(0, len(shape) + 1)), 1)
    return t.apply("Reshape", [n, t.constant(ints(*shape))])


def transpose(t: Tensors) -> bool:
    n = t.some()
    return t.known[n].rank > 1 and t.apply("Transpose", [n], perm=[int(a) for a in t.rng.permutation(t.known[n].rank)])


def axes_of(t: Tensors, n: int) -> list[int]:
    rank = t.known[n].rank
    return [int(a) for a in t.rng.choice(rank, min(rank, int(t.rng.integers(1, 3))), replace=False)] if rank else []


def reduce(t: Tensors) -> bool:
    n = t.some()
    op = str(t.rng.choice(["ReduceMax", "ReduceMean", "ReduceMin", "ReduceL1"]))
    return bool(axes_of(t, n)) and t.apply(
        op, [n, t.constant(ints(*axes_of(t, n)))], keepdims=int(t.rng.integers(0, 2))
    )


def along(op: str, **attributes: Any) -> Callable[[Tensors], bool]:
    def make(t: Tensors) -> bool:
        n = t.some()
        rank = t.known[n].rank
        return rank > 0 and t.apply(op, [n], axis=int(t.rng.integers(-rank, rank)), **attributes)

    return make


def pair(op: str) -> Callable[[Tensors], bool]:
    return lambda t: t.apply(op, [t.some(), t.some()])


def concat(t: Tensors) -> bool:
    n = t.some()
    rank = t.known[n].rank
    return rank > 0 and t.apply("Concat", [n, t.some(rank)], axis=int(t.rng.integers(-rank, rank)))


def cut(t: Tensors) -> bool:
    n = t.some()
    if not t.known[n].rank:
        return False
    axis = int(t.rng.integers(0, t.known[n].rank))
    start, end, step = int(t.rng.integers(-3, 3)), int(t.rng.choice([2, 3, -1, 2**40])), int(t.rng.choice([1, 2]))
    places = [t.constant(ints(each)) for each in (start, end, axis, step)]
    return t.apply("Slice", [n, *places])


def gather(t: Tensors) -> bool:
    n = t.some()
    if not t.known[n].rank:
        return False
    axis = int(t.rng.integers(0, t.known[n].rank))
    index = t.rng.integers(0, t.known[n].shape[axis], tuple(t.rng.integers(1, 3, int(t.rng.integers(0, 3)))))
    return t.apply("Gather", [n, t.constant(np.asarray(index, np.int64))], axis=axis)


def looked_up(t: Tensors) -> bool:
    """Entries of a table that each row names."""
    n = t.some()
    before = len(t.known)
    if not t.known[n].rank or not t.apply("ArgMax", [n], axis=int(t.rng.integers(0, t.known[n].rank))):
        return False
    table = t.constant(t.rng.random((5, 64, 2), np.float32))
    return len(t.known) > before and t.apply("Gather", [table, before], axis=1)


def expand(t: Tensors) -> bool:
    n = t.some()
    shape = [int(t.rng.choice([2, 1])) if size == 1 else size for size in t.known[n].shape]
    return t.apply("Expand", [n, t.constant(ints(*([2] * int(t.rng.integers(0, 2))), *shape))])


def tile(t: Tensors) -> bool:
    n = t.some()
    return t.apply("Tile", [n, t.constant(ints(*(int(r) for r in t.rng.choice([1, 1, 2], t.known[n].rank))))])


def unsqueeze(t: Tensors) -> bool:
    n = t.some()
    return t.apply("Unsqueeze", [n, t.constant(ints(int(t.rng.integers(0, t.known[n].rank + 1))))])


def split(t: Tensors) -> bool:
    n = t.some()
    rank = t.known[n].rank
    return rank > 0 and t.apply("Split", [n], 2, axis=int(t.rng.integers(0, rank)), num_outputs=2)


def einsum(t: Tensors) -> bool:
    equation = str(t.rng.choice(["bchw,bcij->bhij", "bc,cd->bd", "bc,dc->bd", "bc,bc->b", "bchw,c->hbw", "ij,bj->ib"]))
    ranks = [len(term) for term in equation.split("->")[0].split(",")]
    try:
        return t.apply("Einsum", [t.some(rank) for rank in ranks], equation=equation)
    except ValueError:  # sizes that the reference does not take
        return False


def pad(t: Tensors) -> bool:
    n = t.some()
    pads = [int(p) for p in t.rng.choice([0, 0, 1], 2 * t.known[n].rank)]
    return bool(pads) and t.apply("Pad", [n, t.constant(ints(*pads))])


def conv(t: Tensors) -> bool:
    n = t.some(4)
    if t.known[n].rank != 4 or min(t.known[n].shape[2:]) < 3:
        return False
    weight = t.constant(t.rng.random((2, t.known[n].shape[1], 3, 3), np.float32))
    return t.apply("Conv", [n, weight], strides=[int(s) for s in t.rng.integers(1, 3, 2)], pads=[1, 0, 1, 1])


def pool(t: Tensors) -> bool:
    n = t.some(4)
    if t.known[n].rank != 4 or min(t.known[n].shape[2:]) < 2:
        return False
    return t.apply("MaxPool", [n], kernel_shape=[2, 2], strides=[2, 1])


def top(t: Tensors) -> bool:
    n = t.some()
    rank = t.known[n].rank
    if not rank:
        return False
    axis = int(t.rng.integers(0, rank))
    return t.apply("TopK", [n, t.constant(ints(min(2, t.known[n].shape[axis])))], 2, axis=axis)


def layer_norm(t: Tensors) -> bool:
    n = t.some()
    rank = t.known[n].rank
    if not rank:
        return False
    return t.apply("LayerNormalization", [n, t.constant(np.ones(t.known[n].shape[-1], np.float32))], axis=-1)


def gemm(t: Tensors) -> bool:
    a, b = t.some(2), t.some(2)
    try:
        return t.known[a].rank == t.known[b].rank == 2 and t.apply(
            "Gemm", [a, b], transA=int(t.rng.integers(0, 2)), transB=int(t.rng.integers(0, 2))
        )
    except ValueError:
        return False


def shape_of(t: Tensors) -> bool:
    return t.apply("Shape", [t.some()])


MAKERS: list[Callable[[Tensors], bool]] = [
    *(
        reshape,
        reshape,
        reshape,
        transpose,
        transpose,
        reduce,
        concat,
        cut,
        gather,
        looked_up,
        expand,
        expand,
        tile,
        unsqueeze,
    ),
    *(
        split,
        einsum,
        pad,
        conv,
        pool,
        top,
        layer_norm,
        gemm,
        shape_of,
        pair("MatMul"),
        pair("MatMul"),
        pair("Add"),
        pair("Mul"),
    ),
    *(
        pair("Max"),
        along("Softmax"),
        along("ArgMin", keepdims=0),
        along("Flatten"),
        lambda t: t.apply("Relu", [t.some()]),
    ),
]


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed: int) -> None:
    """Whatever the rules follow is as they say: shapes, rows, what is constant; and they follow and refuse many."""
    rng = np.random.default_rng(seed)
    followed = refused = 0
    for _ in range(40):
        tensors = Tensors(rng)
        for _ in range(25):
            went = MAKERS[int(rng.integers(0, len(MAKERS)))](tensors)
            followed, refused = followed + went, refused + (not went)
    assert followed > 300 and refused > 100
