"""ONNX Runtime on the CPU: fp32, the same bits for any thread count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..device import CPU, Device
from ..errors import EngineError, InputError
from .base import Engine, Floats, Inputs
from .facts import EngineFacts

ort.disable_telemetry_events()


class OnnxRuntimeEngine(Engine):
    """An `.onnx` file in ONNX Runtime's CPU provider."""

    backend = "onnxruntime"

    def __init__(
        self,
        path: Path,
        facts: EngineFacts,
        batch: int,
        *,
        device: Device = CPU,
        precision: str | None,
        threads: int | None,
    ) -> None:
        if precision == "bf16":
            raise InputError(
                "--precision bf16 does not exist in ONNX Runtime on the CPU: use --backend openvino or fp32"
            )
        super().__init__(path, facts, batch, device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise InputError(
                f"ONNX Runtime cannot load {path} ({str(error).splitlines()[0]}): export it again"
            ) from None
        self.names = [value.name for value in self.session.get_inputs()]
        self.identity |= {"version": ort.__version__, "precision": facts.precision}

    def _run(self, inputs: Inputs) -> Floats:
        try:
            (y,) = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in {self.path.name} ({str(error).splitlines()[0]})") from None
        return np.asarray(y, dtype=np.float32)
