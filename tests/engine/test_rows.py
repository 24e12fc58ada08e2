"""The proof of independent rows: what each rule says of a tensor is held against what the operator computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from diffsmooth_trt import zoo
from diffsmooth_trt.engine import Engine, EngineFacts
from diffsmooth_trt.engine.rows import VERSION, Unproved, prove
from diffsmooth_trt.engine.rows.nodes import RULES, Node, attribute_value
from diffsmooth_trt.engine.rows.values import Refused, Rows, Value, batched, constant, free
from diffsmooth_trt.errors import InputError

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
    axis, count, before = value.rows.axis, value.rows.count, value.rows.before
    assert first.shape[axis] == before * BATCH * count, op
    rows, changed, moved = (
        np.moveaxis(np.moveaxis(each, axis, 0).reshape(before, BATCH, count, *np.delete(first.shape, axis)), 1, 0)
        for each in arrays
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
    if max(t.known[n].shape, default=65) > 64 or not t.apply(
        "ArgMax", [n], axis=int(t.rng.integers(0, t.known[n].rank))
    ):
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


def proved(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, Array] | None = None, *, batch: int = 4, **more: Any
) -> int:
    return prove(model(nodes, weights, **more), {"x": (batch, 3, 4, 4)}).nodes


def windowed_attention(window: int = 2) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Windows of places as rows of their own, attention in them with a table by position, and back."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        node("Reshape", ["t", "windows"], ["w"]),
        node("Transpose", ["w"], ["p"], perm=[0, 1, 3, 2, 4, 5]),
        node("Reshape", ["p", "many"], ["q"]),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["a"]),
        node("Reshape", ["a", "masked"], ["b"]),
        node("Add", ["b", "mask"], ["c"]),
        node("Reshape", ["c", "flat"], ["d"]),
        node("Softmax", ["d"], ["s"], axis=-1),
        node("MatMul", ["s", "q"], ["o"]),
        node("Reshape", ["o", "back"], ["r"]),
        node("Transpose", ["r"], ["v"], perm=[0, 5, 1, 3, 2, 4]),
        node("Reshape", ["v", "image"], ["y"]),
    ]
    weights = {
        "windows": ints(-1, 2, window, 2, window, 3),
        "many": ints(-1, 4, 3),
        "masked": ints(-1, 4, 4, 4),
        "mask": np.random.default_rng(0).random((1, 4, 4, 4), np.float32),
        "flat": ints(-1, 4, 4),
        "back": ints(-1, 2, 2, window, window, 3),
        "image": ints(-1, 3, 4, 4),
    }
    return nodes, weights


def heads_in_the_batch() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Places first, the batch second, heads folded into the batch: as torch's nn.MultiheadAttention does."""
    nodes = [
        node("Reshape", ["x", "tokens"], ["t"]),
        node("Transpose", ["t"], ["p"], perm=[2, 0, 1]),
        node("Reshape", ["p", "heads"], ["h"]),
        node("Transpose", ["h"], ["q"], perm=[1, 0, 2]),
        node("Einsum", ["q", "q"], ["a"], equation="bid,bjd->bij"),
        node("Softmax", ["a"], ["s"], axis=-1),
        node("MatMul", ["s", "q"], ["o"]),
        node("Transpose", ["o"], ["r"], perm=[1, 0, 2]),
        node("Reshape", ["r", "merged"], ["m"]),
        node("Transpose", ["m"], ["v"], perm=[1, 2, 0]),
        node("Reshape", ["v", "image"], ["y"]),
    ]
    sizes = {"tokens": ints(4, 3, 16), "heads": ints(16, 12, 1), "merged": ints(16, 4, 3), "image": ints(4, 3, 4, 4)}
    return nodes, sizes


def class_token(stored: bool) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """A learned token in front of each row's, expanded in the graph or, as for a fixed batch, stored for every row."""
    token = np.random.default_rng(0).random((1, 1, 48), np.float32)
    nodes = [
        node("Shape", ["x"], ["b"], end=1),
        node("Concat", ["b", "rest"], ["sizes"], axis=0),
        node("Expand", ["token", "sizes"], ["e"]),
        node("Reshape", ["x", "one"], ["f"]),
        node("Concat", ["stored" if stored else "e", "f"], ["j"], axis=1),
        node("ReduceMean", ["j", "axis"], ["m"], keepdims=0),
        node("Reshape", ["m", "image"], ["y"]),
    ]
    weights = {"token": token, "rest": ints(1, 48), "one": ints(0, 1, -1), "axis": ints(1), "image": ints(-1, 3, 4, 4)}
    return nodes, {**weights, "stored": np.repeat(token, 4, axis=0)}


def sizes_at_run_time() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """The arithmetic of shapes that exporters write for a batch of any size."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Gather", ["s", "two"], ["h"]),
        node("Mul", ["b", "h"], ["bh"]),
        node("Div", ["bh", "h"], ["b2"]),
        node("Unsqueeze", ["b2", "zeros"], ["u"]),
        node("Concat", ["u", "minus"], ["c"], axis=0),
        node("ConstantOfShape", ["two1"], ["ones"], value=helper.make_tensor("v", INT64, [1], [1])),
        node("Equal", ["c", "minus2"], ["is"]),
        node("Where", ["is", "ones", "c"], ["w"]),
        node("Expand", ["number", "w"], ["e"]),
        node("Flatten", ["x"], ["f"]),
        node("Add", ["f", "e"], ["g"]),
        node("Cast", ["h"], ["hf"], to=FLOAT),
        node("Pow", ["hf", "half"], ["r"]),
        node("Floor", ["r"], ["fl"]),
        node("Cast", ["fl"], ["side"], to=INT64),
        node("Mul", ["side", "two"], ["four"]),
        node("Unsqueeze", ["four", "zeros"], ["four1"]),
        node("Concat", ["keep", "four1", "last"], ["shape"], axis=0),
        node("Reshape", ["g", "shape"], ["y"]),
    ]
    weights = {"zero": np.array(0, np.int64), "two": np.array(2, np.int64), "zeros": ints(0), "minus": ints(-1)}
    weights |= {"two1": ints(2), "minus2": ints(-1, -1), "number": np.ones((1, 1), np.float32), "keep": ints(0, 3)}
    return nodes, {**weights, "last": ints(4), "half": np.array(0.5, np.float32)}


def places_before_rows() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Places first and the batch second, both in one axis for a linear layer: as torch's nn.MultiheadAttention ends."""
    nodes = [
        node("Reshape", ["x", "tokens"], ["t"]),
        node("Transpose", ["t"], ["p"], perm=[2, 0, 1]),
        node("Reshape", ["p", "flat"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["g"]),
        node("Reshape", ["g", "apart"], ["a"]),
        node("Transpose", ["a"], ["v"], perm=[1, 2, 0]),
        node("Reshape", ["v", "image"], ["y"]),
    ]
    sizes = {"tokens": ints(-1, 3, 16), "flat": ints(-1, 3), "apart": ints(16, -1, 3), "image": ints(-1, 3, 4, 4)}
    return nodes, {**sizes, "w": np.ones((3, 3), np.float32), "b": np.ones(3, np.float32)}


KEPT: dict[str, tuple[list[onnx.NodeProto], dict[str, Array]]] = {
    "windows": windowed_attention(),
    "heads in the batch": heads_in_the_batch(),
    "places before rows": places_before_rows(),
    "a class token": class_token(False),
    "a class token stored for every row": class_token(True),
    "shapes at run time": sizes_at_run_time(),
    "a constant": ([node("Expand", ["c", "image"], ["y"])], {"c": np.ones((1, 3, 1, 1), np.float32), "image": ints(4, 3, 4, 4)}),
    "channel by channel": (
        [
            node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            node("SplitToSequence", ["a", "one"], ["s"], axis=1),
            node("SequenceAt", ["s", "last"], ["c"]),
            node("Concat", ["c", "b", "b"], ["y"], axis=1),
        ],
        {"one": np.array(1, np.int64), "last": np.array(-1, np.int64)},
    ),
    "static quantisation": (
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
            node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
        ],
        {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.zeros(3, np.int8)},
    ),
    "static quantisation of Microsoft's": (
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint16)},
    ),
    "resized": (
        [
            node("Resize", ["x", "", "", "sizes"], ["r"], mode="cubic", antialias=1),
            node("Cast", ["half"], ["scales"], to=FLOAT),
            node("Resize", ["r", "", "scales"], ["y"], mode="linear"),
        ],
        {"sizes": ints(4, 3, 8, 8), "half": np.array([1, 1, 0.5, 0.5], np.float16)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(KEPT))
def test_what_keeps_rows_apart_is_proved(name: str) -> None:
    nodes, weights = KEPT[name]
    assert proved(nodes, weights) == len(nodes)


def test_one_row_needs_no_axis() -> None:
    """Nothing can be coupled in a batch of one; what is random still is."""
    nodes = [node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["y"])]
    assert proved(nodes, {"axis": ints(0)}, batch=1) == 2
    with pytest.raises(Unproved, match="over the batch axis"):
        proved(nodes, {"axis": ints(0)}, batch=2)
    with pytest.raises(Unproved, match="draws random numbers"):
        proved([node("RandomNormalLike", ["x"], ["y"])], batch=1)


def test_axes_by_operator_set() -> None:
    """Attribute or input, and a softmax that takes all axes from its own on."""
    old = [node("ReduceMean", ["x"], ["m"], axes=[1]), node("Sub", ["x", "m"], ["y"])]
    assert proved(old, opset=13) == 2
    with pytest.raises(Unproved, match="has an unknown attribute axes"):
        proved(old, opset=18)
    with pytest.raises(Unproved, match="over the batch axis"):
        proved([node("Softmax", ["x"], ["y"], axis=0)], opset=11)
    with pytest.raises(Unproved, match="takes the sum over the batch axis"):
        proved([node("ReduceSum", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])], opset=11)
    assert proved([node("Softmax", ["x"], ["y"])], opset=11) == 1
    dropout = [node("Dropout", ["x"], ["y"], ratio=0.5)]
    assert proved(dropout, opset=10) == 1
    with pytest.raises(Unproved, match="operator set 6"):
        proved(dropout, opset=6)


def branches(then: Sequence[onnx.NodeProto], other: Sequence[onnx.NodeProto]) -> dict[str, onnx.GraphProto]:
    def graph(name: str, nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)])

    return {"then_branch": graph("then", then), "else_branch": graph("other", other)}


def test_branches_and_loops() -> None:
    mean = [node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["t"])]
    plain = [node("Neg", ["x"], ["n"])]
    weights = {"axis": ints(0), "c": np.array(False), "u": np.array(0.3, np.float32), "h": np.array(0.2, np.float32)}
    assert proved([node("If", ["c"], ["y"], **branches(mean, plain))], weights) == 2  # the one that is taken
    unknown = [node("Sin", ["u"], ["v"]), node("Greater", ["v", "h"], ["k"])]
    with pytest.raises(Unproved, match="takes the mean over the batch axis"):
        proved([*unknown, node("If", ["k"], ["y"], **branches(mean, plain))], weights)
    assert proved([*unknown, node("If", ["k"], ["y"], **branches([node("Abs", ["x"], ["t"])], plain))], weights) == 5
    turned = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3])]
    with pytest.raises(Unproved, match="branches of unlike shapes|rows in unlike places"):
        proved([*unknown, node("If", ["k"], ["y"], **branches(turned, plain))], weights)
    values = [
        ("i", INT64, []),
        ("c0", BOOL, []),
        ("s0", FLOAT, None),
        ("c1", BOOL, []),
        ("s1", FLOAT, None),
        ("o", FLOAT, None),
    ]
    infos = [helper.make_tensor_value_info(*value) for value in values]
    body = [node("Identity", ["c0"], ["c1"]), node("Mul", ["s0", "x"], ["s1"]), node("Neg", ["s1"], ["o"])]
    loop = node(
        "Loop", ["three", "", "x"], ["last", "every"], body=helper.make_graph(body, "body", infos[:3], infos[3:])
    )
    nodes = [loop, node("Gather", ["every", "zero"], ["first"]), node("Add", ["last", "first"], ["y"])]
    more = {"three": np.array(3, np.int64), "zero": np.array(0, np.int64)}
    assert proved(nodes, more) == 3 + 3 * len(body) + 3
    with pytest.raises(Unproved, match="runs a number of times that is not known"):
        proved(
            [node("Sin", ["u"], ["v"]), node("Cast", ["v"], ["three"], to=INT64), *nodes],
            {**weights, "zero": more["zero"]},
        )


def test_functions_take_attributes() -> None:
    inner = node("Softmax", ["a"], ["b"])
    inner.attribute.append(onnx.AttributeProto(name="axis", ref_attr_name="along", type=onnx.AttributeProto.INT))
    made = helper.make_function("own", "Along", ["a"], ["b"], [inner], [helper.make_opsetid("", OPSET)], ["along"])
    assert proved([node("Along", ["x"], ["y"], domain="own", along=1)], functions=[made]) == 2
    with pytest.raises(Unproved, match="node 'b' .Softmax. computes one result over the batch axis"):
        proved([node("Along", ["x"], ["y"], domain="own", along=0)], functions=[made])


@pytest.mark.parametrize(
    ("batch", "message"),
    [(4, ""), (6, "differs between the places|combines shapes"), (2, "differs between the places|combines shapes")],
)
def test_a_constant_for_the_batch_fits_that_batch_alone(batch: int, message: str) -> None:
    nodes, weights = [node("Add", ["x", "c"], ["y"])], {"c": np.ones((4, 1, 1, 1), np.float32)}
    if not message:
        assert proved(nodes, weights, batch=batch) == 1
        return
    with pytest.raises(Unproved, match=message):
        proved(nodes, weights, batch=batch)


def test_declared_shapes_are_not_believed() -> None:
    """A file may say of a tensor what it likes."""
    made = model([node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["y"])], {"axis": ints(0)})
    made.graph.value_info.append(helper.make_tensor_value_info("m", FLOAT, [4, 3, 4, 4]))
    with pytest.raises(Unproved, match="over the batch axis"):
        prove(made, {"x": (4, 3, 4, 4)})
    fixed = model([node("Relu", ["x"], ["y"])], shape=("B", 3, 8, 8))
    with pytest.raises(Unproved, match="its input 'x' is"):
        prove(fixed, {"x": (4, 3, 4, 4)})


def test_shape_arithmetic_that_libraries_do_differently_is_not_believed() -> None:
    big = {"big": np.array([2**40], np.int64), "rest": ints(3, 4, 4)}
    nodes = [
        node("Add", ["big", "big"], ["b"]),
        node("Sub", ["b", "b"], ["z"]),
        node("Concat", ["z", "rest"], ["s"], axis=0),
    ]
    with pytest.raises(Unproved, match="has a shape that is not known before a run"):
        proved([*nodes, node("Reshape", ["x", "s"], ["y"])], big)
    negative = {"a": ints(-7), "two": ints(2), "rest": ints(3, 4, 4)}
    nodes = [node("Div", ["a", "two"], ["d"]), node("Concat", ["d", "rest"], ["s"], axis=0)]
    with pytest.raises(Unproved, match="has a shape that is not known before a run"):
        proved([*nodes, node("Reshape", ["x", "s"], ["y"])], negative)


def test_weights_are_not_read(tmp_path: Path) -> None:
    """Of a large stored tensor the shape is enough: its file need not even be there."""
    made = model([node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], {"w": np.ones((3, 3, 3, 3), np.float32)})
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="absent.bin")
    assert prove(made, {"x": (4, 3, 4, 4)}, str(tmp_path)).recorded() == {"version": VERSION, "rows": 4, "nodes": 1}
    assert not tensor.raw_data


@pytest.mark.parametrize(
    "file", [zoo.DENOISER, zoo.CLASSIFIER_DDS, zoo.DETECTOR], ids=["denoiser", "classifier", "detector"]
)
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_zoo_is_proved(file: Path, batch: int) -> None:
    made = onnx.load_model(str(file))
    (name,) = (value.name for value in made.graph.input)
    assert prove(made, {name: (batch, 3, 32, 32)}).rows == batch


class OwnEngine(Engine):
    """A classifier that no file shows: what is left to find is the probe's to find."""

    backend = "own"

    def __init__(self, path: Path, batch: int, act: Callable[[Array, Array], Array]) -> None:
        super().__init__(path, EngineFacts("classifier", (3, 4, 4), classes=2), batch)
        self.act, self.runs = act, 0

    def _run(self, inputs: Any) -> Any:
        (x,) = inputs
        self.runs += 1
        score = x.reshape(len(x), -1).mean(axis=1)
        score = self.act(x, score)
        return np.stack([score, -score], axis=1).astype(np.float32)


def majority(x: Array, score: Array) -> Array:
    return np.full_like(score, np.sign(score - 0.5).sum()) if x.max() > 1.02 else score


def by_count(x: Array, score: Array) -> Array:
    return -score if (x > 1.02).sum() > x.size // 8 else score


def loudest(x: Array, score: Array) -> Array:
    return np.where(
        np.arange(len(score)) == np.abs(x).reshape(len(x), -1).max(axis=1).argmax(), score, 0 * score + score.max()
    )


def third_place(x: Array, score: Array) -> Array:
    score = score.copy()
    score[2] += 1 if abs(x[2]).max() > 3 else 0
    return score


@pytest.mark.parametrize("act", [majority, by_count, loudest, third_place])
@pytest.mark.parametrize("batch", [4, 64])
def test_the_probe_finds_what_noise_sets_off(
    act: Callable[[Array, Array], Array], batch: int, linear_classifier: Callable[..., Path]
) -> None:
    path = linear_classifier(np.ones((2, 48)), np.zeros(2))
    with OwnEngine(path, batch, act) as engine, pytest.raises(InputError, match="coupled or it is random"):
        engine.probe()
    with OwnEngine(path, batch, lambda x, score: score) as engine:
        digest = engine.probe()
        assert engine.runs == 4
        assert digest == hashlib.sha256(engine.run(engine._probe_inputs()[0]).tobytes()).hexdigest()
        assert engine.rows == "assumed"
