"""TensorRT plans on a GPU, in the full runtime or the lean one. Not yet run on a GPU.

A plan is executable code: only one whose hash is the recorded one reaches TensorRT, and only after the driver has answered.
Every None and False that TensorRT answers with is an error here, with the last line of its log.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...device import Array
from ...device.nvidia import NAMES, TENSORRT, find_gpu, import_tensorrt
from ...errors import EngineError, InputError, OutOfMemory
from ..base import Engine, Inputs
from .tensorrt_check import caveat, found_check, where
from .tensorrt_log import called, open_log
from .tensorrt_plan import PlanFile, check_runs_here, read_plan

if TYPE_CHECKING:
    import tensorrt as trt

    from ...device.cuda import Cuda

MEMORY = ("out of memory", "outofmemory", "insufficient memory", "cudaerrormemoryallocation", "requested amount of")


def types_of(trt: Any) -> dict[Any, np.dtype[Any]]:
    """The types of our engines' inputs and outputs, by the library's names of them."""
    return {
        trt.DataType.FLOAT: np.dtype(np.float32),
        trt.DataType.HALF: np.dtype(np.float16),
        trt.DataType.BF16: np.dtype(np.uint16),  # CuPy arrays have no bfloat16 here
        trt.DataType.INT64: np.dtype(np.int64),
    }


class TensorRtEngine(Engine):
    """A `.plan` with the record of its export beside it, for the one batch size that it was built for."""

    backend = "tensorrt"
    library = TENSORRT

    def __init__(
        self,
        path: Path,
        batch: int,
        *,
        device: Cuda,
        role: str | None = None,
        sigma: float | None = None,
        allow_host_code: bool = False,
    ) -> None:
        plan = read_plan(path, role=role, sigma=sigma, batch=batch)
        gpu = find_gpu(device.number)  # a TensorRT runtime without a working driver ends the process
        self.trt = import_tensorrt(self.library, lean=True)
        self.version = str(self.trt.__version__)
        here = {"library": self.library, "tensorrt": self.version, "compute_capability": device.capability}
        check_runs_here(plan, **here, allow_host_code=allow_host_code)
        super().__init__(path, plan.facts, batch, device, sha256=plan.sha256)
        self.rows = plan.record.independence
        known = found_check(plan, where(plan, gpu=gpu.name, driver=gpu.driver, tensorrt=self.version))
        self.caveat = caveat(plan, known)
        self.gpu, self.log = device, open_log(self.trt)
        with device.errors():
            self._load(plan, allow_host_code)
        self._describe()
        self.identity |= {"version": self.version, "precision": plan.precision}

    def _load(self, plan: PlanFile, allow_host_code: bool) -> None:
        self.runtime = self.trt.Runtime(self.log)
        if plan.holds_host_code and allow_host_code:
            self.runtime.engine_host_code_allowed = True
        self.engine = self.runtime.deserialize_cuda_engine(plan.read())
        if self.engine is None:
            raise self._failure("does not load", InputError, "build it again here with `diffsmooth-trt export plan`")
        if plan.weight_stripped:
            from .tensorrt_refit import put_back_weights

            put_back_weights(self.engine, self.log, plan.source())
        context = self._context()
        if context is None:
            raise self._failure("has no execution context", EngineError, "free the GPU")
        self.context = context

    def _context(self) -> trt.IExecutionContext | None:
        """What the engine runs in."""
        return self.engine.create_execution_context()

    def _failure(self, what: str, kind: type[EngineError | InputError], remedy: str) -> EngineError | InputError:
        name, reason = self.path.name, self.log.last
        if any(sign in reason.lower() for sign in MEMORY):
            return OutOfMemory(
                f"{self.device.name} is out of memory in {name} at batch {self.batch} ({reason}): free the GPU, or build the "
                "plan for a smaller --batch"
            )
        return kind(f"{called(self.trt, NAMES[self.library])}: {name} {what} ({reason}): {remedy}")

    def _describe(self) -> None:
        """Names, types and layouts of what goes in and out; InputError unless they are those of our engines."""
        engine: trt.ICudaEngine = self.engine
        types_known = types_of(self.trt)
        nhwc = {self.trt.TensorFormat.LINEAR: False, self.trt.TensorFormat.HWC: True}
        again = f"export {self.path.name} again"
        self.inputs: list[str] = []
        outputs: list[str] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            (self.inputs if engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT else outputs).append(name)
        if len(self.inputs) != (3 if self.facts.role == "conditional" else 1) or len(outputs) != 1:
            raise InputError(f"{self.path.name} has {len(self.inputs)} inputs and {len(outputs)} outputs: {again}")
        (self.result,) = outputs
        types = {name: engine.get_tensor_dtype(name) for name in (*self.inputs, self.result)}
        layouts = {name: engine.get_tensor_format(name) for name in types}
        for name, kind in types.items():
            if kind not in types_known or layouts[name] not in nhwc:
                raise InputError(f"tensor {name} of {self.path.name} is {kind} in {layouts[name]}: {again}")
        images = self.inputs[0]
        self.input_dtype, self.result_dtype = types_known[types[images]], types_known[types[self.result]]
        self.input_nhwc = nhwc[layouts[images]]
        self.output_nhwc = nhwc[layouts[self.result]] and self.facts.role not in ("classifier", "detector")
        for name in self.inputs:
            tail = self.facts.input_shape if name == images else ()
            if not self.context.set_input_shape(name, (self.batch, *tail)):
                raise self._failure(f"does not take batches of {self.batch} in {name}", InputError, again)
        shape = tuple(self.context.get_tensor_shape(self.result))
        wanted = self.output_shape
        if len(wanted) == 4:  # whatever the layout, TensorRT gives shapes in the order [B, C, H, W]
            wanted = (self.batch, *self.facts.denoised_shape)
        if shape != wanted:
            raise InputError(f"{self.path.name} returns {shape}, its record says {wanted}: {again}")

    @cached_property
    def output(self) -> Array:
        """What a run writes."""
        return self.device.empty(self.output_shape, self.result_dtype)

    def _run(self, inputs: Inputs) -> Array:
        remedy = "what was committed before is kept, go on with --resume"
        for name, array in (*zip(self.inputs, inputs, strict=True), (self.result, self.output)):
            if not self.context.set_tensor_address(name, array.data.ptr):
                raise self._failure(f"does not take the address of {name}", EngineError, remedy)
        if not self.context.execute_async_v3(self.gpu.stream.ptr):
            raise self._failure("failed", EngineError, remedy)
        return self.output

    def close(self) -> None:
        """Release context, engine and runtime, in that order; the log goes last."""
        for name in ("context", "engine", "runtime", "output", "input"):
            self.__dict__.pop(name, None)
