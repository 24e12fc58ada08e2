"""The user's own ONNX classifier → the same with its preprocessing in front, checked against the file as it came."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import version_converter
from torch import Tensor

from ..engine.class_names import names_in_metadata
from ..engine.facts import METADATA_KEY, EngineFacts
from ..engine.graph import external_weights, prove_file, proved
from ..errors import InputError
from .checks.inputs import SIGMA, ImageCheck
from .graph.preprocessing import ClassifierWithPreprocessing, Normalise, Overrides, Preprocessing
from .graph.resize import Resize
from .sources.burnt_in import burnt_rows, open_batch
from .sources.onnx import OnnxModule, multiply_adds
from .writers.onnx import OPSET, OUTPUT, quiet, write_checked
from .writers.onnx_half import Request
from .writers.report import ExportReport

IMAGES = ImageCheck.names[0]
PREFIX = "preprocessing_"
IR_VERSION = 10  # the one that the exporter writes
AGAIN = "export it again with float32 [B, 3, H, W] in and [B, classes] out"
_INT8 = {"DequantizeLinear", "QLinearConv", "QLinearMatMul"}


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()


def _tensors(model: ir.Model) -> Iterator[Any]:
    """Every stored tensor, wherever in the file it stands."""
    for graph in _graphs(model):
        yield from (value.const_value for value in graph.initializers.values())
        for node in graph:
            yield from (attr.value for attr in node.attributes.values() if attr.type == ir.AttributeType.TENSOR)


@dataclass(frozen=True)
class Classifier:
    """What a graph is: its batch size and input size, None where they are open, and its classes."""

    batch: int | None
    size: int | None
    classes: int


def _number(dimension: Any) -> int | None:
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def _describe(path: Path, model: ir.Model) -> Classifier:
    """Refuse everything that is not one batch of images in, one of logits out."""
    if METADATA_KEY in model.metadata_props:
        raise InputError(f"--onnx {path} is an engine file already: pass it to --classifier as it is")
    inputs, outputs = model.graph.inputs, model.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"--onnx {path} has {len(inputs)} inputs and {len(outputs)} outputs, expected one each: {AGAIN}"
        )
    if not len(model.graph):
        raise InputError(f"--onnx {path} has no nodes (empty graph): {AGAIN}")
    for value in (inputs[0], outputs[0]):
        if value.dtype != ir.DataType.FLOAT:
            raise InputError(f"--onnx {path}: {value.name} is {value.dtype}, expected float32: {AGAIN}")
    taken = list(inputs[0].shape.dims) if inputs[0].shape is not None else []
    given = list(outputs[0].shape.dims) if outputs[0].shape is not None else []
    sides = [_number(side) for side in taken[2:]]
    classes = _number(given[-1]) if len(given) == 2 else None
    if len(taken) != 4 or _number(taken[1]) != 3 or len(set(sides)) != 1 or classes is None or classes < 2:
        shapes = [[dim if isinstance(dim, int) else dim.value for dim in dims] for dims in (taken, given)]
        raise InputError(
            f"--onnx {path} maps {shapes[0]} to {shapes[1]}, expected [B, 3, N, N] to [B, classes]: {AGAIN}"
        )
    return Classifier(_number(taken[0]), sides[0], classes)


def _load(path: Path) -> tuple[ir.Model, str, dict[str, str]]:
    """The model with all its weights among the initializers, SHA-256 of its file, and of each file of weights beside it."""
    if not path.is_file():
        raise InputError(f"--onnx {path}: no such file")
    try:
        content = path.read_bytes()
        message = onnx.load_model_from_string(content)
        weights = external_weights(path, message)
        model = ir.from_proto(message)
        ir.external_data.set_base_dir(model.graph, path.parent)
        passes.RemoveInitializersFromInputsPass()(model)  # how old files listed their weights
        passes.LiftConstantsToInitializersPass(size_limit=0)(model)
        ir.external_data.load_to_model(model)
    except InputError:
        raise
    except Exception as error:  # protobuf's and onnx_ir's own
        files = "its weights file is cut short" if isinstance(error, ValueError | OSError) else type(error).__name__
        raise InputError(f"--onnx {path} is no readable ONNX file ({files}): copy or export it again") from error
    return model, hashlib.sha256(content).hexdigest(), weights


def _converted(path: Path, model: ir.Model) -> ir.Model:
    """The model in an opset that every backend reads."""
    before = model.opset_imports.get("")
    if before is None:
        raise InputError(f"--onnx {path} names no ONNX opset: {AGAIN}")
    if before < OPSET:
        try:
            with quiet():
                version_converter.convert_version(model, OPSET, fallback=True)
        except Exception:  # leaves the opset as it was
            pass
        after = model.graph.opset_imports.get("")
        if after != OPSET:
            raise InputError(
                f"--onnx {path} is of opset {before}, which cannot be converted: export it for opset {OPSET}"
            )
    model.ir_version = max(model.ir_version or 0, IR_VERSION)
    return model


def _prepend(model: ir.Model, preprocessing: Preprocessing, image_size: int, batch: int | None) -> None:
    """Resize and normalisation as the graph's first nodes, in place."""
    graph = model.graph
    old, out, first = graph.inputs[0], graph.outputs[0], graph[0]
    if out is old or out.shape is None:
        raise InputError("the graph's output is its input: no classifier")
    for inner in _graphs(model):  # our names are ours
        for value in [*inner.initializers.values(), *(value for node in inner for value in node.outputs)]:
            if value.name in (IMAGES, OUTPUT) or (value.name or "").startswith(PREFIX):
                value.name = f"_{value.name}"
    out.name = OUTPUT
    rows = batch if batch is not None else "batch"
    images = ir.val(IMAGES, ir.DataType.FLOAT, [rows, 3, image_size, image_size])
    steps: list[tuple[str, Tensor, bool]] = []  # operator, constant, whether the constant is the first operand
    resize = preprocessing.resize(image_size)
    if isinstance(resize, Resize):
        steps += [("MatMul", resize.rows, True), ("MatMul", resize.columns, False)]
    if (preprocessing.mean, preprocessing.std) != ((0.0,) * 3, (1.0,) * 3):
        normalise = Normalise(preprocessing.mean, preprocessing.std)
        steps += [("Mul", normalise.scale, False), ("Add", normalise.offset, False)]
    value = images
    for number, (operator, tensor, leads) in enumerate(steps):
        name = f"{PREFIX}{number}"
        constant = ir.val(f"{name}_value", const_value=ir.tensor(tensor.numpy(), name=f"{name}_value"))
        graph.register_initializer(constant)
        node = ir.node(operator, [constant, value] if leads else [value, constant], name=name)
        node.outputs[0].name = name
        graph.insert_before(first, node)
        value = node.outputs[0]
    ir.convenience.replace_all_uses_with(old, value)
    graph.inputs[0] = images
    out.shape = ir.Shape([rows, out.shape[1]])


def _precision(model: ir.Model) -> str:
    if {node.op_type for node in model.graph.all_nodes()} & _INT8:
        return "int8"
    kinds = {tensor.dtype for tensor in _tensors(model) if tensor is not None}
    return "fp16" if ir.DataType.FLOAT16 in kinds else "bf16" if ir.DataType.BFLOAT16 in kinds else "fp32"


def _cannot_open(own: OnnxModule, rows: int, size: int, error: InputError) -> InputError:
    """Why the batch size `rows` of a graph cannot be made open, and what helps: that size, if rows are kept apart at it."""
    remedy = "export it again with an open batch axis"
    with suppress(InputError):
        prove_file(own.path, {own.session.get_inputs()[0].name: (rows, 3, size, size)}, str(own.path))
        remedy += f", or pass --batch {rows}"
    return InputError(
        f"--onnx {own.path} holds the batch size {rows} that it was traced with, and cannot be given another ({error.message}): "
        f"{remedy}"
    )


def _known(**values: object) -> dict[str, object]:
    """Those of `values` that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def onnx_classifier_file(
    path: str | PathLike[str], out: str | PathLike[str], overrides: Overrides, batch: int | None, request: Request
) -> ExportReport:
    """See `export_onnx_classifier`."""
    path = Path(path)
    model, sha256, weights = _load(path)
    classifier = _describe(path, model)
    precision = _precision(model)
    if request.precision != "fp32" and precision != "fp32":
        raise InputError(
            f"--onnx {path} is an {precision} graph, which stays one: leave --precision out, or give its fp32 original"
        )
    if batch is not None and classifier.batch not in (None, batch):
        raise InputError(f"--onnx {path} takes batches of {classifier.batch}, got --batch {batch}: leave --batch out")
    fixed = classifier.batch if batch is None else batch
    size = overrides.input_size or classifier.size
    if size is None:
        raise InputError(f"--onnx {path} does not say its input size: give --input-size")
    if classifier.size not in (None, size):
        raise InputError(
            f"--onnx {path} takes {classifier.size}×{classifier.size} images, got --input-size {size}: leave it out"
        )
    preprocessing = overrides.over(Preprocessing((0.0,) * 3, (1.0,) * 3, size, size))
    image_size = overrides.image_size or size
    opset = model.opset_imports.get("")
    model = _converted(path, model)
    own = OnnxModule(path, classifier.batch)
    burnt = burnt_rows(own, model, size) if classifier.batch is None else None
    if burnt is not None and fixed != burnt:
        open_batch(model, burnt)
    with quiet():
        passes.ShapeInferencePass(strict_mode=False)(model)
    own.batch = classifier.batch or burnt
    own.multiply_adds = multiply_adds(model, classifier.batch)
    source = ClassifierWithPreprocessing(own, preprocessing, image_size, source=True)
    _prepend(model, preprocessing, image_size, fixed)
    if request.precision != "fp32":
        for number, node in enumerate(model.graph.all_nodes()):  # the tools tell nodes by their names
            node.name = f"{node.op_type}_{number}"
    names = names_in_metadata(model.metadata_props, classifier.classes)
    model.metadata_props.clear()
    shape = (3, image_size, image_size)
    facts = EngineFacts(
        role="classifier",
        input_shape=shape,
        classes=classifier.classes,
        family="onnx",
        precision=precision,
        source_sha256=sha256,
        details={"onnx": path.name, "source_opset": opset, "weights": weights, **preprocessing.facts(image_size)}
        | _known(class_names=names, burnt_in_batch=burnt),
    )
    opened = burnt is not None and fixed != burnt
    try:
        if opened and burnt is not None:  # comparisons may happen to have that very number of rows
            proved(ir.to_proto(model), path, {IMAGES: (burnt + 1 if fixed is None else fixed, *shape)})
        return write_checked(model, ImageCheck(source, shape, SIGMA), facts, Path(out), fixed, False, request=request)
    except InputError as error:
        if not opened:
            raise
        raise _cannot_open(own, burnt or 1, size, error) from None
