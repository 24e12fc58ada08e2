"""How often an engine file is read whole before it runs: once by us, which hash and prove it, and once by the library."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from diffsmooth_trt.engine import EngineFacts, fixed_batch, open_engine
from diffsmooth_trt.engine.record import Record, record_path

COUNTERS = Path("/proc/self/io")
WIDE = 1500


def bytes_read() -> int:
    """What this process has read through the kernel so far, in any language; files that it maps do not count."""
    if not COUNTERS.is_file():
        pytest.skip("the system does not count what a process reads")
    (count,) = re.findall(r"rchar: (\d+)", COUNTERS.read_text(encoding="ascii"))
    return int(count)


def wide_classifier(path: Path, precision: str) -> Path:
    """Two matrix products of some megabytes, computed in `precision`."""
    generator, dtype = np.random.default_rng(0), np.dtype(np.float32 if precision == "fp32" else np.float16)
    shapes = {"first": (48, WIDE), "second": (WIDE, WIDE), "third": (WIDE, 5)}
    weights = [numpy_helper.from_array(generator.normal(size=s).astype(dtype), name) for name, s in shapes.items()]
    nodes = [helper.make_node("Flatten", ["x"], ["flat"])]
    nodes.append(helper.make_node("Cast", ["flat"], ["0"], to=helper.np_dtype_to_tensor_dtype(dtype)))
    for place, name in enumerate(shapes):
        nodes.append(helper.make_node("MatMul", [str(place), name], [str(place + 1)]))
    nodes.append(helper.make_node("Cast", ["3"], ["y"], to=onnx.TensorProto.FLOAT))
    images = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", 3, 4, 4])
    logits = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", 5])
    graph = helper.make_graph(nodes, "g", [images], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    facts = EngineFacts("classifier", (3, 4, 4), classes=5, precision=precision)
    helper.set_model_props(model, {"diffsmooth_trt": facts.to_json()})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_is_read_twice(
    tmp_path: Path, backend: str, precision: str, linear_classifier: Callable[..., Path], opened: list[Path]
) -> None:
    with open_engine(linear_classifier(np.ones((2, 48)), np.zeros(2)), batch=4, backend=backend):
        pass  # what a library reads of its own the first time
    path = wide_classifier(tmp_path / "c.onnx", precision)
    opened.clear()
    before = bytes_read()
    with open_engine(path, batch=4, backend=backend) as engine:
        engine.run(np.zeros((4, 3, 4, 4), np.float32))
    assert (bytes_read() - before) / path.stat().st_size < 2.5
    assert opened.count(path) == 1  # the library opens it by itself


def test_weights_beside_a_graph_are_hashed_once(tmp_path: Path, opened: list[Path]) -> None:
    model = onnx.load(wide_classifier(tmp_path / "c.onnx", "fp32"))
    sizes = {"location": "c.bin", "size_threshold": 1024, "all_tensors_to_one_file": True}
    onnx.save(model, tmp_path / "c.onnx", save_as_external_data=True, **sizes)
    opened.clear()
    with open_engine(tmp_path / "c.onnx", batch=4, backend="onnxruntime") as engine:
        engine.run(np.zeros((4, 3, 4, 4), np.float32))
    assert [opened.count(tmp_path / name) for name in ("c.onnx", "c.bin")] == [1, 1]


def test_the_batch_of_a_compiled_engine_is_in_its_record(tmp_path: Path, opened: list[Path]) -> None:
    path, facts = tmp_path / "d.plan", EngineFacts("denoiser", (3, 4, 4), sigma=0.25)
    path.write_bytes(b"plan")
    record: Any = Record("plan", "0" * 64, 96, facts, {}, {})
    record_path(path).write_text(record.to_json(), encoding="utf-8")
    opened.clear()
    assert fixed_batch(path) == 96
    assert opened == [record_path(path)]
