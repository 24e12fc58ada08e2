"""Which precisions an export can have, what stays in fp32 in each, and the conversion to half precision.

Inputs and outputs are float32 in every one. fp16 is made by onnxconverter-common, bf16 by NVIDIA ModelOpt's AutoCast (the
one of the two that knows it); both are told the nodes to keep in fp32, which are found here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from ...errors import EngineError, InputError
from ...ranges import flag
from .onnx_kept import constants_of, rejoin

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTISED = ("int8", "fp8")
QUANTISE_FOR = ("cpu", "gpu")
PACKAGES = {
    "fp16": ("onnxconverter_common",),
    "bf16": ("modelopt", "onnx_graphsurgeon", "openvino"),
}
VERIFY_SAMPLES = 2000
INLINE_BYTES = 1_800_000_000  # of weights; protobuf messages end at 2 GiB, beyond it they go to a file of their own

Source = str | PathLike[str]
Node = onnx.NodeProto

MULTIPLYING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Softmax and the normalisations that are one node; Resize and the like stay, for backends lack their half-precision kernels.
KEPT_OPS = ("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization")
_CARRYING = frozenset({"Mul", "Sub", "Add", "Div", "Pow", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Expand"})
_FINAL = frozenset({"Clip", "Min", "Max", "Add", "Sub", "Mul"})


@dataclass(frozen=True)
class Request:
    """The precision that an export was asked for, and what calibrates and verifies it; see `export_denoiser`."""

    precision: str = "fp32"
    calibration_data: Source | None = None
    verify_data: Source | None = None
    verify_classifier: Source | None = None
    verify_denoiser: Source | None = None
    verify_samples: int = VERIFY_SAMPLES
    quantise_for: str | None = None

    @property
    def symmetric(self) -> bool:
        """Whether quantisation takes the form that GPUs multiply (onnx_symmetric.py)."""
        return self.precision == "fp8" or (self.precision == "int8" and self.quantise_for == "gpu")

    def paths(self) -> dict[str, Source | None]:
        """The files and folders of the request by option."""
        names = ("calibration_data", "verify_data", "verify_classifier", "verify_denoiser")
        return {flag(name): getattr(self, name) for name in names}

    def check(self, store_fp16: bool = False, tools: bool = True) -> None:
        """InputError for what cannot be, missing `tools` of graphs in the precision included: before the checkpoint is read."""
        known, precision = ", ".join(PRECISIONS), self.precision
        if precision == "dynamic" or (precision not in PRECISIONS and "dyn" in precision):
            raise InputError(
                f"--precision {precision!r}: dynamic quantisation couples the rows of a batch: use int8, which is static"
            )
        if precision not in PRECISIONS:
            raise InputError(f"--precision {precision!r} is not available for exports: use one of {known}")
        if store_fp16 and precision != "fp32":
            raise InputError(f"--fp16-weights goes with --precision fp32, got {precision}: leave one of them out")
        if precision in QUANTISED and self.calibration_data is None:
            raise InputError(
                f"--calibration-data is missing: --precision {precision} needs images like those to be certified"
            )
        if precision not in QUANTISED and self.calibration_data is not None:
            raise InputError(f"--calibration-data is for {' and '.join(QUANTISED)}, got --precision {precision}")
        if self.quantise_for not in (None, *QUANTISE_FOR):
            raise InputError(f"--quantise-for must be {' or '.join(QUANTISE_FOR)}, got {self.quantise_for!r}")
        if self.quantise_for is not None and precision != "int8":
            raise InputError(f"--quantise-for is for --precision int8, got --precision {precision}: leave it out")
        if self.verify_samples < 1:
            raise InputError(f"--verify-samples must be at least 1, got {self.verify_samples}")
        for option, path in self.paths().items():
            if path is not None and not Path(path).exists():
                raise InputError(f"{option} {path} does not exist: give an existing file or folder")
        for package in PACKAGES.get(precision, ()) if tools else ():
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"--precision {precision} needs {package}, which is not installed: "
                    'pip install "diffsmooth-trt[cpu,export,quantize]"'
                )


@contextlib.contextmanager
def quiet_tools() -> Iterator[None]:
    """Keep what conversion tools log, print and warn from the terminal; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Links:
    """Who makes and who takes each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.constants = {tensor.name for tensor in graph.initializer}
        self.makers: dict[str, Node] = {name: node for node in self.nodes for name in node.output}
        self.takers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def above(self, node: Node) -> Iterator[Node]:
        """The nodes that `node` takes values from."""
        return (self.makers[name] for name in node.input if name in self.makers)

    def below(self, node: Node) -> Iterator[Node]:
        """The nodes that take values from `node`."""
        return (taker for name in node.output for taker in self.takers.get(name, ()))


def _reach(start: Iterable[Node], step: Callable[[Node], Iterable[Node]], through: Iterable[str]) -> set[str]:
    """Names of `start` and of all that `step` reaches from there by way of operators in `through`."""
    allowed, stack = frozenset(through), list(start)
    reached: set[str] = set()
    while stack:
        node = stack.pop()
        if node.name not in reached:
            reached.add(node.name)
            stack += [other for other in step(node) if other.op_type in allowed]
    return reached


def _norms(links: Links) -> set[str]:
    """Normalisations written out: what lies between a mean and the root it ends in, and the affine after it."""
    roots = [node for node in links.nodes if node.op_type in ("Sqrt", "Reciprocal")]
    means = [node for node in links.nodes if node.op_type == "ReduceMean"]
    through = _CARRYING | {"ReduceMean", "Sqrt", "Reciprocal"}
    inner = _reach(means, links.below, through) & _reach(roots, links.above, through)
    tail = [node for node in roots if node.name in inner]
    for ops in (("Mul", "Div"), ("Mul", "Add"), ("Add",)):  # · weight/root, · centred values, + bias
        tail = [taker for node in tail for taker in links.below(node) if taker.op_type in {*ops, "Reciprocal"}]
        inner |= {node.name for node in tail}
    return inner


def resizes(links: Links) -> list[tuple[Node, Node]]:
    """The two products of every resize, rows and columns: a constant times images, times a constant (graph/resize.py)."""
    pairs = []
    for node in links.nodes:
        if node.op_type == "MatMul" and node.input[1] in links.constants:
            before = links.makers.get(node.input[0])
            if before is not None and before.op_type == "MatMul" and before.input[0] in links.constants:
                pairs.append((before, node))
    return pairs


def kept_in_fp32(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """The names of the nodes that half-precision graphs compute in fp32, by reason.

    Statistics and affine of normalisations; softmax; resizes; the last multiply-adds and clamp before the output or the resize that
    makes it; what a conditional denoiser computes from its noise levels alone, and the step at its end. Works on any graph whose
    nodes have names of their own.
    """
    links = Links(graph)
    output = {value.name for value in graph.output}
    resized = resizes(links)
    output |= {rows.input[1] for rows, columns in resized if set(columns.output) & output}
    last = [node for node in links.nodes if set(node.output) & output and node.op_type in _FINAL]
    # Without images: the noise levels' part of the last step belongs to the levels.
    levels = {value.name for value in graph.input if value.name == "s"}
    alone: list[str] = []
    for node in links.nodes if levels else ():
        given = {name for name in node.input if name and name not in links.constants}
        if given and given <= levels and node.op_type not in MULTIPLYING:
            levels |= set(node.output)
            alone.append(node.name)
    by_reason = {
        "normalisation": _norms(links) | {n.name for n in links.nodes if "Normalization" in n.op_type},
        "softmax": {node.name for node in links.nodes if node.op_type in ("Softmax", "LogSoftmax")},
        "final step": _reach(last, links.above, _FINAL),
        "resize": {node.name for pair in resized for node in pair},
        "noise level": set(alone),
    }
    return {
        reason: [node.name for node in links.nodes if node.name in names]
        for reason, names in by_reason.items()
        if names
    }


def to_half(source: Path, target: Path, precision: str, loud: Collection[str] = ()) -> dict[str, int]:
    """Write the fp32 graph in `source` to `target` in "fp16" or "bf16"; returns how many nodes stayed in fp32, by reason.

    Besides those of `kept_in_fp32` the nodes `loud` stay, whose values are beyond the precision's range.

    Raises InputError where weights are beyond the precision's range, EngineError where the tool gives up.
    """
    model = onnx.load(str(source))
    kept = kept_in_fp32(model.graph) | ({"range": list(loud)} if loud else {})
    names = [name for nodes in kept.values() for name in nodes]
    constants = constants_of(model.graph, names)
    try:
        with quiet_tools():  # they warn of weights below half precision's range, which become its least number
            if precision == "fp16":
                from onnxconverter_common import float16

                blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *KEPT_OPS]
                # The types of all values are in the file: inferring them again would copy the weights.
                model = float16.convert_float_to_float16(
                    model, keep_io_types=True, disable_shape_infer=True, op_block_list=blocked, node_block_list=names,
                    max_finite_val=65504.0,
                )  # fmt: skip
                _restore_outputs(model.graph)
            else:
                model = _autocast(source, names)
    except Exception as error:  # the tools raise whatever comes
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"the graph could not be converted to {precision}: {reason}") from error
    rejoin(model.graph, constants)
    onnx.save(model, str(target), **external(model, target))
    return {reason: len(nodes) for reason, nodes in kept.items()}


def _restore_outputs(graph: onnx.GraphProto) -> None:
    """Make outputs float32 again: onnxconverter-common 1.16 casts them down where the node that makes them was kept."""
    makers = {name: node for node in graph.node for name in node.output}
    for value in graph.output:
        cast = makers[value.name]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 and cast.op_type == "Cast":
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            kept = makers[cast.input[0]]
            kept.output[list(kept.output).index(cast.input[0])] = value.name
            graph.node.remove(cast)


def _autocast(source: Path, names: list[str]) -> onnx.ModelProto:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    excluded = [f"^{re.escape(name)}$" for name in names]
    kept = [*KEPT_OPS, "ConvTranspose"]  # TensorRT for RTX 1.7 has none in bf16; ours only resample
    converted: onnx.ModelProto = convert_to_mixed_precision(
        str(source), "bf16", nodes_to_exclude=excluded, op_types_to_exclude=kept, keep_io_types=True
    )
    return converted


def external(model: onnx.ModelProto, target: Path) -> dict[str, Any]:
    """How `onnx.save` is to write a model: large weights into a file of their own."""
    if model.ByteSize() <= INLINE_BYTES:
        return {}
    return {"save_as_external_data": True, "location": f"{target.stem}.data"}
