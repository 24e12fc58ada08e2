"""Facts and shapes of an ONNX file, read without its weights' data leaving the file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..errors import InputError
from ..files import file_sha256
from .facts import METADATA_KEY, EngineFacts

DYNAMIC_QUANTISATION = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}


def _dimensions(value: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"engine {path} cannot be read: {error.strerror}") from None
    except DecodeError as error:
        raise InputError(f"{path} is not a readable ONNX file ({type(error).__name__}): export it again") from None
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path} is not a readable ONNX file (empty graph): export it again")
    return model


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file: its facts, its fixed batch size (None when dynamic), SHA-256 of each file of external weights."""

    facts: EngineFacts
    batch: int | None
    weights: dict[str, str]


def _external_weights(path: Path, model: onnx.ModelProto) -> dict[str, str]:
    names = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        file = path.parent / name
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(f"{path} keeps weights outside its folder ({name}): export it again")
        if not file.is_file():
            raise InputError(f"{path} needs its weights file {name} beside it: copy both, or export it again")
    return {name: file_sha256(path.parent / name) for name in sorted(names)}


def read_graph(path: Path, *, role: str | None, sigma: float | None) -> GraphFile:
    """What an ONNX file says about itself, checked against `role` and `sigma`.

    A file without facts is a user's own: its shapes come from the graph, its role and σ from the caller.
    """
    model = _load(path)
    coupled = sorted({node.op_type for node in model.graph.node} & DYNAMIC_QUANTISATION)
    if coupled:
        raise InputError(
            f"{path} is dynamically quantised ({', '.join(coupled)}): its scales couple the rows of a batch; "
            "quantise it statically"
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise InputError(
            f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs: expected one image batch in, one out"
        )
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise InputError(f"{path} does not take float32 images: export it with float32 input and output")
    shape, out = _dimensions(inputs[0]), _dimensions(model.graph.output[0])
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY in texts:
        facts = EngineFacts.from_json(texts[METADATA_KEY], str(path))
        if list(facts.input_shape) != shape[1:]:
            raise InputError(f"{path} says it takes {facts.input_shape}, its graph takes {shape[1:]}: export it again")
    else:
        if role is None or len(shape) != 4 or None in shape[1:]:
            raise InputError(
                f"{path} carries no facts and its input is {shape}: expected [B, C, H, W] with fixed C, H, W"
            )
        size = (int(shape[1] or 0), int(shape[2] or 0), int(shape[3] or 0))
        classes = out[-1] if role == "classifier" else None
        facts = EngineFacts(role=role, input_shape=size, classes=classes, sigma=sigma if role == "denoiser" else None)
    external = _external_weights(path, model)
    recorded = facts.details.get("external_data")
    if recorded and external != {recorded["name"]: recorded["sha256"]}:
        raise InputError(
            f"{path} and its weights file {recorded['name']} are not from the same export: export it again"
        )
    return GraphFile(_agreed(path, facts, role, sigma), shape[0] if shape else None, external)


def _agreed(path: Path, facts: EngineFacts, role: str | None, sigma: float | None) -> EngineFacts:
    if role is not None and facts.role != role:
        raise InputError(
            f"{path} is a {facts.role}, expected a {role}: swap --engine and --classifier or export it again"
        )
    if facts.role == "denoiser":
        if facts.sigma is None and sigma is None:
            raise InputError(f"{path} does not say its noise level: pass --sigma")
        if facts.sigma is not None and sigma is not None and not math.isclose(facts.sigma, sigma, rel_tol=1e-9):
            raise InputError(
                f"{path} was exported for sigma {facts.sigma}, the run asks for {sigma}: export it for {sigma}"
            )
        facts = dataclasses.replace(facts, sigma=facts.sigma if facts.sigma is not None else sigma)
    elif facts.classes is None or facts.classes < 2:
        raise InputError(f"{path} does not say its number of classes: its output must be [B, classes]")
    return facts
