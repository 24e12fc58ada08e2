"""Half precision in its own arithmetic: the simulation is ONNX's reference evaluator's, and what is beyond the range is found."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
onnx = pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_onnx_classifier  # noqa: E402
from diffsmooth_trt.exporting.checks.half_arithmetic import reach, simulated  # noqa: E402

needs_fp16 = pytest.mark.skipif(
    importlib.util.find_spec("onnxconverter_common") is None, reason="fp16 is made by the tools of the extra `quantize`"
)
node = helper.make_node
SHAPE = (3, 32, 32)
RNG = np.random.default_rng(0)
V = (RNG.normal(size=(8, 5)) / 3).astype(np.float32)
W = (RNG.normal(size=(8, 3, 3, 3)) / 5).astype(np.float32)


def graph_file(path: Path, nodes: list[Any], constants: dict[str, Any], half: bool = False) -> Path:
    """x `[N, 3, 32, 32]` → `nodes` from `c`, the convolution's 8 channels of 16² pixels, to `d` → logits y `[N, 5]`."""
    kind = np.float16 if half else np.float32
    first, last = ([node("Cast", ["x"], ["xc"], to=T.FLOAT16)], [node("Cast", ["z"], ["y"], to=T.FLOAT)])
    body = [
        node("Conv", ["xc" if half else "x", "w"], ["c"], name="first", strides=[2, 2], pads=[1, 1, 1, 1]),
        *nodes,
        node("GlobalAveragePool", ["d"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "v"], ["z" if half else "y"], name="last"),
    ]
    with np.errstate(over="ignore"):
        stored = {name: np.asarray(value).astype(kind) for name, value in {"w": W, "v": V, **constants}.items()}
    graph = helper.make_graph(
        [*first, *body, *last] if half else body,
        "g",
        [helper.make_tensor_value_info("x", T.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def images(rows: int = 2) -> Any:
    return np.random.default_rng(1).uniform(0, 1, (rows, *SHAPE)).astype(np.float32)


def loud(gain: float) -> tuple[list[Any], dict[str, Any]]:
    """A gain that the next operator takes back: in float32 nothing is to be seen of it."""
    nodes = [
        node("Mul", ["c", "up"], ["a"], name="gain"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Mul", ["b", "down"], ["d"], name="back"),
    ]
    return nodes, {"up": np.float32(gain), "down": np.float32(1 / gain)}


@pytest.mark.parametrize("gain", [1.0, 60000.0])
def test_the_simulation_is_the_reference_evaluators(tmp_path: Path, gain: float) -> None:
    """With every operator's result rounded; beyond the range both are infinite, which ONNX Runtime itself never shows."""
    nodes, constants = loud(gain)
    nodes = nodes if gain == 1 else [*nodes[:2], node("Identity", ["b"], ["d"])]
    model = onnx.load(graph_file(tmp_path / "h.onnx", nodes, constants, half=True))
    onnx.save(simulated(model, "fp16"), tmp_path / "s.onnx")
    x = images()
    with np.errstate(all="ignore"):
        (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    (got,) = onnxruntime.InferenceSession(tmp_path / "s.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (plain,) = onnxruntime.InferenceSession(tmp_path / "h.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    if gain == 1:
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * np.abs(want).max())
        assert not np.array_equal(got, plain)
    else:
        assert not np.isfinite(want).all()
        assert not np.isfinite(got).all()
        assert np.isfinite(reach(tmp_path / "h.onnx", [{"x": x}])["a"])  # how far it reaches is no infinity


@needs_fp16
def test_what_is_beyond_the_range_stays_in_fp32_and_is_listed(tmp_path: Path, capsys: Any) -> None:
    """onnxruntime#11384, TensorRT#4748: verified in float32, not a number in half precision."""
    path = graph_file(tmp_path / "user.onnx", *loud(60000.0))
    report = export_onnx_classifier(path, tmp_path / "c.onnx", precision="fp16", verify_samples=8)
    beyond = report.facts.details["beyond_range"]
    assert set(beyond) == {"a", "b"}
    assert all(65504 < size < 1e6 for size in beyond.values())
    assert report.facts.details["kept_fp32"]["range"] == 3
    trials = {found["backend"]: found for found in report.verification["backends"]}
    assert trials["simulation"]["precision"] == "fp16"
    assert trials["simulation"]["same_labels"] == 1
    (y,) = ReferenceEvaluator(onnx.load(tmp_path / "c.onnx")).run(None, {"images": images()})
    np.testing.assert_allclose(y, ReferenceEvaluator(onnx.load(path)).run(None, {"x": images()})[0], atol=0.02)
    report.show()
    assert "3 operators stay in fp32, beyond the range of fp16: 2 values, a reaches" in capsys.readouterr().out


@needs_fp16
def test_constants_beyond_the_range(tmp_path: Path) -> None:
    """TensorRT#2466: a mask's −10¹² is no half-precision number; the tool would cut it off at 65504 without a word."""
    nodes = [node("Mul", ["c", "mask"], ["a"], name="mask"), node("Mul", ["a", "back"], ["d"], name="back")]
    path = graph_file(tmp_path / "user.onnx", nodes, {"mask": np.float32(-1e12), "back": np.float32(-1e-12)})
    report = export_onnx_classifier(path, tmp_path / "c.onnx", precision="fp16", verify_samples=8)
    assert {"mask", "a"} <= set(report.facts.details["beyond_range"])
    (y,) = ReferenceEvaluator(onnx.load(tmp_path / "c.onnx")).run(None, {"images": images()})
    np.testing.assert_allclose(y, ReferenceEvaluator(onnx.load(path)).run(None, {"x": images()})[0], atol=0.02)


NORM = [
    node("Mul", ["c", "k"], ["u"]),
    node("Mul", ["u", "u"], ["q"], name="square"),
    node("ReduceMean", ["q", "axes"], ["s"]),
    node("Sqrt", ["s"], ["t"]),
    node("Div", ["u", "t"], ["d"]),
]


def test_overflow_that_a_division_swallows_is_found(tmp_path: Path) -> None:
    """onnxruntime#31626: an infinite variance makes a norm return zeros, and the output is finite, and wrong."""
    path = graph_file(tmp_path / "user.onnx", NORM, {"k": np.float32(800)}, half=True)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
    onnx.save(model, path)
    with np.errstate(all="ignore"):
        (y,) = ReferenceEvaluator(model).run(None, {"x": images()})
    assert np.isfinite(y).all()  # nothing shows of it
    with pytest.raises(
        InputError, match=r"c.onnx: Mul square reaches \S+ on noisy images, where fp16 ends at 65504"
    ) as caught:
        export_onnx_classifier(path, tmp_path / "c.onnx", verify_samples=8)
    assert "\n" not in str(caught.value)
    assert [left.name for left in tmp_path.iterdir()] == ["user.onnx"]


def test_half_precision_files_that_are_well_pass(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "user.onnx", *loud(1.0), half=True)
    report = export_onnx_classifier(path, tmp_path / "c.onnx", verify_samples=8)
    assert report.facts.precision == "fp16"
    assert "simulation" in [found["backend"] for found in report.verification["backends"]]
