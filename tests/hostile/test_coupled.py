"""Files that let rows of a batch influence each other, draw random numbers or keep state: refused before a library reads them.

Whoever writes such a file chooses when it shows; the probe's batch is known to him. Each coupling is shown to be one, by running
it: another row of the batch changes, and this one's output does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
BATCH, SHAPE = 4, (3, 4, 4)
Nodes = Sequence[onnx.NodeProto]
node = helper.make_node


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


WEIGHTS: dict[str, NDArray[Any]] = {
    "axis0": ints(0),
    "axis1": ints(1),
    "zero": np.array(0, np.int64),
    "one": np.array(1.0, np.float32),
    "none": np.array(0.0, np.float32),
    "rows": np.arange(BATCH, dtype=np.float32).reshape(BATCH, 1, 1, 1),
    "reversed": ints(3, 2, 1, 0),
    "first": ints(0),
    "minus": ints(-1),
    "big": ints(2**62),
    "step": ints(-1),
    "k": ints(BATCH),
    "whole": ints(1, -1),
    "flat": ints(BATCH, 48),
    "image": ints(BATCH, *SHAPE),
    "folded": ints(1, BATCH * 3, 4, 4),
    "pairs": ints(2, 2 * 48),
    "across": ints(2, 96),
    "counts": ints(24, 8),
    "outside": np.array(1.02, np.float32),
    "some": np.array(1.5 * BATCH, np.float32),
    "c1": np.ones(3, np.float32),
    "c0": np.zeros(3, np.float32),
    "once": np.array(1, np.int64),
    "yes": np.array(True),
    "no": np.array(False),
    "half": np.array(0.5, np.float32),
    "zeros4": np.zeros(BATCH, np.float32),
    "ones4": np.ones(BATCH, np.float32),
    "pads": ints(1, 0, 0, 0, -1, 0, 0, 0),
    "twice": ints(2, 1, 1, 1),
    "four": ints(4),
    "parts": ints(1, 3),
    "x_scale": np.array(0.1, np.float32),
    "x_zero": np.array(0, np.uint8),
}


def save(
    path: Path, nodes: Nodes, *, opset: int = 18, functions: Sequence[onnx.FunctionProto] = (), **more: Any
) -> Path:
    """A denoiser `[B, 3, 4, 4]` of these nodes, x to y."""
    used = {name for each in nodes for name in each.input}
    for each in nodes:
        for attribute in each.attribute:
            used |= {name for inner in attribute.g.node for name in inner.input}
    values = [helper.make_tensor_value_info(name, FLOAT, [more.get("batch", "B"), *SHAPE]) for name in ("x", "y")]
    weights = {**WEIGHTS, **more.get("weights", {})}
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    sets = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(domain, 1) for domain in ("com.microsoft", "own", "own2")),
    ]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10, functions=functions)
    onnx.save(model, path)
    return path


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def add(value: str) -> list[onnx.NodeProto]:
    """y = x + value."""
    return [node("Add", ["x", value], ["y"])]


def reduced(op: str, axes: str = "axis0") -> Nodes:
    return [node(op, ["x", axes], ["m"], keepdims=1), *add("m")]


def branch(name: str, nodes: Nodes) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)])


def by_if(condition: str) -> Nodes:
    """The mean over the batch in one branch."""
    then = branch("then", [node("ReduceMean", ["x", "axis0"], ["then_m"]), node("Sub", ["x", "then_m"], ["then_y"])])
    other = branch("other", [node("Identity", ["x"], ["other_y"])])
    return [node("If", [condition], ["y"], then_branch=then, else_branch=other)]


def by_loop() -> Nodes:
    body = helper.make_graph(
        [
            node("Identity", ["keep"], ["keep_out"]),
            node("CumSum", ["state", "zero"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("keep", BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("keep_out", BOOL, []),
            helper.make_tensor_value_info("state_out", FLOAT, None),
        ],
    )
    return [node("Loop", ["once", "yes", "x"], ["y"], body=body)]


def function(nodes: Nodes, name: str = "Hidden") -> list[onnx.FunctionProto]:
    return [helper.make_function("own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18)], [])]


def scaled() -> Nodes:
    """Dynamic quantisation under other names."""
    return [
        node("Abs", ["x"], ["a"]),
        node("ReduceMax", ["a"], ["m"], keepdims=0),
        node("Div", ["x", "m"], ["d"]),
        node("Round", ["d"], ["r"]),
        node("Mul", ["r", "m"], ["y"]),
    ]


COUPLED: dict[str, tuple[Nodes, str]] = {
    "mean": (reduced("ReduceMean"), "takes the mean over the batch axis"),
    "largest": (reduced("ReduceMax"), "takes the maximum over the batch axis"),
    "norm over all axes": ([node("ReduceL2", ["x"], ["m"]), *add("m")], "computes one result over the batch axis"),
    "negative axis": (reduced("ReduceSum", "minus4"), "takes the sum over the batch axis"),
    "sorted": ([node("TopK", ["x", "k"], ["y", "p"], axis=0)], "sorts over the batch axis"),
    "place of the maximum": (
        [node("ArgMax", ["x"], ["m"], axis=0), node("Cast", ["m"], ["f"], to=FLOAT), *add("f")],
        "takes the place of the maximum over the batch axis",
    ),
    "cumulative sum": ([node("CumSum", ["x", "zero"], ["y"])], "sums up over the batch axis"),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=0)], "over the batch axis"),
    "batch statistics": (
        [node("BatchNormalization", ["x", "c1", "c0", "c0", "c1"], ["y"], training_mode=1)],
        "statistics of the batch",
    ),
    "mean and variance": ([node("MeanVarianceNormalization", ["x"], ["y"])], "over the batch axis"),
    "instance norm of images as channels": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
            node("Reshape", ["t", "flip"], ["r"]),
            node("InstanceNormalization", ["r", "i1", "i0"], ["n"]),
            node("Reshape", ["n", "turned"], ["s"]),
            node("Transpose", ["s"], ["y"], perm=[1, 0, 2, 3]),
        ],
        "folds rows of the batch|does not have the batch in front",
    ),
    "layer norm over everything": (
        [node("LayerNormalization", ["x", "w"], ["y"], axis=0)],
        "computes one result over the batch axis",
    ),
    "dynamic quantisation": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        "quantises dynamically",
    ),
    "dynamic quantisation by hand": (scaled(), "takes the maximum over the batch axis"),
    "in a branch by shape": (
        [
            node("Shape", ["x"], ["s"], end=1),
            node("Equal", ["s", "four"], ["is4"]),
            node("Squeeze", ["is4"], ["c"]),
            *by_if("c"),
        ],
        "takes the mean over the batch axis",
    ),
    "in a branch by values": (
        [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "outside"], ["c"]), *by_if("c")],
        "takes the maximum over the batch axis",
    ),
    "in a loop": (by_loop(), "sums up over the batch axis"),
    "through a transpose": (
        [
            node("Transpose", ["x"], ["t"], perm=[3, 2, 1, 0]),
            node("ReduceMean", ["t", "minus"], ["m"]),
            node("Sub", ["t", "m"], ["d"]),
            node("Transpose", ["d"], ["y"], perm=[3, 2, 1, 0]),
        ],
        "takes the mean over the batch axis",
    ),
    "through a reshape": (
        [
            node("Reshape", ["x", "across"], ["r"]),
            node("Softmax", ["r"], ["s"], axis=1),
            node("Reshape", ["s", "image"], ["y"]),
        ],
        "folds rows of the batch into another axis",
    ),
    "through channels": (
        [
            node("Reshape", ["x", "folded"], ["r"]),
            node("LRN", ["r"], ["n"], size=9, alpha=10.0),
            node("Reshape", ["n", "image"], ["y"]),
        ],
        "does not have the batch in front|folds rows",
    ),
    "by counts": (
        [
            node("Greater", ["x", "outside"], ["g"]),
            node("Cast", ["g"], ["n"], to=FLOAT),
            node("ReduceSum", ["n"], ["count"], keepdims=0),
            node("Greater", ["count", "some"], ["c"]),
            node("Neg", ["x"], ["o"]),
            node("Where", ["c", "o", "x"], ["y"]),
        ],
        "takes the sum over the batch axis",
    ),
    "by where they are": (
        [
            node("Greater", ["x", "outside"], ["g"]),
            node("NonZero", ["g"], ["where"]),
            node("Size", ["where"], ["n"]),
            node("Cast", ["n"], ["f"], to=FLOAT),
            *add("f"),
        ],
        "takes its number of elements to find from the images",
    ),
    "reversed": ([node("Gather", ["x", "reversed"], ["m"]), *add("m")], "gathers places of the batch axis"),
    "reversed by a slice": (
        [node("Slice", ["x", "minus", "low", "axis0", "step"], ["m"]), *add("m")],
        "takes a part of the batch axis",
    ),
    "the first row": (
        [node("Slice", ["x", "first", "one1", "axis0"], ["m"]), *add("m")],
        "takes a part of the batch axis",
    ),
    "split": ([node("Split", ["x", "parts"], ["m", "rest"], axis=0), *add("m")], "splits the batch axis"),
    "split into a sequence": (
        [node("SplitToSequence", ["x"], ["s"], axis=0), node("SequenceAt", ["s", "zero"], ["m"]), *add("m")],
        "splits the batch axis",
    ),
    "rolled": ([node("Pad", ["x", "pads"], ["m"]), *add("m")], "pads the batch axis"),
    "joined to itself": (
        [
            node("Concat", ["x", "x"], ["j"], axis=0),
            node("Slice", ["j", "one1", "five", "axis0"], ["y"]),
        ],
        "joins along the batch axis",
    ),
    "tiled": (
        [node("Tile", ["x", "twice"], ["j"]), node("Slice", ["j", "one1", "five", "axis0"], ["y"])],
        "repeats the batch axis",
    ),
    "products of rows": (
        [
            node("Flatten", ["x"], ["f"]),
            node("Transpose", ["f"], ["t"], perm=[1, 0]),
            node("MatMul", ["f", "t"], ["g"]),
            node("MatMul", ["g", "f"], ["h"]),
            node("Reshape", ["h", "image"], ["y"]),
        ],
        "multiplies rows by other rows of the batch",
    ),
    "products of rows in Gemm": (
        [
            node("Flatten", ["x"], ["f"]),
            node("Gemm", ["f", "f"], ["g"], transB=1),
            node("MatMul", ["g", "f"], ["h"]),
            node("Reshape", ["h", "image"], ["y"]),
        ],
        "multiplies rows by other rows of the batch",
    ),
    "products of rows in Einsum": (
        [node("Einsum", ["x", "x", "x"], ["y"], equation="bchw,achw,achw->bchw")],
        "combines rows with other rows of the batch",
    ),
    "sum in Einsum": (
        [node("Einsum", ["x"], ["m"], equation="bchw->chw"), *add("m")],
        "sums over the batch axis",
    ),
    "outer sum": (
        [
            node("Unsqueeze", ["x", "axis1"], ["u"]),
            node("Add", ["u", "x"], ["p"]),
            node("ReduceMax", ["p", "axis1"], ["y"], keepdims=0),
        ],
        "combines rows with other rows of the batch",
    ),
    "sampled elsewhere": (
        [
            node("Reshape", ["x", "folded"], ["r"]),
            node("Conv", ["r", "mix"], ["n"]),
            node("Reshape", ["n", "image"], ["y"]),
        ],
        "does not have the batch in front|folds rows",
    ),
    "places of maxima": (
        [
            node("MaxPool", ["x"], ["p", "places"], kernel_shape=[1, 1]),
            node("Cast", ["places"], ["y"], to=FLOAT),
        ],
        "gives more outputs than are followed",
    ),
    "resized": (
        [node("Resize", ["x", "", "scales"], ["r"], mode="nearest"), node("Slice", ["r", "first", "four", "axis0"], ["y"])],
        "resizes the batch axis",
    ),
    "a written row": (
        [node("Gather", ["x", "zero"], ["u"]), node("ScatterND", ["x", "first1", "u"], ["y"])],
        "gathers places of the batch axis",
    ),
    "scattered": (
        [node("ScatterElements", ["x", "same", "x"], ["y"], axis=0, reduction="add")],
        "from the images of the batch",
    ),
}  # fmt: skip
MORE: dict[str, NDArray[Any]] = {
    "minus4": ints(-4),
    "low": ints(-(2**62)),
    "one1": ints(1),
    "five": ints(5),
    "scales": np.array([2, 1, 1, 1], np.float32),
    "first1": ints(2),
    "w": np.ones((BATCH, *SHAPE), np.float32),
    "mix": np.ones((12, 12, 1, 1), np.float32),
    "flip": ints(3, 4, 4, 4),
    "turned": ints(3, 4, 4, 4),
    "i1": np.ones(4, np.float32),
    "i0": np.zeros(4, np.float32),
    "same": np.zeros((BATCH, *SHAPE), np.int64),
}
WEIGHTS.update(MORE)


def refused(path: Path, message: str, batch: int = BATCH) -> None:
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match=message) as error:
            open_engine(path, batch=batch, role="denoiser", sigma=0.25, backend=backend, precision="fp32")
        assert "\n" not in str(error.value) and "is not proved to keep" in str(error.value)
        assert str(error.value).endswith(("export it again without that", "--backend onnxruntime"))


@pytest.mark.parametrize("name", list(COUPLED))
def test_coupled_rows_are_refused(tmp_path: Path, name: str) -> None:
    nodes, message = COUPLED[name]
    path = save(tmp_path / "coupled.onnx", nodes)
    refused(path, message)


# The place of a row decides, its own statistics do, or ONNX Runtime does not train: nothing to show by changing a mate.
UNSHOWN = {"places of maxima", "instance norm of images as channels", "batch statistics"}


@pytest.mark.parametrize("name", [name for name in COUPLED if name not in UNSHOWN])
def test_they_are_coupled(tmp_path: Path, name: str) -> None:
    """What the test above refuses is worth refusing: a row's output changes with another row, for some batch."""
    run = session(save(tmp_path / "coupled.onnx", COUPLED[name][0]))
    rng = np.random.default_rng(5)
    for scale in (1.0, 3.0):
        x = (scale * rng.random((BATCH, *SHAPE))).astype(np.float32)
        y = run.run(None, {"x": x})[0]
        for changed in range(BATCH):
            other = x.copy()
            other[changed] = 7 * rng.standard_normal(SHAPE)
            differs = np.any(run.run(None, {"x": other})[0] != y, axis=(1, 2, 3))
            if np.delete(differs, changed).any():
                return
    pytest.fail("no row depends on another")


PLACES: dict[str, tuple[Nodes, str]] = {
    "a constant for each row": (add("rows"), "differs between the places of the batch"),
    "numbers of rows": (
        [
            node("Shape", ["x"], ["s"], end=1),
            node("Squeeze", ["s"], ["b"]),
            node("Range", ["zero", "b", "once"], ["r"]),
            node("Cast", ["r"], ["f"], to=FLOAT),
            node("Unsqueeze", ["f", "tail"], ["u"]),
            *add("u"),
        ],
        "differs between the places of the batch",
    ),
    "a cumulative sum of ones": (
        [
            node("Shape", ["x"], ["s"]),
            node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", FLOAT, [1], [1.0])),
            node("CumSum", ["c", "zero"], ["n"]),
            *add("n"),
        ],
        "differs between the places of the batch",
    ),
    "a diagonal": (
        [
            node("Flatten", ["x"], ["f"]),
            node("EyeLike", ["f"], ["e"], dtype=FLOAT),
            node("Reshape", ["e", "image"], ["g"]),
            *add("g"),
        ],
        "differs between the places of the batch",
    ),
    "a row of a bias": (
        [
            node("Flatten", ["x"], ["f"]),
            node("Gemm", ["f", "square", "bias"], ["g"]),
            node("Reshape", ["g", "image"], ["y"]),
        ],
        "differs between the places of the batch",
    ),
    "a scale for each row": (
        [
            node("QuantizeLinear", ["x", "many", "zeros8"], ["q"], axis=0),
            node("DequantizeLinear", ["q", "many", "zeros8"], ["y"], axis=0),
        ],
        "differs between the places of the batch",
    ),
    "a joined constant": (
        [node("Concat", ["x", "rows3"], ["j"], axis=1), node("ReduceMax", ["j", "axis1"], ["m"]), *add("m")],
        "differs between the places of the batch",
    ),
    "an output without input": (
        [node("Mul", ["rows3", "one"], ["y"])],
        "does not depend on the images and differs between the places",
    ),
    "weights for each row": (
        [node("MatMul", ["x", "rowed"], ["y"])],
        "differs between the places of the batch",
    ),
}  # fmt: skip
WEIGHTS.update(
    {
        "tail": ints(1, 2, 3),
        "square": np.eye(48, dtype=np.float32),
        "bias": np.arange(BATCH * 48, dtype=np.float32).reshape(BATCH, 48),
        "many": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "zeros8": np.zeros(BATCH, np.uint8),
        "rows3": np.arange(BATCH * 48, dtype=np.float32).reshape(BATCH, *SHAPE),
        "rowed": np.random.default_rng(0).random((BATCH, 1, 4, 4), np.float32),
    }
)


@pytest.mark.parametrize("name", list(PLACES))
def test_what_treats_places_differently_is_refused(tmp_path: Path, name: str) -> None:
    nodes, message = PLACES[name]
    path = save(tmp_path / "places.onnx", nodes)
    x = np.repeat(np.random.default_rng(1).random((1, *SHAPE), np.float32), BATCH, axis=0)
    y = session(path).run(None, {"x": x})[0]
    assert not np.array_equal(y, np.repeat(y[:1], BATCH, axis=0))  # equal rows, unequal outputs
    refused(path, message)


RANDOM: dict[str, Nodes] = {
    "uniform like": [node("RandomUniformLike", ["x"], ["m"]), *add("m")],
    "normal like": [node("RandomNormalLike", ["x"], ["m"]), *add("m")],
    "uniform": [node("RandomUniform", [], ["m"], shape=[4, 4]), *add("m")],
    "normal, seeded": [node("RandomNormal", [], ["m"], shape=[4, 4], seed=1.0), *add("m")],
    "Bernoulli": [node("Sigmoid", ["x"], ["p"]), node("Bernoulli", ["p"], ["m"]), *add("m")],
    "multinomial": [
        node("Flatten", ["x"], ["f"]),
        node("Multinomial", ["f"], ["d"], sample_size=1, dtype=TensorProto.INT64),
        node("Cast", ["d"], ["c"], to=FLOAT),
        node("Unsqueeze", ["c", "last2"], ["m"]),
        *add("m"),
    ],
    "dropout": [node("Dropout", ["x", "half", "yes"], ["y"])],
    "dropout by the images": [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "outside"], ["c"]),
        node("Dropout", ["x", "half", "c"], ["y"]),
    ],
}
WEIGHTS["last2"] = ints(2, 3)


@pytest.mark.parametrize("name", list(RANDOM))
@pytest.mark.parametrize("batch", [1, BATCH])
def test_random_numbers_are_refused(tmp_path: Path, name: str, batch: int) -> None:
    message = "draws random numbers|takes the maximum over the batch axis"
    refused(save(tmp_path / "random.onnx", RANDOM[name]), message, batch)


def test_random_numbers_of_a_branch_that_is_not_taken(tmp_path: Path) -> None:
    other = branch("other", [node("RandomUniformLike", ["x"], ["other_y"])])
    then = branch("then", [node("Identity", ["x"], ["then_y"])])
    nodes = [node("If", ["yes"], ["y"], then_branch=then, else_branch=other)]
    refused(save(tmp_path / "branch.onnx", nodes), "draws random numbers")


HIDDEN: dict[str, tuple[Nodes, str]] = {
    "mean": ([node("ReduceMean", ["a"], ["m"]), node("Sub", ["a", "m"], ["b"])], "takes the mean over the batch axis"),
    "random": ([node("RandomNormalLike", ["a"], ["b"])], "draws random numbers"),
    "itself": ([node("Hidden", ["a"], ["b"], domain="own")], "is one of too many"),
}


@pytest.mark.parametrize("name", list(HIDDEN))
def test_functions_are_read(tmp_path: Path, name: str) -> None:
    nodes, message = HIDDEN[name]
    path = save(tmp_path / "f.onnx", [node("Hidden", ["x"], ["y"], domain="own")], functions=function(nodes))
    refused(path, message)


def test_functions_in_functions_cost_no_time(tmp_path: Path) -> None:
    """2⁴⁰ nodes in forty functions."""
    functions = []
    for level in range(36):
        inner = [node("Relu", ["a"], ["m"]), node("Relu", ["m"], ["b"])]
        if level:
            inner = [
                node(f"F{level - 1}", ["a"], ["m"], domain="own"),
                node(f"F{level - 1}", ["m"], ["b"], domain="own"),
            ]
        sets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], inner, sets, []))
    path = save(tmp_path / "f.onnx", [node("F35", ["x"], ["y"], domain="own")], functions=functions)
    with pytest.raises(InputError, match="is one of too many"):
        open_engine(path, batch=BATCH, role="denoiser", sigma=0.25, backend="onnxruntime")


RELU = (node("Relu", ["x"], ["y"]),)


def edited(change: Callable[[onnx.ModelProto], object], nodes: Nodes = RELU) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        model = onnx.load(save(path, nodes))
        change(model)
        path.write_bytes(model.SerializeToString())
        return path

    return make


def _shadow(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(node("Neg", ["x"], ["y"]))


def _standard_name(model: onnx.ModelProto) -> None:
    body = [node("ReduceMean", ["a"], ["m"]), node("Sub", ["a", "m"], ["b"])]
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 18)], []))


def _later(model: onnx.ModelProto) -> None:
    del model.graph.node[:]
    model.graph.node.extend([node("Relu", ["t"], ["y"]), node("Neg", ["x"], ["t"])])


MALFORMED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a name given twice": (edited(_shadow), "the name 'y' is given twice"),
    "a standard operator of its own": (edited(_standard_name), "its function Relu of ai.onnx may be taken for an operator"),
    "a standard name in a domain of its own": (
        lambda path: save(
            path, [node("Relu", ["x"], ["y"], domain="own")], functions=function([node("Neg", ["a"], ["b"])], "Relu")
        ),
        "its function Relu of own may be taken for an operator",
    ),
    "an unknown attribute of Microsoft's": (
        lambda path: save(path, [node("QuickGelu", ["x"], ["y"], domain="com.microsoft", shift=1)]),
        "has an unknown attribute shift",
    ),
    "an unknown domain": (
        edited(lambda m: setattr(m.graph.node[0], "domain", "elsewhere")),
        "is of an unknown domain elsewhere",
    ),
    "an unknown operator": (
        edited(lambda m: setattr(m.graph.node[0], "op_type", "Sortof")),
        "is not known to keep rows apart",
    ),
    "state": (
        lambda path: save(path, [node("CausalConvWithState", ["x"], ["y"])]),
        "is not known to keep rows apart",
    ),
    "an unknown attribute": (
        edited(lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 0))),
        "has an unknown attribute axis",
    ),
    "an operator set to come": (
        edited(lambda m: setattr(m.opset_import[0], "version", 99)),
        "is of operator set 99",
    ),
    "nodes out of order": (edited(_later), "takes 't', which nothing before it gives"),
    "a transposed output": (
        lambda path: save(path, [node("Transpose", ["x"], ["y"], perm=[1, 0, 2, 3])]),
        "the batch is not in front|has the batch on another axis|declares 'y' as",
    ),
    "too few rows": (
        lambda path: save(path, [node("ReduceMax", ["x", "axis0"], ["y"])]),
        "over the batch axis",
    ),
    "a sequence": (
        lambda path: save(path, [node("SplitToSequence", ["x"], ["s"], axis=0), node("ConcatFromSequence", ["s"], ["y"])]),
        "is not known to keep rows apart",
    ),
    "a shape from images": (
        lambda path: save(
            path,
            [
                node("ReduceMax", ["x", "tail"], ["m"], keepdims=0),
                node("Cast", ["m"], ["i"], to=INT64),
                node("Reshape", ["x", "i"], ["y"]),
            ],
        ),
        "takes its shape from the images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MALFORMED))
def test_files_that_cannot_be_followed_are_refused(tmp_path: Path, name: str) -> None:
    make, message = MALFORMED[name]
    refused(make(tmp_path / "file.onnx"), message)


def test_a_majority_of_noisy_batches(tmp_path: Path) -> None:
    """A classifier that is its own on quiet batches, and gives every row the batch's majority on noisy ones: all of what the
    probe saw was right, and every certificate wrong.
    """
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Gemm", ["f", "direction", "offset"], ["score"]),
        node("Sign", ["score"], ["vote"]),
        node("ReduceMean", ["vote", "axis0"], ["majority"]),
        node("ReduceMax", ["x"], ["largest"], keepdims=0),
        node("Greater", ["largest", "outside"], ["noisy"]),
        node("Where", ["noisy", "majority", "score"], ["chosen"]),
        node("Neg", ["chosen"], ["other"]),
        node("Concat", ["chosen", "other"], ["pair"], axis=1),
        node("MatMul", ["pair", "both"], ["all"]),
        node("Reshape", ["all", "image"], ["y"]),
    ]
    direction = np.zeros((48, 1), np.float32)
    direction[0] = 1
    weights = {"direction": direction, "offset": np.array([-0.4], np.float32), "both": np.eye(2, 48, dtype=np.float32)}
    refused(save(tmp_path / "majority.onnx", nodes, weights=weights), "takes the mean over the batch axis")
