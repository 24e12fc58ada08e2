"""Which backend runs a file on a device, and opening it there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import Device, open_device
from ..errors import InputError
from ..stages import stage
from .base import Engine

if TYPE_CHECKING:
    from .graph import GraphFile


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _onnxruntime() -> Callable[..., Engine]:
    from .backends.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine


def _openvino() -> Callable[..., Engine]:
    from .backends.openvino import OpenVinoEngine

    return OpenVinoEngine


def _onnxruntime_cuda() -> Callable[..., Engine]:
    from .backends.onnxruntime_cuda import OnnxRuntimeCudaEngine

    return OnnxRuntimeCudaEngine


def _onnxruntime_tensorrt() -> Callable[..., Engine]:
    from .backends.onnxruntime_cuda import OnnxRuntimeTensorRtEngine

    return OnnxRuntimeTensorRtEngine


def _onnxruntime_rtx() -> Callable[..., Engine]:
    from .backends.onnxruntime_rtx import OnnxRuntimeRtxEngine

    return OnnxRuntimeRtxEngine


def _tensorrt() -> Callable[..., Engine]:
    from .backends.tensorrt_rtx import open_plan

    return open_plan


def _inductor_cuda() -> Callable[..., Engine]:
    if not _installed("torch"):
        raise InputError(".pt2 files run in torch, which is not installed: pip install torch")
    from .backends.aotinductor_cuda import CudaInductorEngine

    return CudaInductorEngine


# In the order of the rule: the first installed one runs .onnx files on the CPU. A new one is a class in a file of its own, whose
# constructor takes what `OnnxRuntimeEngine`'s does, and a line here; where it needs a library, another in LIBRARIES.
BACKENDS: dict[str, Callable[[], Callable[..., Engine]]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
LIBRARIES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
# On a GPU: by the file, and for .onnx the first one unless another is asked for.
CUDA_BACKENDS: dict[str, dict[str, Callable[[], Callable[..., Engine]]]] = {
    ".onnx": {
        "onnxruntime": _onnxruntime_cuda,
        "onnxruntime-tensorrt": _onnxruntime_tensorrt,
        "onnxruntime-rtx": _onnxruntime_rtx,
    },
    ".plan": {"tensorrt": _tensorrt},
    ".pt2": {"inductor": _inductor_cuda},
}
BACKEND_NAMES = tuple(dict.fromkeys([*BACKENDS, *(name for kind in CUDA_BACKENDS.values() for name in kind)]))
COMPILED = (".plan", ".pt2")  # for one batch size and precision, with a record beside them
PRECISIONS = ("fp32", "bf16", "tf32")
ENGINE_SUFFIXES = (".onnx", ".plan", ".pt2")


def choose_backend(backend: str | None) -> str:
    """The backend for `.onnx` on the CPU: `backend` if given, else OpenVINO where installed, else ONNX Runtime."""
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"--backend {backend!r} is unknown: use one of {', '.join(BACKENDS)}")
    for name in BACKENDS if backend is None else (backend,):
        if name not in LIBRARIES or _installed(LIBRARIES[name]):
            return name
    raise InputError(f"backend {backend or 'for .onnx files'} is not installed: pip install 'diffsmooth-trt[cpu]'")


def _choose_cuda_backend(path: Path, backend: str | None) -> str:
    """The backend for a file on a GPU: .plan in TensorRT, .onnx in ONNX Runtime's CUDA provider unless another is named."""
    known = CUDA_BACKENDS.get(path.suffix)
    if known is None:
        raise InputError(f"engine {path.name} cannot run on a GPU: give {' or '.join(CUDA_BACKENDS)}")
    if backend is not None and backend not in known:
        raise InputError(f"--backend {backend!r} does not run {path.suffix} files on a GPU: use {' or '.join(known)}")
    name = backend or next(iter(known))
    if not _installed("onnxruntime") and path.suffix == ".onnx":
        raise InputError(f"backend {name} is not installed: pip install 'diffsmooth-trt[cuda]'")
    return name


def fixed_batch(path: Path) -> int | None:
    """The rows that an engine file takes, None where any number will do; InputError for a file that cannot be read."""
    if path.suffix in COMPILED:
        from .record import parse_record

        return parse_record(path, path.suffix[1:]).batch
    if path.suffix != ".onnx" or not path.is_file():
        return None
    from .graph import fixed_rows

    return fixed_rows(path)


def open_engine(
    path: str | Path,
    *,
    batch: int,
    backend: str | None = None,
    device: str | Device = "cpu",
    precision: str | None = None,
    threads: int | None = None,
    role: str | None = None,
    sigma: float | None = None,
    allow_host_code: bool = False,
) -> Engine:
    """Open an engine file for batches of `batch` rows.

    `role` and `sigma` (image units) are what the caller needs: they must agree with the file's own facts, and stand in
    for them where an ONNX file carries none; a conditional denoiser takes any noise level. `device` is "cpu", "cuda:N" or
    an open device that several engines share. `precision` "fp32", "bf16" or, on a GPU, "tf32" asks for one of an fp32 file;
    by default the device's own choice (bf16 where the CPU has it, under OpenVINO; TF32 on a GPU) is taken and recorded.
    Compiled engines (.plan, .pt2) keep the precision and backend they were compiled for, whatever is asked; `allow_host_code`
    lets a TensorRT plan load host code that it holds. Raises InputError for anything that does not fit, OutOfMemory where a
    GPU has too little. An ONNX file is refused unless its rows are proved independent (engine/rows), before a library reads it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"engine {path} does not exist: make one with `diffsmooth-trt export`")
    if batch < 1:
        raise InputError(f"--batch must be at least 1, got {batch}")
    if precision not in (None, *PRECISIONS):
        raise InputError(f"--precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    opened = open_device(device) if isinstance(device, str) else device
    cuda = opened.name.startswith("cuda")
    if path.suffix in COMPILED and cuda:
        (compiled,) = CUDA_BACKENDS[path.suffix].values()
        asked: dict[str, Any] = {"role": role, "sigma": sigma}
        if path.suffix == ".plan":
            asked["allow_host_code"] = allow_host_code
        return _probed(compiled()(path, batch, device=opened, **asked))
    if path.suffix == ".pt2":
        return _probed(_package(path, batch, opened.name, threads, role, sigma))
    if path.suffix != ".onnx":
        remedy = "a .plan runs on a GPU: --device cuda:0" if path.suffix == ".plan" else "give .onnx, .pt2 or .plan"
        raise InputError(f"engine {path.name} is not an .onnx file: {remedy}")
    if precision == "tf32" and not cuda:
        raise InputError("--precision tf32 exists on NVIDIA GPUs only: use fp32 or bf16")
    make = CUDA_BACKENDS[".onnx"][_choose_cuda_backend(path, backend)] if cuda else BACKENDS[choose_backend(backend)]
    asked = {"device": opened, "precision": precision, "threads": threads}
    return _probed(_open_graph(path, make, batch, role=role, sigma=sigma, **asked))


def _open_graph(
    path: Path, make: Callable[[], Any], batch: int, *, role: str | None, sigma: float | None, **options: Any
) -> Engine:
    """The ONNX file at `path` in the backend that `make` imports, which gets `options`, once its rows are proved independent."""
    from .graph import read_graph

    graph = read_graph(path, role=role, sigma=sigma)
    if graph.batch not in (None, batch):
        raise InputError(
            f"engine {path.name} was exported for batches of {graph.batch}, the run asks for {batch}: --batch {graph.batch}"
        )
    backend_class = make()
    with stage(f"proving that the rows of {path.name} are independent"):
        _prove(graph, backend_class.graph_rows(batch), batch)
    graph = graph.forgotten()
    with stage(f"loading {path.name}"):
        engine: Engine = backend_class(graph, batch, **options)
    try:
        graph.check_unchanged()  # the library read the file that was hashed and proved
    except InputError:
        engine.close()
        raise
    engine.rows = "proved"
    if graph.weights:
        engine.identity["weights"] = graph.weights
    return engine


def _prove(graph: GraphFile, sizes: set[int], batch: int) -> None:
    """InputError unless the rows of the graph are independent in every number of rows that it is run with."""
    for rows in sorted(sizes, reverse=True):
        try:
            graph.prove_rows(rows)
        except InputError as error:
            if rows == batch:
                raise
            raise InputError(f"{error.message}, or run its {batch} rows at once: --backend onnxruntime") from None


def _probed(engine: Engine) -> Engine:
    """The engine with its probe in its identity; closed where that fails."""
    try:
        with stage(f"probing {engine.path.name}"):
            engine.identity["probe"] = engine.probe()
    except BaseException:
        engine.close()
        raise
    return engine


def _package(path: Path, batch: int, device: str, threads: int | None, role: str | None, sigma: float | None) -> Engine:
    if not _installed("torch"):
        raise InputError(f"engine {path.name} needs torch, which is not installed: pip install torch")
    from .backends.aotinductor import open_package

    return open_package(path, batch=batch, device=device, threads=threads, role=role, sigma=sigma)
