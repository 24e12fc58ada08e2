"""CuPy, ONNX Runtime's CUDA provider and TensorRT's runtime as far as the package uses them, on the processor.

Not CUDA: it cannot say that a GPU does the same. It runs every line of the package's CUDA modules with real arrays, pointers,
kernels and networks, checks types and option names, and keeps to the rules of streams and graphs: what is enqueued while a graph
is recorded runs when the graph is launched, an array is used on the stream that it was made on, and memory is limited. Every
name in it exists in CuPy (tests/engine/test_cuda.py).
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

ElementTypes = {
    np.dtype(kind): getattr(ctypes, name) for kind, name in ((np.float32, "c_float"), (np.int64, "c_int64"))
}
FIRST_STREAM = 4242  # a GPU's number is added
CUDA_OPTIONS = {
    *("device_id", "user_compute_stream", "use_tf32", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace"),
    *("arena_extend_strategy", "prefer_nhwc", "enable_cuda_graph"),
}
TENSORRT_OPTIONS = {
    *(
        "device_id",
        "user_compute_stream",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_timing_cache_enable",
    ),
    *("trt_timing_cache_path", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"),
}


class CudaError(RuntimeError):
    """CUDARuntimeError and CUDADriverError."""


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class Machine:
    """What there is: driver, GPUs, memory; tests change it."""

    def __init__(self, host_kernels: Callable[..., Any]) -> None:
        self.host_kernels = host_kernels
        self.driver, self.runtime, self.gpus, self.total = 13000, 13000, 1, 1 << 40
        self.taken = 0
        self.capture: list[Callable[[], None]] | None = None
        self.captured = 0
        self.threads = threading.local()  # the current GPU and, of each GPU, the current stream

    @property
    def current(self) -> int:
        return getattr(self.threads, "gpu", 0)

    @property
    def stream(self) -> Any:
        return getattr(self.threads, "streams", {}).get(self.current)

    def do(self, work: Callable[[], None]) -> None:
        if self.capture is None:
            work()
        else:
            self.capture.append(work)

    def take(self, size: int) -> None:
        if self.taken + size > self.total:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        self.taken += size


def _memory(machine: Machine) -> type:
    class Memory:
        def __init__(self, ptr: int, stream: Any) -> None:
            self.ptr, self.stream = ptr, stream

        def copy_from_host_async(self, mem: int, size: int, stream: Any = None) -> None:
            assert stream is self.stream
            machine.do(lambda: ctypes.memmove(self.ptr, mem, size))

        def copy_to_host_async(self, mem: int, size: int, stream: Any = None) -> None:
            assert stream is self.stream
            machine.do(lambda: ctypes.memmove(mem, self.ptr, size))

        def memset_async(self, value: int, size: int, stream: Any = None) -> None:
            assert stream is self.stream
            machine.do(lambda: ctypes.memset(self.ptr, value, size))

    return Memory


def cupy_module(machine: Machine) -> ModuleType:
    """The stand-in for `cupy`."""
    memory = _memory(machine)

    class ndarray(np.ndarray):
        stream: Any = None

        def __array_finalize__(self, base: Any) -> None:
            self.stream = getattr(base, "stream", None) or machine.stream

        @property
        def data(self) -> Any:
            return memory(self.ctypes.data, self.stream)

    def empty(shape: Any, dtype: Any) -> Any:
        assert machine.capture is None, "memory is taken while a graph is recorded"
        made = np.full(shape, 0xA5, np.dtype(dtype))
        machine.take(made.nbytes)
        return made.view(ndarray)

    def asarray(array: Any) -> Any:
        copy = empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def asnumpy(array: Any) -> Any:
        assert array.stream is machine.stream
        return np.array(array).view(np.ndarray)

    class RawModule:
        def __init__(self, *, path: str) -> None:
            self.path = path

        def get_function(self, name: str) -> Callable[..., None]:
            if not Path(self.path).read_bytes().startswith(b"sm_90"):
                raise module.cuda.driver.CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")

            def launch(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
                strange = [arg for arg in args if isinstance(arg, ndarray) and arg.stream is not machine.stream]
                assert not strange, f"{name} is launched on another stream than its arrays were made on"
                kernels = machine.host_kernels((grid[0], block[0]))
                machine.do(lambda: kernels.launch(name, 0, args))

            return launch

    class Stream:
        def __init__(self, *, non_blocking: bool = False) -> None:
            assert non_blocking
            self.gpu = machine.current
            self.ptr = FIRST_STREAM + self.gpu

        def use(self) -> None:
            assert self.gpu == machine.current, "CuPy refuses the stream of a GPU that is not the current one"
            machine.threads.streams = {**getattr(machine.threads, "streams", {}), self.gpu: self}

        def synchronize(self) -> None:
            assert machine.capture is None

        def begin_capture(self) -> None:
            machine.capture = []

        def end_capture(self) -> Any:
            work, machine.capture = machine.capture or [], None
            machine.captured += 1
            return Graph(work)

    class Graph:
        def __init__(self, work: list[Callable[[], None]]) -> None:
            self.work = work

        def launch(self, stream: Any = None) -> None:
            for each in self.work:
                each()

        def upload(self, stream: Any = None) -> None:
            pass

    class Event:
        def __init__(self, *, block: bool, disable_timing: bool) -> None:
            pass

        def record(self, stream: Any = None) -> None:
            assert machine.capture is None

        def synchronize(self) -> None:
            assert machine.capture is None

    class Device:
        def __init__(self, number: int) -> None:
            self.number = number

        def use(self) -> None:
            machine.threads.gpu = self.number

    def count() -> int:
        if not machine.gpus:
            raise CudaError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return machine.gpus

    runtime = SimpleNamespace(
        CUDARuntimeError=CudaError,
        driverGetVersion=lambda: machine.driver,
        runtimeGetVersion=lambda: machine.runtime,
        getDeviceCount=count,
        getDeviceProperties=lambda number: {"name": b"Stand-in", "major": 9, "minor": 0},
        memGetInfo=lambda: (machine.total - machine.taken, machine.total),
    )
    pool = SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
    cuda = SimpleNamespace(
        Device=Device,
        Stream=Stream,
        Event=Event,
        runtime=runtime,
        driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (CudaError,), {})),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    module: Any = ModuleType("cupy")
    module.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    module.__version__ = "0.0"
    module.ndarray, module.empty, module.asarray = ndarray, empty, asarray
    module.asnumpy = asnumpy
    module.ascontiguousarray = lambda array: array if array.flags.c_contiguous else asarray(array)
    module.RawModule, module.cuda, module.get_default_memory_pool = RawModule, cuda, lambda: pool
    return module


def nvrtc_module() -> ModuleType:
    """The stand-in for `cupy_backends.cuda.libs.nvrtc`: what it compiles begins with the architecture."""
    module: Any = ModuleType("cupy_backends.cuda.libs.nvrtc")
    made: dict[str, str] = {}

    def compile_program(program: str, options: tuple[str, ...]) -> None:
        assert "#include" not in program.replace("// Includes", "")
        assert {"--fmad=false", "--ftz=false", "--prec-div=true"} < set(options)
        made[program] = options[-1].removeprefix("--gpu-architecture=")

    module.NVRTCError = type("NVRTCError", (RuntimeError,), {})
    module.getVersion, module.getSupportedArchs = lambda: (13, 0), lambda: (80, 90)
    module.createProgram = lambda source, name, headers, names: source
    module.compileProgram, module.destroyProgram = compile_program, lambda program: None
    module.getCUBIN = module.getPTX = lambda program: f"{made[program]} {program}".encode()
    module.getProgramLog = lambda program: ""
    return module


def cupyx_module() -> ModuleType:
    """The stand-in for `cupyx`."""
    module: Any = ModuleType("cupyx")
    module.__spec__ = importlib.machinery.ModuleSpec("cupyx", None)
    module.empty_pinned = lambda shape, dtype: np.full(shape, 0x5A, np.dtype(dtype))
    return module


def at(pointer: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """The array at a pointer."""
    kind = ElementTypes[np.dtype(dtype)]
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(kind)), shape)


class Binding:
    """An IOBinding of device pointers on GPU `number`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.given: dict[str, Any] = {}

    def bind_input(self, *arguments: Any) -> None:
        bound = inspect.signature(ort.IOBinding.bind_input).bind(self, *arguments).arguments
        assert bound["device_type"] == "cuda" and bound["device_id"] == self.number
        self.given[bound["name"]] = at(bound["buffer_ptr"], bound["shape"], bound["element_type"])

    def bind_output(self, *arguments: Any) -> None:
        bound = inspect.signature(ort.IOBinding.bind_output).bind(self, *arguments).arguments
        self.name, self.out = bound["name"], at(bound["buffer_ptr"], bound["shape"], bound["element_type"])


class Session:
    """ONNX Runtime with its CUDA provider, computed by the CPU's. `loads` False: a provider's libraries are missing."""

    machine: Machine
    loads = True
    row_bytes = 0

    def __init__(self, path: str, options: Any, *, providers: Any, enable_fallback: int) -> None:
        assert enable_fallback == 0
        self.chosen = dict(providers)
        for name, known in (("CUDAExecutionProvider", CUDA_OPTIONS), ("TensorrtExecutionProvider", TENSORRT_OPTIONS)):
            given = self.chosen.get(name, {})
            assert set(given) <= known and all(isinstance(value, str) for value in given.values()), given
        given = self.chosen["CUDAExecutionProvider"]
        self.number = int(given["device_id"])
        assert given["user_compute_stream"] == str(FIRST_STREAM + self.number)
        self.real = REAL(path, options, providers=["CPUExecutionProvider"])
        rows = self.real.get_inputs()[0].shape[0]
        assert isinstance(rows, int), "the batch is fixed in the graph"
        size = rows * self.row_bytes
        if self.machine.taken + size > self.machine.total:
            raise RuntimeError(
                "[ONNXRuntimeError] BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"
            )
        self.machine.taken += size
        self.held = size

    def __del__(self) -> None:
        self.machine.taken -= getattr(self, "held", 0)

    def get_providers(self) -> list[str]:
        return [*(self.chosen if self.loads else ()), "CPUExecutionProvider"]

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def io_binding(self) -> Binding:
        return Binding(self.number)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert self.machine.capture is None, "its CUDA provider cannot be part of another's graph"
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        (binding.out[...],) = self.real.run([binding.name], binding.given)


REAL = ort.InferenceSession


class Plan:
    """A deserialised plan and its context, computed by ONNX Runtime on the CPU: the plan's bytes are an ONNX file."""

    def __init__(self, machine: Machine, trt: Any, content: bytes) -> None:
        self.machine, self.trt = machine, trt
        self.session = REAL(content, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        (self.result,) = self.session.get_outputs()
        self.names = [*self.inputs, self.result.name]
        self.num_io_tensors = len(self.names)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.refuses = ""

    def create_execution_context(self) -> Plan | None:
        return None if self.refuses == "context" else self

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name in self.inputs else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = (self.inputs.get(name) or self.result).type
        return {"tensor(float)": self.trt.DataType.FLOAT, "tensor(int64)": self.trt.DataType.INT64}[kind]

    def get_tensor_format(self, name: str) -> Any:
        return self.trt.TensorFormat.LINEAR

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return self.refuses != "shape"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        rows = next(iter(self.shapes.values()))[0]
        return (rows, *self.result.shape[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.refuses != "address"

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FIRST_STREAM + self.machine.current
        if self.refuses == "execute":
            return False
        addresses = dict(self.addresses)

        def work() -> None:
            kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
            given = {name: at(addresses[name], self.shapes[name], kinds[v.type]) for name, v in self.inputs.items()}
            (y,) = self.session.run(None, given)
            at(addresses[self.result.name], y.shape, np.float32)[...] = y

        self.machine.do(work)
        return True


def tensorrt_module(machine: Machine, made: type[Plan] = Plan) -> Any:
    """The stand-in for TensorRT's runtime; `plans` are those deserialised, `refuses` what the next one will."""
    trt: Any = ModuleType("tensorrt")
    trt.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    trt.__version__, trt.plans, trt.refuses = "11.4.0.106", [], ""
    trt.DataType = SimpleNamespace(FLOAT="float", HALF="half", BF16="bf16", INT64="int64")
    trt.TensorFormat = SimpleNamespace(LINEAR="linear", HWC="hwc")
    trt.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    trt.OnnxParser = object

    class ILogger:
        Severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal", WARNING="warning")

        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            if trt.refuses == "load":
                self.log.log("error", "Serialization assertion failed\n Version tag does not match")
                return None
            plan = made(machine, trt, content)
            plan.refuses = trt.refuses
            if trt.refuses == "context":
                self.log.log("error", "Requested amount of GPU memory (9 bytes) could not be allocated")
            trt.plans.append(plan)
            return plan

    trt.ILogger, trt.Runtime = ILogger, Runtime
    return trt


class RtxPlan(Plan):
    """What TensorRT for RTX has besides: a configuration of the runtime, a cache of what was compiled, and a say on capture."""

    def create_runtime_config(self) -> Any:
        def create_runtime_cache() -> Any:
            held: list[bytes] = [b""]

            def deserialize(blob: bytes) -> bool:
                held[0] = bytes(blob) if bytes(blob).startswith(b"kernels") else b""
                self.trt.read.append(bytes(blob))
                return bool(held[0])

            return SimpleNamespace(
                deserialize=deserialize, serialize=lambda: held[0] or b"kernels compiled", reset=lambda: None
            )

        return SimpleNamespace(create_runtime_cache=create_runtime_cache, set_runtime_cache=lambda cache: True)

    def create_execution_context(self, config: Any = None) -> Plan | None:
        assert config.cuda_graph_strategy == "disabled"
        return super().create_execution_context()

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream == FIRST_STREAM + self.machine.current
        return self.refuses != "capture"


def install_rtx(monkeypatch: Any, machine: Machine) -> Any:
    """After `install`: TensorRT for RTX in the place of the full library; `read` are the caches that it was given."""
    trt = tensorrt_module(machine, RtxPlan)
    trt.__name__, trt.__version__, trt.read = "tensorrt_rtx", "1.7.1.116", []
    trt.__spec__ = importlib.machinery.ModuleSpec("tensorrt_rtx", None)
    trt.CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
    trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    return trt


def install(monkeypatch: Any, machine: Machine, home: Path) -> Any:
    """Put the stand-ins in the places of CuPy, ONNX Runtime's session and TensorRT; returns the one for TensorRT."""
    backends = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "onnxruntime_rtx")
    for name in ("device.nvrtc", "device.cuda", *(f"engine.backends.{each}" for each in backends)):
        monkeypatch.setitem(sys.modules, f"diffsmooth_trt.{name}", None)
        del sys.modules[f"diffsmooth_trt.{name}"]  # imported anew here, and gone again (or as before) after the test
    trt = tensorrt_module(machine)
    monkeypatch.setitem(sys.modules, "cupy", cupy_module(machine))
    monkeypatch.setitem(sys.modules, "cupyx", cupyx_module())
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    libraries: Any = ModuleType("cupy_backends.cuda.libs")
    libraries.nvrtc = nvrtc_module()
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libraries)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.nvrtc", libraries.nvrtc)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: home))
    session = type("InferenceSession", (Session,), {"machine": machine})
    monkeypatch.setattr(ort, "InferenceSession", session)
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    machine.session = session
    return trt
