"""Weights put back into a weight-stripped plan. Not yet run on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...device.nvidia import import_tensorrt
from ...errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt


def parser_errors(parser: trt.OnnxParser | trt.OnnxParserRefitter, shown: int = 3) -> str:
    """What a parser complains of, each with its node's name and operator."""
    errors: list[trt.ParserError] = [parser.get_error(index=index) for index in range(parser.num_errors)]
    texts = [f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}" for error in errors]
    return "; ".join(" ".join(text.split()) for text in texts[:shown]) or "no reason was given"


def put_back_weights(engine: trt.ICudaEngine, logger: trt.ILogger, source: Path) -> None:
    """Give a deserialised weight-stripped engine the weights of the ONNX file it was built from (`PlanFile.source()`).

    Raises EngineError where TensorRT does not take them. `logger` must outlive the engine.
    """
    trt = import_tensorrt()
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(source)):
        raise EngineError(
            f"TensorRT cannot read the weights in {source.name} ({parser_errors(parser)}): build it again"
        )
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:3])
        raise EngineError(f"TensorRT did not take the weights in {source.name} (missing: {missing}): build it again")
