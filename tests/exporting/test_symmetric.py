"""Quantisation as GPUs multiply: what is rounded and how, against ONNX's own operators; what is cut off, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="exports need onnx")
ort = pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")
pytest.importorskip("torch", reason="exports need torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import EngineError, InputError  # noqa: E402
from diffsmooth_trt.exporting.writers.onnx_half import Request  # noqa: E402
from diffsmooth_trt.exporting.writers.onnx_symmetric import LARGEST, PARTS, quantise_symmetric, rounded  # noqa: E402

RNG = np.random.default_rng(3)
KINDS = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}


def classifier(path: Path, weight: Any, head: Any) -> Path:
    """ReLU, a convolution with 5 output channels, its mean, and a linear layer, for images `[B, 3, 4, 4]`."""
    nodes = [
        helper.make_node("Relu", ["images"], ["positive"], "relu"),
        helper.make_node("Conv", ["positive", "weight"], ["features"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["features"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head"], ["output"], "gemm", transB=1),
    ]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("images", 1, ["b", 3, 4, 4])], [value("output", 1, ["b", len(head)])]
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(head, "head")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("precision", list(KINDS))
def test_weights_are_rounded_as_onnx_rounds(precision: str) -> None:
    values = np.concatenate([RNG.normal(size=200) * 3, [0, 0.5, 1.5, -2.5, 1e4, -1e4]]).astype(np.float32)
    scale = np.float32(0.25)
    zero = helper.make_tensor("zero", KINDS[precision], [], b"\0", raw=True)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, 1, [len(values)]) for name in "xy"]
    graph = helper.make_graph(
        nodes, "g", value[:1], value[1:], [numpy_helper.from_array(np.array(scale), "scale"), zero]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (want,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": values}
    )
    inside = np.abs(values / scale) <= LARGEST[precision]
    got = rounded(values, scale, precision).astype(np.float32) * scale
    np.testing.assert_array_equal(got[inside], want[inside])
    np.testing.assert_array_equal(np.abs(got[~inside]), LARGEST[precision] * scale)  # symmetric: −128 is never used


@pytest.mark.parametrize("precision", list(KINDS))
def test_pairs_of_the_form_that_tensorrt_takes(tmp_path: Path, precision: str) -> None:
    """Zero points are 0, scales of a weight one a channel or one; the outputs are those of the rounded values, in float64."""
    weight = RNG.normal(size=(5, 3, 3, 3)).astype(np.float32)
    head = RNG.normal(size=(4, 80)).astype(np.float32)
    source, target = classifier(tmp_path / "f.onnx", weight, head), tmp_path / "q.onnx"
    images = [RNG.normal(size=(6, 3, 4, 4)).astype(np.float32) for _ in range(2)]
    quantise_symmetric(source, target, precision, ["conv"], lambda: ({"images": each} for each in images))
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert "weight" not in kept and "head" in kept
    assert {np.abs(each.astype(np.float32)).max() for name, each in kept.items() if name.endswith("/zero")} == {0}
    assert kept["weight/scale"].shape == ((5,) if precision == "int8" else ())
    largest = max(float(np.maximum(each, 0).max()) for each in images)
    scale = kept["positive/scale"]
    parts = PARTS if precision == "int8" else (1.0,)  # fp8 cuts nothing off
    assert np.isclose(scale * LARGEST[precision] / largest, parts, rtol=1e-5).any()

    def through(x: Any, by: Any) -> Any:
        return rounded(x, by, precision).astype(np.float64) * by

    wide = kept["weight/scale"].reshape(-1, 1, 1, 1) if precision == "int8" else kept["weight/scale"]
    x, w = np.pad(through(np.maximum(images[0], 0), scale), [(0, 0), (0, 0), (1, 1), (1, 1)]), through(weight, wide)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    want = np.einsum("bcijkl,ockl->boij", windows, w).reshape(6, -1) @ head.T.astype(np.float64)
    with open_engine(target, batch=6, backend="onnxruntime", role="classifier") as engine:
        np.testing.assert_allclose(engine.run(images[0]), want, rtol=1e-4, atol=1e-4)  # with its ReLU, which 1.32 drops


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    source = classifier(tmp_path / "f.onnx", np.ones((5, 3, 3, 3), np.float32), np.ones((4, 80), np.float32))
    images = np.full((2, 3, 4, 4), np.inf, np.float32)
    with pytest.raises(EngineError, match="positive is not finite on the calibration images"):
        quantise_symmetric(source, tmp_path / "q.onnx", "fp8", ["conv"], lambda: [{"images": images}])
    assert [path.name for path in tmp_path.iterdir()] == ["f.onnx"]


def test_requests(tmp_path: Path) -> None:
    for precision, asked, message in (
        ("int8", "tpu", "quantise_for must be cpu or gpu, got 'tpu'"),
        ("fp8", "gpu", "quantise_for is for precision int8, got precision fp8: leave it out"),
        ("fp32", "cpu", "quantise_for is for precision int8, got precision fp32"),
    ):
        data = None if precision == "fp32" else tmp_path
        with pytest.raises(InputError, match=message):
            Request(precision, data, quantise_for=asked).check()
    symmetric = [
        Request(precision, quantise_for=asked).symmetric for precision, asked in (("int8", None), ("int8", "gpu"))
    ]
    assert symmetric == [False, True] and Request("fp8").symmetric
