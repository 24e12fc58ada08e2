"""Static quantisation as GPUs multiply: symmetric Q/DQ pairs in int8 or fp8 (E4M3) around the inputs of multiplications.

TensorRT takes neither zero points nor quantised biases. int8: one scale a tensor for activations, one a channel for weights; an
activation's range is cut where the squared error of rounding is least, since one outlier among all pixels would waste it.
fp8: one scale a tensor, the largest magnitude of all batches over 448, E4M3's largest number: its steps grow with the values, so
a wide range costs little, and nothing is cut off. Outputs stay in floating point, so that what follows fuses into the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...dtypes import Floats32
from ...engine.logs import session_options
from ...errors import EngineError
from .onnx_half import external

Batch = dict[str, NDArray[Any]]
LARGEST = {"int8": 127.0, "fp8": 448.0}
KINDS = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}
OPSETS = {"int8": 18, "fp8": 19}  # the oldest with the type in QuantizeLinear, of those that exports have
PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of a range, tried for int8
SMALLEST = 1e-12  # of ranges: what is 0 on every image is quantised to 0


def _watched(source: Path, nodes: Iterable[onnx.NodeProto], constants: Mapping[str, float]) -> Any:
    """The graph in `source` in ONNX Runtime, with `nodes` and `constants` added; the values that end in /seen are its outputs."""
    model = onnx.load(str(source), load_external_data=False)
    del model.graph.output[:]
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    for node in nodes:
        model.graph.node.append(node)
        if node.output[0].endswith("/seen"):
            model.graph.output.append(helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, []))
    path = source.with_name(f"watched-{source.name}")  # beside the weights that it may refer to
    onnx.save(model, str(path))
    session = onnxruntime.InferenceSession(str(path), session_options(onnxruntime), providers=["CPUExecutionProvider"])
    path.unlink()
    return session


def magnitudes(source: Path, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, Floats32]:
    """The largest magnitude of each value in `names` in every batch, float32 `[batches]`, as ONNX Runtime computes the graph."""
    nodes = []
    for name in names:
        nodes.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        nodes.append(helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/seen"], keepdims=0))
    session = _watched(source, nodes, {})
    largest = np.array([session.run([f"{name}/seen" for name in names], batch) for batch in batches], np.float32)
    return dict(zip(names, largest.T, strict=True))


def narrowed(source: Path, ranges: Mapping[str, float], batches: Iterable[Batch]) -> dict[str, float]:
    """The part of each range, of `PARTS`, that int8 rounds the value by with the least squared error over all batches."""
    nodes: list[onnx.NodeProto] = []
    constants, outputs = {"/most": LARGEST["int8"], "/least": -LARGEST["int8"]}, []
    for name, largest in ranges.items():
        for part in PARTS:
            at = f"{name}/{part}"
            constants[f"{at}/scale"] = float(_scale(part * largest, "int8"))
            steps = (
                ("Div", [name, f"{at}/scale"]), ("Round", None), ("Clip", [f"{at}/1", "/least", "/most"]),
                ("Mul", [f"{at}/2", f"{at}/scale"]), ("Sub", [f"{at}/3", name]), ("Mul", [f"{at}/4", f"{at}/4"]),
            )  # fmt: skip
            nodes += [
                helper.make_node(kind, inputs or [f"{at}/{number - 1}"], [f"{at}/{number}"])
                for number, (kind, inputs) in enumerate(steps)
            ]
            nodes.append(helper.make_node("ReduceSum", [f"{at}/5"], [f"{at}/seen"], keepdims=0))
            outputs.append(f"{at}/seen")
    session = _watched(source, nodes, constants)
    errors = np.sum([session.run(outputs, batch) for batch in batches], axis=0, dtype=np.float64)
    best = errors.reshape(len(ranges), len(PARTS)).argmin(axis=1)
    return {name: PARTS[at] * largest for (name, largest), at in zip(ranges.items(), best, strict=True)}


def _scale(largest: NDArray[Any] | float, precision: str) -> Floats32:
    scale: Floats32 = np.maximum(np.asarray(largest, np.float32) / np.float32(LARGEST[precision]), np.float32(SMALLEST))
    return scale


def rounded(weight: Floats32, scale: Floats32, precision: str) -> NDArray[Any]:
    """`weight` / `scale` to the nearest number of the precision, ties to even, as QuantizeLinear rounds."""
    most = LARGEST[precision]
    values = np.clip(weight / scale, -most, most)
    whole: NDArray[Any] = (
        np.rint(values).astype(np.int8) if precision == "int8" else values.astype(ml_dtypes.float8_e4m3fn)
    )
    return whole


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of output channels in the weight of a multiplication: Conv `[O, I, …]`, Gemm by transB, MatMul `[…, I, O]`."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Gemm" and transposed else 1


class _Writer:
    """Puts the pairs into one graph."""

    def __init__(self, graph: onnx.GraphProto, precision: str, ranges: Mapping[str, float], folder: Path) -> None:
        self.graph, self.precision, self.ranges, self.folder = graph, precision, ranges, folder
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.made: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _zero(self, name: str, shape: tuple[int, ...]) -> str:
        kind = np.int8 if self.precision == "int8" else ml_dtypes.float8_e4m3fn
        return self._constant(f"{name}/zero", np.zeros(shape, kind))

    def activation(self, name: str) -> str:
        """The name of the value `name` rounded, by one scale."""
        if name not in self.made:
            scale = self._constant(f"{name}/scale", _scale(self.ranges[name], self.precision))
            zero = self._zero(name, ())
            quantised, back = f"{name}/quantised", f"{name}/rounded"
            self.nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [quantised], f"{name}/Q"))
            self.nodes.append(helper.make_node("DequantizeLinear", [quantised, scale, zero], [back], f"{name}/DQ"))
            self.made[name] = back
        return self.made[name]

    def weight(self, name: str, axis: int) -> str:
        """The name of the constant `name` rounded: int8 by a scale for each index along `axis`, fp8 by one."""
        if name not in self.made:
            values = np.asarray(numpy_helper.to_array(self.weights[name], str(self.folder)), np.float32)
            channels = self.precision == "int8" and values.ndim > 1
            others = tuple(place for place in range(values.ndim) if place != axis)
            largest = np.abs(values).max(axis=others) if channels else np.abs(values).max()
            scale = _scale(largest, self.precision)
            wide = scale.reshape([-1 if place == axis else 1 for place in range(values.ndim)]) if channels else scale
            stored = self._constant(f"{name}/quantised", rounded(values, wide, self.precision))
            inputs = [stored, self._constant(f"{name}/scale", scale), self._zero(name, scale.shape)]
            back = f"{name}/rounded"
            node = helper.make_node("DequantizeLinear", inputs, [back], f"{name}/DQ")
            if channels:
                node.attribute.append(helper.make_attribute("axis", axis))
            self.nodes.append(node)
            self.made[name] = back
        return self.made[name]


def quantise_symmetric(
    source: Path, target: Path, precision: str, chosen: Iterable[str], batches: Callable[[], Iterable[Batch]]
) -> None:
    """Write the fp32 graph in `source` to `target` with the inputs of the nodes `chosen` in `precision`, "int8" or "fp8".

    `batches()` gives inputs by name to calibrate on. Raises EngineError where a value is not finite on them.
    """
    model = onnx.load(str(source), load_external_data=False)
    graph, wanted = model.graph, set(chosen)
    taken = list(dict.fromkeys(node.input[0] for node in graph.node if node.name in wanted))
    ranges = {name: float(each.max()) for name, each in magnitudes(source, taken, batches()).items()}
    wild = [name for name, largest in ranges.items() if not np.isfinite(largest)]
    if wild:
        raise EngineError(f"{wild[0]} is not finite on the calibration images: use --precision fp32")
    if precision == "int8":
        ranges = narrowed(source, ranges, batches())
    writer = _Writer(graph, precision, ranges, source.parent)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name in wanted:
            node.input[0] = writer.activation(node.input[0])
            node.input[1] = writer.weight(node.input[1], channel_axis(node))
            graph.node.extend(writer.nodes)
            writer.nodes.clear()
        graph.node.append(node)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for imported in model.opset_import:
        if imported.domain == "":
            imported.version = max(imported.version, OPSETS[precision])
    model.ir_version = max(model.ir_version, 9)
    onnx.load_external_data_for_model(model, str(source.parent))
    onnx.save(model, str(target), **external(model, target))
