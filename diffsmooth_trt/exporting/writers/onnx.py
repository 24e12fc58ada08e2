"""Torch modules → ONNX files that are compared with their source before they appear.

Everything is written in a fresh folder beside the target and moved into place by `os.replace` after the check, so that
`out` is either what it was or complete. Files above protobuf's 2 GB keep their weights in a second file named by content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from ...engine.facts import METADATA_KEY, EngineFacts
from ...engine.graph import prove_file
from ...engine.logs import session_options
from ...engine.record import draft_folder
from ...errors import EngineError, InputError, StoreError, shortened
from ...files import file_sha256
from ...stages import stage
from ..checks.compare import Comparison, compare
from ..checks.half_arithmetic import LARGEST, RANGE_SAMPLES, check_reach, loud, reach, simulated
from ..checks.inputs import ImageCheck
from ..checks.noised import CALIBRATION, fitting_pixels
from ..checks.verification import (
    SIMULATION,
    UNUSABLE,
    Verification,
    affordable,
    on_random,
    one_file,
    onnx_backends,
    random_batches,
    simulation,
)
from .onnx_half import INLINE_BYTES, QUANTISED, Request, kept_in_fp32, to_half
from .onnx_int8 import CALIBRATION_SAMPLES, quantise
from .report import ExportReport, check_difference, tolerated

OUTPUT = "output"
OPSET = 18  # the oldest the exporter writes without conversion: read by every backend
TOLERANCE = 1e-4  # of float32 outputs, relative to the larger of 1 and the largest output
# (module, check, facts, out, batch, store_fp16) → the file
Writer = Callable[[nn.Module, ImageCheck, EngineFacts, Path, int | None, bool], ExportReport]
TOOLS = {"fp16": ("onnxconverter-common",), "bf16": ("nvidia-modelopt", "openvino")}  # whose versions the facts name
_HALF_FROM = 256  # elements; smaller tensors stay float32


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' log lines and warnings from the terminal; they concern its authors."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(module: nn.Module, check: ImageCheck, batch: int | None) -> ir.Model:
    """The ONNX graph of `module` for inputs as in `check`; weights are shared with the module, not copied."""
    example = tuple(torch.from_numpy(given) for given in next(check.batches(2 if batch is None else batch)))
    rows = {0: torch.export.Dim("batch")}
    dynamic = None if batch is not None else tuple(rows for _ in example)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                input_names=list(check.names),
                output_names=[OUTPUT],
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise EngineError(f"torch {torch.__version__} could not export the network: {reason}") from error
    if program is None:
        raise EngineError(f"torch {torch.__version__} exported nothing: try another version")
    model: ir.Model = program.model
    # The exporter notes Python source lines, with paths, at every node.
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    return model


def store_as_half(model: ir.Model) -> None:
    """Store every weight that is exactly a half-precision number as one, followed by a cast to float32."""
    graph = model.graph
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _HALF_FROM:
            continue
        full = tensor.numpy()
        with np.errstate(over="ignore"):  # a table of the schedule may hold more than half precision does
            half = full.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), full):
            continue
        stored = ir.val(f"{name}_half", const_value=ir.tensor(half, name=f"{name}_half"))
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        cast.outputs[0].name = f"{name}_float"
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        graph.insert_before(first, cast)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(stored)


def _save(model: ir.Model, folder: Path, name: str) -> list[Path]:
    """Write the model into `folder`; returns its files, the one that refers to the others last."""
    path = folder / name
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) <= INLINE_BYTES:
        ir.save(model, path)
        return [path]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.tobytes())
    data = f"{path.stem}-{digest.hexdigest()[:16]}.data"
    ir.save(model, path, external_data=data)
    return [folder / data, path]


def _append_facts(path: Path, facts: EngineFacts) -> None:
    """Protobuf messages concatenate: the facts join a file that was checked without writing its weights again."""
    entry = onnx.StringStringEntryProto(key=METADATA_KEY, value=facts.to_json())
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _compare(path: Path, check: ImageCheck, batch: int | None) -> Comparison:
    """The file against its source over random noisy batches."""
    # One after the other, and the source image by image: feature maps of large networks outweigh their parameters.
    expected = list(random_batches(check, check.rows if batch is None else batch, at_once=1))
    options = session_options(onnxruntime)
    options.enable_cpu_mem_arena = False  # would keep every feature map
    options.add_session_config_entry("session.disable_prepacking", "1")  # would hold the weights twice
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(*inputs: NDArray[Any]) -> NDArray[np.float32]:
            return np.asarray(session.run(None, dict(zip(check.names, inputs, strict=True)))[0])

        return compare(expected, run, name="the exported graph", failure=InputError(UNUSABLE))
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own family
        raise InputError(
            f"ONNX Runtime does not run the exported graph ({shortened(error)}): nothing was written; export the network otherwise"
        ) from error


def _versions(*tools: str) -> dict[str, str]:
    versions = {}
    for package in ("diffsmooth-trt", "torch", "onnx", "onnxscript", "onnxruntime", *tools):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _external_files(path: Path) -> list[Path]:
    """The files of the model at `path`, itself last; what it refers to gets a name by content."""
    stray = path.parent / f"{path.name}.data"
    candidates = [file for file in (stray, path.parent / f"{path.stem}.data") if file.is_file()]
    if not candidates:
        return [path]
    (data,) = candidates
    model = onnx.load(str(path), load_external_data=False)
    named = data.with_name(f"{path.stem}-{file_sha256(data)[:16]}.data")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = named.name
    onnx.save(model, str(path))
    return [data.rename(named), path]


def _lowered(
    full: list[Path], out: Path, facts: EngineFacts, verification: Verification
) -> tuple[list[Path], dict[str, object]]:
    """The checked fp32 files `full` written anew to `out` in the precision asked for, and removed.

    Returns the files of the new graph, itself last, and what stayed in fp32.
    """
    request, check, source = verification.request, verification.check, full[-1]
    kept: dict[str, Any]
    if request.precision in QUANTISED:
        count = affordable(check, CALIBRATION_SAMPLES)
        with contextlib.ExitStack() as stack:
            verification.open_companions(stack)
            pixels = fitting_pixels(request.calibration_data or "", facts.input_shape, count)

            def batches() -> Iterator[dict[str, NDArray[Any]]]:
                for given in verification.inputs(count, CALIBRATION, pixels):
                    yield dict(zip(check.names, given, strict=True))

            denoises = facts.role != "classifier"
            kept = quantise(source, out, request.precision, denoises, batches, symmetric=request.symmetric)
        kept["calibration"] = {"data": Path(request.calibration_data or "").name, "images": count}
    else:
        kept = _halved(source, out, verification)
    for file in full:
        file.unlink()
    return _external_files(out), kept


def _halved(source: Path, out: Path, verification: Verification) -> dict[str, Any]:
    """The fp32 graph `source` written to `out` in half precision; what its values reach beyond stays in fp32, and is returned."""
    precision = verification.request.precision
    sizes = reach(source, _looked_at(verification))
    fixed = kept_in_fp32(onnx.load(str(source), load_external_data=False).graph)
    beyond = loud(source, precision, sizes, frozenset(name for names in fixed.values() for name in names))
    kept: dict[str, Any] = {"kept_fp32": to_half(source, out, precision, beyond.nodes)}
    return kept | ({"beyond_range": beyond.recorded()} if beyond.values else {})


def _looked_at(verification: Verification) -> Iterator[dict[str, NDArray[Any]]]:
    """The batches over which values' sizes are measured: noised as for calibration, so not those that are compared."""
    check = verification.check
    count = affordable(check, RANGE_SAMPLES)
    with contextlib.ExitStack() as stack:
        if verification.pixels is not None:
            verification.open_companions(stack)
        for given in verification.inputs(count, CALIBRATION, verification.pixels):
            yield dict(zip(check.names, given, strict=True))


def _verified(path: Path, facts: EngineFacts, verification: Verification) -> dict[str, Any]:
    """The verification of `path`, which carries `facts` only meanwhile."""
    size = path.stat().st_size
    _append_facts(path, facts)
    precision = facts.precision
    copy = path.with_name(f"simulated-{path.name}")
    try:
        backends = onnx_backends(path)
        if precision in LARGEST and one_file(path):
            backends |= {SIMULATION: simulation(copy, precision)}
            onnx.save(simulated(onnx.load(str(path)), precision), str(copy))
            _append_facts(copy, dataclasses.replace(facts, precision="fp32"))
        return verification.report(backends)
    finally:
        os.truncate(path, size)
        copy.unlink(missing_ok=True)


def write_checked(
    module: nn.Module | ir.Model,
    check: ImageCheck,
    facts: EngineFacts,
    out: Path,
    batch: int | None,
    store_fp16: bool,
    *,
    request: Request | None = None,
) -> ExportReport:
    """Export `module` to `out` with `facts` in its metadata once ONNX Runtime agrees with `check.source`.

    `module` may also be a graph that is made already, of the batch size `batch`. The fp32 graph is checked first; `request`
    says which precision is made of it and how the result is verified. Raises InputError when they differ by more than the
    tolerance or `out` is not writable, StoreError when writing fails; neither leaves anything behind.
    """
    request = request or Request()
    verification = Verification(check, facts, request, batch)
    start = time.perf_counter()
    verification.check_companions()
    with draft_folder(out) as folder:
        try:
            with stage("tracing the network"):
                model = module if isinstance(module, ir.Model) else trace(module, check, batch)
            if store_fp16:
                store_as_half(model)
            opset = model.opset_imports.get("", OPSET)
            lower = request.precision != "fp32"
            files = _save(model, folder, f"fp32-{out.name}" if lower else out.name)
            del model
            shapes = {name: x.shape for name, x in zip(check.names, next(check.batches(batch or 2)), strict=True)}
            with stage("proving that rows are independent"):
                prove_file(files[-1], shapes, out.name)
            with stage("comparing with the source on random images"):
                comparison = _compare(files[-1], check, batch)
            tolerance = TOLERANCE * max(1.0, comparison.largest)
            check_difference(out, comparison, tolerance, "try other versions of torch and onnxscript")
            details = tolerated(comparison, tolerance)
            details |= {"opset": opset, "versions": _versions(*TOOLS.get(request.precision, ()))}
            if lower:
                facts = dataclasses.replace(facts, precision=request.precision)
                with stage(f"converting to {request.precision}"):
                    files, kept = _lowered(files, folder / out.name, facts, verification)
                details |= kept
                with stage("proving that rows are independent"):
                    prove_file(files[-1], shapes, out.name)
            if facts.precision in LARGEST:
                with stage("looking for values beyond the range"):
                    check_reach(files[-1], out.name, facts.precision, reach(files[-1], _looked_at(verification)))
            if facts.precision != "fp32" or verification.pixels is not None:
                details["verification"] = _verified(files[-1], facts, verification)
            else:
                details["verification"] = on_random(check, "onnxruntime", "fp32", details["max_difference"])
            if len(files) > 1:
                details["external_data"] = {"name": files[0].name, "sha256": file_sha256(files[0])}
            facts = dataclasses.replace(facts, details={**facts.details, **details})
            _append_facts(files[-1], facts)
            size = sum(file.stat().st_size for file in files)
            for file in files:
                os.replace(file, out.parent / file.name)
        except OSError as error:
            raise StoreError(
                f"{out} could not be written: {error.strerror or error}; nothing was left behind"
            ) from error
    return ExportReport(out, facts, comparison, tolerance, time.perf_counter() - start, size)
