"""The kernels on an NVIDIA GPU: compiled by NVRTC through CuPy on first use, and kept in CuPy's cache on disk."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from .kernels import OPTIONS, Array, Kernels, kernel_source

THREADS = 256
MOST_BLOCKS = 2**31 - 1


class CudaKernels(Kernels):
    """The kernels on CuPy's current device and stream."""

    def __init__(self) -> None:
        super().__init__()
        self.module = cupy.RawModule(code=kernel_source(), options=OPTIONS, backend="nvrtc")
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, count: int, arguments: tuple[Any, ...]) -> None:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self.module.get_function(name)
        blocks = min(max(1, -(-count // THREADS)), MOST_BLOCKS)
        function((blocks,), (THREADS,), arguments)

    def upload(self, array: np.ndarray[Any, Any]) -> Array:
        return cupy.asarray(array)
