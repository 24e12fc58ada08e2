"""ONNX → TensorRT plan, strongly typed. Imported only where TensorRT is installed. Not yet run on a GPU.

Holds for TensorRT 10 and 11: precision is that of the graph's own types and Q/DQ nodes, so of the builder's flags only TF32
bears on it. tests/engine/test_tensorrt_api.py holds every name and keyword here to the published bindings of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...device.nvidia import import_tensorrt
from ...engine.backends.tensorrt import Log
from ...engine.backends.tensorrt_refit import parser_errors
from ...errors import EngineError, InputError
from .tensorrt_settings import PlanSettings

if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = import_tensorrt()

VERSION = str(trt.__version__)
ALWAYS_STRONG = 11  # the first major version in which networks have no other typing


def network_flags() -> int:
    """The flags of a strongly typed network in this TensorRT."""
    if int(VERSION.split(".")[0]) >= ALWAYS_STRONG:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(builder: trt.Builder, log: Log, onnx: Path) -> trt.INetworkDefinition:
    network = builder.create_network(network_flags())
    if network is None:
        raise EngineError(f"TensorRT {VERSION} made no network ({log.last}): look at the driver with nvidia-smi")
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise InputError(
            f"TensorRT {VERSION} cannot read {onnx}: {parser_errors(parser)}; export it for this precision again, or take "
            "another TensorRT"
        )
    return network


def _fix_shapes(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    shapes: Mapping[str, Sequence[int]],
) -> None:
    """min = opt = max for every input: the one size that ever runs."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = shapes.get(tensor.name)
        if shape is None or any(have not in (-1, want) for have, want in zip(tensor.shape, shape, strict=True)):
            raise InputError(
                f"input {tensor.name} is {tuple(tensor.shape)}, expected {shape}: export the ONNX file again"
            )
        profile.set_shape(tensor.name, min=tuple(shape), opt=tuple(shape), max=tuple(shape))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT {VERSION} refuses the batch size: try another --batch")


def _configure(config: trt.IBuilderConfig, settings: PlanSettings) -> None:
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.weight_stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def build(
    onnx: Path, shapes: Mapping[str, Sequence[int]], settings: PlanSettings, cache: bytes | None, out: Path
) -> bytes | None:
    """Write the plan of `onnx` at fixed input `shapes` to `out`; returns the timing cache where one (or b"") was given.

    Raises InputError for graphs and caches that TensorRT does not take, with the names of the nodes, EngineError where it
    fails otherwise. Call `find_gpu` first: without a driver TensorRT ends the process.
    """
    log = Log()
    builder = trt.Builder(log)
    network = _parse(builder, log, onnx)
    config = builder.create_builder_config()
    if config is None:
        raise EngineError(f"TensorRT {VERSION} made no configuration ({log.last}): look at the driver with nvidia-smi")
    _configure(config, settings)
    _fix_shapes(builder, config, network, shapes)
    if cache is not None:
        timings = config.create_timing_cache(cache)
        if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
            raise InputError("--timing-cache was made on another GPU or by another TensorRT: give another file name")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {VERSION} built nothing from {onnx.name} ({log.last}): try a smaller --batch, a larger --workspace or "
            "another --optimization-level"
        )
    out.write_bytes(plan)
    if cache is None:
        return None
    kept = config.get_timing_cache()
    content = kept.serialize() if kept is not None else None
    return cache if content is None else bytes(content)
