"""Arguments that cannot be used: one line each, before anything is written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier, export_denoiser, export_detector  # noqa: E402
from diffsmooth_trt.nets.classifiers import classifier_from_arch  # noqa: E402
from diffsmooth_trt.nets.options import parse_options  # noqa: E402

OPTIONS: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "net.pt"
    torch.save(parse_options("guided-diffusion", OPTIONS).network().state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"family": "sde"},
            "family 'sde' is unknown: use one of improved-diffusion, guided-diffusion, edm, diffusers, program",
        ),
        (
            {"config": "cifar10"},
            "config cifar10 cannot be read .*: give a JSON file or one of cifar10_uncond_50M_500K",
        ),
        ({"config": None}, "config is missing: give a JSON file of guided-diffusion options or one of"),
        ({"config": "cifar10_uncond_50M_500K"}, "belongs to family improved-diffusion, got guided-diffusion"),
        ({"config": {**OPTIONS, "chanels": 3}}, "option 'chanels' is unknown"),
        (
            {"config": {**OPTIONS, "class_cond": True, "null_class": 5}},
            "does not fit the network: parameters 1 missing \\(label_emb.weight\\)",
        ),
        ({"config": {**OPTIONS, "num_channels": 64}}, r"of another shape \(time_embed.0.weight \[128, 32\] instead of"),
        ({"config": {**OPTIONS, "num_res_blocks": 10**6}}, "option num_res_blocks must be at most 1000, got 1000000"),
        ({"config": {**OPTIONS, "num_channels": 10**400}}, "option num_channels must be a number, got 1000"),
        ({"config": {**OPTIONS, "dropout": 2}}, "of this configuration cannot be built .*dropout probability"),
        ({"config": {**OPTIONS, "dropout": -1}}, "of this configuration cannot be built .*dropout probability"),
        ({"config": {**OPTIONS, "diffusion_steps": 5}}, "falling inside .0, 1.; use more diffusion_steps"),
        ({"config": {**OPTIONS, "diffusion_steps": 1e8}}, "at least 1 and at most 1000000, got 100000000"),
        (
            {"family": "edm", "config": {"model_channels": 68, "channel_mult": [1], "img_resolution": 16}},
            "of this configuration cannot be built .*must be divisible by num_groups",
        ),
        ({"config": "zoo"}, "does not fit the network: parameters .* missing"),
        ({"sigma": 1000.0}, "sigma must lie in"),
        ({"sigma": -0.5}, "sigma must lie in"),
        ({"image_size": 17}, "image size 17 does not fit this network: it must be a multiple of 2"),
        ({"precision": "int4"}, "precision 'int4' is not available for exports: use one of fp32"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"checkpoint": "absent.pt"}, "checkpoint absent.pt: no such file"),
        ({"out": "absent/d.onnx"}, "out absent/d.onnx: the folder absent does not exist; make it first"),
        ({"out": "."}, "out . is a folder: give a file name in it"),
        ({"out": "d.engine", "checkpoint": "absent.pt"}, "out d.engine ends neither in .onnx nor in .pt2"),
    ],
)
def test_denoiser_refusals(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {
        "family": "guided-diffusion",
        "checkpoint": checkpoint,
        "config": OPTIONS,
        "sigma": 0.25,
    }
    with pytest.raises(InputError, match=message) as caught:
        export_denoiser(**{**arguments, "out": "d.onnx", **changes})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "must hold one JSON object"),
        (json.dumps({"x": 1}), "c.json: option 'x' is unknown"),
    ],
)
def test_configuration_files(checkpoint: Path, tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "c.json"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        export_denoiser("guided-diffusion", checkpoint, config, 0.25, tmp_path / "d.onnx")


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
@pytest.mark.parametrize("kind", ["denoiser", "classifier", "detector"])
def test_checkpoints_are_never_overwritten(tmp_path: Path, name: str, kind: str) -> None:
    """Nor are images and engines that the export reads."""
    path = tmp_path / name
    path.write_bytes(b"precious")

    def export(checkpoint: Path, out: Path, **more: Any) -> None:
        if kind == "denoiser":
            export_denoiser("guided-diffusion", checkpoint, OPTIONS, 0.25, out, batch=1, **more)
        elif kind == "classifier":
            export_classifier("resnet20", checkpoint, out, batch=1, **more)
        else:
            export_detector(checkpoint, out, batch=1)

    with pytest.raises(InputError, match="is also checkpoint, which it would destroy|interval bounds read"):
        export(path, path)
    if kind != "detector":
        with pytest.raises(InputError, match="is also verify_data, which it would destroy"):
            export(tmp_path / "absent.pt", path, verify_data=path)
    if path.suffix == ".pt2" and kind != "detector":
        (tmp_path / "net.pt2.json").write_bytes(b"precious")
        with pytest.raises(InputError, match="the record of out .* is also checkpoint"):
            export(tmp_path / "net.pt2.json", path)
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"precious"}


def test_half_precision_overflow(tmp_path: Path) -> None:
    net = parse_options("guided-diffusion", OPTIONS).network()
    net.time_embed[0].weight.data[0, 0] = 1e6
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"time_embed.0.weight is too large for half precision"):
        export_denoiser("guided-diffusion", tmp_path / "net.pt", OPTIONS, 0.25, tmp_path / "d.onnx", store_fp16=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "vit"}, "classifier architecture 'vit' is unknown: use one of resnet20, "),
        (
            {"arch": "resnet20"},
            r"does not fit the network: parameters 2 missing \(linear.weight, linear.bias\); .*: it fits arch cifar_resnet20",
        ),
        ({"arch": "wrn-28-10"}, r"of another shape .*: it fits arch cifar_resnet20"),
        ({"arch": "hf"}, "c.pt is no folder: arch hf takes one with config.json"),
        ({"arch": "timm/no such model"}, "arch timm/"),
        ({"resize_mode": "area"}, "resize_mode 'area' is unknown: use one of bicubic, bilinear"),
        ({"resize_to": 24}, "resize_to 24 is smaller than the 32 pixels that are cropped"),
        ({"mean": (125.3, 123.0, 113.9)}, r"mean must be in \[0, 1\] image units, got .*: divide by 255"),
        ({"mean": (0.5, 0.5, 0.5), "std": (63.0, 62.1, 66.7)}, r"std must be in \[0, 1\] image units"),
        ({"mean": (0.5, 0.5)}, "mean must be three numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be three positive numbers"),
        ({"input_size": 2}, "input_size must lie between"),
        ({"precision": "int4"}, "precision 'int4' is not available"),
    ],
)
def test_classifier_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    torch.save(classifier_from_arch("cifar_resnet20").module.state_dict(), tmp_path / "c.pt")
    arguments: dict[str, Any] = {"arch": "cifar_resnet20", "checkpoint": tmp_path / "c.pt", "out": tmp_path / "c.onnx"}
    with pytest.raises(InputError, match=message):
        export_classifier(**{**arguments, **changes})
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_noted_architecture_is_named(tmp_path: Path) -> None:
    """Where the weights fit no architecture that is listed."""
    state = {
        f"1.module.{name}": tensor for name, tensor in classifier_from_arch("wrn-10-1").module.state_dict().items()
    }
    torch.save({"arch": "wide_resnet10", "state_dict": state}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"missing \(layer1.0.conv1.weight, .*it says that it is a wide_resnet10$"):
        export_classifier("resnet20", tmp_path / "c.pt", tmp_path / "c.onnx")


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    with pytest.raises(
        InputError, match=r'needs torch, which is not installed: pip install "diffsmooth-trt\[cpu,export\]"'
    ):
        export_denoiser("guided-diffusion", "net.pt", "zoo", 0.25, "d.onnx")
