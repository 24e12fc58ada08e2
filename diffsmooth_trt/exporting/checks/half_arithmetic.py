"""Graphs in half precision, in the arithmetic that they are meant for, which no backend of CPUs computes in.

ONNX Runtime computes such a graph in float32 and OpenVINO in float32 or bfloat16: values beyond 65504 pass, and on a GPU become
infinite. Here a graph is written anew in float32, with every value that is half precision there cast to it and back, which is what
GPUs do that multiply in half precision and sum in float32. And how far each value reaches is measured before it is rounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from ...engine.logs import session_options
from ...errors import InputError, shortened

LARGEST = {"fp16": 65504.0, "bf16": 3.3895313892515355e38}
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
HEADROOM = 2.0  # other images reach further than those that are looked at
RANGE_SAMPLES = 64
_HALF = frozenset(TYPES.values())
_FLOATS = _HALF | {TensorProto.FLOAT}
_END = "_reaches"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value; of those that inference does not know, the type of what they are made of."""
    graph = shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    for node in model.graph.node:
        made_of = [kind for name in node.input if (kind := types.get(name)) in _FLOATS]
        for name in node.output:
            if not types.get(name) and made_of:
                types[name] = made_of[0]
    return types


def simulated(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph of `model` in float32, each of its values in `precision` rounded to it after the operator that makes it."""
    return _rewritten(model, rounded=TYPES[precision])[0]


def _rewritten(
    model: onnx.ModelProto, rounded: int | None = None, measured: bool = False
) -> tuple[onnx.ModelProto, list[str]]:
    """`model` in float32, its halves rounded to `rounded`; where `measured`, how far values reach, as further outputs.

    Measured are the values that are half precision in `model`, all of them where none is, before they are rounded.
    """
    types = _types(model)
    any_half = any(kind in _HALF for kind in types.values())
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph, nodes, watched = wide.graph, [], []
    del graph.node[:], graph.value_info[:]

    def cast(given: str, made: str, kind: int) -> None:
        nodes.append(helper.make_node("Cast", [given], [made], to=kind))

    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _HALF}
    for tensor in graph.initializer:
        if tensor.name in halves:  # cast where it is used: its data may lie in another file
            cast(f"{tensor.name}_stored", tensor.name, TensorProto.FLOAT)
            tensor.name = f"{tensor.name}_stored"
    for node in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        nodes.append(copied)
        for place, name in enumerate(node.output):
            kind = types.get(name)
            if kind in _HALF:
                copied.output[place] = raw = f"{name}_unrounded"
                if node.op_type == "Cast":
                    copied.attribute[0].i = TensorProto.FLOAT
                if rounded is not None:
                    cast(raw, f"{name}_half", rounded)
                cast(raw if rounded is None else f"{name}_half", name, TensorProto.FLOAT)
            if measured and name and (kind in _HALF if any_half else kind == TensorProto.FLOAT):
                watched.append(name)
                size = f"{name}_size"
                nodes += [
                    helper.make_node("Abs", [name], [size]),
                    helper.make_node("ReduceMax", [size], [name + _END], keepdims=0),
                ]
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name + _END, TensorProto.FLOAT, []) for name in watched)
    return wide, watched


def reach(path: Path, batches: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, float]:
    """The largest absolute value of every value in the graph at `path` over `batches`, by name.

    Of a graph that is half precision in places, of the values there, as they are before they are rounded. Infinite ones, which
    masks are made with, and NaN are passed over: half precision has both, and comparisons find where they should not be.
    """
    model, watched = _rewritten(onnx.load(str(path), load_external_data=False), measured=True)
    looked_at = path.with_name(f"reach-{path.name}")
    onnx.save(model, str(looked_at))
    largest = dict.fromkeys(watched, 0.0)
    options = session_options(onnxruntime)
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(str(looked_at), options, providers=["CPUExecutionProvider"])
        for given in batches:
            values = session.run([name + _END for name in watched], dict(given))
            for name, value in zip(watched, values, strict=True):
                largest[name] = max(largest[name], float(value) if math.isfinite(value) else 0.0)
    except Exception as error:  # ONNX Runtime's own family
        raise InputError(f"how far values of the graph reach cannot be measured ({shortened(error, 300)})") from error
    finally:
        looked_at.unlink(missing_ok=True)
    return largest


@dataclass(frozen=True)
class Loud:
    """Values beyond what a precision holds: `values` by name with how far they reach, and the `nodes` that make and take them."""

    values: dict[str, float]
    nodes: tuple[str, ...]

    def recorded(self) -> dict[str, float]:
        """For the facts, to three digits."""
        return {name: float(f"{size:.3g}") for name, size in self.values.items()}


def loud(path: Path, precision: str, sizes: Mapping[str, float], kept: frozenset[str]) -> Loud:
    """What in the float32 graph at `path` is too large for `precision`, `kept` being the nodes that stay in float32 anyway.

    Activations as `sizes` has them, with `HEADROOM`, and weights. Nodes are named as the graph names them.
    """
    graph = onnx.load(str(path)).graph
    most = LARGEST[precision]
    values = {name: size for name, size in sizes.items() if size > most / HEADROOM}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            weights = onnx.numpy_helper.to_array(tensor, str(path.parent))
            size = float(np.abs(weights, where=np.isfinite(weights), out=np.zeros_like(weights)).max(initial=0.0))
            if size > most:
                values[tensor.name] = size
    nodes: dict[str, None] = {}
    touching: dict[str, list[str]] = defaultdict(list)
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name in values and node.name not in kept:
                nodes[node.name] = None
                touching[name].append(node.name)
    return Loud({name: size for name, size in values.items() if name in touching}, tuple(nodes))


def check_reach(path: Path, name: str, precision: str, sizes: Mapping[str, float]) -> None:
    """InputError, which calls the file `name`, where a value of a graph in `precision` reaches further than that goes."""
    beyond = {value: size for value, size in sizes.items() if size > LARGEST[precision]}
    if beyond:
        graph = onnx.load(str(path), load_external_data=False).graph
        makers = {made: node for node in graph.node for made in node.output}
        first = next(iter(beyond))
        node = makers[first]
        raise InputError(
            f"{name}: {node.op_type} {node.name or first} reaches {beyond[first]:.3g} on noisy images, where {precision} ends "
            f"at {LARGEST[precision]:.6g} ({len(beyond)} values do): export it in bf16 or fp32"
        )
