"""An ONNX file as the source of an export, in place of a torch network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from ...engine.logs import session_options
from ...errors import InputError, shortened
from ..writers.onnx import OPSET
from ..writers.onnx_half import MULTIPLYING


class OnnxModule(nn.Module):
    """An ONNX file in ONNX Runtime as a torch module; of a fixed batch size, as many rows as are asked for.

    torch does not see what it computes: `multiply_adds` says how much that is for one row.
    """

    def __init__(self, path: Path, batch: int | None, multiply_adds: int = 0) -> None:
        super().__init__()
        self.path, options = path, session_options(onnxruntime)
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise InputError(
                f"--onnx {path}: ONNX Runtime cannot load it ({shortened(error)}): export it again for opset {OPSET}"
            ) from error
        self.batch, self.multiply_adds = batch, multiply_adds

    def forward(self, x: Tensor) -> Tensor:
        name = self.session.get_inputs()[0].name
        missing = 0 if self.batch is None else -len(x) % self.batch
        rows = np.concatenate([x.numpy(), np.zeros((missing, *x.shape[1:]), np.float32)])
        try:
            parts = [
                self.session.run(None, {name: part})[0]
                for part in np.split(rows, len(rows) // (self.batch or len(rows)))
            ]
        except Exception as error:
            raise InputError(
                f"--onnx {self.path}: ONNX Runtime fails with {self.batch or len(rows)} images ({shortened(error)}): "
                "export it again"
            ) from error
        made = np.concatenate(parts)
        if len(made) != len(rows):
            raise InputError(f"--onnx {self.path} returns {len(made)} rows for {len(rows)} images: export it again")
        return torch.from_numpy(made[: len(x)])


def _sizes(value: ir.Value | None) -> list[int]:
    """The dimensions of a value, 1 for those that are open; none where its shape is unknown."""
    shape = None if value is None else value.shape
    return [] if shape is None else [size if isinstance(size, int) else 1 for size in shape.dims]


def multiply_adds(model: ir.Model, batch: int | None) -> int:
    """Multiply-adds for one row of a model of known shapes; what is not known counts as nothing."""
    total = 0
    for node in model.graph.all_nodes():
        if node.op_type not in MULTIPLYING or len(node.inputs) < 2:
            continue
        given, weight, made = _sizes(node.inputs[0]), _sizes(node.inputs[1]), _sizes(node.outputs[0])
        if given and weight and made:
            outer = given if node.op_type == "ConvTranspose" else made
            total += math.prod(outer) * (math.prod(weight[1:]) if "Conv" in node.op_type else given[-1])
    return total // (batch or 1)
