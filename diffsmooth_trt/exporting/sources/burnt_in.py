"""Graphs that run with one batch size although they say they take any: a Reshape holds the number of images they were traced with.

The number is found by running the graph. A Reshape of what depends on the images, whose shape begins with that number, gets 0 in
its place, "as many rows as there are". Whether the graph then still keeps rows apart is proved like that of any other, and it is
compared with the file as it came, in batches of that number.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from ...errors import InputError
from .onnx import OnnxModule

LARGEST = 256  # rows that are tried
TRIED = (1, 3)  # a graph that runs with both runs with any


def burnt_rows(own: OnnxModule, model: ir.Model, size: int) -> int | None:
    """The only number of rows with which the graph runs, None where it runs with any; InputError where it runs with none."""

    def runs(rows: int) -> InputError | None:
        try:
            own(torch.full((rows, 3, size, size), 0.5))
        except InputError as error:
            return error
        return None

    failures = [error for rows in TRIED if (error := runs(rows)) is not None]
    if not failures:
        return None
    held = {int(size) for node in model.graph if (shape := _shape(node)) is not None for size in shape}
    for rows in sorted(held | set(range(1, 9))):
        if 1 <= rows <= LARGEST and runs(rows) is None:
            return rows
    raise failures[0]


def open_batch(model: ir.Model, rows: int) -> None:
    """Let every Reshape that holds `rows` in front take as many rows as it is given, in place."""
    graph = model.graph
    moving = {id(value) for value in graph.inputs}
    for number, node in enumerate(list(graph)):
        if not any(id(value) in moving for value in node.inputs if value is not None):
            continue
        moving |= {id(value) for value in node.outputs}
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # inferred anew: they were for that number
        shape = _shape(node)
        if shape is None or not len(shape) or shape[0] != rows:
            continue
        name = f"open_batch_{number}"
        constant = ir.val(name, const_value=ir.tensor(np.concatenate([[0], shape[1:]]).astype(np.int64), name=name))
        graph.register_initializer(constant)
        node.replace_input_with(1, constant)


def _shape(node: ir.Node) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """The constant shape of a Reshape in which 0 means "as it is"; None for any other node."""
    zero = node.attributes.get("allowzero")
    if node.op_type != "Reshape" or len(node.inputs) < 2 or (zero is not None and zero.as_int()):
        return None
    value = node.inputs[1]
    stored = None if value is None else value.const_value
    return None if stored is None else stored.numpy().reshape(-1)
