"""The user's own ONNX classifier: preprocessing in front of any opset, shapes that are refused, weights in files of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
onnx = pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
ir = pytest.importorskip("onnx_ir", reason="exports need onnx_ir")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from diffsmooth_trt import zoo  # noqa: E402
from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.engine.graph import read_graph  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_onnx_classifier  # noqa: E402
from diffsmooth_trt.exporting.sources.onnx import multiply_adds  # noqa: E402

FLOAT = TensorProto.FLOAT
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
Nodes = list[Any]
NODES: Nodes = [
    helper.make_node("Conv", ["x", "w"], ["images"], pads=[1, 1, 1, 1]),  # a name that the export gives to its input
    helper.make_node("Relu", ["images"], ["preprocessing_0"]),
    helper.make_node("GlobalAveragePool", ["preprocessing_0"], ["g"]),
    helper.make_node("Flatten", ["g"], ["f"]),
    helper.make_node("MatMul", ["f", "v"], ["y"]),
]


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    return {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((8, 5)).astype(np.float32),
    }


def user_file(
    path: Path,
    *,
    opset: int = 18,
    shape: tuple[Any, ...] = ("N", 3, 12, 12),
    out: tuple[Any, ...] = ("N", 5),
    nodes: Nodes = NODES,
    kind: int = FLOAT,
    inputs: int = 1,
    external: str | None = None,
    props: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
) -> Path:
    names = ["x", *(f"x{number}" for number in range(1, inputs))]
    graph = helper.make_graph(
        nodes,
        "user",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("y", FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in {**weights(), **(more or {})}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, props or {})
    if external:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save(model, path)
    return path


def answer(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def wanted(path: Path, x: Any, size: int = 12) -> Any:
    """Resize and normalise in torch, then the user's file as it is."""
    y = torch.nn.functional.interpolate(torch.from_numpy(x), (size, size), mode="bicubic", antialias=True).numpy()
    y = (y - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    return answer(path, y.astype(np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opset": 9},
        {"opset": 13},
        {"opset": 21},
        {"shape": ("N", 3, "H", "W")},
        {"external": "weights.bin"},
        {"shape": (3, 3, 12, 12), "out": (3, 5)},
    ],
    ids=str,
)
def test_files_answer_as_before_behind_their_preprocessing(tmp_path: Path, options: dict[str, Any]) -> None:
    path = user_file(tmp_path / "user.onnx", **options)
    size = 12 if "H" in options.get("shape", ()) else None
    report = export_onnx_classifier(path, tmp_path / "c.onnx", image_size=8, input_size=size, mean=MEAN, std=STD)
    x = np.random.default_rng(0).uniform(0, 1, (3, 3, 8, 8)).astype(np.float32)
    want = wanted(path, x)
    for left in tmp_path.glob("weights.bin"):
        left.unlink()  # the new file needs none of the old one's
    np.testing.assert_allclose(answer(tmp_path / "c.onnx", x), want, atol=1e-5 * np.abs(want).max())
    onnx.checker.check_model(onnx.load(tmp_path / "c.onnx"))
    facts = report.facts
    assert (facts.role, facts.classes, facts.input_shape, facts.precision) == ("classifier", 5, (3, 8, 8), "fp32")
    assert facts.details["source_opset"] == options.get("opset", 18)
    assert facts.details["opset"] == max(18, options.get("opset", 18))
    assert facts.details["resize"]["mode"] == "bicubic"
    with open_engine(tmp_path / "c.onnx", batch=3, role="classifier", precision="fp32") as engine:
        np.testing.assert_allclose(engine.run(x), want, atol=1e-4 * np.abs(want).max())


def test_the_users_file_is_read_twice(tmp_path: Path, opened: list[Path]) -> None:
    """To hash it with its graph, and by ONNX Runtime, which does not open files through Python."""
    path = user_file(tmp_path / "user.onnx")
    opened.clear()
    export_onnx_classifier(path, tmp_path / "c.onnx", verify_samples=4)
    assert opened.count(path) == 1


def test_images_of_the_files_own_size_and_a_chosen_batch(tmp_path: Path) -> None:
    """Without flags the graph gains nothing but facts."""
    path = user_file(tmp_path / "user.onnx")
    report = export_onnx_classifier(path, tmp_path / "c.onnx", batch=2)
    model = onnx.load(tmp_path / "c.onnx")
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in NODES]
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 12, 12]
    assert report.facts.details["resize"] is None
    assert report.max_difference == 0


def deeper(path: Path) -> Path:
    """Three multiplications at 32×32, none of the nodes with a name, one weight in a Constant."""
    rng = np.random.default_rng(5)
    inner = numpy_helper.from_array(rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8, "inner")
    nodes = [
        helper.make_node("Constant", [], ["k"], value=inner),
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    return user_file(path, shape=("N", 3, 32, 32), nodes=nodes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_is_made_and_compared_with_the_file_as_it_came(tmp_path: Path, precision: str) -> None:
    if precision == "fp16":
        pytest.importorskip("onnxconverter_common", reason="makes fp16")
    path = deeper(tmp_path / "user.onnx")
    data = zoo.IMAGES if precision == "int8" else None
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "calibration_data": data, "verify_samples": 64}
    report = export_onnx_classifier(path, tmp_path / "c.onnx", precision=precision, **options)
    assert report.facts.precision == precision
    assert report.verification["images"] == 64
    first = report.verification["backends"][0]
    assert (first["mean_difference"] > 1e-5) == (precision != "fp32")
    assert first["same_labels"] > 0.8
    graph = onnx.load(tmp_path / "c.onnx").graph
    assert {tensor.data_type for tensor in graph.initializer} & {"fp16": {10}, "int8": {2, 3}, "fp32": {1}}[precision]
    if precision != "fp32":
        with pytest.raises(InputError, match="which stays one"):
            again = user_file(tmp_path / "half.onnx", more={"extra": np.ones(2, np.float16)})
            export_onnx_classifier(again, tmp_path / "d.onnx", precision=precision, calibration_data=data)


def test_what_torch_does_not_see_is_counted(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(deeper(tmp_path / "user.onnx")))
    assert multiply_adds(ir.from_proto(model), None) == 8 * 27 * 64 + 8 * 72 * 64 + 8 * 5


def dynamic(path: Path) -> Path:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    return user_file(path, nodes=nodes, out=("N", 3))


def outside(path: Path) -> Path:
    user_file(path, external="weights.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    return path


def cut(path: Path) -> Path:
    user_file(path, external="weights.bin")
    weights_file = path.parent / "weights.bin"
    weights_file.write_bytes(weights_file.read_bytes()[:100])
    return path


def lost(path: Path) -> Path:
    user_file(path, external="weights.bin")
    (path.parent / "weights.bin").unlink()
    return path


def old(path: Path) -> Path:
    """A norm in training mode, which later opsets have no form for."""
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"abcd"], ["n"], is_test=0),
        helper.make_node("GlobalAveragePool", ["n"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    return user_file(path, opset=6, nodes=nodes, out=("N", 3), more={name: np.ones(3, np.float32) for name in "abcd"})


def gone(path: Path) -> Path:
    nodes = [
        helper.make_node("Upsample", ["x"], ["u"], height_scale=1.0, width_scale=1.0),
        helper.make_node("GlobalAveragePool", ["u"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    return user_file(path, opset=1, nodes=nodes, out=("N", 3))


def damaged(path: Path) -> Path:
    user_file(path)
    path.write_bytes(path.read_bytes()[:100])
    return path


def infinite(path: Path) -> Path:
    nodes = [*NODES[:-1], helper.make_node("Log", ["f"], ["l"]), helper.make_node("MatMul", ["l", "v"], ["y"])]
    return user_file(path, nodes=nodes)


REFUSED: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "absent": (lambda p: p, {}, "no such file"),
    "damaged": (damaged, {}, "is no readable ONNX file"),
    "dynamically quantised": (dynamic, {}, "quantises dynamically: .*; quantise it statically"),
    "two inputs": (lambda p: user_file(p, inputs=2), {}, "has 2 inputs and 1 outputs, expected one each: export it again"),
    "channels last": (lambda p: user_file(p, shape=("N", 12, 12, 3)), {}, r"expected \[B, 3, N, N\] to \[B, classes\]"),
    "not square": (lambda p: user_file(p, shape=("N", 3, 12, 16)), {}, r"maps \['N', 3, 12, 16\] to"),
    "feature maps": (lambda p: user_file(p, out=("N", 5, 1, 1)), {}, r"expected \[B, 3, N, N\] to \[B, classes\]"),
    "half precision": (lambda p: user_file(p, kind=TensorProto.FLOAT16), {}, "x is FLOAT16, expected float32"),
    "old": (old, {}, "is of opset 6, which cannot be converted: export it for opset 18"),
    "of an operator long gone": (gone, {}, "ONNX Runtime cannot load it .*Upsample.*: export it again for opset 18"),
    "weights outside": (outside, {}, r"keeps weights outside its folder \(../weights.bin\)"),
    "weights cut short": (cut, {}, "is no readable ONNX file .its weights file is cut short.: copy or export it again"),
    "empty": (lambda p: user_file(p, nodes=[], out=("N", 3)), {}, r"has no nodes \(empty graph\)"),
    "weights lost": (lost, {}, "needs its weights file weights.bin beside it"),
    "an engine": (lambda p: user_file(p, props={"diffsmooth_trt": "{}"}), {}, "is an engine file already"),
    "other size": (user_file, {"input_size": 16}, "takes 12×12 images, got input_size 16: leave it out"),
    "no size": (lambda p: user_file(p, shape=("N", 3, "H", "W")), {}, "does not say its input size: give input_size"),
    "other batch": (lambda p: user_file(p, shape=(4, 3, 12, 12), out=(4, 5)), {"batch": 2}, "takes batches of 4"),
    "infinite": (
        infinite,
        {"std": (1e-38,) * 3},
        "returns NaN or infinity",
    ),
}  # fmt: skip


def test_weights_of_a_constant_in_a_file_of_their_own_are_hashed_and_taken_along(tmp_path: Path) -> None:
    """Wherever in the graph they stand: they are part of the classifier's identity."""
    rng = np.random.default_rng(6)
    w = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    external = TensorProto(dims=w.shape, data_type=FLOAT, data_location=TensorProto.EXTERNAL, name="value")
    external.external_data.add(key="location", value="inner.bin")
    nodes = [helper.make_node("Constant", [], ["k"], value=external), *NODES]
    nodes[1] = helper.make_node("Conv", ["x", "k"], ["images"], pads=[1, 1, 1, 1])
    path = user_file(tmp_path / "user.onnx", nodes=nodes)
    with pytest.raises(InputError, match="needs its weights file inner.bin beside it"):
        read_graph(path, role="classifier", sigma=None)
    (tmp_path / "inner.bin").write_bytes(w.tobytes())
    digest = hashlib.sha256(w.tobytes()).hexdigest()
    assert read_graph(path, role="classifier", sigma=None).weights == {"inner.bin": digest}
    report = export_onnx_classifier(path, tmp_path / "c.onnx")
    assert report.facts.details["weights"] == {"inner.bin": digest}
    assert read_graph(tmp_path / "c.onnx", role="classifier", sigma=None).weights == {}


def test_the_users_file_is_never_overwritten(tmp_path: Path) -> None:
    path = user_file(tmp_path / "user.onnx")
    before = path.read_bytes()
    with pytest.raises(InputError, match="is also onnx, which it would destroy"):
        export_onnx_classifier(path, path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="onnx makes an .onnx file, got out"):
        export_onnx_classifier(path, tmp_path / "c.pt2", batch=2)


@pytest.mark.parametrize("what", list(REFUSED))
def test_refused_files(tmp_path: Path, what: str) -> None:
    make, options, message = REFUSED[what]
    folder = tmp_path / "folder"
    folder.mkdir()
    path = make(folder / "user.onnx")
    with pytest.raises(InputError, match=message) as caught:
        export_onnx_classifier(path, tmp_path / "c.onnx", **options)
    assert "\n" not in str(caught.value)
    assert [left.name for left in tmp_path.iterdir()] == ["folder"]


def traced(path: Path, rows: int, **more: Any) -> Path:
    """A file that says it takes any batch and holds `rows` in a Reshape, as torch's first exporter wrote them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[4, 4]),
        helper.make_node("Reshape", ["c", "shape"], ["r"], name="Reshape_331"),
        helper.make_node("ReduceMean", ["r"], ["f"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    return user_file(path, opset=13, nodes=nodes, more={"shape": np.array([rows, 8, 9]), **more})


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("batch", [None, 6])
def test_a_batch_size_in_a_reshape_is_opened(tmp_path: Path, rows: int, batch: int | None) -> None:
    """pytorch#99613, onnxruntime#6424 and #10463: the file answers with other batches as it did with the one it was traced with."""
    path = traced(tmp_path / "user.onnx", rows)
    report = export_onnx_classifier(path, tmp_path / "c.onnx", batch=batch)
    assert report.facts.details["burnt_in_batch"] == rows
    x = np.random.default_rng(0).uniform(0, 1, (batch or 8, 3, 12, 12)).astype(np.float32)
    want = np.concatenate([answer(path, x[at : at + rows]) for at in range(0, len(x) // rows * rows, rows)])
    np.testing.assert_allclose(answer(tmp_path / "c.onnx", x)[: len(want)], want, atol=1e-5)


@pytest.mark.parametrize("shape", [[16, 3, 36], [8, 2, 9]], ids=["in its middle", "channels first"])
def test_a_batch_size_that_is_not_in_front_is_refused_or_kept(tmp_path: Path, shape: list[int]) -> None:
    """sonos/tract#718: the number of images times another is in the shape. The remedy works."""
    if shape[0] == 16:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[4, 4]),
            helper.make_node("Reshape", ["c", "shape"], ["r"]),  # two images, 16 channels in all
            helper.make_node("ReduceMean", ["r"], ["m"], axes=[2], keepdims=0),
            helper.make_node("Reshape", ["m", "back"], ["f"]),
            helper.make_node("MatMul", ["f", "v"], ["y"]),
        ]
        more = {"shape": np.array([16, 1, 9]), "back": np.array([2, 8])}
    else:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[4, 4]),
            helper.make_node("Transpose", ["c"], ["t"], perm=[1, 0, 2, 3]),
            helper.make_node("Reshape", ["t", "shape"], ["r"]),
            helper.make_node("ReduceMean", ["r"], ["m"], axes=[2], keepdims=0),
            helper.make_node("Transpose", ["m"], ["f"], perm=[1, 0]),
            helper.make_node("MatMul", ["f", "v"], ["y"]),
        ]
        more = {"shape": np.array(shape)}
    path = user_file(tmp_path / "user.onnx", opset=13, nodes=nodes, more=more)
    with pytest.raises(InputError, match="holds the batch size 2 that it was traced with, .*or pass batch 2") as caught:
        export_onnx_classifier(path, tmp_path / "c.onnx")
    assert "\n" not in str(caught.value)
    assert [left.name for left in tmp_path.iterdir()] == ["user.onnx"]
    assert export_onnx_classifier(path, tmp_path / "c.onnx", batch=2).max_difference <= 1e-5


def test_a_file_that_runs_with_no_batch_is_refused_in_one_line(tmp_path: Path, capfd: Any) -> None:
    path = traced(tmp_path / "user.onnx", 2, v=np.ones((7, 5), np.float32))
    with pytest.raises(InputError, match="ONNX Runtime (fails with|cannot load it)") as caught:
        export_onnx_classifier(path, tmp_path / "c.onnx")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # the library's own log neither
