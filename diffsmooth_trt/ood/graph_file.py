"""An engine's ONNX graph with its weights: what bounds and attacks read beside running the engine."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..errors import InputError


def load_graph(path: Path, purpose: str) -> onnx.ModelProto:
    """The ONNX model at `path`, with its weights. Raises InputError, naming the `purpose`, for compiled and damaged files."""
    if path.suffix != ".onnx":
        raise InputError(
            f"{purpose} need the graph of {path.name}, which only an .onnx file has: give that engine as .onnx"
        )
    try:
        return onnx.load_model(str(path))
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path} is not a readable ONNX file ({type(error).__name__}): export it again") from None
