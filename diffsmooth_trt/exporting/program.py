"""A user's own network, saved by `torch.export.save`, as an ONNX denoiser or compiled by AOTInductor.

torch unpickles what such a file holds, which can run code.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..engine.facts import EngineFacts
from ..engine.record import record_path
from ..errors import InputError
from ..files import check_outputs, file_sha256
from ..noise import check_noise_level
from .checks.denoising import others_of_program
from .checks.inputs import SIGMA, ImageCheck
from .graph.output_size import OutputSize
from .sources.checkpoints import export_details
from .writers.onnx import Writer, quiet, write_checked
from .writers.report import ExportReport

ROLES = ("denoiser", "classifier")
_ONE_ARGUMENT, _ONE_TENSOR = pytree.tree_structure(((0,), {})), pytree.tree_structure(0)


class Program(nn.Module):
    """An exported program as a module that can be traced again; its mode was chosen when it was exported.

    One of a fixed `batch` runs fewer rows than that with the last one repeated.
    """

    def __init__(self, program: torch.export.ExportedProgram, batch: int | None) -> None:
        super().__init__()
        self.program, self.batch = program.module(), batch
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Program:
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.batch is None or len(x) == self.batch:
            result: Tensor = self.program(x)
            return result
        result = self(torch.cat([x, x[-1:].expand(self.batch - len(x), -1, -1, -1)]))
        return result[: len(x)]


@dataclass(frozen=True)
class Loaded:
    """A program as a module, its fixed batch size if any, (C, H, W) of its input, and the shape of its output."""

    module: Program
    batch: int | None
    shape: tuple[int, int, int]
    output: tuple[object, ...]


def _sizes(program: torch.export.ExportedProgram, name: object) -> tuple[object, ...]:
    """The shape of a float32 value by its name; () for anything else. Sizes that are not fixed are no integers."""
    node = next((node for node in program.graph.nodes if node.name == str(name)), None)
    value = None if node is None else node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else ()


def load_program(path: Path, trusted: bool) -> Loaded:
    """The program in `path`; raises InputError unless it is `trusted` and maps one float32 image batch to one output."""
    if not path.is_file():
        raise InputError(f"program {path}: no such file")
    if not trusted:
        raise InputError(
            f"program {path} was not opened: torch runs code that such a file holds; pass --trust-program where you trust it"
        )
    try:
        with quiet():  # warnings about formats and traces of damaged files, to torch's own authors
            program = torch.export.load(path)
    except Exception as error:  # torch raises many kinds for files that are no programs
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} is no program that torch.export.save wrote, or is damaged ({reason}): save it again"
        ) from error
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    sizes = _sizes(program, inputs[0]) if len(inputs) == 1 else ()
    if len(sizes) != 4 or not all(isinstance(size, int) for size in sizes[1:]) or len(outputs) != 1:
        raise InputError(
            f"program {path} takes {len(inputs)} inputs, the first {list(sizes)}, and returns {len(outputs)}: expected one batch "
            "float32 [B, 3, H, W] with fixed sizes in and one out"
        )
    if (program.call_spec.in_spec, program.call_spec.out_spec) != (_ONE_ARGUMENT, _ONE_TENSOR):
        raise InputError(
            f"program {path} takes or returns its tensor by name or inside a list, tuple or dict: export a module whose "
            "forward(x) returns a plain tensor"
        )
    batch, *image = (size if isinstance(size, int) else None for size in sizes)
    shape = (int(image[0] or 0), int(image[1] or 0), int(image[2] or 0))
    return Loaded(Program(program, batch), batch, shape, _sizes(program, outputs[0]))


def _check_role(path: Path, loaded: Loaded, role: str) -> int | None:
    """The classes of a program of `role`, None for a denoiser's; InputError where its output is another's."""
    classes = loaded.output[1] if len(loaded.output) == 2 else None
    if loaded.output[1:] == loaded.shape if role == "denoiser" else isinstance(classes, int):
        return classes if isinstance(classes, int) else None
    raise InputError(f"program {path} maps {loaded.shape} to {loaded.output[1:]}: that is no {role}")


def program_file(
    checkpoint: str | PathLike[str],
    sigma: float,
    out: str | PathLike[str],
    batch: int | None,
    output: OutputSize,
    trusted: bool,
    *,
    write: Writer = write_checked,
) -> ExportReport:
    """Write the program in `checkpoint` as a denoiser for noise `sigma`; see `export_denoiser`. `write` makes the file."""
    path = Path(checkpoint)
    loaded = load_program(path, trusted)
    _check_role(path, loaded, "denoiser")
    if loaded.batch is not None and batch not in (None, loaded.batch):
        raise InputError(
            f"program {path} was exported for batches of {loaded.batch}, got --batch {batch}: leave it out"
        )
    facts = EngineFacts(
        role="denoiser",
        input_shape=loaded.shape,
        sigma=float(sigma),
        family="program",
        source_sha256=file_sha256(path),
        details=export_details(checkpoint, False),
    )
    check = ImageCheck(loaded.module, loaded.shape, sigma, others=others_of_program(loaded.module))
    module, check, facts = output.attach(loaded.module, check, facts)
    return write(module, check, facts, Path(out), batch or loaded.batch, False)


def export_program(
    program: str | PathLike[str],
    out: str | PathLike[str],
    *,
    role: str,
    batch: int,
    sigma: float | None = None,
    trusted: bool = False,
    device: str = "cpu",
    autotune: bool = True,
) -> ExportReport:
    """Compile a network of the user's own, saved by `torch.export.save`, into an AOTInductor package for this machine.

    A program of `role` "denoiser" (with its noise level `sigma` in image units) maps float32 `[batch, C, H, W]` in [0, 1]
    units to the same, one of role "classifier" to logits `[batch, classes]`; both include their pre- and postprocessing.
    `trusted` says that the file is not a stranger's: torch runs code that it may hold. The package is compared with the
    program on noisy images. Raises InputError for unusable arguments and files, EngineError where torch cannot compile
    it, StoreError where writing fails; `out` then is what it was.
    """
    from .writers.package import PackageSettings, write_package

    path, target = Path(program), Path(out)
    if target.suffix != ".pt2":
        raise InputError(f"--out {out} does not end in .pt2, which is how engines tell their kind: name it FILE.pt2")
    if role not in ROLES:
        raise InputError(f"--role {role!r} is not one of {', '.join(ROLES)}")
    if (sigma is None) == (role == "denoiser"):
        raise InputError(f"--sigma is {sigma} for a {role}: denoisers have a noise level, classifiers have none")
    if sigma is not None:
        check_noise_level("sigma", sigma)
    if batch < 1:
        raise InputError(f"--batch must be at least 1, got {batch}")
    check_outputs({"--out": target, "its record": record_path(target)}, {"--program": path})
    loaded = load_program(path, trusted)
    if loaded.batch not in (None, batch):
        raise InputError(f"program {path} was exported for batches of {loaded.batch}: pass --batch {loaded.batch}")
    facts = EngineFacts(
        role=role,
        input_shape=loaded.shape,
        classes=_check_role(path, loaded, role),
        sigma=sigma,
        family="program",
        source_sha256=file_sha256(path),
        details=export_details(path, False),
    )
    check = ImageCheck(loaded.module, loaded.shape, SIGMA if sigma is None else sigma)
    return write_package(loaded.module, check, facts, target, batch, PackageSettings("fp32", device, autotune))
