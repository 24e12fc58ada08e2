"""What can be refused from the names in a file alone: names given twice, unknown operators and domains, random numbers, state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import onnx

from .nodes import MICROSOFT, RULES
from .values import Refused

STANDARD = ("", "ai.onnx")
OLDEST = 7
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
BRANCHES = {"If", "Loop"}
OWNED = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten", "org.openvinotoolkit")  # domains of the libraries
EXTENDED = {  # attributes of com.microsoft's operators that change no row's part in another
    *("alpha", "axis", "epsilon", "activation", "activation_params", "transA", "transB", "transBatchA", "transBatchB"),
    *(
        "num_heads",
        "unidirectional",
        "scale",
        "mask_filter_value",
        "do_rotary",
        "qkv_hidden_sizes",
        "groups",
        "channels_last",
    ),
    *("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "stash_type"),
}
FunctionKey = tuple[str, str, str]
_KINDS = onnx.AttributeProto.AttributeType
VALUE_FIELDS = {  # where an attribute of a type has its value
    **{_KINDS.Value(name): name[0].lower() for name in ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH")},
    **{_KINDS.Value(f"{name}S"): f"{name.lower()}s" for name in ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH")},
    _KINDS.Value("SPARSE_TENSOR"): "sparse_tensor",
}


class Unproved(Exception):
    """Why a graph is refused: the node and the reason, in one line."""


def described(node: onnx.NodeProto) -> str:
    """How a node is named in errors."""
    name = node.name or next((output for output in node.output if output), "")
    return f"node {name[:60]!r} ({'' if node.domain in STANDARD else node.domain + ' '}{node.op_type})"


def domain_of(name: str) -> str:
    """The domain by its one name."""
    return "" if name in STANDARD else name


def operator_sets(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """The version of each domain; Unproved where one has two."""
    versions: dict[str, int] = {}
    for entry in entries:
        domain = domain_of(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise Unproved(f"it names operator set {entry.domain or 'ai.onnx'} in two versions")
    return versions


@cache
def _operators() -> frozenset[str]:
    return frozenset({schema.name for schema in onnx.defs.get_all_schemas()} | {name for _, name in RULES} | BRANCHES)


def _is_operator(name: str) -> bool:
    """Whether a library might take a function of this name for an operator of its own: TensorRT looks at names alone."""
    return name in _operators() or any(part in name.lower() for part in ("trt", "plugin"))


def model_functions(model: onnx.ModelProto) -> dict[FunctionKey, onnx.FunctionProto]:
    """The model's own functions by domain, name and overload."""
    functions: dict[FunctionKey, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (domain_of(function.domain), function.name, function.overload)
        if key[0].startswith(OWNED) or not key[0] or _is_operator(function.name):
            owner = function.domain or "ai.onnx"
            raise Unproved(f"its function {function.name} of {owner} may be taken for an operator of that name")
        if any(key[:2] == other[:2] for other in functions):  # not every library looks at overloads
            raise Unproved(f"it has two functions {function.domain}.{function.name}")
        functions[key] = function
    return functions


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _check_values(node: onnx.NodeProto) -> None:
    """Refused for an attribute that holds another value than that of its type, or one beside the name of a function's."""
    for attribute in node.attribute:
        held = {field.name for field, _ in attribute.ListFields()} - {"name", "type", "ref_attr_name", "doc_string"}
        if held - ({VALUE_FIELDS.get(attribute.type)} if not attribute.ref_attr_name else set()):
            raise Refused(f"holds more than one value of {attribute.name[:60]}")


def _check_attributes(node: onnx.NodeProto, version: int) -> None:
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) != len(names):
        raise Refused("has an attribute twice")
    if node.domain not in STANDARD:
        unknown = set(names) - EXTENDED
        if unknown:
            raise Refused(f"has an unknown attribute {min(unknown)}")
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        raise Refused(f"is not in operator set {version}") from None
    if schema.deprecated:
        raise Refused(f"is no longer in operator set {version}")
    unknown = set(names) - set(schema.attributes)
    if unknown:
        raise Refused(f"has an unknown attribute {min(unknown)}")
    if not (schema.min_input <= len(node.input) <= schema.max_input and len(node.output) <= schema.max_output):
        raise Refused(f"has {len(node.input)} inputs and {len(node.output)} outputs")


def _check_node(
    node: onnx.NodeProto, versions: dict[str, int], functions: dict[FunctionKey, onnx.FunctionProto]
) -> None:
    domain = domain_of(node.domain)
    if not any(node.output):
        raise Refused("has no output")
    _check_values(node)
    if (domain, node.op_type, node.overload) in functions:
        return
    if node.op_type in RANDOM:
        raise Refused("draws random numbers")
    if domain not in ("", MICROSOFT):
        raise Refused(f"is of an unknown domain {node.domain}")
    if node.overload or not ((domain, node.op_type) in RULES or (not domain and node.op_type in BRANCHES)):
        raise Refused("is not known to keep rows apart")
    if domain not in versions:
        raise Refused(f"is of a domain {node.domain or 'ai.onnx'} whose version the file does not name")
    _check_attributes(node, versions[domain])


def check_nodes(
    nodes: Sequence[onnx.NodeProto],
    versions: dict[str, int],
    functions: dict[FunctionKey, onnx.FunctionProto],
    depth: int = 0,
) -> None:
    """Unproved for a node, here or in a sub-graph, whose operator is not followed, is random or keeps state."""
    if not OLDEST <= versions.get("", OLDEST) <= onnx.defs.onnx_opset_version():
        raise Unproved(
            f"it is of operator set {versions['']}, {OLDEST} to {onnx.defs.onnx_opset_version()} are followed"
        )
    for node in nodes:
        try:
            _check_node(node, versions, functions)
            if depth > 20:
                raise Refused("holds too many graphs in one another")
        except Refused as reason:
            raise Unproved(f"{described(node)} {reason}") from None
        for graph in subgraphs(node):
            check_nodes(graph.node, versions, functions, depth + 1)


def check_model(model: onnx.ModelProto) -> None:
    """Unproved where the model's names alone say that it cannot be followed; what is left holds known operators only."""
    versions = operator_sets(model.opset_import)
    functions = model_functions(model)
    if len(model.training_info):
        raise Unproved("it holds what a training step changes")
    check_nodes(model.graph.node, versions, functions)
    for function in functions.values():
        own = operator_sets(function.opset_import)
        if own.get("", versions.get("")) != versions.get(""):
            raise Unproved(f"its function {function.name} is of another operator set than the model")
        check_nodes(function.node, {**versions, **own}, functions)
