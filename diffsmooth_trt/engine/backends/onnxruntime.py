"""ONNX Runtime on the CPU: the same bits for any thread count; fp32 arithmetic except where it fuses Q/DQ pairs to int8."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ...device import CPU, Device
from ...errors import EngineError, InputError
from ..base import Engine, Floats, Inputs
from ..facts import EngineFacts

ort.disable_telemetry_events()


MULTIPLYING = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def effective_precision(path: Path, threads: int | None) -> str:
    """The precision of the multiplications in the graph that ONNX Runtime makes of the file.

    Half precision is computed in fp32 where the CPU has no kernels for it, and Q/DQ pairs only become int8 kernels in the
    patterns it knows: the optimised graph is asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load_model(options.optimized_model_filepath, load_external_data=False).graph
    half = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    kinds = set()
    for node in graph.node:
        if node.op_type.startswith(("QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger")):
            kinds.add("int8")
        elif node.op_type in MULTIPLYING:
            kinds.add("fp16" if half & set(node.input) else "fp32")
    return "+".join(sorted(kinds)) or "fp32"


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
        if facts.precision == "bf16":
            raise InputError(
                f"{path.name} is a bf16 graph, which ONNX Runtime has no CPU kernels for: use --backend openvino, or export "
                "it in fp32 or fp16"
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
        if facts.precision != "fp32":
            self.identity["precision"] = effective_precision(path, threads)

    def _run(self, inputs: Inputs) -> Floats:
        try:
            (y,) = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in {self.path.name} ({str(error).splitlines()[0]})") from None
        return np.asarray(y, dtype=np.float32)
