"""OpenVINO on the CPU: bf16 where the CPU has it, fp32 elsewhere; what really runs is read back and recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov

from ...device import CPU, Device
from ...dtypes import Floats32
from ...errors import EngineError, InputError, shortened
from ..base import Engine, Inputs
from ..choice import available_cores
from ..graph import GraphFile

CHUNK = 16
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


def split_at_noise_levels(model: Any) -> tuple[Any, Any]:
    """A conditional denoiser in two models: (s → what depends on s alone, images, labels and those values → output).

    In bf16 a timestep keeps 8 bits and the fast phases of its embedding are off by up to a radian, so that part, up to
    the first matrix multiplication, runs in fp32. Takes `model` apart. Zoo, root mean square error of ε against fp32 at
    s = ½, 1, 3: 0.0037, 0.0033, 0.0032; with everything in bf16 0.0047, 0.0034, 0.0039.
    """
    images, levels, labels = (value.get_node() for value in model.inputs)
    alone = {levels.get_name()}
    for node in model.get_ordered_ops():
        sources = [value.get_source_output().get_node() for value in node.inputs()]
        needed = {source.get_name() for source in sources if source.get_type_name() != "Constant"}
        if needed and needed <= alone and node.get_type_name() != "MatMul":
            alone.add(node.get_name())
    values, places = [], []
    for node in model.get_ordered_ops():
        for value in node.outputs() if node.get_name() in alone else ():
            users = [user for user in value.get_target_inputs() if user.get_node().get_name() not in alone]
            if users:
                place = ov.opset13.parameter(value.get_partial_shape(), value.get_element_type())
                for user in users:
                    user.replace_source_output(place.output(0))
                values.append(value)
                places.append(place)
    return ov.Model(values, [levels]), ov.Model(model.get_results(), [images, labels, *places])


class OpenVinoEngine(Engine):
    """An `.onnx` file compiled by OpenVINO for chunks of at most `CHUNK` rows, one thread a chunk.

    One thread a chunk and a thread a core is faster than all cores on one chunk, and the arithmetic of a row then cannot
    depend on how many threads there are.
    """

    backend = "openvino"

    @classmethod
    def graph_rows(cls, batch: int) -> set[int]:
        """Chunks; what a conditional denoiser computes from noise levels alone may run in whole batches."""
        return {min(batch, CHUNK), batch}

    def __init__(
        self,
        file: GraphFile,
        batch: int,
        *,
        device: Device = CPU,
        precision: str | None,
        threads: int | None,
    ) -> None:
        super().__init__(file.path, file.facts, batch, device, sha256=file.sha256)
        core = ov.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not bf16:
            raise InputError("--precision bf16 is not available: this CPU has no bf16 instructions; use fp32")
        precision = precision or ("bf16" if bf16 else "fp32")
        self.chunk = min(batch, CHUNK)
        streams = threads or available_cores()
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,  # two processes would pin their threads to the same cores
        }
        try:
            model = core.read_model(str(file.path))
            tails = [list(value.partial_shape)[1:] for value in model.inputs]
            model.reshape({number: [self.chunk, *tail] for number, tail in enumerate(tails)})
            self.front = None
            if file.facts.role == "conditional" and precision == "bf16":
                front, model = split_at_noise_levels(model)
                front.reshape({0: [batch]})
                self.front = core.compile_model(front, "CPU", settings | {"INFERENCE_PRECISION_HINT": HINTS["fp32"]})
            compiled = core.compile_model(model, "CPU", settings)
            self.requests = [compiled.create_infer_request() for _ in range(streams)]
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot load {file.path} ({shortened(error)}): try --backend onnxruntime"
            ) from None
        self.identity |= {"version": ov.get_version(), "precision": effective_precision(compiled), "chunk": self.chunk}

    def _run(self, inputs: Inputs) -> Floats32:
        if self.front is not None:
            images, levels, labels = inputs
            inputs = (images, labels, *self.front([levels]).values())
        starts = range(0, self.batch, self.chunk)
        chunks = [{place: given[at : at + self.chunk] for place, given in enumerate(inputs)} for at in starts]
        missing = len(chunks) * self.chunk - self.batch
        if missing:  # repeated rows fill the last chunk
            chunks[-1] = {
                place: np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
                for place, rows in chunks[-1].items()
            }
        parts: list[Floats32] = []
        try:
            for number, chunk in enumerate(chunks):  # `chunks` keeps them alive until their requests are done
                if number >= len(self.requests):
                    parts.append(self._finish(number - len(self.requests)))
                self.requests[number % len(self.requests)].start_async(chunk, share_inputs=True)
            while len(parts) < len(chunks):
                parts.append(self._finish(len(parts)))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {self.path.name} ({shortened(error)})") from None
        return np.concatenate(parts)[: self.batch]

    def _finish(self, number: int) -> Floats32:
        request = self.requests[number % len(self.requests)]
        request.wait()
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)
