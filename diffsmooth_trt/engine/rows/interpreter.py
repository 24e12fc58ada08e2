"""A graph read node by node, with the batch size known: every tensor's shape, and where the rows of the batch lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from . import attention, constants, elementwise, layout, places, products, reductions, windows
from .constants import stored
from .nodes import RULES, Node, attribute_value
from .scan import FunctionKey, Unproved, described, domain_of, model_functions, operator_sets
from .values import LIMIT, Parts, Refused, Value, batched, constant, free

__all__ = [
    "Interpreter",
    "attention",
    "constants",
    "elementwise",
    "layout",
    "places",
    "products",
    "reductions",
    "windows",
]


def sizes_of(value: onnx.ValueInfoProto) -> list[int]:
    """The sizes that a file declares, 0 where it fixes none."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


STEPS = 100_000  # nodes that are read at most, those of functions and loops as often as they run
DEPTH = 40
FREED = {"Shape", "Size", "EyeLike", "CastLike"}  # what may depend on the shape or type of an input alone


@dataclass
class Scope:
    """The names of one graph or function; `outer` are those of the graph around it, `bound` the attributes of its function."""

    outer: Scope | None = None
    bound: Mapping[str, Any] | None = None
    values: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        """The value of a name here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None

    def define(self, name: str, value: Value) -> None:
        """Give `name` a value, once."""
        if self.find(name) is not None:
            raise Unproved(f"the name {name[:60]!r} is given twice")
        self.values[name] = value


class Interpreter:
    """Reads `model` for batches of `batch` rows; `folder` is where its weights' files lie."""

    def __init__(self, model: onnx.ModelProto, batch: int, folder: str) -> None:
        self.model, self.batch, self.folder = model, batch, folder
        self.declared = {size for value in model.graph.input[:1] for size in sizes_of(value)[:1]} <= {0, batch}
        self.functions: dict[FunctionKey, onnx.FunctionProto] = model_functions(model)
        self.versions = operator_sets(model.opset_import)
        self.steps = 0

    def run(self, inputs: Mapping[str, Value]) -> Value:
        """The graph's one output for `inputs` by name; Unproved, with node and reason, where it cannot be followed."""
        scope = Scope()
        for name, value in inputs.items():
            scope.define(name, value)
        (output,) = self._graph(self.model.graph, scope, 0)
        return output

    def _graph(self, graph: onnx.GraphProto, scope: Scope, depth: int) -> list[Value]:
        for tensor in graph.initializer:
            try:
                scope.define(tensor.name, stored(tensor, self.folder))
            except Refused as reason:
                raise Unproved(f"the stored tensor {tensor.name[:60]!r} {reason}") from None
        for sparse in graph.sparse_initializer:
            scope.define(sparse.values.name, free(sparse.dims))
        self._nodes(graph.node, scope, depth)
        self._check_declared([*graph.input, *graph.value_info, *graph.output], scope, names=not depth)
        return self._outputs([value.name for value in graph.output], scope)

    def _check_declared(self, values: Sequence[onnx.ValueInfoProto], scope: Scope, names: bool) -> None:
        """Unproved where the file declares another shape than a tensor has: some libraries compute with what it says.

        Sizes that are `names` have to be one size each. A file for another number of rows is not held to: what runs it so
        (OpenVINO) makes all shapes anew.
        """
        sizes: dict[str, int] = {}
        for value in values if self.declared else ():
            seen, shape = scope.values.get(value.name), value.type.tensor_type.shape
            if not isinstance(seen, Value) or not value.type.tensor_type.HasField("shape"):
                continue
            fits = len(shape.dim) == seen.rank and all(
                size in (0, real) for size, real in zip(sizes_of(value), seen.shape, strict=True)
            )
            for dim, real in zip(shape.dim, seen.shape, strict=False):
                fits = fits and (not names or not dim.dim_param or sizes.setdefault(dim.dim_param, real) == real)
            if not fits:
                given = [dim.dim_param or dim.dim_value for dim in shape.dim]
                raise Unproved(f"it declares {value.name[:60]!r} as {given}, which is {list(seen.shape)}")

    def _outputs(self, names: Sequence[str], scope: Scope) -> list[Value]:
        values = [scope.find(name) for name in names]
        if None in values:
            raise Unproved(f"nothing gives the output {names[values.index(None)][:60]!r}")
        return [value for value in values if value is not None]

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope, depth: int) -> None:
        for node in nodes:
            self.steps += 1
            try:
                if self.steps > STEPS or depth > DEPTH:
                    raise Refused("is one of too many")
                results = self._node(node, scope, depth)
                self._check(node, results)
            except Refused as reason:
                raise Unproved(f"{described(node)} {reason}") from None
            except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
                raise Unproved(f"{described(node)} is malformed ({' '.join(str(error).split())[:80]})") from None
            for name, value in zip(node.output, results, strict=True):
                if name:
                    scope.define(name, value)

    def _inputs(self, node: onnx.NodeProto, scope: Scope) -> list[Value | None]:
        values = []
        for name in node.input:
            value = scope.find(name) if name else None
            if name and value is None:
                raise Refused(f"takes {name[:60]!r}, which nothing before it gives")
            values.append(value)
        return values

    def _check(self, node: onnx.NodeProto, results: Sequence[Value]) -> None:
        """Refused for what no rule may give: rows lost or of another number, and lengths of 0 beside them."""
        if len(results) != len(node.output):
            raise Refused("gives more outputs than are followed")
        for value in results:
            if isinstance(value, Parts) or value.rows is None:
                continue
            if (
                value.shape[value.rows.axis] != self.batch * value.rows.count * value.rows.before
                or min(value.shape) < 1
            ):
                raise Refused(f"gives {list(value.shape)} of {self.batch} rows")

    def _node(self, node: onnx.NodeProto, scope: Scope, depth: int) -> Sequence[Value]:
        inputs = self._inputs(node, scope)
        attributes = {}
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                attributes[attribute.name] = attribute_value(attribute)
            elif scope.bound is None:  # libraries take the value that it may hold beside the name
                raise Refused(f"takes its {attribute.name[:60]} from a function, and is in none")
            elif attribute.ref_attr_name in scope.bound:
                attributes[attribute.name] = scope.bound[attribute.ref_attr_name]
        domain = domain_of(node.domain)
        function = self.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            return self._call(function, inputs, attributes, len(node.output), depth)
        if not domain and node.op_type == "If":
            return self._if(inputs, attributes, scope, depth)
        if not domain and node.op_type == "Loop":
            return self._loop(inputs, attributes, scope, depth)
        used = [bool(name) for name in node.output]
        version = self.versions[domain]
        seen = Node(node.op_type, domain, version, inputs, attributes, used, self.batch)
        if node.op_type != "SequenceAt" and any(isinstance(value, Parts) for value in inputs):
            raise Refused("takes a sequence in a form that is not followed")
        results = RULES[domain, node.op_type](seen)
        held = any(isinstance(value, Value) and value.rows is not None for value in inputs)
        lost = any(isinstance(value, Value) and value.rows is None for value in results)
        if held and lost and node.op_type not in FREED:  # whatever a rule says, rows do not vanish
            raise Refused("cannot be followed")
        return results

    def _call(
        self,
        function: onnx.FunctionProto,
        inputs: Sequence[Value | None],
        given: Mapping[str, Any],
        outputs: int,
        depth: int,
    ) -> list[Value]:
        """A model-local function, read where it stands."""
        if len(inputs) > len(function.input) or outputs > len(function.output):
            raise Refused("takes or gives more than its function")
        bound = {each.name: attribute_value(each) for each in function.attribute_proto}
        scope = Scope(bound={**bound, **given})
        missing: dict[str, Value | None] = dict(zip(function.input, inputs, strict=False))
        if len(set(function.input)) != len(function.input) or set(given) - set(bound) - set(function.attribute):
            raise Refused("does not fit its function")
        for name, value in missing.items():
            if value is not None:
                scope.define(name, value)
        self._nodes(self._without_missing(function, missing), scope, depth + 1)
        self._check_declared(function.value_info, scope, names=False)
        return self._outputs(list(function.output)[:outputs], scope)

    def _without_missing(
        self, function: onnx.FunctionProto, given: Mapping[str, Value | None]
    ) -> Sequence[onnx.NodeProto]:
        """The function's nodes; Refused where one uses an input that the call leaves out."""
        absent = {name for name in function.input if given.get(name) is None}
        if absent and any(absent & set(node.input) for node in function.node):
            raise Refused(f"leaves out the input {min(absent)} of its function")
        nodes: Sequence[onnx.NodeProto] = function.node
        return nodes

    def _if(
        self, inputs: Sequence[Value | None], attributes: Mapping[str, Any], scope: Scope, depth: int
    ) -> list[Value]:
        condition = inputs[0]
        if condition is None or condition.rows is not None:
            raise Refused("chooses a branch by the images of the batch")
        branches = [attributes["then_branch"], attributes["else_branch"]]
        if condition.value is not None and condition.size == 1:
            branches = [branches[0 if bool(condition.value.reshape(-1)[0]) else 1]]
        results = [self._graph(self._body(graph, 0), Scope(scope, scope.bound), depth + 1) for graph in branches]
        if len(results) == 1:
            return results[0]
        if len(results[0]) != len(results[1]):
            raise Refused("has branches of unlike outputs")
        return [_either(*pair) for pair in zip(*results, strict=True)]

    def _body(self, graph: onnx.GraphProto, inputs: int) -> onnx.GraphProto:
        if len(graph.input) != inputs:
            raise Refused(f"holds a graph of {len(graph.input)} inputs")
        return graph

    def _loop(
        self, inputs: Sequence[Value | None], attributes: Mapping[str, Any], scope: Scope, depth: int
    ) -> list[Value]:
        """Read as often as it runs, which has to be known."""
        body: onnx.GraphProto = attributes["body"]
        self._body(body, len(inputs))
        condition = inputs[1] if inputs[1] is not None else constant(np.array(True))
        trips = None if inputs[0] is None else _number(inputs[0])
        state = [value for value in inputs[2:] if value is not None]
        if len(state) != len(inputs) - 2:
            raise Refused("leaves out a value of its loop")
        rows: list[list[Value]] = []
        turn = 0
        while (trips is None or turn < trips) and _number(condition):
            inner = Scope(scope, scope.bound)
            given = [constant(np.array(turn, np.int64)), condition, *state]
            for declared, value in zip(body.input, given, strict=True):
                inner.define(declared.name, value)
            condition, *results = self._graph(body, inner, depth + 1)
            if inputs[1] is None and not _number(condition):  # ONNX goes on, ONNX Runtime ends
                raise Refused("ends by a condition that libraries treat in different ways")
            state, scanned = results[: len(state)], results[len(state) :]
            rows.append(scanned)
            turn += 1
            self.steps += 1
            if self.steps > STEPS:
                raise Refused("runs too often")
        if not rows and len(body.output) - 1 > len(state):
            raise Refused("gives rows of a loop that never runs")
        return [*state, *(_stacked(list(column)) for column in zip(*rows, strict=True))]


def _number(value: Value) -> int:
    if value.rows is not None:
        raise Refused("runs as often as the images of the batch say")
    if value.value is None or value.size != 1:
        raise Refused("runs a number of times that is not known before a run")
    return int(value.value.reshape(-1)[0])


def _either(one: Value, other: Value) -> Value:
    """What either branch gives; Refused unless rows lie in the same places."""
    if one.shape != other.shape:
        raise Refused("has branches of unlike shapes")
    if one.rows == other.rows:
        return free(one.shape) if one.rows is None else one
    raise Refused("has branches with rows in unlike places")


def _stacked(parts: list[Value]) -> Value:
    """Values of one shape along a new first axis."""
    if len({part.shape for part in parts}) > 1 or len({part.rows for part in parts}) > 1:
        raise Refused("gives rows of unlike shapes")
    shape, rows = (len(parts), *parts[0].shape), parts[0].rows
    if rows is not None:
        return batched(shape, rows.at(rows.axis + 1))
    data = [part.value for part in parts if part.value is not None]
    result = free(shape)
    return replace(result, value=np.stack(data)) if len(data) == len(parts) and result.size <= LIMIT else result
