"""AOTInductor packages (.pt2): networks that torch compiled ahead of time, for the CPU or for one kind of GPU.

A package is executable code: it is loaded only with the content that its record names, from the very bytes that were hashed. On
"cuda:N" this has not yet been run.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.cuda import ExternalStream

from ...device.nvidia import find_gpu
from ...dtypes import Floats32
from ...errors import EngineError, InputError, shortened
from ..base import Engine, Inputs, instruction_set
from ..record import Record, agreed_record, read_checked

AGAIN = "export it again here"


def this_machine(device: str) -> dict[str, str]:
    """What compiled code depends on, on `device` ("cpu" or "cuda:N"); raises InputError where there is no such device."""
    kind, _, number = device.partition(":")
    machine = {"device": kind, "torch": torch.__version__}
    if kind == "cpu" and not number:
        return {**machine, "instruction_set": instruction_set()}
    if kind != "cuda" or not (number or "0").isdigit():
        raise InputError(f"--device {device!r} is unknown: use cpu or cuda:0, cuda:1, …")
    gpu = find_gpu(int(number or 0))
    if not torch.cuda.is_available():
        raise InputError(
            f"--device {device}: torch {torch.__version__} is built without CUDA or the driver is too old for it"
        )
    return {**machine, "compute_capability": gpu.compute_capability}


def exact_fp32() -> None:
    """No TF32, and one fixed algorithm a convolution, in what torch does on CUDA from now on."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def check_machine(path: Path, record: Record, device: str) -> None:
    """InputError unless the package at `path` was compiled for `device` here and for this torch."""
    here = this_machine(device)
    for name, value in here.items():
        built = record.machine.get(name)
        if built != value:
            raise InputError(f"{path.name} was compiled for {name} {built}, here it is {value}: {AGAIN}")


class InductorEngine(Engine):
    """A `.pt2` package on the device kind that it was compiled for; one fixed batch size."""

    backend = "inductor"

    def __init__(self, path: Path, record: Record, device: str, threads: int | None) -> None:
        check_machine(path, record, device)
        super().__init__(path, record.facts, record.batch, sha256=record.sha256)
        self.rows = record.independence
        self.where = torch.device(device)
        if self.where.type == "cuda":
            exact_fp32()
            gpu = find_gpu(self.where.index or 0)
            self.identity |= {"instruction_set": gpu.compute_capability, "gpu": gpu.name}
        elif threads is not None:
            torch.set_num_threads(threads)
        content = io.BytesIO(read_checked(path, record))
        number = -1 if self.where.index is None else self.where.index
        try:
            self.model: Any = torch._inductor.aoti_load_package(content, device_index=number)
        except (RuntimeError, OSError) as error:
            raise InputError(f"torch cannot load {path.name} ({shortened(error)}): {AGAIN}") from None
        self.identity |= {"version": torch.__version__, "precision": self.facts.precision}

    def run_on_device(self, inputs: tuple[Any, ...], stream: int | None = None) -> torch.Tensor:
        """The float32 output on the engine's device.

        `inputs` are NumPy arrays, which are copied there, or arrays there already, which are not (CuPy's among them);
        `stream` is the CUDA stream to enqueue on, torch's own if None.
        """
        own = stream is None or self.where.type != "cuda"
        try:
            with (
                torch.inference_mode(),
                nullcontext() if own else torch.cuda.stream(ExternalStream(stream, self.where)),
            ):
                y = self.model(*(torch.as_tensor(given, device=self.where) for given in inputs))
        except RuntimeError as error:
            raise EngineError(f"torch failed in {self.path.name} ({shortened(error)})") from None
        result: torch.Tensor = y if isinstance(y, torch.Tensor) else y[0]
        return result.float().contiguous()

    def _run(self, inputs: Inputs) -> Floats32:
        return np.asarray(self.run_on_device(inputs).cpu().numpy())

    def close(self) -> None:
        self.model = None


def open_package(
    path: Path, *, batch: int, device: str, threads: int | None, role: str | None, sigma: float | None
) -> InductorEngine:
    """Open a package for batches of `batch` rows; raises InputError unless its record, content and machine all fit."""
    record = agreed_record(path, "pt2", role, sigma, batch)
    return InductorEngine(path, record, device, threads)
