"""Plans of TensorRT for RTX on a card: compiled there, kept in a cache beside the plan. Not yet run on a card.

A plan holds no kernels for convolutions: the library compiles them when a context is made, so what runs depends on the card, its
driver and the library besides the plan. All three are in the identity, and the probe's hash covers the kernels themselves.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...device.nvidia import RTX, find_gpu
from ...errors import EngineError
from ...files import write_atomically
from ..base import Engine
from ..record import parse_record
from .tensorrt import TensorRtEngine

if TYPE_CHECKING:
    import tensorrt_rtx as trt

    from ...device.cuda import Cuda


def open_plan(path: Path, batch: int, **options: Any) -> Engine:
    """The plan at `path` in the library that built it; see `TensorRtEngine`."""
    rtx = parse_record(path, "plan").machine.get("library") == RTX
    return (TensorRtRtxEngine if rtx else TensorRtEngine)(path, batch, **options)


class TensorRtRtxEngine(TensorRtEngine):
    """A `.plan` of TensorRT for RTX, for the one batch size that it was built for: with fixed shapes no kernel changes in a run.

    Its own CUDA graphs stay off; the run captures whole steps itself where the library says that it may.
    """

    backend = "tensorrt-rtx"
    library = RTX

    def __init__(self, path: Path, batch: int, *, device: Cuda, **options: Any) -> None:
        super().__init__(path, batch, device=device, **options)
        self.identity |= {"driver": find_gpu(device.number).driver}
        with device.errors():
            context: trt.IExecutionContext = self.context
            self.capturable = bool(context.is_stream_capturable(device.stream.ptr))

    @property
    def cache_path(self) -> Path:
        """The compiled kernels beside the plan: of one plan, card and library each, so that no other's are ever read."""
        parts = (self.identity["sha256"][:16], f"sm{self.gpu.capability.replace('.', '')}", self.version)
        return self.path.with_name(f"{self.path.name}.{'-'.join(parts)}.cache")

    def _context(self) -> trt.IExecutionContext | None:
        """A context whose kernels come from the cache beside the plan where there is one, and are kept in it."""
        engine: trt.ICudaEngine = self.engine
        config = engine.create_runtime_config()
        if config is None:
            raise self._failure(
                "has no runtime configuration", EngineError, "build it again with `diffsmooth-trt export plan`"
            )
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = config.create_runtime_cache()
        known = self.cache_path.read_bytes() if cache is not None and self.cache_path.is_file() else b""
        if known:
            cache.deserialize(known)  # one that does not fit is ignored: kernels are then compiled anew
        if cache is not None:
            config.set_runtime_cache(cache)
        context = engine.create_execution_context(config)
        if context is not None and cache is not None:
            made = cache.serialize()
            content = b"" if made is None else bytes(made)
            if content and content != known:
                with contextlib.suppress(OSError):  # a folder that may not be written to: compiled again next time
                    write_atomically(self.cache_path, content)
        return context
