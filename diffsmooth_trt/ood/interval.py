"""Interval bounds of a small network over an ℓ∞ box, read from its ONNX graph and rounded outward (Gowal et al. 2018).

Only what such bounds are exact or simple for is read: convolution, linear, relu, average pool, flatten, affine. Everything else
is refused by name. Values are float64; every dot product of n terms is widened by γ·(Σ|w||x| + |b|), γ = 1.01·(n + 8)·u, which
covers its rounding in any order of summation (Higham 2002, §3.1) by arithmetic of unit roundoff u. With u = 2^-24 the bounds
hold for what a float32 engine computes too, as long as it sums products (no Winograd transform, no bf16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

from ..dtypes import Floats64
from ..errors import InputError
from .graph_file import load_graph

DOUBLE, SINGLE = 2.0**-53, 2.0**-24
SUPPORTED = ("Conv", "Gemm", "MatMul", "Relu", "AveragePool", "Flatten", "Reshape", "Mul", "Div", "Add", "Sub")
_SILENT = ("Identity", "Dropout")
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Box:
    """Bounds float64 `[N, …]`, low ≤ high."""

    low: Floats64
    high: Floats64


def _widened(low: Floats64, high: Floats64, size: Floats64, terms: int, roundoff: float) -> Box:
    slack = 1.01 * (terms + 8) * roundoff * size + np.finfo(np.float64).tiny
    return Box(low - slack, high + slack)


def _patches(x: Floats64, kernel: tuple[int, int], strides: list[int], dilations: list[int]) -> Floats64:
    """`[N, H', W', C, kh, kw]` windows of a padded `[N, C, H, W]`."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(x, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return np.asarray(windows.transpose(0, 2, 3, 1, 4, 5))


def _check_pads(name: str, attributes: Attributes) -> list[int]:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET", b"VALID"):
        raise InputError(f"node {name} pads by {attributes['auto_pad']!r}, expected explicit pads: export it again")
    return list(attributes.get("pads", [0, 0, 0, 0]))


def _padded(x: Floats64, pads: list[int]) -> Floats64:
    return np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))


def _signed_products(
    product: Callable[[Floats64, Floats64], Floats64], box: Box, weight: Floats64, bias: Floats64, terms: int, u: float
) -> Box:
    """Bounds of product(x, weight) + bias: least inputs meet positive weights, greatest ones negative weights."""
    more, less = np.maximum(weight, 0), np.minimum(weight, 0)
    low = product(box.low, more) + product(box.high, less) + bias
    high = product(box.high, more) + product(box.low, less) + bias
    size = product(np.maximum(np.abs(box.low), np.abs(box.high)), np.abs(weight)) + np.abs(bias)
    return _widened(low, high, size, 2 * terms, u)


def _conv(name: str, box: Box, constants: list[Floats64], attributes: Attributes, u: float) -> Box:
    weight = constants[0]
    if attributes.get("group", 1) != 1 or weight.ndim != 4:
        raise InputError(f"node {name} (Conv) is grouped or not two-dimensional: interval bounds take plain 2-d ones")
    bias = constants[1] if len(constants) > 1 else np.zeros(len(weight))
    strides, dilations = list(attributes.get("strides", [1, 1])), list(attributes.get("dilations", [1, 1]))
    pads, kernel = _check_pads(name, attributes), (weight.shape[2], weight.shape[3])

    def product(x: Floats64, w: Floats64) -> Floats64:
        windows = _patches(_padded(x, pads), kernel, strides, dilations)
        flat = windows.reshape(*windows.shape[:3], -1) @ w.reshape(len(w), -1).T
        return np.ascontiguousarray(flat.transpose(0, 3, 1, 2))

    return _signed_products(product, box, weight, bias[:, None, None], weight[0].size, u)


def _linear(box: Box, weight: Floats64, bias: Floats64, u: float) -> Box:
    return _signed_products(lambda x, w: np.asarray(x @ w), box, weight, bias, weight.shape[0], u)


def _average_pool(name: str, box: Box, attributes: Attributes, u: float) -> Box:
    kernel = tuple(attributes["kernel_shape"])
    pads = _check_pads(name, attributes)
    if len(kernel) != 2 or any(pads) or attributes.get("ceil_mode", 0):
        raise InputError(
            f"node {name} (AveragePool) pads or is not two-dimensional: interval bounds take plain 2-d ones"
        )
    strides = list(attributes.get("strides", [1, 1]))

    def mean(x: Floats64) -> Floats64:
        windows = _patches(x, (kernel[0], kernel[1]), strides, list(attributes.get("dilations", [1, 1])))
        return np.asarray(windows.mean(axis=(4, 5)).transpose(0, 3, 1, 2))

    size = mean(np.maximum(np.abs(box.low), np.abs(box.high)))
    return _widened(mean(box.low), mean(box.high), size, kernel[0] * kernel[1], u)


def _affine(kind: str, box: Box, constant: Floats64, first: bool, u: float) -> Box:
    """`kind` of the box and a constant; `first` says that the box is the first operand."""
    if kind == "Div" and (not first or (constant == 0).any()):
        raise InputError("the graph divides by a computed value or by 0: interval bounds take affine maps only")
    if kind in ("Mul", "Div"):
        ends = [box.low * constant, box.high * constant] if kind == "Mul" else [box.low / constant, box.high / constant]
        low, high = np.minimum(*ends), np.maximum(*ends)
    elif kind == "Add":
        low, high = box.low + constant, box.high + constant
    elif first:
        low, high = box.low - constant, box.high - constant
    else:
        low, high = constant - box.high, constant - box.low
    size = np.maximum(np.abs(low), np.abs(high)) + (0 if kind in ("Mul", "Div") else np.abs(constant))
    return _widened(low, high, size, 2, u)


class ReadGraph:
    """A network of one input and one output as its ONNX file has it, and its last layer; its other nodes may be any."""

    def __init__(self, path: Path) -> None:
        self.path = path
        model = load_graph(path, "the check of a detector's signs and interval bounds")
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(model.graph.output) != 1:
            raise InputError(f"{path.name} has {len(inputs)} inputs, expected one batch of images in and one output")
        self.input, self.output = inputs[0], model.graph.output[0].name
        self.computed = {self.input}
        self.nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            if not self._fold(node):
                self.computed.update(node.output)
                self.nodes.append(node)

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Evaluate a node of constants alone; whether it was one that can be."""
        if any(name in self.computed for name in node.input):
            return False
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Cast":
            kind = onnx.helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
            value = self.constants[node.input[0]].astype(kind)
        elif node.op_type == "Identity":
            value = self.constants[node.input[0]]
        else:
            return False
        self.constants[node.output[0]] = value
        return True

    @property
    def last_weight(self) -> Floats64:
        """The effective weight of the last linear layer, `[inputs, outputs]`; InputError where the graph does not end in one."""
        makers = {name: node for node in self.nodes for name in node.output}
        node = makers.get(self.output)
        if node is not None and node.op_type == "Add":  # MatMul and its bias
            node = next((makers[name] for name in node.input if name in makers), node)
        if node is None or node.op_type not in ("Gemm", "MatMul"):
            ends = "its input" if node is None else node.op_type
            raise InputError(f"{self.path.name} ends in {ends}, expected a linear layer: export it again")
        if node.input[1] not in self.constants:
            raise InputError(
                f"{self.path.name} computes its last layer's weight, expected a constant one: export it again"
            )
        return self._gemm_weight(node)

    def _gemm_weight(self, node: onnx.NodeProto) -> Floats64:
        weight = self.constants[node.input[1]].astype(np.float64)
        options = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        return (weight.T if options.get("transB", 0) else weight) * float(options.get("alpha", 1.0))


class IntervalGraph(ReadGraph):
    """A network whose interval bounds are computed from its ONNX file. Raises InputError, naming the node, for any other."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for node in self.nodes:
            self._check(node)

    def _unsupported(self, node: onnx.NodeProto) -> InputError:
        return InputError(
            f"{self.path.name} has a node {node.name or node.output[0]} ({node.op_type}) that interval bounds do not cover: "
            f"expected {', '.join(SUPPORTED)} with constants"
        )

    def _check(self, node: onnx.NodeProto) -> None:
        given = [name for name in node.input if name in self.computed]
        first_only = node.op_type in ("Conv", "Gemm", "MatMul") and node.input[0] not in self.computed
        if node.op_type not in (*SUPPORTED, *_SILENT) or len(given) != 1 or first_only:
            raise self._unsupported(node)
        unknown = [name for name in node.input if name and name not in self.computed and name not in self.constants]
        if unknown:
            raise InputError(f"{self.path.name} uses {unknown[0]}, which it does not define: export it again")

    def bounds(self, low: Floats64, high: Floats64, roundoff: float = DOUBLE) -> tuple[Floats64, Floats64]:
        """(low, high) of the output over every input between `low` and `high`, float64 `[N, …]` each, rounded outward.

        Boxes are bounded one by one: the last digits of a matrix product depend on how many rows it has.
        roundoff: the unit roundoff of the arithmetic that the bounds have to cover, at least that of float64. Raises InputError
        for low > high, NaN, and shapes that the graph does not take.
        """
        if low.shape != high.shape or not (low <= high).all():
            raise InputError(f"the box {low.shape}, {high.shape} is empty somewhere or has NaN: expected low ≤ high")
        low, high = low.astype(np.float64), high.astype(np.float64)
        boxes = [
            self._bounds(Box(low[row : row + 1], high[row : row + 1]), max(roundoff, DOUBLE)) for row in range(len(low))
        ]
        return np.concatenate([box.low for box in boxes]), np.concatenate([box.high for box in boxes])

    def _bounds(self, box: Box, u: float) -> Box:
        boxes = {self.input: box}
        for node in self.nodes:
            given = next(name for name in node.input if name in boxes)
            try:
                boxes[node.output[0]] = self._step(node, boxes[given], node.input[0] == given, u)
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{self.path.name} does not take a box {box.low.shape} ({error})") from None
        return boxes[self.output]

    def _step(self, node: onnx.NodeProto, box: Box, first: bool, u: float) -> Box:
        options = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        constants = [self.constants[name] for name in node.input if name in self.constants]
        numbers = [value.astype(np.float64) for value in constants if np.issubdtype(value.dtype, np.floating)]
        name, kind = node.name or node.output[0], node.op_type
        if kind == "Conv":
            return _conv(name, box, numbers, options, u)
        if kind == "Gemm":
            if options.get("transA", 0):
                raise self._unsupported(node)
            bias = numbers[1] * float(options.get("beta", 1.0)) if len(numbers) > 1 else np.zeros(1)
            return _linear(box, self._gemm_weight(node), bias, u)
        if kind == "MatMul":
            return _linear(box, numbers[0], np.zeros(1), u)
        if kind == "Relu":
            return Box(np.maximum(box.low, 0), np.maximum(box.high, 0))
        if kind == "AveragePool":
            return _average_pool(name, box, options, u)
        if kind in ("Flatten", "Reshape"):
            return self._flattened(node, box, options, constants)
        return box if kind in _SILENT else _affine(kind, box, numbers[0], first, u)

    def _flattened(self, node: onnx.NodeProto, box: Box, options: Attributes, constants: list[NDArray[Any]]) -> Box:
        rows, size = len(box.low), int(np.prod(box.low.shape[1:]))
        wanted = [int(value) for value in constants[0]] if node.op_type == "Reshape" else [rows, size]
        flat = len(wanted) == 2 and wanted[1] in (-1, size) and wanted != [-1, -1]
        if not flat or options.get("axis", 1) != 1:
            raise self._unsupported(node)
        return Box(box.low.reshape(rows, size), box.high.reshape(rows, size))


def linf_box(images: NDArray[np.float32], epsilon: float) -> tuple[Floats64, Floats64]:
    """The images in [0, 1] within ℓ∞ distance `epsilon` + 2^-23 of each of `images` float32 `[N, …]` in [0, 1].

    That is the ball around the exact k/255 and what float32 makes of it: rounding k/255, epsilon, their sum and the point moves
    a value in [0, 1] by at most 2^-25 each, and 0 and 1 are exact.
    """
    centre, reach = images.astype(np.float64), epsilon + 2.0**-23
    return np.maximum(centre - reach, 0.0), np.minimum(centre + reach, 1.0)
