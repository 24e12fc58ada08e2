"""Folders of the diffusers library: every kind of prediction and block, and folders that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
diffusers = pytest.importorskip("diffusers", reason="the folders are the diffusers library's")

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402
from diffsmooth_trt.exporting.graph.one_shot import (  # noqa: E402
    ConditionalDenoiser,
    OneShotDenoiser,
    SourceConditional,
    SourceDenoiser,
)
from diffsmooth_trt.exporting.sources.diffusers import read_folder  # noqa: E402

SIZE = 16
SMALL: dict[str, Any] = {
    "sample_size": SIZE, "block_out_channels": (32, 64), "layers_per_block": 1, "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "epsilon": ({"num_class_embeds": 4, "downsample_padding": 0}, {"beta_schedule": "linear"}),
    "velocity": (
        {"resnet_time_scale_shift": "scale_shift", "num_class_embeds": 4, "flip_sin_to_cos": False, "freq_shift": 1},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    ),
    "sample": (
        {
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), "out_channels": 6,
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "center_input_sample": True,
        },
        {"beta_schedule": "scaled_linear", "prediction_type": "sample"},
    ),
    "skips": (
        {
            "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
            "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"), "mid_block_scale_factor": 1.5,
        },
        {"beta_schedule": "linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ),
}  # fmt: skip


def saved(folder: Path, name: str, **changes: Any) -> Any:
    """A random pipeline's folder; returns the network."""
    options, scheduler = NETWORKS[name]
    torch.manual_seed(3)
    net = diffusers.UNet2DModel(**{**SMALL, **options, **changes})
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    net.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(**scheduler).save_pretrained(folder / "scheduler")
    return net.eval()


def restated(net: Any, kind: str, x: Any, ratio: float, time: float, labels: Any) -> Any:
    """x̂0 in [-1, 1] units, unclamped, as the scheduler of the library computes it from model images x."""
    bar = 1 / (1 + ratio**2)
    x_t = bar**0.5 * x
    with torch.no_grad():
        out = net(x_t, torch.full((len(x),), time), class_labels=labels).sample[:, :3]
    if kind == "epsilon":
        return (x_t - (1 - bar) ** 0.5 * out) / bar**0.5
    return out if kind == "sample" else bar**0.5 * x_t - (1 - bar) ** 0.5 * out


@pytest.mark.parametrize("name", list(NETWORKS))
def test_forms_agree_with_the_library(name: str, tmp_path: Path) -> None:
    net = saved(tmp_path, name)
    labelled = "num_class_embeds" in NETWORKS[name][0]
    family = read_folder(tmp_path, {"null_class": 3} if labelled else {})
    loaded, _ = family.load(tmp_path)
    level = family.level(0.25, False)
    bar = diffusers.DDPMScheduler(**NETWORKS[name][1]).alphas_cumprod
    ratios = torch.sqrt((1 - bar) / bar)
    first = int((ratios >= 0.5).nonzero()[0])
    assert level.timestep == first and level.s == pytest.approx(float(ratios[first]), rel=1e-6)
    x = torch.rand(3, 3, SIZE, SIZE)
    kind = NETWORKS[name][1].get("prediction_type", "epsilon")
    null = torch.full((3,), 3) if labelled else None
    want = (restated(net, kind, 2 * x - 1, level.s, float(first), null).clamp(-1, 1) + 1) / 2
    with torch.no_grad():
        for form in (SourceDenoiser, OneShotDenoiser):
            torch.testing.assert_close(form(family, loaded, level)(x), want, rtol=0, atol=2e-5)
    if labelled:
        s, labels = torch.tensor([0.02, 0.5, 3.0]), torch.tensor([0, 2, 3])
        with torch.no_grad():
            got, plain = (
                form(family, loaded)(2 * x - 1, s, labels) for form in (ConditionalDenoiser, SourceConditional)
            )
        torch.testing.assert_close(got, plain, rtol=0, atol=5e-5)
        times = np.interp([0.02, 0.5, 3.0], ratios.double(), np.arange(1000))
        for row, (ratio, time) in enumerate(zip(s.tolist(), times, strict=True)):
            alone = slice(row, row + 1)
            want = restated(net, kind, 2 * x[alone] - 1, ratio, float(time), labels[alone])
            torch.testing.assert_close(plain[alone], want, rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder that no test changes."""
    made = tmp_path_factory.mktemp("diffusers")
    saved(made, "epsilon")
    return made


def test_files_run(folder: Path, tmp_path: Path, assert_folded: Any) -> None:
    """Also the network's own folder with the scheduler's configuration in it; the conditional form of a smaller network."""
    alone = tmp_path / "alone"
    shutil.copytree(folder / "unet", alone)
    shutil.copy(folder / "scheduler" / "scheduler_config.json", alone)
    report = export_denoiser("diffusers", alone, {"null_class": 3}, 0.25, tmp_path / "d.onnx")
    facts = report.facts
    assert report.max_difference <= 1e-5
    assert_folded(tmp_path / "d.onnx")
    assert (facts.schedule, facts.family, facts.sigma) == ("diffusers linear", "diffusers", 0.25)
    assert facts.details["prediction"] == "epsilon" and facts.details["options"]["null_class"] == 3
    blocks = {
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
        "block_out_channels": (32,),
    }
    saved(tmp_path / "small", "epsilon", **blocks)
    export_denoiser("diffusers", tmp_path / "small", None, None, tmp_path / "c.onnx", conditional=True)
    with open_engine(tmp_path / "c.onnx", batch=4, role="conditional", backend="onnxruntime") as engine:
        assert engine.facts.classes == 4 and engine.null_class is None


def broken(folder: Path, name: str, changes: dict[str, Any]) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "holds a UNet2DConditionModel: expected a UNet2D"),
        ("unet/config.json", {"in_channels": 4}, "in_channels is 4 in .*: expected 3"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ("unet/config.json", {"sample_size": None}, "image size 0 does not fit this network: .* give image_size"),
        ("unet/config.json", {"block_out_channels": 5}, "block_out_channels is 5 .* expected a list of widths"),
        ("unet/config.json", {"num_class_embeds": "ten"}, "num_class_embeds 'ten'"),
        ("unet/config.json", {"block_out_channels": [32, 96]}, "safetensors does not fit its config.json or is damaged"),
        ("unet/config.json", {"down_block_types": ["AttnDownBlock2D"] * 2}, "config.json: 10 missing_keys"),
        ("unet/config.json", {"num_class_embeds": None}, "does not fit its config.json: 1 unexpected_keys"),
        ("unet/config.json", {"layers_per_block": 10**8}, "layers_per_block in .*config.json is 100000000, expected at most 1000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "is 1000000000, expected 1 to 1000000: save the"),
        ("scheduler/scheduler_config.json", {"trained_betas": 0.5}, "trained_betas of DDPMScheduler are no list"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "steep"}, "DDPMScheduler is not usable"),
        ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "noise schedule 'diffusers linear' is not usable"),
    ],
)  # fmt: skip
def test_refused_folders(name: str, changes: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    broken(copied, name, changes)
    null = None if changes.get("num_class_embeds", 0) is None else {"null_class": 3}
    with pytest.raises(InputError, match=message) as caught:
        export_denoiser("diffusers", copied, null, 0.25, tmp_path / "d.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "d.onnx").exists()


def test_incomplete_folders(folder: Path, tmp_path: Path) -> None:
    def refused(message: str, path: Path, config: dict[str, Any] | None = None) -> None:
        with pytest.raises(InputError, match=message):
            export_denoiser(
                "diffusers", path, {"null_class": 3} if config is None else config, 0.25, tmp_path / "d.onnx"
            )

    refused("is no folder: family diffusers takes the folder", folder / "unet" / "config.json")
    refused("has no network configuration: expected one of unet/config.json, config.json", tmp_path)
    refused("has no scheduler configuration", folder / "unet")
    refused("null_class must be one of the network's labels, got 4", folder, {"null_class": 4})
    refused("option 'classes' is unknown to diffusers: the known ones are null_class", folder, {"classes": 4})
    refused("class-conditional: denoising without a label needs null_class", folder, {})
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused("safetensors does not fit its config.json or is damaged", copied)
    weights.unlink()
    refused("has no file of parameters: expected one of diffusion_pytorch_model.safetensors", copied)
