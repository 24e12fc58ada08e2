"""The proof that a network treats every row of a batch alike and by itself, read from its ONNX graph.

**What is proved.** For the number of rows B that the graph is run with, there is one function F such that output row b is
F(row b of every input) for b = 0…B−1: the same F at every place, and no other row, no random number, no state and no earlier
run goes into it. This is by the meaning that ONNX gives to the operators. That a library computes this meaning, and gives a
row the same last digits at every place, is not a property of the file: the probe (engine/base.py) tries it at opening.

**How.** The graph is read once from its inputs to its output with all shapes known. A tensor is either *free* of the inputs, or
it holds the *rows*: along one axis of length B·k, row b's part is places b·k to (b+1)·k, and that part is one function of row
b, the same for every b. Each operator has a rule that says when its result is again of one of these kinds; the inputs are
(k = 1, axis 0), the output has to be, and induction over the nodes is the proof. A constant that meets the batch axis with a
length other than 1 has to be the same for all rows, which is looked up in it or follows from how it was expanded. What is
computed from shapes and constants is computed here too, as far as its arithmetic is exact (folding.py). Functions of the
model, both branches of an If (or the one that is taken) and the turns of a Loop are read where they stand.

**What is refused.** Everything else, by node and reason: an operator, domain, form or shape without a rule, a branch or a shape
that depends on images, names given twice. Shapes that a file declares are not believed. Only names, shapes and few small
constants are read: no copy of the weights is made.

With B = 1 there is no other row, and what is proved is that one row's output is a function of it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from .interpreter import Interpreter
from .scan import Unproved, check_model
from .values import Refused, Rows, Value, batched, free, repeats

__all__ = ["VERSION", "Proof", "Unproved", "prove"]

VERSION = 2  # of the rules; a record says by which it was proved


@dataclass(frozen=True)
class Proof:
    """That the rows of a graph are independent: by which `version` of the rules, for how many `rows`, over how many `nodes`."""

    version: int
    rows: int
    nodes: int

    def recorded(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def prove(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]], folder: str = "") -> Proof:
    """The proof for a model whose `inputs`, by name, have these shapes, all with one number of rows in front.

    `folder` is where the model's file lies, for small constants beside it. Raises Unproved, with node and reason, where the
    rows are coupled, random, or cannot be followed.
    """
    (batch,) = {shape[0] for shape in inputs.values()}
    check_model(model)
    declared = {value.name: value for value in model.graph.input}
    for name, shape in inputs.items():
        _check_declared(declared[name], shape)
    given = {name: free(shape) if batch == 1 else batched(shape, Rows(0, 1)) for name, shape in inputs.items()}
    reader = Interpreter(model, batch, folder)
    if len(model.graph.output) != 1:
        raise Unproved(f"it has {len(model.graph.output)} outputs")
    _check_output(reader.run(given), batch)
    return Proof(VERSION, batch, reader.steps)


def _check_declared(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Unproved where the file fixes another size of an input than it is run with."""
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    tail = zip(sizes[1:], shape[1:], strict=False)  # the number of rows is the engine's to check: OpenVINO changes it
    if len(sizes) != len(shape) or any(fixed not in (0, size) for fixed, size in tail):
        raise Unproved(f"its input {value.name[:60]!r} is {sizes}, it would be run with {list(shape)}")


def _check_output(output: Value, batch: int) -> None:
    if not isinstance(output, Value) or not output.rank or output.shape[0] != batch:
        raise Unproved(
            f"its output is {list(getattr(output, 'shape', ()))} for {batch} rows: the batch is not in front"
        )
    if batch == 1 or output.rows == Rows(0, 1):
        return
    if output.rows is not None:
        raise Unproved("its output has the batch on another axis")
    try:
        constant = repeats(output, 0, 1)
    except (Refused, ValueError):
        constant = False
    if not constant:
        raise Unproved("its output does not depend on the images and differs between the places of the batch")
