"""ONNX file → TensorRT plan and its record, compared with the ONNX file before it appears where a GPU of its kind is here.

The full TensorRT builds on the GPU that runs the plan. TensorRT for RTX builds anywhere for the GPUs that it is told, and what
could not be compared here is compared when it is first opened on one (exporting/plan_check.py). Nothing of this has yet run on
a GPU; everything before the full library's build, and all of TensorRT for RTX's, is checked without.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..device.nvidia import RTX, Gpu, find_gpu, import_tensorrt
from ..engine import Engine, EngineFacts, fixed_batch, open_engine
from ..engine.backends.tensorrt_check import note_check, where
from ..engine.backends.tensorrt_plan import read_plan
from ..engine.graph import GraphFile, read_graph
from ..engine.record import Record, draft_folder, publish, record_path
from ..errors import InputError, message_of
from ..files import check_outputs, file_sha256, write_atomically
from ..stages import stage
from .checks.compare import Comparison, compare_engines
from .writers.report import ExportReport, check_difference
from .writers.tensorrt_settings import CURRENT, PlanSettings, named_targets

COMPARED = 16  # rows that the CPU computes at a time for a comparison, where its files take any number
STRICT = 1e-3  # most that a plan without TF32 may differ from an fp32 graph, relative to the larger of 1 and the largest output


@dataclass(frozen=True)
class Build:
    """What one plan is built of and with: the ONNX file, its graph and its proof, the rows of every batch, the settings.

    `timing_cache` is read where it exists, None for no cache.
    """

    onnx: Path
    graph: GraphFile
    proof: dict[str, Any]
    rows: int
    settings: PlanSettings
    timing_cache: Path | None


@dataclass(frozen=True)
class Machine:
    """What builds: the library's version, this machine's GPU, None where there is none, and the targets, () for that GPU."""

    version: str
    gpu: Gpu | None
    targets: tuple[str, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether a plan that is built here runs here."""
        if self.gpu is None:
            return False
        return not self.targets or f"sm{self.gpu.compute_capability.replace('.', '')}" in self.targets

    def recorded(self) -> dict[str, Any]:
        """For the plan's record."""
        if self.targets:
            return {"library": RTX, "tensorrt": self.version, "targets": list(self.targets)}
        assert self.gpu is not None
        machine = {"tensorrt": self.version, **asdict(self.gpu), "gpu": self.gpu.name}
        del machine["name"]
        return machine


def _present(settings: PlanSettings, compared: bool = True) -> Machine:
    """This machine, ready to build with `settings`, and to run what is to be `compared`.

    Raises InputError that names everything that is missing, at once.
    """
    problems: list[str] = []
    gpu, version, needed = None, "", not settings.targets or CURRENT in settings.targets
    try:
        gpu = find_gpu()
    except InputError as error:
        problems += [message_of(error)] if needed else []
    try:
        version = str(import_tensorrt(settings.library).__version__)
    except InputError as error:
        problems.append(message_of(error))
    capability = None if gpu is None else gpu.compute_capability
    targets = () if needed and gpu is None else named_targets(settings.targets, capability)
    machine = Machine(version, gpu, targets)
    if compared and machine.compares and importlib.util.find_spec("cupy") is None:
        extra = "rtx" if settings.targets else "cuda"
        problems.append(f"CuPy, by which the plan is run and compared: pip install 'diffsmooth-trt[{extra}]'")
    if problems:
        where = "a plan is built where it runs" if needed else "the plan cannot be built"
        raise InputError(f"{where}, and here is missing: {'; and '.join(problems)}")
    return machine


def _batch_size(path: Path, graph: GraphFile, batch: int | None) -> int:
    if batch is not None and batch < 1:
        raise InputError(f"--batch must be at least 1, got {batch}")
    if graph.batch is None:
        if batch is None:
            raise InputError(
                f"{path} takes any batch size and a plan one: pass --batch, the one that certify is to run with"
            )
        return batch
    if batch not in (None, graph.batch):
        raise InputError(f"{path} was exported for batches of {graph.batch}, got --batch {batch}: leave it out")
    return graph.batch


def _read(
    onnx: Path, batch: int | None, settings: PlanSettings, cache: Path | None, *, role: str | None, sigma: float | None
) -> Build:
    """The build of the ONNX file `onnx`, its rows proved independent; InputError where they are not, or the file does not fit."""
    graph = read_graph(onnx, role=role, sigma=sigma)
    details = graph.facts.details
    if graph.facts.precision == "int8" and "quantised" in details and details.get("quantised_for") != "gpu":
        raise InputError(
            f"{onnx.name} is quantised for CPUs, by zero points and in its biases, which TensorRT does not read: export it with "
            "--quantise-for gpu"
        )
    rows = _batch_size(onnx, graph, batch)
    return Build(onnx, graph.forgotten(), graph.recorded_proof(rows), rows, settings, cache)


def input_shapes(path: Path, graph: GraphFile, batch: int) -> dict[str, tuple[int, ...]]:
    """The shape of every input of the ONNX file at `path`, by name."""
    return graph.input_shapes(batch)


def export_plan(
    onnx: str | Path,
    out: str | Path,
    *,
    batch: int | None = None,
    settings: PlanSettings | None = None,
    timing_cache: str | Path | None = None,
    role: str | None = None,
    sigma: float | None = None,
    reference: str | Path | None = None,
    verify_data: str | Path | None = None,
    verify_classifier: str | Path | None = None,
) -> ExportReport:
    """Build the ONNX file `onnx` into a TensorRT plan at `out`, its record at `out`.json.

    It is for this machine's first GPU, or for `settings.targets`: then TensorRT for RTX builds, on a machine with or without one.
    Precision is that of the graph (strongly typed). `batch` rows are fixed; it may be left out where the graph fixes them.
    `role` and `sigma` (image units) are for ONNX files without facts. The plan runs on noisy images (of `verify_data`, at most
    2000; for 32×32 by default the zoo's, else a few random ones) and its outputs are compared with those of `reference`, by
    default `onnx` itself, on the CPU, where files of any batch size run COMPARED rows at a time; `verify_classifier` labels a
    denoiser's outputs. Without a GPU that runs it the plan is not compared here: see `plan_check`. `timing_cache` is read if it
    exists, and written. Raises InputError for what cannot be used or is missing here, EngineError where TensorRT fails; then
    `out` is what it was.
    """
    start = time.perf_counter()
    settings, path, out = settings or PlanSettings(), Path(onnx), Path(out)
    cache = None if timing_cache is None else Path(timing_cache)
    twin = path if reference is None else Path(reference)
    labels = None if verify_classifier is None else Path(verify_classifier)
    data = None if verify_data is None else Path(verify_data)
    settings.check_cache(cache is not None)
    if not path.is_file():
        raise InputError(
            f"--onnx {path} does not exist: make one with `diffsmooth-trt export denoiser` or `classifier`"
        )
    own = None if reference is None else twin
    files = {"--onnx": path, "--reference": own, "--verify-classifier": labels, "--verify-data": data}
    check_outputs({"--out": out, "its record": record_path(out), "--timing-cache": cache}, files)
    if out.suffix != ".plan":
        raise InputError(f"--out {out} does not end in .plan, which is how engines tell their kind: name it FILE.plan")
    build = _read(path, batch, settings, cache, role=role, sigma=sigma)
    facts = build.graph.facts
    settings.check_precision(facts.precision)
    machine = _present(settings)
    comparison = tolerance = None
    with draft_folder(out) as folder, contextlib.ExitStack() as stack:
        engine = None
        if machine.compares:
            engine = stack.enter_context(_reference(twin, compared_rows(build.rows, twin, labels), facts))
        draft = folder / out.name
        record, content = _build(build, draft, machine)
        size = draft.stat().st_size
        if settings.weight_stripped:
            for name in (path.name, *build.graph.weights):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to((path.parent / name).resolve())
        if engine is not None:
            with stage(f"comparing with {twin.name}"):
                comparison = _compare(draft, record, engine, labels, data)
            tolerance = strict_tolerance(facts, settings.tf32, comparison)
            if tolerance is not None:
                check_difference(out, comparison, tolerance, "try another --optimization-level or TensorRT version")
            facts = replace(
                facts, details={**facts.details, "plan_check": {**comparison.recorded(), "against": twin.name}}
            )
            record = replace(record, facts=facts)
        publish(draft, record, out)
        if comparison is not None and machine.targets:
            _note(out, machine, {**comparison.recorded(), "against": twin.name})
        if cache is not None and content:
            write_atomically(cache, content)
    return ExportReport(out, facts, comparison, tolerance, time.perf_counter() - start, size, record)


def _note(out: Path, machine: Machine, comparison: dict[str, Any]) -> None:
    """Note beside a plan of TensorRT for RTX that it was compared on this machine's GPU."""
    assert machine.gpu is not None
    plan = read_plan(out, role=None, sigma=None)
    note_check(plan, where(plan, gpu=machine.gpu.name, driver=machine.gpu.driver, tensorrt=machine.version), comparison)


def strict_tolerance(facts: EngineFacts, tf32: bool, comparison: Comparison) -> float | None:
    """The most that a plan may differ from its graph; None where its products are rounded and any number is allowed."""
    return STRICT * max(1.0, comparison.largest) if facts.precision == "fp32" and not tf32 else None


def build_uncompared(onnx: Path, out: Path, batch: int, settings: PlanSettings, timing_cache: Path | None) -> None:
    """The plan alone, with its record, for measurements of networks that hold random weights; raises as `export_plan`."""
    build = _read(onnx, batch, settings, timing_cache, role=None, sigma=None)
    machine = _present(settings, compared=False)
    with draft_folder(out) as folder:
        draft = folder / out.name
        record, content = _build(build, draft, machine)
        publish(draft, record, out)
        if timing_cache is not None and content:
            write_atomically(timing_cache, content)


def _build(given: Build, draft: Path, machine: Machine) -> tuple[Record, bytes | None]:
    """Write the plan to `draft` and its record beside it; returns the record and what the timing cache then holds."""
    from .writers.tensorrt import build

    path, graph, cache = given.onnx, given.graph, given.timing_cache
    settings = replace(given.settings, targets=machine.targets)
    source: dict[str, Any] = {"name": path.name, "sha256": graph.sha256, "weights": graph.weights}
    content = None if cache is None else cache.read_bytes() if cache.exists() else b""
    with stage("building the plan"):
        content = build(path, input_shapes(path, graph, given.rows), settings, content, draft)
    told = {name: value for name, value in asdict(settings).items() if name != "targets"}
    record = Record("plan", file_sha256(draft), given.rows, graph.facts, source, machine.recorded(), told, given.proof)
    record_path(draft).write_text(record.to_json(), encoding="utf-8")
    return record, content


def compared_rows(rows: int, reference: Path, classifier: Path | None) -> int:
    """How many rows the engines on the CPU are opened for: COMPARED, or the plan's where a file of theirs is for those."""
    fixed = [fixed_batch(path) for path in (reference, classifier) if path is not None]
    return rows if any(fixed) else min(rows, COMPARED)


def _reference(path: Path, batch: int, facts: EngineFacts) -> Engine:
    """The engine that the plan is compared with, on the CPU, opened before anything is built."""
    try:
        return open_engine(path, batch=batch, role=facts.role, sigma=facts.sigma, precision="fp32")
    except InputError as error:
        raise InputError(
            f"the plan has to be compared with {path.name}, which does not run on the CPU ({message_of(error)}): "
            "pass its fp32 twin as --reference"
        ) from None


def _compare(draft: Path, record: Record, engine: Engine, classifier: Path | None, data: Path | None) -> Comparison:
    facts, rows = record.facts, record.batch
    with open_engine(
        draft, batch=rows, role=facts.role, sigma=facts.sigma, device="cuda:0", allow_host_code=True
    ) as plan:
        if classifier is None:
            return compare_engines(plan, engine, None, data)
        with open_engine(classifier, batch=engine.batch, role="classifier", precision="fp32") as labels:
            return compare_engines(plan, engine, labels, data)
