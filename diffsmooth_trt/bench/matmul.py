"""The rate at which an engine's own backend multiplies large matrices here: what the engine is measured against.

A chain of products of `ROWS`×`SIDE` with `SIDE`×`SIDE` matrices runs as an engine of its own, in the same backend, precision,
device and threads. It is no upper bound: a convolution by another algorithm may be faster.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..dtypes import Floats32
from ..engine import METADATA_KEY, Engine, EngineFacts, open_engine
from ..engine.choice import EngineChoice

SIDE, ROWS, PRODUCTS = 1024, 1024, 4
IMAGE = (1, 32, 32)  # SIDE pixels
FLOPS = 2 * ROWS * SIDE * SIDE * PRODUCTS
KINDS = ("int8", "fp16", "bf16", "tf32", "fp32")
BACKENDS = ("openvino", "onnxruntime")


class MatmulRate:
    """A chain of products in the backend and precision of `engine`; `once` times it. Close it when done."""

    def __init__(self, engine: Engine, choice: EngineChoice) -> None:
        """Raises InputError where the backend cannot run the chain; ask `measurable` before."""
        precision = kind_of(engine)
        self.device = engine.device
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "matmul.onnx"
            onnx.save(chain(precision), path)
            self.engine = open_engine(
                path,
                batch=ROWS,
                backend=engine.backend,
                device=engine.device,
                precision=precision if precision in ("fp32", "bf16", "tf32") else None,
                threads=choice.threads,
            )
        self.precision = str(self.engine.identity["precision"])
        with self.device.errors():
            self.x = self.device.asarray(np.random.Generator(np.random.Philox(0)).random((ROWS, *IMAGE), np.float32))

    def once(self) -> float:
        """Floating-point operations a second of one run of the chain."""
        start = time.perf_counter()
        self.engine.run(self.x)
        self.device.event()()
        return FLOPS / (time.perf_counter() - start)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def kind_of(engine: Engine) -> str:
    """The precision of most of an engine's products, one of KINDS, or "": where several are mixed, the lowest."""
    precisions = str(engine.identity["precision"]).split("+")
    if any(each in ("int8", "i8", "u8") for each in precisions):
        return "int8"
    return next((kind for kind in KINDS if kind in precisions), "")


def measurable(engine: Engine) -> bool:
    """Whether there is a chain for the backend and precision of `engine`: compiled files have none."""
    return engine.backend in BACKENDS and kind_of(engine) != ""


def chain(precision: str) -> onnx.ModelProto:
    """The graph: images `[B, 1, 32, 32]` → `[B, SIDE]`, each product in `precision`, one of KINDS."""
    weights: Floats32 = (np.eye(SIDE, dtype=np.float32) + np.float32(1 / 64)) / np.float32(SIDE / 64 + 1)  # sums stay
    nodes, tensors = [helper.make_node("Flatten", ["x"], ["h0"])], []
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", ["h0"], ["half"], to=TensorProto.FLOAT16))
    last = "half" if precision == "fp16" else "h0"
    if precision == "int8":
        tensors += [_tensor("scale", np.float32(1 / 127)), _tensor("zero", np.int8(0))]
    for number in range(PRODUCTS):
        weight = f"w{number}"
        stored: Any = weights.astype(np.float16) if precision == "fp16" else weights
        if precision == "int8":
            stored = np.rint(weights * 127).astype(np.int8)
            nodes.append(helper.make_node("QuantizeLinear", [last, "scale", "zero"], [f"q{number}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{number}", "scale", "zero"], [f"d{number}"]))
            nodes.append(helper.make_node("DequantizeLinear", [weight, "scale", "zero"], [f"v{number}"]))
            last, weight = f"d{number}", f"v{number}"
        tensors.append(_tensor(f"w{number}", stored))
        nodes.append(helper.make_node("MatMul", [last, weight], [f"m{number}"]))
        last = f"m{number}"
    nodes.append(
        helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT)
        if precision == "fp16"
        else helper.make_node("Identity", [last], ["y"])
    )
    graph = helper.make_graph(
        nodes,
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *IMAGE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", SIDE])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kept = precision if precision in ("fp16", "int8") else "fp32"
    helper.set_model_props(
        model, {METADATA_KEY: EngineFacts("classifier", IMAGE, classes=SIDE, precision=kept).to_json()}
    )
    return model


def _tensor(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)
