"""Graphs that run with one batch size although they say they take any: a Reshape, an Expand or a Tile holds the number of images
they were traced with.

The number is found by running the graph. A Reshape of what depends on the images, whose shape begins with that number, gets 0 in
its place, "as many rows as there are"; an Expand of it gets 1, which keeps what is there. What does not depend on the images and is
expanded to that number of rows, like the class token of a vision transformer, is expanded to as many as there are images; so is a
constant of as many equal rows, to which exporters fold such an Expand. Whether the graph then still
keeps rows apart is proved like that of any other, and it is compared with the file as it came, in batches of that number.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ...errors import InputError
from .onnx import OnnxModule

LARGEST = 256  # rows that are tried
TRIED = (1, 3)  # a graph that runs with both runs with any
ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


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
    """Let every Reshape, Expand and joined constant that holds `rows` in front take as many rows as there are images, in place."""
    graph = model.graph
    opened = _Opened(graph, rows)
    moving = {id(value) for value in graph.inputs}
    for node in list(graph):
        moves = [value is not None and id(value) in moving for value in node.inputs]
        if node.op_type in ("Expand", "Tile") and not any(moves):
            opened.repeated(node)
            moving |= {id(value) for value in node.outputs}
            continue
        if not any(moves):
            continue
        moving |= {id(value) for value in node.outputs}
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # inferred anew: they were for that number
        if node.op_type in ("Concat", *ELEMENTWISE):
            opened.constants(node)
            continue
        shape = _shape(node)
        if shape is not None and len(shape) and shape[0] == rows and node.op_type != "Tile":
            kept = 0 if node.op_type == "Reshape" else 1
            node.replace_input_with(1, opened.constant(np.concatenate([[kept], shape[1:]]).astype(np.int64)))


class _Opened:
    """What is put into a graph of `rows` rows to make their number open."""

    def __init__(self, graph: ir.Graph, rows: int) -> None:
        self.graph, self.rows, self.made = graph, rows, 0
        self.first, self.images = graph[0], graph.inputs[0]
        self.count: ir.Value | None = None

    def _named(self, kind: str) -> str:
        self.made += 1
        return f"open_batch_{kind}_{self.made}"

    def constant(self, value: NDArray[np.generic]) -> ir.Value:
        """A constant of the graph."""
        name = self._named("value")
        made = ir.val(name, const_value=ir.tensor(value, name=name))
        self.graph.register_initializer(made)
        return made

    def _node(self, operator: str, inputs: list[ir.Value], before: ir.Node, **attributes: int) -> ir.Value:
        node = ir.node(operator, inputs, attributes=attributes, name=self._named(operator.lower()))
        node.outputs[0].name = node.name
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def _shape_of(self, rest: NDArray[np.int64], before: ir.Node) -> ir.Value:
        """The shape [number of images, *rest]."""
        if self.count is None:
            self.count = self._node("Shape", [self.images], self.first, start=0, end=1)
        return self._node("Concat", [self.count, self.constant(rest)], before, axis=0)

    def repeated(self, node: ir.Node) -> None:
        """Let an Expand or a Tile of what is the same for all images make as many rows as there are."""
        shape = _shape(node)
        if shape is not None and len(shape) and shape[0] == self.rows:
            node.replace_input_with(1, self._shape_of(shape[1:], node))
            node.outputs[0].shape = None

    def constants(self, node: ir.Node) -> None:
        """Let constants of equal rows that meet images' values have as many as these."""
        for place, value in enumerate(node.inputs):
            stored = None if value is None else value.const_value
            held = None if stored is None else stored.numpy()
            if held is None or held.ndim < 2 or len(held) != self.rows or not (held == held[:1]).all():
                continue
            row = self.constant(held[:1].copy())
            if node.op_type == "Concat":
                row = self._node("Expand", [row, self._shape_of(np.array(held.shape[1:], np.int64), node)], node)
            node.replace_input_with(place, row)


def _shape(node: ir.Node) -> NDArray[np.int64] | None:
    """What a node holds of shapes: an Expand's, a Tile's repeats, that of a Reshape in which 0 means "as it is"; else None."""
    zero = node.attributes.get("allowzero")
    if (
        node.op_type not in ("Reshape", "Expand", "Tile")
        or len(node.inputs) < 2
        or (zero is not None and zero.as_int())
    ):
        return None
    value = node.inputs[1]
    stored = None if value is None else value.const_value
    return None if stored is None else stored.numpy().reshape(-1)
