"""OpenVINO on the CPU: bf16 where the CPU has it, fp32 elsewhere; what really runs is read back and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from ..errors import EngineError, InputError
from .base import Engine, Floats
from .facts import EngineFacts

HINTS = {"fp32": "f32", "bf16": "bf16"}
MULTIPLYING = {"Convolution", "MatMul", "FullyConnected", "Deconvolution"}


def effective_precision(compiled: Any) -> str:
    """The precision the multiplications run in: OpenVINO falls back from bf16 by itself, so the compiled graph is asked."""
    kinds = set()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and str(info["layerType"].value) in MULTIPLYING:
            kinds.add(str(info["runtimePrecision"].value).lower())
    return "+".join(sorted(kinds)).replace("f32", "fp32") or "fp32"


class OpenVinoEngine(Engine):
    """An `.onnx` file compiled by OpenVINO for one batch size."""

    backend = "openvino"

    def __init__(
        self, path: Path, facts: EngineFacts, batch: int, *, precision: str | None, threads: int | None
    ) -> None:
        super().__init__(path, facts, batch)
        core = ov.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not bf16:
            raise InputError("--precision bf16 is not available: this CPU has no bf16 instructions; use fp32")
        precision = precision or ("bf16" if bf16 else "fp32")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(str(path))
            model.reshape([batch, *facts.input_shape])
            self.request = (compiled := core.compile_model(model, "CPU", settings)).create_infer_request()
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot load {path} ({str(error).splitlines()[0]}): try --backend onnxruntime"
            ) from None
        self.identity |= {
            "version": ov.get_version(),
            "precision": effective_precision(compiled),
            "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),  # bf16 sums depend on it (seen in 2026.4)
        }

    def _run(self, x: Floats) -> Floats:
        try:
            self.request.infer({0: x}, share_inputs=True, share_outputs=False)
            return np.array(self.request.get_output_tensor(0).data, dtype=np.float32)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {self.path.name} ({str(error).splitlines()[0]})") from None
