"""AOTInductor packages on a GPU: torch on the device's own stream, arrays handed over without copies. Not yet run on a GPU."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.dlpack

from ...device import Array
from ...errors import EngineError, InputError, OutOfMemory, shortened
from ..base import Engine, Inputs
from ..record import agreed_record, read_checked
from .aotinductor import check_machine, exact_fp32

if TYPE_CHECKING:
    from ...device.cuda import Cuda


class CudaInductorEngine(Engine):
    """A `.pt2` package that was compiled for this kind of GPU, for the one batch size of its record."""

    backend = "inductor"
    capturable = False  # torch's allocator hands memory of a graph that it does not know of to others

    def __init__(
        self,
        path: Path,
        batch: int,
        *,
        device: Cuda,
        role: str | None = None,
        sigma: float | None = None,
    ) -> None:
        record = agreed_record(path, "pt2", role, sigma, batch)
        check_machine(path, record, device.name)
        super().__init__(path, record.facts, batch, device, sha256=record.sha256)
        self.rows = record.independence
        exact_fp32()
        self.gpu = device
        self.stream = torch.cuda.ExternalStream(device.stream.ptr, device=f"cuda:{device.number}")
        content = io.BytesIO(read_checked(path, record))
        try:
            # The package's own threading lets one run begin when the last is done; on one stream the order is kept anyway.
            options: dict[str, Any] = {"run_single_threaded": True, "device_index": device.number}
            with torch.cuda.stream(self.stream):
                self.model: Any = torch._inductor.aoti_load_package(content, **options)
        except (RuntimeError, OSError) as error:
            self._check_memory(error)
            reason = shortened(error)
            raise InputError(f"torch cannot load {path.name} ({reason}): export it again here") from None
        self.identity |= {"version": torch.__version__, "precision": self.facts.precision}

    def _check_memory(self, error: Exception) -> None:
        """OutOfMemory where that is what `error` says: what happens inside a package comes as a plain RuntimeError."""
        said = [line for line in str(error).splitlines() if "out of memory" in line]
        if said:
            name = self.path.name
            raise OutOfMemory(
                f"{self.device.name} is out of memory in {name} at batch {self.batch} ({said[0].strip()})"
            )

    def _run(self, inputs: Inputs) -> Array:
        try:
            with torch.inference_mode(), torch.cuda.stream(self.stream):
                y = self.model(*(torch.utils.dlpack.from_dlpack(given) for given in inputs))
                result = y if isinstance(y, torch.Tensor) else y[0]
                self.kept = result.float().contiguous()  # CuPy arrays have no bfloat16 here
                return self.gpu.xp.from_dlpack(self.kept)
        except RuntimeError as error:
            self._check_memory(error)
            reason = shortened(error)
            raise EngineError(f"torch failed in {self.path.name} on {self.device.name} ({reason})") from None

    def close(self) -> None:
        """Release the package, and torch's unused memory for other libraries."""
        for name in ("model", "kept", "input"):
            self.__dict__.pop(name, None)
        torch.cuda.empty_cache()
