"""An engine's ONNX graph as a differentiable torch function: attacks need gradients, and what users have is the ONNX file.

Covers the nodes that exported denoisers, classifiers and detectors consist of; anything else is refused by name. Values agree
with the engines' within float32 rounding (bf16 engines: within theirs); attacked points are always scored by the engines
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from ..errors import InputError
from .graph_file import load_graph

Attributes = dict[str, Any]
Given = list[Any]  # Tensor, or None for an input that is left out


def _numbers(value: Tensor) -> list[int]:
    return [int(number) for number in value.flatten().tolist()]


def _pads(attributes: Attributes, rank: int) -> list[int]:
    """Explicit ONNX pads (all starts, then all ends) in torch's order: last axis first, start and end."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise InputError(f"auto_pad {attributes['auto_pad']!r} is not covered: export with explicit pads")
    pads = attributes.get("pads", [0] * 2 * rank)
    return [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]


def _conv(given: Given, a: Attributes) -> Tensor:
    x, weight = given[0], given[1]
    bias = given[2] if len(given) > 2 else None
    if weight.dim() != 4:
        raise InputError("a convolution is not two-dimensional: attacks cover 2-d ones")
    x = F.pad(x, _pads(a, 2))
    return F.conv2d(x, weight, bias, a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]), a.get("group", 1))


def _gemm(given: Given, a: Attributes) -> Tensor:
    x = given[0].T if a.get("transA", 0) else given[0]
    weight = given[1].T if a.get("transB", 0) else given[1]
    y: Tensor = a.get("alpha", 1.0) * (x @ weight)
    return y + a.get("beta", 1.0) * given[2] if len(given) > 2 and given[2] is not None else y


def _average_pool(given: Given, a: Attributes) -> Tensor:
    pads = _pads(a, 2)
    if any(step != 1 for step in a.get("dilations", [])):
        raise InputError("an average pool is dilated: attacks cover plain ones")
    if any(pads) and not a.get("count_include_pad", 0):
        raise InputError("an average pool leaves out its padding: attacks cover those that count it or have none")
    return F.avg_pool2d(
        F.pad(given[0], pads), a["kernel_shape"], a.get("strides", [1, 1]), ceil_mode=bool(a.get("ceil_mode", 0))
    )


def _axes(given: Given, a: Attributes) -> list[int]:
    if "axes" in a:
        return list(a["axes"])
    return _numbers(given[1]) if len(given) > 1 and given[1] is not None else []


def _reduce_mean(given: Given, a: Attributes) -> Tensor:
    axes = _axes(given, a) or list(range(given[0].dim()))
    y: Tensor = given[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))
    return y


def _reshape(given: Given, a: Attributes) -> Tensor:
    x: Tensor = given[0]
    sizes = _numbers(given[1])
    if not a.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _slice(given: Given, a: Attributes) -> Tensor:
    x: Tensor = given[0]
    starts, ends = _numbers(given[1]), _numbers(given[2])
    axes = _numbers(given[3]) if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = _numbers(given[4]) if len(given) > 4 and given[4] is not None else [1] * len(starts)
    if min(steps) < 1:
        raise InputError("a slice runs backwards: attacks cover steps of 1 and more")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index = [slice(None)] * x.dim()
        index[axis] = slice(start, min(end, x.shape[axis]), step)
        x = x[tuple(index)]
    return x


def _pad(given: Given, a: Attributes) -> Tensor:
    x, value = given[0], given[2] if len(given) > 2 and given[2] is not None else torch.zeros(())
    if a.get("mode", b"constant") != b"constant" or (len(given) > 3 and given[3] is not None):
        raise InputError("a pad is not with constants on every axis: attacks cover those")
    pads = _numbers(given[1])
    return F.pad(x, _pads({"pads": pads}, x.dim()), value=float(value))


def _resize(given: Given, a: Attributes) -> Tensor:
    x: Tensor = given[0]
    if a.get("mode", b"nearest") != b"nearest":
        raise InputError(f"a resize is {a['mode']!r}: attacks cover nearest")
    if len(given) > 3 and given[3] is not None:
        size = _numbers(given[3])[2:]
    else:
        size = [int(length * scale) for length, scale in zip(x.shape[2:], given[2].tolist()[2:], strict=True)]
    if any(new % old for new, old in zip(size, x.shape[2:], strict=True)):
        raise InputError("a resize is not by a whole factor: attacks cover those")
    return F.interpolate(x, size=size, mode="nearest")


def _clip(given: Given, a: Attributes) -> Tensor:
    low, high = (float(g) if g is not None else None for g in [*given[1:], None, None][:2])
    return torch.clamp(given[0], low, high)


def _squeeze(given: Given, a: Attributes) -> Tensor:
    axes = _axes(given, a)
    y: Tensor = given[0].squeeze(tuple(axes)) if axes else given[0].squeeze()
    return y


def _unsqueeze(given: Given, a: Attributes) -> Tensor:
    y: Tensor = given[0]
    for axis in sorted(_axes(given, a)):
        y = y.unsqueeze(axis)
    return y


def _flatten(given: Given, a: Attributes) -> Tensor:
    x: Tensor = given[0]
    rows = 1
    for size in x.shape[: a.get("axis", 1)]:
        rows *= size
    return x.reshape(rows, -1)


_TYPES = {1: torch.float32, 10: torch.float32, 11: torch.float32, 6: torch.int64, 7: torch.int64, 9: torch.bool}


def _cast(given: Given, a: Attributes) -> Tensor:
    if a["to"] not in _TYPES:
        raise InputError(f"a cast to ONNX type {a['to']} is not covered: attacks compute in float32")
    y: Tensor = given[0].to(_TYPES[a["to"]])
    return y


OPERATIONS: dict[str, Callable[[Given, Attributes], Any]] = {
    "Add": lambda g, a: g[0] + g[1],
    "Sub": lambda g, a: g[0] - g[1],
    "Mul": lambda g, a: g[0] * g[1],
    "Div": lambda g, a: g[0] / g[1],
    "Neg": lambda g, a: -g[0],
    "Exp": lambda g, a: g[0].exp(),
    "Log": lambda g, a: g[0].log(),
    "Pow": lambda g, a: g[0] ** g[1],
    "Sqrt": lambda g, a: g[0].sqrt(),
    "Erf": lambda g, a: torch.erf(g[0]),
    "Tanh": lambda g, a: torch.tanh(g[0]),
    "Reciprocal": lambda g, a: 1 / g[0],
    "Sigmoid": lambda g, a: torch.sigmoid(g[0]),
    "Relu": lambda g, a: F.relu(g[0]),
    "LeakyRelu": lambda g, a: F.leaky_relu(g[0], a.get("alpha", 0.01)),
    "Softmax": lambda g, a: torch.softmax(g[0], a.get("axis", -1)),
    "MatMul": lambda g, a: g[0] @ g[1],
    "Concat": lambda g, a: torch.cat(g, a["axis"]),
    "Transpose": lambda g, a: g[0].permute(a.get("perm", list(reversed(range(g[0].dim()))))),
    "Identity": lambda g, a: g[0],
    "Dropout": lambda g, a: g[0],
    "GlobalAveragePool": lambda g, a: g[0].mean((2, 3), keepdim=True),
    "BatchNormalization": lambda g, a: F.batch_norm(g[0], g[3], g[4], g[1], g[2], eps=a.get("epsilon", 1e-5)),
    "Shape": lambda g, a: torch.tensor(g[0].shape),
    "Gather": lambda g, a: (
        g[0]
        .index_select(a.get("axis", 0), g[1].flatten())
        .reshape(*g[0].shape[: a.get("axis", 0)], *g[1].shape, *g[0].shape[a.get("axis", 0) + 1 :])
    ),
    "Conv": _conv,
    "Gemm": _gemm,
    "AveragePool": _average_pool,
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Clip": _clip,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Cast": _cast,
}


class TorchGraph(nn.Module):
    """A graph of one input and one output as a module in float32. Raises InputError, naming the node, for what it does not
    cover.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = path.name
        model = load_graph(path, "attacks")
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value.name for value in model.graph.input if value.name not in weights]
        if len(inputs) != 1 or len(model.graph.output) != 1:
            raise InputError(
                f"{path.name} has {len(inputs)} inputs, attacks need one batch of images in and one output"
            )
        self.input, self.output = inputs[0], model.graph.output[0].name
        self.constants: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            self._keep(tensor.name, tensor)
        self.steps: list[tuple[str, str, list[str], str, Attributes]] = []
        for node in model.graph.node:
            attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
            if node.op_type == "Constant":
                self._keep(node.output[0], attributes["value"])
                continue
            if node.op_type not in OPERATIONS or sum(bool(name) for name in node.output) != 1:
                raise InputError(
                    f"{path.name} has a node {node.name or node.output[0]} ({node.op_type}) that attacks cannot differentiate: "
                    f"they cover {', '.join(sorted(OPERATIONS))}"
                )
            self.steps.append((node.name, node.op_type, list(node.input), node.output[0], attributes))

    def _keep(self, name: str, tensor: onnx.TensorProto) -> None:
        value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        self.constants[name] = value.float() if value.is_floating_point() else value

    def forward(self, x: Tensor) -> Tensor:
        """The graph's output for a batch `[N, …]`."""
        values: dict[str, Any] = {**self.constants, self.input: x, "": None}
        for name, kind, inputs, output, attributes in self.steps:
            try:
                values[output] = OPERATIONS[kind]([values[given] for given in inputs], attributes)
            except InputError as error:
                raise InputError(f"{self.name}, node {name or output} ({kind}): {error}") from None
        result: Tensor = values[self.output]
        return result
