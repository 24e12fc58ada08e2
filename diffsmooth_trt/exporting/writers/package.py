"""Torch modules → AOTInductor packages (.pt2), compared with their source before they appear."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...engine.backends.aotinductor import InductorEngine, exact_fp32, this_machine
from ...engine.facts import EngineFacts
from ...engine.record import Record, draft_folder, publish, record_path
from ...errors import EngineError, InputError, shortened
from ...files import file_sha256
from ...stages import stage
from ..checks.compare import Comparison, compare
from ..checks.inputs import ImageCheck
from ..checks.rows import prove_program
from ..checks.verification import Verification, on_random, random_batches
from ..graph.low_precision import DTYPES, LowPrecision
from .cuda_toolkit import findable_headers
from .onnx import TOLERANCE, Writer, quiet
from .onnx_half import Request
from .report import ExportReport, check_difference, tolerated

# Roughly the rounding error of each type; whether labels agree is what counts.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 2e-2, "bf16": 1e-1}


@dataclass(frozen=True)
class PackageSettings:
    """`precision` "fp32" or of DTYPES; `device` "cpu" or "cuda:N", whose kind the package runs on; `autotune` measures kernels.

    `autotune` compiles for minutes instead of seconds. Packages built twice may differ and then vote differently: a
    package's hash is its identity.
    """

    precision: str = "fp32"
    device: str = "cpu"
    autotune: bool = True


def check_compiler() -> None:
    """Raise InputError where there is no C++ compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(f"AOTInductor needs the C++ compiler {compiler}, which is not here: install g++ or set CXX")


def _options(settings: PackageSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"max_autotune": settings.autotune, "max_autotune_report_choices_stats": False}
    if settings.device == "cpu":
        # Weights packed for the CPU at compile time; as many threads as there are when it runs.
        options |= {"freezing": True, "cpp.dynamic_threads": True}
    return options


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what the compiler prints, and what it kept of earlier compilations, out of this one."""
    from torch._inductor.utils import fresh_cache

    with quiet(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), fresh_cache():
        yield


@contextlib.contextmanager
def linkable_driver(maps: Path = Path("/proc/self/maps")) -> Iterator[None]:
    """Let g++ find the driver that this process has loaded. AOTInductor asks for -lcuda; in containers the driver may be in a
    folder that g++ does not know, or without a libcuda.so beside libcuda.so.1.
    """
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.is_file() else []
    loaded = sorted({line[line.index("/") :] for line in lines if "/libcuda.so" in line})
    if not loaded:
        yield
        return
    before = os.environ.get("LIBRARY_PATH")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "libcuda.so").symlink_to(loaded[0])
        os.environ["LIBRARY_PATH"] = f"{folder}:{before}" if before else folder
        try:
            yield
        finally:
            os.environ.pop("LIBRARY_PATH")
            if before is not None:
                os.environ["LIBRARY_PATH"] = before


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn what torch raises into an EngineError."""
    try:
        yield
    except (InputError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # tracing, lowering and the compiler each have their own families
        raise EngineError(f"torch {torch.__version__} could not compile the network: {shortened(error)}") from error


def _program(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    with _one_line(), _silent(), torch.no_grad():
        return torch.export.export(module, inputs, strict=False)


def _compile(program: torch.export.ExportedProgram, settings: PackageSettings, path: Path) -> None:
    headers = contextlib.nullcontext() if settings.device == "cpu" else findable_headers()
    with _one_line(), _silent(), headers, linkable_driver(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_options(settings))


class _OnDevice(nn.Module):
    """The module with channels last in memory, as convolutions run fastest."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        first, *rest = inputs
        y: torch.Tensor = self.module(first.contiguous(memory_format=torch.channels_last), *rest)
        return y.contiguous()


def compare_package(engine: InductorEngine, check: ImageCheck) -> Comparison:
    """`engine` against `check.source` over noisy random batches; InputError for NaN and outputs of another shape."""
    return compare(
        random_batches(check, engine.batch, at_once=check.rows),
        engine.denoise if engine.facts.role == "conditional" else engine.run,
        name="the compiled network",
        failure=InputError("the package returns NaN or infinity on noisy images: export it in a wider precision"),
    )


def _compile_draft(
    module: nn.Module, check: ImageCheck, facts: EngineFacts, draft: Path, batch: int, settings: PackageSettings
) -> Record:
    """Compile `module` for batches of `batch` rows to `draft`; returns its record, which is written beside it."""
    low = LowPrecision(module, settings.precision) if settings.precision in DTYPES else module
    if settings.device != "cpu" and low is module:
        low = copy.deepcopy(module)  # the source stays where it is
    network = _OnDevice(low).to(settings.device)
    if settings.device != "cpu":  # weights too: a package would turn those of its convolutions around in every run
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = tuple(torch.from_numpy(x).to(settings.device) for x in next(check.batches(batch)))
    with stage("tracing the network"):
        program = _program(network, example)
    with _one_line(), stage("proving that rows are independent"):
        proof = prove_program(program, [tuple(each.shape) for each in example], draft.name)
    machine = this_machine(settings.device)
    with stage(f"compiling for {settings.device}"):
        _compile(program, settings, draft)
    source = {"name": str(facts.details.get("checkpoint", "")), "sha256": facts.source_sha256}
    given = dataclasses.asdict(settings)
    record = Record("pt2", file_sha256(draft), batch, facts, source, machine, given, proof)
    record_path(draft).write_text(record.to_json(), encoding="utf-8")
    return record


def write_package(
    module: nn.Module,
    check: ImageCheck,
    facts: EngineFacts,
    out: Path,
    batch: int | None,
    settings: PackageSettings,
    *,
    request: Request | None = None,
) -> ExportReport:
    """Compile `module` to `out` with its record beside it, once its outputs agree with those of `check.source`.

    `request` says on which images it is verified after that.

    Raises InputError for what cannot be used or differs by more than the tolerance, EngineError where torch cannot
    compile the network, StoreError when writing fails; `out` then is what it was.
    """
    start = time.perf_counter()
    if batch is None:
        raise InputError("--batch is missing: a .pt2 package is compiled for one batch size, that of certify")
    this_machine(settings.device)  # refused before the long work
    check_compiler()
    if settings.device != "cpu":
        exact_fp32()
    facts = dataclasses.replace(facts, precision=settings.precision)
    verification = Verification(check, facts, request or Request(settings.precision), batch)
    verification.check_companions()
    with draft_folder(out) as folder:
        draft = folder / out.name
        record = _compile_draft(module, check, facts, draft, batch, settings)
        with InductorEngine(draft, record, settings.device, None) as engine:
            with stage("comparing with the source on random images"):
                comparison = compare_package(engine, check)
            tolerance = TOLERANCES[settings.precision] * max(1.0, comparison.largest)
            check_difference(out, comparison, tolerance, "try a wider precision or another version of torch")
            details = tolerated(comparison, tolerance)
            if verification.pixels is None:
                details["verification"] = on_random(check, engine.backend, facts.precision, details["max_difference"])
            else:
                details["verification"] = verification.report({engine.backend: lambda _: engine})
        facts = dataclasses.replace(facts, details={**facts.details, **details})
        record = dataclasses.replace(record, facts=facts)
        size = draft.stat().st_size
        publish(draft, record, out)
    return ExportReport(out, facts, comparison, tolerance, time.perf_counter() - start, size, record)


def package_writer(settings: PackageSettings, request: Request) -> Writer:
    """`write_package` with these settings, in the form of `write_checked`."""

    def write(
        module: nn.Module, check: ImageCheck, facts: EngineFacts, out: Path, batch: int | None, store_fp16: bool
    ) -> ExportReport:
        return write_package(module, check, facts, out, batch, settings, request=request)

    return write
