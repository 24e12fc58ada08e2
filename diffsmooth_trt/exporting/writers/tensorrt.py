"""ONNX → TensorRT plan, strongly typed, by the full TensorRT or by TensorRT for RTX.

Holds for TensorRT 10 and 11 and for TensorRT for RTX 1.7: precision is that of the graph's own types and Q/DQ nodes, so of the
builder's flags only TF32 bears on it. The full TensorRT has not yet run this on a GPU: tests/engine/test_tensorrt_api.py holds
every name and keyword to the published bindings. TensorRT for RTX runs it without one: tests/exporting/test_rtx.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...device.nvidia import NAMES, RTX, import_tensorrt, version_numbers
from ...engine.backends.tensorrt_log import Log, called, open_log
from ...engine.backends.tensorrt_refit import parser_errors
from ...errors import EngineError, InputError
from .tensorrt_settings import MOST_MIB, PlanSettings

if TYPE_CHECKING:
    import tensorrt as trt

ALWAYS_STRONG = 11  # the first major version of the full TensorRT in which networks have no other typing
# What a builder says of operations that a target lacks, and what they are in our words.
LACKING = (
    (re.compile(r"for target\(s\) (sm\d+).*HW-specific datatypes: (\w+)"), "{0} multiplies nothing in {1}"),
    (re.compile(r"'(?P<node>\w+)' for Turing \(SM75\): (?P<what>[^.]+)"), "sm75: {1} (node {0})"),
)


def network_flags(trt: Any, library: str) -> int:
    """The flags of a strongly typed network in the library whose module is `trt`."""
    if library != RTX and version_numbers(trt.__version__)[0] >= ALWAYS_STRONG:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


class TooSmall(InputError):
    """The builder found no kernels within the scratch memory that it was given."""


class PlanBuilder:
    """One build by one library: its module, its log, its settings."""

    def __init__(self, settings: PlanSettings, *, layers: bool = False) -> None:
        self.settings, self.layers = settings, layers
        self.trt = import_tensorrt(settings.library)
        self.name = called(self.trt, NAMES[settings.library])
        self.log: Log = open_log(self.trt, layers=layers)

    def build(self, onnx: Path, shapes: Mapping[str, Sequence[int]], cache: bytes | None, out: Path) -> bytes | None:
        """Write the plan of `onnx` at fixed input `shapes` to `out`; see `build`."""
        builder: trt.Builder = self.trt.Builder(self.log)
        network = self._parse(builder, onnx)
        config = builder.create_builder_config()
        if config is None:
            raise EngineError(
                f"{self.name} made no configuration ({self.log.last}): look at the driver with nvidia-smi"
            )
        self._configure(config)
        self._fix_shapes(builder, config, network, shapes)
        if cache is not None:
            timings = config.create_timing_cache(cache)
            if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
                raise InputError(
                    "--timing-cache was made on another GPU or by another TensorRT: give another file name"
                )
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure(onnx)
        out.write_bytes(plan)
        if cache is None:
            return None
        kept = config.get_timing_cache()
        content = kept.serialize() if kept is not None else None
        return cache if content is None else bytes(content)

    def _failure(self, onnx: Path) -> EngineError | InputError:
        reason = self.log.last
        for pattern, text in LACKING:
            match = pattern.search(reason)
            if match:
                why = text.format(*match.groups())
                return InputError(
                    f"{onnx.name} cannot be built for --target {' '.join(self.settings.targets)}: {why}; leave that target out, "
                    "or export the file with --precision fp16"
                )
        workspace = self.settings.workspace_mib
        if workspace is not None and any(sign in reason.lower() for sign in ("workspace", "outofmemory")):
            return TooSmall(f"--workspace {workspace} MiB is too little for {onnx.name} ({self.name})")
        remedy = "a smaller --batch" if self.settings.targets else (
            "a smaller --batch, a larger --workspace or another --optimization-level"
        )  # fmt: skip
        return EngineError(f"{self.name} built nothing from {onnx.name} ({reason}): try {remedy}")

    def _parse(self, builder: trt.Builder, onnx: Path) -> trt.INetworkDefinition:
        network = builder.create_network(network_flags(self.trt, self.settings.library))
        if network is None:
            raise EngineError(f"{self.name} made no network ({self.log.last}): look at the driver with nvidia-smi")
        parser: trt.OnnxParser = self.trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(onnx)):
            raise InputError(
                f"{self.name} cannot read {onnx}: {parser_errors(parser)}; export it for this precision again, or take another "
                "version of it"
            )
        return network

    def _fix_shapes(
        self,
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
            raise EngineError(f"{self.name} refuses the batch size: try another --batch")

    def _configure(self, config: trt.IBuilderConfig) -> None:
        trt, settings = self.trt, self.settings
        if settings.optimization_level is not None:
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
        if self.layers:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if settings.targets:
            from .tensorrt_rtx import aim

            aim(trt, config, settings.targets)


def build(
    onnx: Path, shapes: Mapping[str, Sequence[int]], settings: PlanSettings, cache: bytes | None, out: Path
) -> bytes | None:
    """Write the plan of `onnx` at fixed input `shapes` to `out`; returns the timing cache where one (or b"") was given.

    Raises InputError for graphs, caches and targets that the library does not take, with the names of the nodes, EngineError
    where it fails otherwise. Where the full TensorRT builds call `find_gpu` first: without a driver it ends the process.
    """
    try:
        return PlanBuilder(settings).build(onnx, shapes, cache, out)
    except TooSmall as error:
        larger = _enough(onnx, shapes, settings, out) if settings.targets else None
        raise InputError(f"{error.message}: give {larger or 'a larger one'}, or leave it out") from None


def _enough(onnx: Path, shapes: Mapping[str, Sequence[int]], settings: PlanSettings, out: Path) -> int | None:
    """A scratch memory that is enough, in MiB, at most twice the least; None where none is. Builds that fail, fail at once."""
    size = 2 * (settings.workspace_mib or 1)
    while size <= MOST_MIB:
        try:
            PlanBuilder(replace(settings, workspace_mib=size)).build(onnx, shapes, None, out)
            return size
        except TooSmall:
            size *= 2
    return None


def listed_layers(onnx: Path, shapes: Mapping[str, Sequence[int]], settings: PlanSettings, out: Path) -> list[str]:
    """`build`, and the builder's own line a layer: name, type, inputs and outputs with their types, the ONNX nodes in it."""
    detailed = PlanBuilder(settings, layers=True)
    detailed.build(onnx, shapes, None, out)
    return detailed.log.layers
