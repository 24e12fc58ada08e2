"""Exports in other precisions: what stays in fp32, how they compare with their source, what is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
onnx = pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

from diffsmooth_trt import zoo  # noqa: E402
from diffsmooth_trt.engine import METADATA_KEY, EngineFacts, open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier, export_denoiser  # noqa: E402
from diffsmooth_trt.exporting.checks.inputs import ImageCheck  # noqa: E402
from diffsmooth_trt.exporting.checks.noised import fitting_pixels, noised  # noqa: E402
from diffsmooth_trt.exporting.checks.verification import multiply_adds  # noqa: E402
from diffsmooth_trt.exporting.writers import onnx as onnx_writer  # noqa: E402
from diffsmooth_trt.exporting.writers.onnx_half import PACKAGES, Request, kept_in_fp32  # noqa: E402
from diffsmooth_trt.exporting.writers.report import warnings_of  # noqa: E402
from diffsmooth_trt.nets.classifiers import classifier_from_arch  # noqa: E402

STATES = Path(__file__).parent.parent.parent / "export" / "zoo"
FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
SMALL: dict[str, Any] = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "16",
    "num_head_channels": 32,
}
LEAN: dict[str, Any] = SMALL | {"channel_mult": "1,1", "attention_resolutions": "8"}  # attention in the middle alone


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, in place of that of the other tests; what takes long is calibrated on fewer images than usual."""
    monkeypatch.setattr(onnx_writer, "CALIBRATION_SAMPLES", 32)


def missing(precision: str) -> bool:
    return any(importlib.util.find_spec(package) is None for package in PACKAGES.get(precision, ()))


def needs(precision: str, *more: Any) -> Any:
    """The precision, skipped where its tool is not installed."""
    skip = pytest.mark.skipif(missing(precision), reason=f"{precision} is made by the tools of the extra `quantize`")
    return pytest.param(precision, *more, marks=skip)


def zoo_denoiser(out: Path, precision: str, **more: Any) -> Any:
    if precision in ("int8", "fp8"):
        more.setdefault("calibration_data", zoo.IMAGES)
    return export_denoiser(
        "guided-diffusion", STATES / "unet.pt", "zoo", 0.25, out, precision=precision, verify_samples=32, **more
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, traced_once: Any) -> Callable[[str], Any]:
    """`made(precision)`: the zoo's denoiser exported so, once."""
    folder, reports = tmp_path_factory.mktemp("precisions"), {}

    def make(precision: str) -> Any:
        if precision not in reports:
            with traced_once(folder / "traced.onnx"):
                reports[precision] = zoo_denoiser(folder / f"{precision}.onnx", precision)
        return reports[precision]

    return make


@pytest.fixture(scope="module")
def made_conditional(
    tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Any, traced_once: Any
) -> Callable[[str], Any]:
    """`made_conditional(precision)`: a small random conditional denoiser exported so."""
    folder, options = (
        tmp_path_factory.mktemp("conditional"),
        LEAN | {"class_cond": True, "num_classes": 5, "null_class": 4},
    )
    random_checkpoint(folder / "net.pt", "guided-diffusion", options)

    def make(precision: str) -> Any:
        with traced_once(folder / "traced.onnx"):
            return export_denoiser(
                "guided-diffusion", folder / "net.pt", options, None, folder / f"{precision}.onnx", conditional=True,
                precision=precision, verify_samples=32,
            )  # fmt: skip

    return make


def types_of(model: Any) -> dict[str, int]:
    """The element type of every value."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}


@pytest.mark.parametrize(("precision", "half"), [needs("fp16", FLOAT16), needs("bf16", BFLOAT16)])
def test_half_precision_keeps_statistics_softmax_and_the_final_step(made: Any, precision: str, half: int) -> None:
    report = made(precision)
    model = onnx.load(report.path)
    types = types_of(model)
    assert {types[v.name] for v in (*model.graph.input, *model.graph.output)} == {FLOAT}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        if node.op_type != "Cast":
            found.setdefault(node.op_type, set()).add(types[node.output[0]])
    for kept in ("ReduceMean", "Sqrt", "Reciprocal", "Softmax", "Clip"):
        assert found[kept] == {FLOAT}, kept
    assert found["Conv"] == found["MatMul"] == found["Sigmoid"] == {half}
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
    makers = {name: node for node in model.graph.node for name in node.output}
    add = makers[clip.input[0]]
    assert add.op_type == "Add"
    assert "images" in add.input  # never rounded to half precision on its way there

    def before_casts(name: str) -> str:
        node = makers.get(name)
        return before_casts(node.input[0]) if node is not None and node.op_type == "Cast" else name

    squares = [n for n in model.graph.node if n.op_type == "Mul" and len({before_casts(name) for name in n.input}) == 1]
    assert len(squares) == 24 + 3  # one for each of the network's norms: in the sums of squares nothing overflows
    assert {types[node.output[0]] for node in squares} == {FLOAT}
    assert report.facts.details["kept_fp32"]["softmax"] == 4
    assert report.bytes < 0.6 * (STATES / "unet.pt").stat().st_size * 2


@pytest.mark.parametrize("precision", [needs("fp16"), needs("bf16"), "int8", "fp8"])
def test_facts_say_how_the_file_compares_with_its_source(made: Any, precision: str) -> None:
    report = made(precision)
    (text,) = [e.value for e in onnx.load(report.path).metadata_props if e.key == METADATA_KEY]
    facts = EngineFacts.from_json(text)
    assert facts.precision == precision
    assert (facts.details["verification"]["images"], facts.details["verification"]["classifier"]) == (
        32,
        "classifier-dds.onnx",
    )
    bound = {"fp16": 5e-4, "bf16": 2e-3, "int8": 3e-3, "fp8": 2e-2}[precision]
    for found in facts.details["verification"]["backends"]:
        assert 0 < found["mean_difference"] < (bound if found["backend"] == "onnxruntime" else max(bound, 2e-3))
        assert found["same_labels"] >= (0.85 if precision == "fp8" else 0.95)


def test_int8_leaves_first_last_and_pointwise_convolutions(made: Any) -> None:
    report = made("int8")
    graph = onnx.load(report.path).graph
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantised = [makers[n.input[0]].op_type == "DequantizeLinear" for n in convolutions if n.input[0] in makers]
    assert sum(quantised) == report.facts.details["quantised"] == 22
    kept = report.facts.details["fp32 multiplications"]
    assert convolutions[0].name in kept and convolutions[-1].name in kept
    assert not {"DynamicQuantizeLinear", "ConvInteger"} & {node.op_type for node in graph.node}
    assert report.bytes < 0.4 * made("fp32").bytes
    assert report.facts.details["calibration"] == {"data": zoo.IMAGES.name, "images": 32}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", [needs("fp16"), "int8", "fp8"])
def test_rows_stay_independent_and_the_precision_is_read_back(made: Any, precision: str, backend: str) -> None:
    """Opening probes for coupled rows; OpenVINO's chunks of 16 rows and another batch size give the same values."""
    pytest.importorskip(backend, reason="one of the backends of .onnx files")
    path = made(precision).path
    x = next(noised(fitting_pixels(zoo.IMAGES, (3, 32, 32), 20), 0.25, 20, 20, 33))
    with open_engine(path, batch=20, backend=backend) as engine:
        whole = engine.run(x)
        seen = str(engine.identity["precision"])
    with open_engine(path, batch=10, backend=backend) as engine:
        halves = np.concatenate([engine.run(x[:10]), engine.run(x[10:])])
    assert np.array_equal(whole, halves)
    if precision == "int8":
        assert seen == "fp32" if backend == "onnxruntime" else "u8" in seen
    elif backend == "onnxruntime":
        assert seen in ("fp32", "fp16")


@pytest.mark.skipif(missing("bf16"), reason="bf16 is made by the tools of the extra `quantize`")
def test_bf16_graphs_are_refused_where_there_are_no_kernels(made: Any) -> None:
    with pytest.raises(InputError, match="bf16 graph, which ONNX Runtime has no CPU kernels for: use backend openvino"):
        open_engine(made("bf16").path, batch=4, backend="onnxruntime")


def test_classifiers_in_int8_see_what_a_denoiser_makes(tmp_path: Path) -> None:
    report = export_classifier(
        "resnet56", STATES / "classifier-dds.pt", tmp_path / "c.onnx", precision="int8", calibration_data=zoo.IMAGES,
        verify_samples=32, verify_denoiser=zoo.DENOISER,
    )  # fmt: skip
    found = report.verification
    assert (found["classifier"], found["denoiser"], found["images"]) == ("itself", "denoiser-0.25.onnx", 32)
    assert report.facts.details["quantised"] == 54  # all but the first convolution and the last layer
    assert min(backend["same_labels"] for backend in found["backends"]) >= 0.9


def test_every_fp32_export_of_cifar_size_is_verified_on_the_shipped_images(made: Any) -> None:
    report = made("fp32")
    assert report.verification["data"] == zoo.IMAGES.name
    by_backend = {found["backend"]: found for found in report.verification["backends"]}
    assert by_backend["onnxruntime"]["same_labels"] == 1
    assert by_backend["onnxruntime"]["max_difference"] < 1e-5


def test_conditional_denoisers_are_compared_at_random_levels_and_labels(made_conditional: Any) -> None:
    report = made_conditional("fp32")
    assert report.verification["images"] == 32
    assert "classifier" not in report.verification
    (found,) = [found for found in report.verification["backends"] if found["backend"] == "onnxruntime"]
    assert 0 < found["mean_difference"] <= found["max_difference"] < 1e-4


@pytest.mark.skipif(missing("fp16"), reason="fp16 is made by the tools of the extra `quantize`")
def test_noise_levels_of_conditional_denoisers_stay_in_fp32(made_conditional: Any) -> None:
    report = made_conditional("fp16")
    model = onnx.load(report.path)
    types = types_of(model)
    waves = [node for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    assert waves and {types[node.output[0]] for node in waves} == {FLOAT}
    assert report.facts.details["kept_fp32"]["noise level"] > 5


class Scale(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Images times a number: quick to trace."""

    def __init__(self, factor: float, size: int = 4) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, size, size), factor))

    def forward(self, x: Any) -> Any:
        return x * self.weight


def test_a_broken_graph_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion whose weights come out wrong."""

    def halved(source: Path, target: Path, *_: object) -> dict[str, int]:
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * factor, tensor.name))
        onnx.save(model, target)
        return {}

    monkeypatch.setattr(onnx_writer, "to_half", halved)
    module = Scale(0.5)
    facts = EngineFacts("denoiser", (3, 4, 4), sigma=0.25)
    for factor, message in (
        (0.5, "differs from its source by .* on average in"),
        (float("nan"), "returned NaN or infinity"),
    ):
        factor = np.float32(factor)
        with pytest.raises(InputError, match=message) as caught:
            onnx_writer.write_checked(
                module, ImageCheck(module, (3, 4, 4), 0.25), facts, tmp_path / "d.onnx", None, False, request=Request("fp16")
            )  # fmt: skip
        assert "nothing was written" in str(caught.value) and "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "calibration_data is missing: precision int8 needs images"),
        (
            {"precision": "fp32", "calibration_data": zoo.IMAGES},
            "calibration_data is for int8 and fp8, got precision fp32",
        ),
        ({"precision": "int8", "store_fp16": True}, "fp16_weights goes with precision fp32, got int8"),
        ({"precision": "dynamic-int8"}, "dynamic quantisation couples the rows of a batch: use int8"),
        ({"precision": "int8", "calibration_data": "absent"}, "calibration_data absent does not exist"),
        ({"verify_data": "absent.npz"}, "verify_data absent.npz does not exist"),
        ({"verify_samples": 0}, "verify_samples must be at least 1, got 0"),
        ({"verify_classifier": zoo.DENOISER}, "is a denoiser, expected a classifier"),
    ],
)
def test_refusals(tmp_path: Path, random_checkpoint: Any, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "made").mkdir()
    random_checkpoint(tmp_path / "net.pt", "guided-diffusion", SMALL)
    with pytest.raises(InputError, match=message) as caught:
        export_denoiser("guided-diffusion", tmp_path / "net.pt", SMALL, 0.25, tmp_path / "made" / "d.onnx", **changes)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "made").iterdir())


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds images \(3, 32, 32\), the engine takes \(3, 16, 16\)"):
        fitting_pixels(zoo.IMAGES, (3, 16, 16), 5)


def test_noise_is_the_same_for_every_batch_size_and_goes_round_the_images() -> None:
    pixels = fitting_pixels(zoo.IMAGES, (3, 32, 32), 3)
    whole = next(noised(pixels, 0.25, 8, 8, 33))
    parts = np.concatenate(list(noised(pixels, 0.25, 8, 4, 33)))
    assert np.array_equal(whole, parts)
    off = whole[[0, 3]] * 255 - pixels[0]
    assert np.abs(off - np.rint(off)).max() < 1e-3  # on the grid, like the noise of certification
    assert np.abs(off[0] - off[1]).max() > 1
    other = next(noised(pixels, 0.25, 8, 8, 32))
    assert not np.array_equal(whole, other)


def test_few_same_labels_are_a_warning() -> None:
    seen = [{"backend": "openvino", "precision": "bf16+u8", "same_labels": value} for value in (0.9949, 0.995)]
    (line,) = warnings_of({"images": 2000, "backends": seen}, "int8")
    assert "only 99.49 % of 2000 labels" in line and line.endswith("use a wider --precision")
    (line,) = warnings_of({"images": 2000, "backends": seen}, "fp32")  # the file is as wide as can be
    assert line.endswith("certify with --precision fp32")


def test_cost_is_counted_in_multiply_adds() -> None:
    arch = classifier_from_arch("resnet20")
    assert multiply_adds(ImageCheck(arch.module.eval(), (3, 32, 32), 0.25)) == pytest.approx(40.6e6, rel=0.02)


def test_norms_of_any_graph_are_found() -> None:
    """A LayerNorm written out, between two multiplications, with a residual sum that is not part of it."""
    h = onnx.helper
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["a"], "first"),
        h.make_node("ReduceMean", ["a"], ["m"], "mean", axes=[-1]),
        h.make_node("Sub", ["a", "m"], ["c"], "centre"),
        h.make_node("Pow", ["c", "two"], ["q"], "square"),
        h.make_node("ReduceMean", ["q"], ["v"], "variance", axes=[-1]),
        h.make_node("Sqrt", ["v"], ["r"], "root"),
        h.make_node("Div", ["c", "r"], ["n"], "divide"),
        h.make_node("Mul", ["n", "g"], ["ng"], "gain"),
        h.make_node("Add", ["ng", "b"], ["o"], "bias"),
        h.make_node("Relu", ["o"], ["u"], "relu"),
        h.make_node("MatMul", ["u", "w"], ["z"], "second"),
        h.make_node("Add", ["z", "a"], ["sum"], "residual"),
        h.make_node("MatMul", ["sum", "w"], ["y"], "last"),
    ]
    tensor = onnx.numpy_helper.from_array
    constants = [tensor(np.ones((4, 4), np.float32), "w"), tensor(np.float32(2), "two")]
    constants += [tensor(np.ones(4, np.float32), name) for name in "gb"]
    value = [h.make_tensor_value_info(name, FLOAT, [1, 4]) for name in "xy"]
    kept = kept_in_fp32(h.make_graph(nodes, "g", value[:1], value[1:], constants))
    assert kept == {"normalisation": ["mean", "centre", "square", "variance", "root", "divide", "gain", "bias"]}


def test_the_command_prints_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], random_checkpoint: Any
) -> None:
    from diffsmooth_trt.cli import main

    random_checkpoint(tmp_path / "net.pt", "guided-diffusion", LEAN)
    (tmp_path / "net.json").write_text(json.dumps(LEAN), encoding="utf-8")
    command = ["export", "denoiser", "--family", "guided-diffusion", "--checkpoint", str(tmp_path / "net.pt")]
    command += ["--config", str(tmp_path / "net.json"), "--sigma", "0.25", "--out", str(tmp_path / "d.onnx")]
    command += ["--precision", "int8", "--calibration-data", str(zoo.IMAGES), "--verify-samples", "32"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "before conversion" in out
    assert "onnxruntime, fp32: maximum difference" in out
    assert "% identical labels (32 noisy images, cifar10-test-100.parquet)" in out
