"""Whole exports: graphs hold nothing that σ made constant, files answer as their sources, failures leave nothing."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
onnx = pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

from diffsmooth_trt.engine import METADATA_KEY, EngineFacts, open_engine  # noqa: E402
from diffsmooth_trt.errors import EngineError, InputError, StoreError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier, export_denoiser  # noqa: E402
from diffsmooth_trt.exporting.graph.one_shot import denoiser_pair  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import ClassifierWithPreprocessing, Preprocessing  # noqa: E402
from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state  # noqa: E402
from diffsmooth_trt.exporting.sources.openai import OpenAI  # noqa: E402
from diffsmooth_trt.exporting.writers import onnx as onnx_writer  # noqa: E402
from diffsmooth_trt.nets.classifiers import classifier_from_arch  # noqa: E402
from diffsmooth_trt.nets.options import parse_options  # noqa: E402

# The published networks, scaled down: fewer channels, blocks and levels, everything else as published.
IMPROVED: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "learn_sigma": True,
    "diffusion_steps": 4000,
    "noise_schedule": "cosine",
}
GUIDED: dict[str, Any] = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "channel_mult": "1,2",
    "attention_resolutions": "16",
    "learn_sigma": True,
    "resblock_updown": True,
}


def facts_of(path: Path) -> EngineFacts:
    model = onnx.load(path, load_external_data=False)
    (text,) = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    return EngineFacts.from_json(text)


def answer(path: Path, x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Any) -> Path:
    """A folder with checkpoint, configuration and exported file of the small improved-diffusion network."""
    folder = tmp_path_factory.mktemp("improved")
    random_checkpoint(folder / "net.pt", "improved-diffusion", IMPROVED)
    (folder / "net.json").write_text(json.dumps(IMPROVED), encoding="utf-8")
    report = export_denoiser("improved-diffusion", folder / "net.pt", folder / "net.json", 0.25, folder / "d.onnx")
    assert report.max_difference <= 1e-5
    return folder


def pair(options: Any, net: Any, sigma: float) -> tuple[Any, Any]:
    """The plain and the folded denoiser."""
    family = OpenAI(options)
    return denoiser_pair(family, net.eval(), family.level(sigma, False))


def test_denoiser_file_answers_as_the_network(improved: Path) -> None:
    """At batch sizes other than the traced one, through the public file only."""
    options = parse_options("improved-diffusion", IMPROVED)
    net = options.network()
    load_into(net, load_state(improved / "net.pt"))
    source, _ = pair(options, net, 0.25)
    for rows in (1, 5):
        x = torch.rand(rows, 3, 16, 16) + 0.25 * torch.randn(rows, 3, 16, 16)
        with torch.no_grad():
            np.testing.assert_allclose(answer(improved / "d.onnx", x), source(x).numpy(), atol=1e-5)


def test_denoiser_facts(improved: Path) -> None:
    facts = facts_of(improved / "d.onnx")
    assert (facts.role, facts.input_shape, facts.sigma) == ("denoiser", (3, 16, 16), 0.25)
    assert (facts.schedule, facts.family, facts.precision) == ("cosine", "improved-diffusion", "fp32")
    assert facts.timestep == 1158
    assert facts.details["ratio"] >= 0.5
    assert facts.details["max_difference"] <= 1e-5
    assert facts.details["options"]["num_channels"] == 32
    assert "torch" in facts.details["versions"]
    assert facts.source_sha256 is not None
    assert len(facts.source_sha256) == 64


def test_graph_holds_nothing_that_the_timestep_fixes(improved: Path, assert_folded: Any) -> None:
    assert_folded(improved / "d.onnx")
    # One addition and the clamp after the last convolution: its factor is in the weights.
    assert [node.op_type for node in onnx.load(improved / "d.onnx").graph.node][-2:] == ["Add", "Clip"]


def test_files_hold_no_paths_and_are_the_same_every_time(improved: Path) -> None:
    data = (improved / "d.onnx").read_bytes()
    assert b".py" not in data
    assert str(improved).encode() not in data
    again = improved / "again.onnx"
    export_denoiser("improved-diffusion", improved / "net.pt", IMPROVED, 0.25, again)
    assert again.read_bytes() == data


def test_guided_variant_in_half_storage_at_another_size_and_a_fixed_batch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], random_checkpoint: Any
) -> None:
    checkpoint = tmp_path / "net.pt"
    random_checkpoint(checkpoint, "guided-diffusion", GUIDED)
    out = tmp_path / "d.onnx"
    report = export_denoiser(
        "guided-diffusion", checkpoint, GUIDED, 0.5, out, store_fp16=True, batch=3, image_size=24
    )  # fmt: skip
    assert report.max_difference <= 1e-5
    assert capfd.readouterr() == ("", "")
    assert report.bytes == out.stat().st_size < 0.55 * checkpoint.stat().st_size
    model = onnx.load(out)
    onnx.checker.check_model(model)
    full = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4]
    assert (
        sum(int(np.prod(t.dims)) for t in full if max(t.dims[2:]) > 1) <= 2 * 3 * 32 * 9
    )  # first and last convolution
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [3, 3, 24, 24]
    assert facts_of(out).details["stored"] == "fp16"


@pytest.mark.parametrize(("store_fp16", "input_size"), [(False, None), (True, 40)])
def test_classifier_file_answers_as_the_network(tmp_path: Path, store_fp16: bool, input_size: int | None) -> None:
    torch.manual_seed(2)
    arch = classifier_from_arch("cifar_resnet20")
    state = {f"1.module.{key}": value for key, value in arch.module.state_dict().items()}
    torch.save({"arch": "cifar_resnet20", "epoch": 1, "state_dict": state}, tmp_path / "c.pth.tar")
    out = tmp_path / "c.onnx"
    report = export_classifier(
        "cifar_resnet20", tmp_path / "c.pth.tar", out, store_fp16=store_fp16, input_size=input_size
    )  # fmt: skip
    assert report.max_difference <= report.tolerance
    facts = facts_of(out)
    assert (facts.role, facts.classes, facts.input_shape) == ("classifier", 10, (3, 32, 32))
    x = torch.rand(3, 3, 32, 32)
    model = ClassifierWithPreprocessing(
        arch.module, Preprocessing(arch.mean, arch.std, input_size or 32, input_size or 32), 32
    )
    with torch.no_grad():
        want = model(x).numpy()
    np.testing.assert_allclose(answer(out, x), want, atol=1e-5 if not store_fp16 else 2e-2)


def test_other_numbers_of_classes_are_read_from_the_checkpoint(tmp_path: Path) -> None:
    torch.save(classifier_from_arch("resnet20", 7).module.state_dict(), tmp_path / "c.pt")
    assert export_classifier("resnet20", tmp_path / "c.pt", tmp_path / "c.onnx", batch=2).facts.classes == 7


class Halves(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A network with one weight, quick to trace."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, 4, 4), factor))

    def forward(self, x: Any) -> Any:
        return x * self.weight


def write(out: Path, module: Any = None, source: Any = None) -> onnx_writer.ExportReport:
    check = onnx_writer.ImageCheck(source or module or Halves(), (3, 4, 4), 0.25)
    facts = EngineFacts("denoiser", (3, 4, 4), sigma=0.25)
    return onnx_writer.write_checked(module or Halves(), check, facts, out, None, False)


def test_weights_beyond_one_message_go_to_a_file_named_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "INLINE_BYTES", 100)
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 3, 9, padding=4)
    report = write(tmp_path / "d.onnx", module)
    name = report.facts.details["external_data"]["name"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["d.onnx", name])
    x = torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        np.testing.assert_allclose(answer(tmp_path / "d.onnx", x), module(x).numpy(), atol=1e-5)
    assert write(tmp_path / "d.onnx", module).facts == report.facts


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "d.onnx").write_text("old", encoding="utf-8")
    write(tmp_path / "d.onnx")
    assert onnx.load(tmp_path / "d.onnx").graph.node


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        (Halves(), Halves(0.6), r"differs from its source by 0\.\d+ where 0.0001\d* is allowed: nothing was written"),
        (Halves(float("nan")), None, "returns NaN or infinity"),
        (Halves(float("inf")), None, "returns NaN or infinity"),
    ],
)
def test_files_that_do_not_answer_as_their_source_never_appear(
    tmp_path: Path, module: Any, source: Any, message: str
) -> None:
    out = tmp_path / "d.onnx"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        write(out, module, source)
    assert [path.name for path in tmp_path.iterdir()] == ["d.onnx"]
    assert out.read_text(encoding="utf-8") == "old"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_writer, "_append_facts", full)
    with pytest.raises(StoreError, match="No space left on device; nothing was left behind"):
        write(tmp_path / "d.onnx")
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        write(tmp_path / "absent" / "d.onnx")
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path)


class Branches(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A network whose graph depends on its data: it cannot be exported."""

    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def test_networks_that_cannot_be_traced_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="could not export the network") as caught:
        write(tmp_path / "d.onnx", Branches())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_default_engine_runs_the_files(improved: Path) -> None:
    pytest.importorskip("openvino", reason="the default CPU engine is OpenVINO")
    options = parse_options("improved-diffusion", IMPROVED)
    net = options.network()
    load_into(net, load_state(improved / "net.pt"))
    source, _ = pair(options, net, 0.25)
    x = torch.rand(4, 3, 16, 16)
    with open_engine(improved / "d.onnx", batch=4, precision="fp32", role="denoiser", sigma=0.25) as engine:
        got = engine.run(x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(got, source(x).numpy(), atol=1e-4)
