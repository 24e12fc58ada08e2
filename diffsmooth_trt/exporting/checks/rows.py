"""The proof that rows are independent, for a torch program that is compiled without ever being an ONNX file.

The very program that goes to the compiler is translated to ONNX in memory, by torch's exporter, and its translation is proved
(engine/rows); that it means the same is assumed of the exporter. What such a translation would not show is looked at in the
program itself: state that a run leaves behind, operators that draw random numbers, and layers in training mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch

from ...engine.rows import Unproved, prove
from ...errors import InputError
from ..writers.onnx import OPSET, quiet

KEPT = 4096  # bytes of a stored tensor that are handed over; of larger ones only the shape is
TRAINING = ("training", "train", "dropout_p")  # arguments without which an operator does what it does in inference


def _hidden(program: torch.export.ExportedProgram) -> Iterator[str]:
    """What makes a program's output depend on more than its inputs, and which its translation might not say."""
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = {**signature.buffers_to_mutate, **signature.user_inputs_to_mutate}
        yield f"it changes {next(iter(changed.values()))} in every run"
    for node in program.graph.nodes:
        target = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
            continue
        training = [
            node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
            for place, argument in enumerate(target._schema.arguments)
            if argument.name in TRAINING
        ]
        if training and not any(training):
            continue
        if torch.Tag.nondeterministic_seeded in target.tags:
            yield f"{node.name} ({target}) draws random numbers"
        if training:
            yield f"{node.name} ({target}) is in training mode"


def _translated(program: torch.export.ExportedProgram) -> Any:
    """The program as an ONNX message that shares no large weight with it and copies none; None where torch cannot."""
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    except torch.onnx.OnnxExporterError:
        return None
    if made is None:
        return None
    model: ir.Model = made.model
    for name, value in model.graph.initializers.items():
        stored = value.const_value
        if stored is not None and stored.nbytes > KEPT:
            shape = ir.Shape(list(stored.shape.numpy()))
            value.const_value = ir.ExternalTensor("weights", 0, stored.nbytes, stored.dtype, shape=shape, name=name)
    return ir.to_proto(model)


def prove_program(
    program: torch.export.ExportedProgram, shapes: list[tuple[int, ...]], name: str
) -> dict[str, Any] | None:
    """The proof for a record of what is compiled from `program`, whose inputs have these shapes.

    None where torch has no translation. `name` is the file's in errors. Raises InputError, with node and reason, where rows
    are coupled, random or cannot be followed.
    """
    with quiet():  # torch warns of its own old names
        reason = next(_hidden(program), None) or next(_hidden(program.run_decompositions({})), None)
    model = None if reason else _translated(program)
    if model is not None:
        inputs = {value.name: shape for value, shape in zip(model.graph.input, shapes, strict=True)}
        try:
            proof = prove(model, inputs).recorded()
            return {**proof, "graph": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()}
        except Unproved as error:
            reason = str(error)
    if reason is None:
        return None
    raise InputError(
        f"{name} is not proved to keep the {shapes[0][0]} rows of a batch apart: {reason}; nothing was written, take that out of "
        "the network"
    )
