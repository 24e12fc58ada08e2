"""Which multiplications are quantised, and int8 as CPUs multiply it, by ONNX Runtime's tool.

Activations are unsigned with a zero point, weights signed with one scale a channel. The symmetric form that GPUs want, which loses
a bit where SiLU and ReLU are mostly positive, and fp8 are in onnx_symmetric.py; `benchmarks/bench_precision.py --ways` compares
this one with other ways. Outputs stay in floating point, so that what follows a convolution (bias, normalisation, residual sum)
fuses into it as it does without quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import EngineError
from .onnx_half import INLINE_BYTES, Links, quiet_tools, resizes
from .onnx_symmetric import quantise_symmetric

Batch = dict[str, NDArray[Any]]
CALIBRATION_SAMPLES = 256


def chosen_nodes(graph: onnx.GraphProto, denoiser: bool) -> tuple[list[str], list[str]]:
    """The names of multiplications with constant weights that are quantised, and of those that are not.

    Resizes are none of them. The first and the last one stay as they are. So do a denoiser's 1×1 convolutions: they take the
    residual stream or make attention's inputs, are cheap, and quantising them too costs labels
    (`benchmarks/bench_precision.py --ways`).
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    resizing = {node.name for pair in resizes(Links(graph)) for node in pair}
    nodes = [
        node
        for node in graph.node
        if node.name not in resizing
        and node.op_type in ("Conv", "Gemm", "MatMul")
        and len(node.input) > 1
        and node.input[1] in shapes
    ]
    names = [node.name for node in nodes]
    kept = {*names[:1], *names[-1:]}
    if denoiser:
        for node in nodes:
            if node.op_type != "Conv" or set(shapes[node.input[1]][2:]) == {1}:
                kept.add(node.name)
    return [name for name in names if name not in kept], [name for name in names if name in kept]


class _Reader:
    """What the tool reads batches from."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> Batch | None:
        return next(self.batches, None)


def quantise(
    source: Path,
    target: Path,
    precision: str,
    denoiser: bool,
    batches: Callable[[], Iterable[Batch]],
    *,
    symmetric: bool,
) -> dict[str, Any]:
    """Write the fp32 graph in `source` to `target` as "int8" or "fp8"; returns what was quantised and what was not.

    `symmetric` int8 is as GPUs multiply it, as fp8 always is. `batches()` gives the inputs by name to calibrate on. Raises
    EngineError where the tool gives up.
    """
    graph = onnx.load(str(source), load_external_data=False).graph
    chosen, kept = chosen_nodes(graph, denoiser)
    if not chosen:
        raise EngineError(f"there is nothing to quantise in the graph: use --precision fp32 instead of {precision}")
    large = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer) * 4 > INLINE_BYTES
    try:
        with quiet_tools():
            if symmetric:
                quantise_symmetric(source, target, precision, chosen, batches)
            else:
                _for_cpus(source, target, chosen, batches(), large)
    except EngineError:
        raise
    except Exception as error:  # the tools raise whatever comes
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"the graph could not be quantised to {precision}: {reason}") from error
    details: dict[str, Any] = {"quantised": len(chosen), "fp32 multiplications": kept}
    return details | {"quantised_for": "gpu" if symmetric else "cpu"}


def _for_cpus(source: Path, target: Path, chosen: list[str], batches: Iterable[Batch], large: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # Ranges are means over batches of their extremes: one outlier among all pixels would waste the range.
    options = {"OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"], "CalibMovingAverage": True}
    quantize_static(
        str(source), str(target), _Reader(batches), quant_format=QuantFormat.QDQ, nodes_to_quantize=chosen,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
        calibrate_method=CalibrationMethod.MinMax, extra_options=options, use_external_data_format=large,
    )  # fmt: skip
