"""Batch sizes that an Expand, a Tile or a folded constant holds: opened where that is safe, refused in one line where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")
onnx = pytest.importorskip("onnx", reason="files are written here")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_onnx_classifier  # noqa: E402

WIDTH, TOKENS, CLASSES = 6, 4, 5


def transformer(path: Path, rows: int, token: str, **changes: Any) -> Path:
    """Patches of an image and a class token in front of them, mixed and read off the token; `token` says how it got `rows` rows."""
    rng = np.random.default_rng(5)
    weights = {
        "w": rng.standard_normal((WIDTH, 3, 6, 6)), "mix": rng.standard_normal((TOKENS + 1, TOKENS + 1)),
        "v": rng.standard_normal((WIDTH, CLASSES)), "cls": rng.standard_normal((1, 1, WIDTH)),
        "position": np.repeat(rng.standard_normal((1, TOKENS + 1, WIDTH)), rows, 0), "folded": np.zeros((rows, 1, WIDTH)),
    }  # fmt: skip
    weights["folded"][:] = weights["cls"]
    weights |= changes
    values = {name: value.astype(np.float32) for name, value in weights.items()}
    values |= {"flat": np.array([rows, WIDTH, TOKENS]), "wide": np.array([rows, 1, WIDTH])}
    values |= {"times": np.array([rows, 1, 1]), "first": np.array(0)}
    tokens = {"expanded": ("Expand", ["cls", "wide"]), "repeated": ("Tile", ["cls", "times"])}
    nodes = [helper.make_node(*tokens[token], ["token"])] if token in tokens else []
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[6, 6]),
        helper.make_node("Reshape", ["c", "flat"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["token" if token in tokens else "folded", "t"], ["all"], axis=1),
        helper.make_node("Add", ["all", "position"], ["placed"]),
        helper.make_node("MatMul", ["mix", "placed"], ["mixed"]),
        helper.make_node("Gather", ["mixed", "first"], ["g"], axis=1),
        helper.make_node("MatMul", ["g", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "user",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def answer(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("token", ["expanded", "repeated", "folded"])
def test_what_is_repeated_for_every_image_is_for_as_many_as_there_are(tmp_path: Path, rows: int, token: str) -> None:
    """roboflow/rf-detr#949 and #871: Tile and Expand of a class token, or the constant that exporters fold it to."""
    path = transformer(tmp_path / "user.onnx", rows, token)
    report = export_onnx_classifier(path, tmp_path / "c.onnx")
    assert report.facts.details["burnt_in_batch"] == rows
    x = np.random.default_rng(0).uniform(0, 1, (6, 3, 12, 12)).astype(np.float32)
    want = np.concatenate([answer(path, x[at : at + rows]) for at in range(0, 6, rows)])
    np.testing.assert_allclose(answer(tmp_path / "c.onnx", x), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answer(tmp_path / "c.onnx", x[:5]), want[:5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["folded", "position"])
def test_rows_that_differ_are_refused(tmp_path: Path, name: str) -> None:
    """A constant with rows of their own answers by an image's place in the batch: no number of images makes that right."""
    shape = (2, 1, WIDTH) if name == "folded" else (2, TOKENS + 1, WIDTH)
    path = transformer(tmp_path / "user.onnx", 2, "folded", **{name: np.random.default_rng(1).standard_normal(shape)})
    with pytest.raises(InputError, match="holds the batch size 2 that it was traced with") as caught:
        export_onnx_classifier(path, tmp_path / "c.onnx")
    assert "\n" not in str(caught.value) and "pass batch" not in str(caught.value)  # which would be refused, too
    assert [left.name for left in tmp_path.iterdir()] == ["user.onnx"]


def test_a_graph_that_makes_other_rows_is_not_taken_for_one_of_one_image(tmp_path: Path) -> None:
    """An Add of two constant rows makes two answers of one image: the file is of two, not of one."""
    rng = np.random.default_rng(3)
    values = {"v": rng.standard_normal((432, CLASSES)), "b": np.repeat(rng.standard_normal((1, CLASSES)), 2, 0)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "user",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    path = tmp_path / "user.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    report = export_onnx_classifier(path, tmp_path / "c.onnx")
    assert report.facts.details["burnt_in_batch"] == 2
    x = rng.uniform(0, 1, (3, 3, 12, 12)).astype(np.float32)
    assert answer(tmp_path / "c.onnx", x).shape == (3, CLASSES)
