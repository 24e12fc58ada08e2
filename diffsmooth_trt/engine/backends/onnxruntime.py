"""ONNX Runtime on the CPU: the same bits for any thread count; fp32 arithmetic except where it fuses Q/DQ pairs to int8."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ...device import CPU, Device
from ...dtypes import Floats32
from ...errors import EngineError, InputError, shortened
from ..base import Engine, Inputs
from ..graph import GraphFile
from ..logs import session_options

ort.disable_telemetry_events()


WEIGHTS_APART = "session.optimized_model_external_initializers_file_name"
# What ONNX Runtime is not to do: 1.32's ReluQuantRewrite drops a ReLU in front of a QuantizeLinear to fp8, which has signs.
WRONG = ("ReluQuantRewrite",)
MULTIPLYING = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def effective_precision(optimised: Path) -> str:
    """The precision of the multiplications in the graph that ONNX Runtime made of a file and wrote to `optimised`.

    Half precision is computed in fp32 where the CPU has no kernels for it, and Q/DQ pairs only become int8 kernels in the
    patterns it knows: only the optimised graph shows it.
    """
    graph = onnx.load_model(str(optimised), load_external_data=False).graph
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
        file: GraphFile,
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
        path, facts = file.path, file.facts
        if facts.precision == "bf16":
            raise InputError(
                f"{path.name} is a bf16 graph, which ONNX Runtime has no CPU kernels for: use --backend openvino, or export "
                "it in fp32 or fp16"
            )
        super().__init__(file.path, file.facts, batch, device, sha256=file.sha256)
        options = session_options(ort)
        options.intra_op_num_threads = threads or 0
        effective = facts.precision
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            if effective != "fp32":
                options.optimized_model_filepath = str(optimised)
                options.add_session_config_entry(WEIGHTS_APART, "weights")  # so that they are not read with the graph
            try:
                self.session = ort.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(WRONG)
                )
            except Exception as error:  # ONNX Runtime raises its own family of exceptions
                _raise_memory(error)
                raise InputError(f"ONNX Runtime cannot load {path} ({shortened(error)}): export it again") from None
            if effective != "fp32":
                effective = effective_precision(optimised)
        self.names = [value.name for value in self.session.get_inputs()]
        self.identity |= {"version": ort.__version__, "precision": effective}

    def _run(self, inputs: Inputs) -> Floats32:
        try:
            (y,) = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        except Exception as error:
            _raise_memory(error)
            raise EngineError(f"ONNX Runtime failed in {self.path.name} ({shortened(error)})") from None
        return np.asarray(y, dtype=np.float32)


def _raise_memory(error: Exception) -> None:
    """MemoryError where that is what the library failed by: the file is not at fault."""
    if "bad_alloc" in str(error):
        raise MemoryError from None
