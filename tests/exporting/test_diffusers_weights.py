"""Which of several weights of a diffusers folder are taken: averages by default, others by key; said and recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
diffusers = pytest.importorskip("diffusers", reason="the folders are the diffusers library's")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.sources.diffusers import read_folder  # noqa: E402
from diffsmooth_trt.exporting.writers.report import weights_lines  # noqa: E402

NETWORK: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False,
}  # fmt: skip


def saved(folder: Path, value: float, variant: str | None = None) -> Path:
    """A network whose first bias is `value`."""
    net = diffusers.UNet2DModel(**NETWORK)
    net.conv_in.bias.data[:] = value
    net.save_pretrained(folder, variant=variant)
    return folder


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    saved(tmp_path / "p" / "unet", 1.0)
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "p" / "scheduler")
    return tmp_path / "p"


def taken(folder: Path, key: str | None = None) -> tuple[float, dict[str, Any], str]:
    """The first bias, what the facts say, and the hash of the file."""
    family = read_folder(folder, {})
    net, said = family.load(folder, key)
    return float(net.conv_in.bias[0]), said.get("weights_of", {}), family.source_sha256(folder)


def test_averages_that_training_scripts_keep_beside_the_weights(pipeline: Path) -> None:
    """huggingface/diffusers#2321, #2706: `unet_ema`, with what EMAModel adds to its configuration; `unet` was taken in silence."""
    alone = taken(pipeline)
    assert alone[:2] == (1.0, {})
    config = json.loads((saved(pipeline / "unet_ema", 2.0) / "config.json").read_text())
    (pipeline / "unet_ema" / "config.json").write_text(json.dumps({**config, "decay": 0.9999, "optimization_step": 7}))
    value, said, digest = taken(pipeline)
    assert (value, said) == (2.0, {"key": "unet_ema", "averaged": True, "others": ["unet"]})
    assert digest != alone[2]
    assert weights_lines(said) == [
        "  weights: unet_ema (averaged over training); the checkpoint also has unet, to be taken by --checkpoint-key"
    ]
    assert taken(pipeline, "unet") == (1.0, {"key": "unet", "averaged": False, "others": ["unet_ema"]}, alone[2])
    with pytest.raises(InputError, match=r"checkpoint_key ema: checkpoint .* has unet, unet_ema: give one of them"):
        taken(pipeline, "ema")


def test_a_checkpoint_of_a_training_script_takes_the_scheduler_above_it(pipeline: Path) -> None:
    inner = pipeline / "checkpoint-500"
    saved(inner / "unet", 3.0)
    saved(inner / "unet_ema", 4.0)
    assert taken(inner)[0] == 4.0
    assert taken(inner, "unet")[0] == 3.0


@pytest.mark.parametrize(
    ("variant", "default", "key", "other"),
    [("non_ema", 1.0, "unet.non_ema", 2.0), ("ema", 2.0, "unet", 1.0), ("epoch9", 1.0, "unet.epoch9", 2.0)],
)
def test_variants_of_a_file(pipeline: Path, variant: str, default: float, key: str, other: float) -> None:
    """Of weights that are called no averages, the plain ones beside them are averages."""
    saved(pipeline / "unet", 2.0, variant)
    value, said, _ = taken(pipeline)
    assert (value, said["averaged"]) == (default, variant != "epoch9")
    assert taken(pipeline, key)[0] == other
    assert taken(pipeline, key)[1]["averaged"] is (key == "unet" and variant == "non_ema")


def test_a_precision_is_no_choice_but_what_there_is(pipeline: Path) -> None:
    saved(pipeline / "unet", 2.0, "fp16")
    assert taken(pipeline)[:2] == (1.0, {})
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert taken(pipeline)[:2] == (2.0, {"key": "unet.fp16", "averaged": False})


def test_what_is_meant_is_asked(pipeline: Path) -> None:
    saved(pipeline / "unet_ema", 2.0)
    saved(pipeline / "unet_swa", 3.0)
    with pytest.raises(
        InputError, match=r"2 sets of averaged weights \(unet_ema, unet_swa\): say which by checkpoint_key"
    ):
        taken(pipeline)
    assert taken(pipeline, "unet_swa")[0] == 3.0


def test_other_networks_in_a_pipeline_are_none_of_its_weights(pipeline: Path) -> None:
    shutil.copytree(pipeline / "unet", pipeline / "vae")
    config = json.loads((pipeline / "vae" / "config.json").read_text())
    (pipeline / "vae" / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKL"}))
    assert taken(pipeline)[:2] == (1.0, {})
    saved(pipeline / "unet_ema", 2.0)
    path = pipeline / "unet_ema" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "act_fn": "gelu"}))
    with pytest.raises(InputError, match=r"unet_ema/config.json is of another network \(act_fn\)"):
        taken(pipeline)


def test_a_networks_own_folder_is_what_was_given(pipeline: Path) -> None:
    saved(pipeline / "unet_ema", 2.0)
    shutil.copy(pipeline / "scheduler" / "scheduler_config.json", pipeline / "unet")
    assert taken(pipeline / "unet")[:2] == (1.0, {})
