"""Every family and form of export, small and random, and the zoo: TensorRT for RTX builds it, each product in its type."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
onnx = pytest.importorskip("onnx", reason="exports need onnx")
for module in ("onnxscript", "onnxruntime", "modelopt", "onnxconverter_common"):
    pytest.importorskip(module, reason="files of every precision need the extras export and quantize")

from diffsmooth_trt import zoo  # noqa: E402
from diffsmooth_trt.engine.graph import read_graph  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.plan import export_plan  # noqa: E402
from diffsmooth_trt.exporting.writers.onnx_half import MULTIPLYING, kept_in_fp32  # noqa: E402
from diffsmooth_trt.exporting.writers.tensorrt import listed_layers  # noqa: E402
from diffsmooth_trt.exporting.writers.tensorrt_layers import Layer, layer_of, products  # noqa: E402
from diffsmooth_trt.exporting.writers.tensorrt_settings import PlanSettings  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CARDS = ("sm80", "sm86", "sm89", "sm120")
ABLE = {"fp8": ("sm89", "sm120")}
SUMS = ("ReduceMean", "Softmax", "LayerNormalization")
TYPES = {1: "fp32", 3: "int8", 10: "fp16", 16: "bf16", 17: "fp8"}
# Every family, precision and card at least once. Their product, two levels of guided-diffusion, EDM's conditional form and
# resnet20 as it is are left to benchmarks/bench_rtx.py, which builds every form in every precision.
CASES = {
    "improved-diffusion": ("fp16",),
    "guided-diffusion, resized": ("fp32", "fp16", "bf16", "int8"),
    "guided-diffusion, conditional": ("fp16", "fp8"),
    "edm": ("bf16",),
    "diffusers": ("int8",),
    "program": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "resnet20, resized": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "wrn-10-1": ("fp8",),
    "hf/vit": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "hf/beit": ("fp16",),
    "detector": ("fp32",),
}


pytestmark = pytest.mark.usefixtures("tensorrt_rtx")


@pytest.fixture(scope="module")
def forms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rtx_forms", ROOT / "benchmarks" / "rtx_forms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(graph: Any) -> dict[str, str]:
    """The precision that the graph itself gives each multiplication: the type of its first input, before a DequantizeLinear."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    makers = {name: node for node in inferred.node for name in node.output}
    found = {}
    for node in inferred.node:
        if node.op_type in MULTIPLYING:
            name = node.input[0]
            if name in makers and makers[name].op_type == "DequantizeLinear":
                name = makers[name].input[0]
            found[node.name] = TYPES[types[name]]
    return found


def check(path: Path, precision: str, folder: Path) -> list[Layer]:
    """Build `path` for every card that has the precision; its products run in the types of the graph, all else in fp32."""
    graph = read_graph(path, role=None, sigma=None)
    assert graph.facts.precision == precision
    targets = ABLE.get(precision, CARDS)
    lines = listed_layers(path, graph.input_shapes(4), PlanSettings(targets=targets), folder / "x.plan")
    assert (folder / "x.plan").stat().st_size > 10_000
    model = onnx.load(str(path))
    want, found = asked(model), products(lines, model.graph)
    missing = set(want) - set(found)
    assert not missing or (graph.facts.role == "detector" and len(missing) == 1)  # its last product is a sum, in fp32
    resampling = {node.name for node in model.graph.node if node.op_type == "ConvTranspose"}
    for name in set(found) - (resampling if precision == "bf16" else set()):  # there casts move through a fixed filter
        assert found[name] == want[name], name
    assert precision in want.values()
    layers = [layer_of(line) for line in lines]
    kept = {name for names in kept_in_fp32(model.graph).values() for name in names}
    exact = {node.name for node in model.graph.node if node.op_type in SUMS and node.name in kept}
    for layer in layers:  # a layer's name says in which order it computes
        norm = re.search(r"Mean|MaxrSubExp", layer.name)
        if norm and layer.kind == "kgen" and exact & layer.nodes:
            assert layer.inputs[0] == "Float" or "Cast" in layer.name[: norm.start()], layer
    assert layers[-1].outputs[0] == "Float"
    return layers


@pytest.mark.parametrize("name", CASES)
def test_forms(forms: ModuleType, tmp_path: Path, name: str) -> None:
    if name == "diffusers" or name.startswith("hf/"):
        pytest.importorskip("diffusers" if name == "diffusers" else "transformers", reason="folders need the extra hf")
    source = forms.FORMS[name](tmp_path)
    for precision in CASES[name]:
        path = forms.lowered(source, precision)
        layers = check(path, precision, tmp_path)
        if "resized" in name:  # both products of the resize are fp32 in every precision
            exact = [layer for layer in layers if layer.kind == "gemm" and layer.inputs[0] == "Float"]
            assert len(exact) >= (1 if precision != "fp32" else 2)


@pytest.mark.parametrize(
    "path", [zoo.DENOISER, zoo.CLASSIFIER_DDS, zoo.CLASSIFIER_DIFFSMOOTH], ids=lambda path: path.stem
)
def test_the_zoo(tmp_path: Path, path: Path) -> None:
    check(path, "fp32", tmp_path)


def test_int8_for_cpus_is_refused_before_the_build(forms: ModuleType, tmp_path: Path) -> None:
    path = forms.lowered(forms.FORMS["program"](tmp_path), "int8")
    model = onnx.load(str(path))
    (entry,) = model.metadata_props
    entry.value = entry.value.replace('"quantised_for": "gpu"', '"quantised_for": "cpu"')
    onnx.save(model, str(path))
    with pytest.raises(InputError, match="int8.onnx is quantised for CPUs, .*: export it with quantise_for gpu"):
        export_plan(path, tmp_path / "d.plan", batch=4, settings=PlanSettings(targets=("sm89",)))
    assert not (tmp_path / "d.plan").exists()
