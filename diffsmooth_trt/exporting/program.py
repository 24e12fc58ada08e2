"""A user's own denoiser, saved by `torch.export.save`: images in [0, 1] in and out, its noise level given."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..files import file_sha256
from .check import ImageCheck
from .checkpoints import export_details
from .onnx_file import Writer, write_checked
from .result import ExportReport


class Program(nn.Module):
    """An exported program as a module that can be traced again; `eval` has happened when it was exported."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def eval(self) -> Program:
        return self

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.program(x)
        return result


def _shape(program: torch.export.ExportedProgram, path: Path) -> tuple[int | None, tuple[int, int, int]]:
    """The fixed batch size, if any, and (C, H, W) of the program's one input."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes}
    value = nodes[str(inputs[0])].meta.get("val") if len(inputs) == 1 else None
    sizes = tuple(value.shape) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else ()
    if (
        len(sizes) != 4
        or not all(isinstance(size, int) for size in sizes[1:])
        or len(program.graph_signature.user_outputs) != 1
    ):
        raise InputError(
            f"program {path} takes {len(inputs)} inputs, the first {list(sizes)}: expected one batch float32 [B, 3, H, W] "
            "with fixed sizes in and one out"
        )
    return (sizes[0] if isinstance(sizes[0], int) else None), (int(sizes[1]), int(sizes[2]), int(sizes[3]))


def program_file(
    checkpoint: str | PathLike[str],
    sigma: float,
    out: str | PathLike[str],
    batch: int | None,
    write: Writer = write_checked,
) -> ExportReport:
    """Write the program in `checkpoint` as a denoiser for noise `sigma`; see `export_denoiser`. `write` makes the file."""
    path = Path(checkpoint)
    if not path.is_file():
        raise InputError(f"program {path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats, to torch's own authors
            program = torch.export.load(path)
    except Exception as error:  # torch raises many kinds for files that are no programs
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} is no program that torch.export.save wrote, or is damaged ({reason}): save it again"
        ) from error
    fixed, shape = _shape(program, path)
    if fixed is not None and batch not in (None, fixed):
        raise InputError(f"program {path} was exported for batches of {fixed}, got --batch {batch}: leave it out")
    facts = EngineFacts(
        role="denoiser",
        input_shape=shape,
        sigma=float(sigma),
        family="program",
        source_sha256=file_sha256(path),
        details=export_details(checkpoint, False),
    )
    module = Program(program)
    return write(module, ImageCheck(module, shape, sigma), facts, Path(out), batch or fixed, False)
