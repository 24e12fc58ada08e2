"""Facts and shapes of an ONNX file, read without its weights' data leaving the file."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from ..errors import InputError
from ..files import file_sha256, is_there, stamp
from .class_names import names_in_metadata
from .facts import METADATA_KEY, EngineFacts
from .rows import Proof, Unproved, prove

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
CONDITIONAL_INPUTS = {"images": FLOAT, "s": FLOAT, "labels": INT64}
NAMES = {"conditional": "conditional denoiser"}
MAKE_CONDITIONAL = "make one with `diffsmooth-trt export denoiser --conditional`"
Values = Sequence[onnx.ValueInfoProto]


def _dimensions(value: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def _named_dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What the model is given: old files list their weights among the inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _texts_are_texts(message: Message) -> bool:
    """Whether all of its texts but comments are UTF-8: protobuf hands over bytes for others."""
    for described, value in message.ListFields():
        single = isinstance(value, str | bytes | Message)
        if described.name == "doc_string":
            continue
        if described.type == described.TYPE_STRING:
            if any(isinstance(each, bytes) for each in ((value,) if single else value)):
                return False
        elif described.type == described.TYPE_MESSAGE and not all(map(_texts_are_texts, (value,) if single else value)):
            return False
    return True


def _load(path: Path) -> tuple[onnx.ModelProto, str]:
    """The model at `path` without external weights, and SHA-256 of the very bytes that it was read from."""
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise InputError(f"engine {path} cannot be read: {error.strerror}") from None
    except DecodeError as error:
        raise InputError(f"{path} is not a readable ONNX file ({type(error).__name__}): export it again") from None
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path} is not a readable ONNX file (empty graph): export it again")
    if not _texts_are_texts(model):
        raise InputError(f"{path} is not a readable ONNX file (a name in it is no text): export it again")
    return model, hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file: facts, fixed batch size (None when dynamic), SHA-256 of each file of external weights.

    `inputs` are the shapes of its inputs by name, a dimension that is not fixed being the name it has there. `model` is what
    was read of the file, without external weights, from bytes whose SHA-256 is `sha256`.
    """

    path: Path
    facts: EngineFacts
    batch: int | None
    weights: dict[str, str]
    inputs: dict[str, list[int | str]]
    sha256: str
    model: onnx.ModelProto = field(repr=False)
    stamps: dict[str, tuple[int, ...]] = field(repr=False)

    def check_unchanged(self) -> None:
        """InputError where the file, or one with its weights, is not the one that was read, hashed and proved."""
        for name, before in self.stamps.items():
            file = self.path.parent / name
            if not file.is_file() or stamp(file) != before:
                raise InputError(f"{file} changed while it was being opened: copy it again")

    def input_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shape of every input for `batch` rows, by name."""
        image = (batch, *self.facts.input_shape)
        return {name: (batch,) if place else image for place, name in enumerate(self.inputs)}

    def prove_rows(self, batch: int) -> Proof:
        """The proof that the rows of a batch of `batch` are independent (engine/rows); InputError where there is none."""
        return proved(self.model, self.path, self.input_shapes(batch))

    def forgotten(self) -> GraphFile:
        """The same without `model`, so that no weight that the file holds is kept while a library reads it."""
        return dataclasses.replace(self, model=onnx.ModelProto())

    def recorded_proof(self, batch: int) -> dict[str, Any]:
        """The proof as a record of what is compiled from the file keeps it: with SHA-256 of the graph."""
        return {**self.prove_rows(batch).recorded(), "graph": self.sha256}


def proved(model: onnx.ModelProto, path: Path, shapes: Mapping[str, tuple[int, ...]], name: str = "") -> Proof:
    """The proof of the model at `path` for inputs of these shapes; InputError, which names it `name`, where there is none."""
    try:
        return prove(model, shapes, str(path.parent))
    except Unproved as reason:
        (rows,) = {shape[0] for shape in shapes.values()}
        raise InputError(
            f"{name or path} is not proved to keep the {rows} rows of a batch apart: {reason}; export it again without that"
        ) from None


def prove_file(path: Path, shapes: Mapping[str, tuple[int, ...]], name: str) -> Proof:
    """`proved`, for a file that carries no facts yet."""
    return proved(_load(path)[0], path, shapes, name)


def _tensors(nodes: Iterable[onnx.NodeProto], graphs: Iterable[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: initializers, what nodes hold, and those of sub-graphs."""
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _tensors(graph.node, ())
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            yield from _tensors((), (attribute.g, *attribute.graphs))


def weights_files(path: Path, model: onnx.ModelProto) -> set[str]:
    """The names of the files of weights that the model at `path` refers to; InputError for one outside its folder."""
    inner = [node for function in model.functions for node in function.node]
    names = {
        entry.value
        for tensor in _tensors(inner, (model.graph,))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        file = path.parent / name
        if "\0" in name or not file.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(f"{path} keeps weights outside its folder ({name}): export it again")
        if not is_there(file):
            raise InputError(f"{path} needs its weights file {name} beside it: copy both, or export it again")
    return names


def weights_beside(path: Path) -> list[str]:
    """The names of the files of weights that the ONNX file at `path` needs beside it, sorted; InputError for a bad file."""
    return sorted(weights_files(path, _load(path)[0]))


def external_weights(path: Path, model: onnx.ModelProto) -> dict[str, str]:
    """SHA-256 of each file of weights that the model at `path` refers to, by name; InputError for one outside its folder."""
    return {name: file_sha256(path.parent / name) for name in sorted(weights_files(path, model))}


def _check_one_batch(path: Path, inputs: Values, outputs: Values) -> None:
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: expected one image batch in, one out"
        )
    if inputs[0].type.tensor_type.elem_type != FLOAT:
        raise InputError(f"{path} does not take float32 images: export it with float32 input and output")


def _check_conditional(path: Path, inputs: Values, outputs: Values) -> None:
    kinds = [(value.name, value.type.tensor_type.elem_type) for value in inputs]
    shapes = [_dimensions(value) for value in inputs]
    batches = {shape[0] for shape in shapes if shape}
    if (
        kinds == list(CONDITIONAL_INPUTS.items())
        and [len(shape) for shape in shapes] == [4, 1, 1]
        and len(batches) == len(outputs) == 1
    ):
        return
    texts = (
        f"{name} {onnx.TensorProto.DataType.Name(kind).lower()} {shape}"
        for (name, kind), shape in zip(kinds, shapes, strict=True)
    )
    raise InputError(
        f"{path} has inputs {', '.join(texts)} and {len(outputs)} outputs: expected images float [B, C, H, W], s float [B], "
        f"labels int64 [B] and one output; {MAKE_CONDITIONAL}"
    )


def read_graph(path: Path, *, role: str | None, sigma: float | None) -> GraphFile:
    """What an ONNX file says about itself, checked against `role` and `sigma`.

    A file without facts is a user's own: its shapes come from the graph, its role and σ from the caller.
    """
    stamps = {path.name: stamp(path)} if path.is_file() else {}
    model, sha256 = _load(path)
    inputs = _inputs(model)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    known = EngineFacts.from_json(texts[METADATA_KEY], str(path)) if METADATA_KEY in texts else None
    if (known.role if known else role) == "conditional":
        _check_conditional(path, inputs, model.graph.output)
    else:
        _check_one_batch(path, inputs, model.graph.output)
    shape, out = _dimensions(inputs[0]), _dimensions(model.graph.output[0])
    if known:
        facts = known
        if list(facts.input_shape) != shape[1:]:
            raise InputError(f"{path} says it takes {facts.input_shape}, its graph takes {shape[1:]}: export it again")
    else:
        if role is None:
            raise InputError(f"{path} carries no facts that say what it is: pass --role")
        if len(shape) != 4 or None in shape[1:]:
            raise InputError(
                f"{path} carries no facts and its input is {shape}: expected [B, C, H, W] with fixed C, H, W"
            )
        if role == "conditional":
            raise InputError(f"{path} carries no facts, so its classes are unknown: {MAKE_CONDITIONAL}")
        size = (int(shape[1] or 0), int(shape[2] or 0), int(shape[3] or 0))
        classes = out[-1] if role == "classifier" else None
        names = names_in_metadata(texts, classes) if classes else None
        facts = EngineFacts(
            role=role,
            input_shape=size,
            classes=classes,
            sigma=sigma if role == "denoiser" else None,
            details={"class_names": names} if names else {},
        )
        if role == "denoiser" and len(out) == 4 and None not in out[1:] and out[1:] != shape[1:]:
            returned = (int(out[1] or 0), int(out[2] or 0), int(out[3] or 0))
            facts = dataclasses.replace(facts, output_shape=returned)
    stamps |= {name: stamp(path.parent / name) for name in weights_files(path, model)}
    external = external_weights(path, model)
    recorded = facts.details.get("external_data")
    if recorded and external != {recorded["name"]: recorded["sha256"]}:
        raise InputError(
            f"{path} and its weights file {recorded['name']} are not from the same export: export it again"
        )
    shapes = {value.name: _named_dimensions(value) for value in inputs}
    return GraphFile(
        path, agreed(path, facts, role, sigma), shape[0] if shape else None, external, shapes, sha256, model, stamps
    )


def fixed_rows(path: Path) -> int | None:
    """The batch size that the ONNX file at `path` is fixed to, None where any will do; InputError for an unreadable file."""
    shapes = [_named_dimensions(value) for value in _inputs(_load(path)[0])]
    rows = next((shape[0] for shape in shapes if shape), None)
    return rows if isinstance(rows, int) and rows else None


def _remedy(role: str, expected: str) -> str:
    """What to do with a file of `role` where another is expected."""
    if expected == "conditional":
        return MAKE_CONDITIONAL
    if expected == "detector":
        return "make one with `diffsmooth-trt export detector`"
    if role == "conditional" and expected == "denoiser":
        return "export it with --sigma instead of --conditional"
    return "swap --engine and --classifier or export it again"


def agreed(path: Path, facts: EngineFacts, role: str | None, sigma: float | None) -> EngineFacts:
    """The facts of the engine file `path` with σ filled in; InputError unless they fit the `role` and `sigma` needed."""
    if role is not None and facts.role != role:
        raise InputError(
            f"{path} is a {NAMES.get(facts.role, facts.role)}, expected a {NAMES.get(role, role)}: "
            f"{_remedy(facts.role, role)}"
        )
    if facts.role == "denoiser":
        if facts.sigma is None and sigma is None:
            raise InputError(f"{path} does not say its noise level: pass --sigma")
        if facts.sigma is not None and sigma is not None and not math.isclose(facts.sigma, sigma, rel_tol=1e-9):
            raise InputError(
                f"{path} was exported for sigma {facts.sigma}, the run asks for {sigma}: export it for {sigma}"
            )
        facts = dataclasses.replace(facts, sigma=facts.sigma if facts.sigma is not None else sigma)
    elif facts.role != "detector" and (facts.classes is None or facts.classes < 2):
        remedy = MAKE_CONDITIONAL if facts.role == "conditional" else "its output must be [B, classes]"
        raise InputError(f"{path} does not say its number of classes: {remedy}")
    return facts
