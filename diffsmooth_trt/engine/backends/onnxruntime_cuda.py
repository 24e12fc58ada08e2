"""ONNX Runtime on a GPU: its CUDA provider, or its TensorRT provider, on device pointers and the device's own stream.

Not yet run on a GPU.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from ...device import Array
from ...errors import EngineError, InputError, OutOfMemory
from ..base import Engine, Inputs
from ..graph import GraphFile
from ..logs import session_options

if TYPE_CHECKING:
    from ...device.cuda import Cuda

ort.disable_telemetry_events()


def _load_libraries() -> None:
    """Load CUDA and cuDNN from their wheels, where the loader does not look; what is not there shows when a session opens."""
    preload = getattr(ort, "preload_dlls", None)  # nothing in builds for the CPU, which have it too
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            preload(directory="")


_load_libraries()
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
INSTALL = "pip uninstall onnxruntime; pip install 'diffsmooth-trt[cuda]'"
MEMORY = ("out of memory", "failed to allocate memory", "alloc_failed", "available memory of", "bad_alloc")
ELEMENTS = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
}


class OnnxRuntimeCudaEngine(Engine):
    """An `.onnx` file in ONNX Runtime's CUDA provider: no copy goes in or out, no call waits for the GPU.

    cuDNN's algorithms are those that its heuristic names, never those that a timing finds. `nhwc` asks for cuDNN's
    channels-last kernels; `graph` lets ONNX Runtime record its own CUDA graph (all nodes must then run on the GPU).
    """

    backend = "onnxruntime"
    providers: Sequence[str] = (CUDA,)
    strict, called = True, "CUDA"  # whether it can do without TF32, and its name in messages
    capturable = False  # its arena and its own stream handling are outside anybody else's capture

    def __init__(
        self,
        file: GraphFile,
        batch: int,
        *,
        device: Cuda,
        precision: str | None,
        threads: int | None,
        nhwc: bool = False,
        graph: bool = False,
    ) -> None:
        path, facts = file.path, file.facts
        if precision == "bf16":
            raise InputError("--precision bf16 is for fp32 files on CPUs that have it: export a bf16 file for the GPU")
        if precision == "tf32" and facts.precision != "fp32":
            raise InputError(f"--precision tf32 is for fp32 files, {path.name} is {facts.precision}: leave it out")
        if precision == "fp32" and facts.precision == "fp32" and not self.strict:
            raise InputError(
                f"--precision fp32 does not exist in ONNX Runtime's {self.called} provider, which uses TF32: leave it out"
            )
        self._check_installed(device.name)
        super().__init__(file.path, file.facts, batch, device, sha256=file.sha256)
        self.gpu, self.tf32, self.nhwc, self.graph = device, precision != "fp32", nhwc, graph
        options = session_options(ort)
        options.intra_op_num_threads = threads or 0
        for first in {shape[0] for shape in file.inputs.values() if shape and isinstance(shape[0], str)}:
            options.add_free_dimension_override_by_name(
                first, batch
            )  # shapes become constants: nothing is left to the CPU
        self.shapes = [(name, (batch, *shape[1:])) for name, shape in file.inputs.items()]
        self.run_options = ort.RunOptions()
        self.run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        try:
            with device.errors():
                self.session = self._session(str(path), options)
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise self._failure(error, "cannot load", InputError) from None
        self._check_providers()
        self.bindings: dict[tuple[int, ...], Any] = {}
        self.names = [value.name for value in self.session.get_inputs()]
        (result,) = self.session.get_outputs()
        self.result = result.name
        kinds = [value.type for value in (*self.session.get_inputs(), result)]
        unknown = [kind for kind in kinds if kind not in ELEMENTS]
        if unknown:
            raise InputError(f"{path.name} takes or returns {unknown[0]}, expected float32 or float16: export it again")
        self.input_dtype, self.result_dtype = ELEMENTS[kinds[0]], ELEMENTS[kinds[-1]]
        precision = ("tf32" if self.tf32 else "fp32") if facts.precision == "fp32" else facts.precision
        self.identity |= {"version": ort.__version__, "precision": precision, "nhwc": nhwc, "cuda_graph": graph}

    def _check_installed(self, device: str) -> None:
        missing = [name for name in self.providers if name not in ort.get_available_providers()]
        if missing:
            raise InputError(
                f"--device {device}: the installed onnxruntime {ort.__version__} has no {missing[0]}: {INSTALL}"
            )

    def _session(self, path: str, options: Any) -> Any:
        chosen = [(name, self._provider_options(name)) for name in self.providers]
        # where a provider fails to load that has to be an error, not a slow run on the CPU
        return ort.InferenceSession(path, options, providers=chosen, enable_fallback=0)

    def _provider_options(self, name: str) -> dict[str, str]:
        shared = {"device_id": str(self.gpu.number), "user_compute_stream": str(self.gpu.stream.ptr)}
        if name == TENSORRT:
            return shared
        return shared | {
            "use_tf32": str(int(self.tf32)),
            "cudnn_conv_algo_search": "HEURISTIC",
            "cudnn_conv_use_max_workspace": "1",
            "arena_extend_strategy": "kSameAsRequested",
            "prefer_nhwc": str(int(self.nhwc)),
            "enable_cuda_graph": str(int(self.graph)),
        }

    def _check_providers(self) -> None:
        """ONNX Runtime drops a provider whose libraries are missing with no more than a line in its log."""
        running = self.session.get_providers()
        if running[: len(self.providers)] != list(self.providers):
            raise InputError(
                f"ONNX Runtime runs {self.path.name} on {running[0]}, not on {self.providers[0]}: its libraries (CUDA, cuDNN) "
                f"do not load, --debug shows why; {INSTALL}"
            )

    def _failure(self, error: Exception, what: str, kind: type[EngineError | InputError]) -> Exception:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if any(sign in str(error).lower() for sign in MEMORY):
            return OutOfMemory(
                f"{self.device.name} is out of memory in {self.path.name} at batch {self.batch} ({text}): use a smaller "
                "--batch, or free the GPU"
            )
        if isinstance(error, EngineError | InputError):
            return error
        return kind(f"ONNX Runtime {what} {self.path.name} on {self.device.name} ({text})")

    @cached_property
    def output(self) -> Array:
        """What a run writes."""
        return self.device.empty(self.output_shape, self.result_dtype)

    def _bound(self, inputs: Inputs) -> Any:
        """Inputs and output by their pointers, as a binding; steps bring the same ones every time."""
        places = tuple(array.data.ptr for array in inputs)
        if places in self.bindings:
            return self.bindings[places]
        number, binding = self.gpu.number, self.session.io_binding()
        for name, array in zip(self.names, inputs, strict=True):
            binding.bind_input(name, "cuda", number, np.dtype(array.dtype), array.shape, array.data.ptr)
        output = self.output
        binding.bind_output(self.result, "cuda", number, self.result_dtype, output.shape, output.data.ptr)
        self.bindings[places] = binding
        return binding

    def _run(self, inputs: Inputs) -> Array:
        try:
            self.session.run_with_iobinding(self._bound(inputs), self.run_options)
        except Exception as error:
            raise self._failure(error, "failed in", EngineError) from None
        return self.output

    def close(self) -> None:
        """Release the session, and what it holds of the GPU's memory."""
        self.bindings.clear()
        for name in ("session", "output", "input"):
            self.__dict__.pop(name, None)


class OnnxRuntimeTensorRtEngine(OnnxRuntimeCudaEngine):
    """The same in ONNX Runtime's TensorRT provider, with the CUDA provider for the nodes that it leaves.

    It needs the TensorRT version that ONNX Runtime was built for. Its engines are built here and differ from build to
    build, so they are kept in a folder beside the file; the probe in the identity tells them apart.
    """

    backend = "onnxruntime-tensorrt"
    providers = (TENSORRT, CUDA)
    strict, called = False, "TensorRT"

    def _provider_options(self, name: str) -> dict[str, str]:
        options = super()._provider_options(name)
        if name != TENSORRT:
            return options
        folder = self.path.with_name(f"{self.path.name}.trt")
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder), "trt_timing_cache_enable": "1"}
        rows = [f"{name}:{'x'.join(map(str, shape))}" for name, shape in self.shapes]
        profile = dict.fromkeys(
            ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"), ",".join(rows)
        )
        return options | kept | {"trt_timing_cache_path": str(folder)} | profile
