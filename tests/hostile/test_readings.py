"""Files that a library reads otherwise than the proof might: each was once proved, and coupled in a library.

A value beside the name of a function's attribute, shapes that a file declares and libraries believe, infinite neighbours of weight
0, places behind the end of a tensor, constants that libraries compute in different ways.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError


def _graphs() -> Any:
    """The graphs' parts of the tests beside this one."""
    spec = importlib.util.spec_from_file_location("coupled_graphs", Path(__file__).with_name("test_coupled.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_parts = _graphs()
add, branch, by_if, function, ints = _parts.add, _parts.branch, _parts.by_if, _parts.function, _parts.ints
refused, save, session = _parts.refused, _parts.save, _parts.session
node, BATCH, FLOAT, INT64 = helper.make_node, 4, TensorProto.FLOAT, TensorProto.INT64
Nodes = Sequence[onnx.NodeProto]


def referring(**bound: Any) -> onnx.NodeProto:
    """A softmax over the batch for whoever looks at the value, over the last axis for whoever looks at the name."""
    made = node("Softmax", ["x"], ["y"], axis=0, **bound)
    made.attribute[0].ref_attr_name = "elsewhere"
    return made


def changed(path: Path) -> bool:
    """Whether ONNX Runtime changes a row's output with another row."""
    run, rng = session(path), np.random.default_rng(3)
    x = rng.random((BATCH, 3, 4, 4), np.float32)
    other = x.copy()
    other[1:] = 30
    with np.errstate(all="ignore"):
        first, second = (run.run(None, {"x": given})[0][0] for given in (x, other))
    return not np.array_equal(first, second, equal_nan=True)


def test_a_value_beside_the_name_of_an_attribute(tmp_path: Path) -> None:
    path = save(tmp_path / "f.onnx", [referring()])
    assert changed(path)
    refused(path, "holds more than one value of axis")


def test_the_name_of_an_attribute_outside_of_functions(tmp_path: Path) -> None:
    made = referring()
    made.attribute[0].ClearField("i")
    refused(save(tmp_path / "f.onnx", [made]), "takes its axis from a function, and is in none")


def test_two_values_of_one_attribute(tmp_path: Path) -> None:
    made = node("Softmax", ["x"], ["y"], axis=1)
    made.attribute[0].f = 0.5
    refused(save(tmp_path / "f.onnx", [made]), "holds more than one value of axis")


def test_two_functions_that_differ_in_their_overload(tmp_path: Path) -> None:
    first, second = function([node("Abs", ["a"], ["b"])]), function([node("CumSum", ["a", "a"], ["b"])])
    second[0].overload = "other"
    path = save(tmp_path / "f.onnx", [node("Hidden", ["x"], ["y"], domain="own")], functions=[*first, *second])
    refused(path, "it has two functions own.Hidden")


UNLESS_FOUR = [
    node("Shape", ["t"], ["s"], end=1),
    node("Equal", ["s", "four"], ["is4"]),
    node("Squeeze", ["is4"], ["yes4"]),
    node("Not", ["yes4"], ["c"]),
    *by_if("c"),
]


def test_a_declared_shape_that_lies(tmp_path: Path) -> None:
    """ONNX Runtime takes a declared 7 for the number of rows, and the branch that couples them."""
    path = save(tmp_path / "f.onnx", [node("Abs", ["x"], ["t"]), *UNLESS_FOUR])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("t", FLOAT, [7, 3, 4, 4]))
    onnx.save(model, path)
    assert changed(path)
    refused(path, r"declares 't' as \[7, 3, 4, 4\], which is \[4, 3, 4, 4\]")


def test_a_declared_output_of_a_branch_that_lies(tmp_path: Path) -> None:
    branches = []
    for name in ("then", "other"):
        made = branch(name, [node("Abs", ["x"], [f"{name}_y"])])
        made.output[0].CopyFrom(helper.make_tensor_value_info(f"{name}_y", FLOAT, [7, 3, 4, 4]))
        branches.append(made)
    chosen = node("If", ["yes"], ["t"], then_branch=branches[0], else_branch=branches[1])
    path = save(tmp_path / "f.onnx", [chosen, *UNLESS_FOUR])
    assert changed(path)
    refused(path, "declares 'then_y' as")


def test_a_name_for_two_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "f.onnx", [node("Abs", ["x"], ["t"]), node("Neg", ["t"], ["y"])])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("t", FLOAT, ["B", "B", 4, 4]))
    onnx.save(model, path)
    refused(path, r"declares 't' as \['B', 'B', 4, 4\]")


def test_a_loop_whose_condition_some_libraries_ignore(tmp_path: Path) -> None:
    """Without a condition to begin with ONNX runs all turns, ONNX Runtime ends: the second turn sums over the batch."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("Identity", ["no"], ["keep_out"]),
            node("Sub", ["once", "turn"], ["axis"]),
            node("CumSum", ["state", "axis"], ["state_out"]),
        ],
        "body",
        [value("turn", INT64, []), value("keep", TensorProto.BOOL, []), value("state", FLOAT, None)],
        [value("keep_out", TensorProto.BOOL, []), value("state_out", FLOAT, None)],
    )
    nodes = [node("Loop", ["turns", "", "x"], ["y"], body=body)]
    refused(save(tmp_path / "f.onnx", nodes, weights={"turns": np.array(2)}), "in different ways")


def resized(mode: str, perm: list[int]) -> Nodes:
    """Rows that are infinite or not, on an axis of scale 1; where a neighbour was, there is NaN."""
    back = [perm.index(axis) for axis in range(4)]
    return [
        node("Mul", ["x", "fifty"], ["m"]),
        node("Exp", ["m"], ["e"]),
        node("Transpose", ["e"], ["t"], perm=perm),
        node("Resize", ["t", "", "factors"], ["r"], mode=mode),
        node("Slice", ["r", "zero1", "four", "resized"], ["cut"]),
        node("Transpose", ["cut"], ["u"], perm=back),
        node("IsNaN", ["u"], ["nan"]),
        node("Cast", ["nan"], ["f"], to=FLOAT),
        *add("f"),
    ]


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(("perm", "along"), [([1, 2, 0, 3], 3), ([1, 2, 3, 0], 2)])
def test_an_infinite_neighbour_of_weight_0(tmp_path: Path, mode: str, perm: list[int], along: int) -> None:
    factors = np.ones(4, np.float32)
    factors[along] = 2
    weights = {"fifty": np.float32(50), "factors": factors, "zero1": ints(0), "resized": ints(along)}
    path = save(tmp_path / "f.onnx", resized(mode, perm), weights={k: np.asarray(v) for k, v in weights.items()})
    assert changed(path)
    refused(path, "interpolates over axes that may hold the batch")


FLAT = node("Flatten", ["x"], ["long"])
BACK = [node("Reshape", ["g", "column"], ["column_g"]), *add("column_g")]
NOT_THERE: dict[str, tuple[Nodes, str]] = {
    "GatherND": ([node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), node("GatherND", ["t", "pixels"], ["g"]),
                  node("Transpose", ["g"], ["v"], perm=[1, 0, 2, 3]), *add("v")], "that are not there"),
    "GatherElements": ([FLAT, node("GatherElements", ["long", "each"], ["g"], axis=1), *BACK], "that are not there"),
    "Gather": ([FLAT, node("Gather", ["long", "fifty1"], ["g"], axis=1), *BACK], "that are not there"),
    "named by the images": (
        [FLAT, node("Cast", ["long"], ["i"], to=INT64), node("GatherElements", ["long", "i"], ["g"], axis=1),
         node("Reshape", ["g", "image"], ["h"]), *add("h")],
        "takes its places to gather from the images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NOT_THERE))
def test_places_that_are_not_there(tmp_path: Path, name: str) -> None:
    """OpenVINO's GatherND reads what lies behind."""
    nodes, message = NOT_THERE[name]
    weights = {
        "pixels": ints(50, 50, 50).reshape(3, 1),
        "each": np.full((BATCH, 1), 50),
        "fifty1": ints(50),
        "column": ints(-1, 1, 1, 1),
    }
    refused(save(tmp_path / "f.onnx", nodes, weights=weights), message)


@pytest.mark.parametrize("stored", [False, True])
def test_scales_of_rows_in_a_normalisation(tmp_path: Path, stored: bool) -> None:
    """OpenVINO spreads a scale with a batch of its own over other rows; ONNX Runtime does not."""
    scale = [] if stored else [node("ReduceMean", ["x", "two"], ["scale"], keepdims=1)]
    weights = {"two": ints(2), **({"scale": np.ones((BATCH, 3, 1, 4), np.float32)} if stored else {})}
    nodes = [*scale, node("LayerNormalization", ["x", "scale"], ["y"], axis=1)]
    message = "has a scale larger than what it normalises" if stored else "takes its scale from the images"
    refused(save(tmp_path / "f.onnx", nodes, weights=weights), message)


def test_slopes_of_another_axis(tmp_path: Path) -> None:
    """Four slopes are the last axis' own in ONNX; OpenVINO takes them for those of axis 1, where the four rows lie."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
        node("PRelu", ["t", "slopes"], ["u"]),
        node("Transpose", ["u"], ["y"], perm=[1, 0, 2, 3]),
    ]
    weights = {"slopes": np.arange(4, dtype=np.float32)}
    refused(save(tmp_path / "f.onnx", nodes, weights=weights), "which libraries take for different ones")


def scalar(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


DIFFERENT: dict[str, tuple[Nodes, dict[str, np.ndarray[Any, Any]]]] = {
    "NaN among maxima": (  # NaN in ONNX Runtime, 0 in OpenVINO
        [node("Max", ["b", "a"], ["m"]), node("Equal", ["m", "m"], ["c"])],
        {"a": scalar(np.nan), "b": scalar(0)},
    ),
    "below the normal numbers": ([node("LessOrEqual", ["a", "b"], ["c"])], {"a": scalar(1e-40), "b": scalar(0)}),
    "a product below them": (
        [node("Mul", ["a", "a"], ["m"]), node("LessOrEqual", ["m", "b"], ["c"])],
        {"a": scalar(1e-21), "b": scalar(0)},
    ),
    "equal in bf16": ([node("LessOrEqual", ["a", "b"], ["c"])], {"a": scalar(1.001), "b": scalar(1)}),
    "equal in 32 bits": ([node("Equal", ["a", "b"], ["c"])], {"a": np.array(2**40), "b": np.array(2**41)}),
    "a half as truth": (
        [node("Cast", ["a"], ["m"], to=TensorProto.BOOL), node("Not", ["m"], ["c"])],
        {"a": scalar(0.5)},
    ),
}


@pytest.mark.parametrize("name", list(DIFFERENT))
def test_conditions_that_depend_on_the_library(tmp_path: Path, name: str) -> None:
    """The branch that ONNX's meaning would not take couples rows."""
    nodes, weights = DIFFERENT[name]
    refused(save(tmp_path / "f.onnx", [*nodes, *by_if("c")], weights=weights), "takes the mean over the batch axis")


@pytest.mark.parametrize("what", ["graph", "weights"])
def test_files_exchanged_between_proof_and_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The library reads another graph, or other weights, than were hashed and proved."""
    nodes = [node("Mul", ["x", "w"], ["t"]), node("Add", ["t", "x"], ["y"])]
    path = save(tmp_path / "f.onnx", nodes, weights={"w": np.full((1, 3, 4, 4), 2, np.float32)})
    sizes = {"location": "f.bin", "size_threshold": 0, "all_tensors_to_one_file": True}
    onnx.save(onnx.load(path), path, save_as_external_data=True, **sizes)
    exchanged = path if what == "graph" else tmp_path / "f.bin"
    other, create = exchanged.read_bytes(), ort.InferenceSession

    def exchange(*given: Any, **more: Any) -> ort.InferenceSession:
        exchanged.unlink()
        exchanged.write_bytes(other)
        return create(*given, **more)

    monkeypatch.setattr(ort, "InferenceSession", exchange)
    with pytest.raises(InputError, match=f"{exchanged.name} changed while it was being opened: copy it again"):
        open_engine(path, batch=BATCH, role="denoiser", sigma=0.25, backend="onnxruntime")
