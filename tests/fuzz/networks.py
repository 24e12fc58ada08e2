"""Formats of networks' configurations: of denoisers, of folders that diffusers and transformers saved, of timm, and of shards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from foreign import one_changed, several, unpacked
from inputs import Format, text_changed
from safetensors.torch import save

from diffsmooth_trt.exporting.denoiser import read_family
from diffsmooth_trt.exporting.graph.preprocessing import Overrides
from diffsmooth_trt.exporting.sources.shards import weight_files
from diffsmooth_trt.exporting.sources.timm_config import SavedConfig
from diffsmooth_trt.nets.options import FAMILIES
from diffsmooth_trt.schedule import MOST_STEPS

SIGMA = 0.25
SIDE = 16384  # pixels that pictures are resized to at most
UNET = {"image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,1", "attention_resolutions": "4"}
CONFIGS: dict[str, dict[str, Any]] = {
    **{family: {**UNET, "diffusion_steps": 100, "noise_schedule": "linear"} for family in FAMILIES},
    "edm": {
        "img_resolution": 8, "model_channels": 16, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4],
    },
}  # fmt: skip


def families(folder: Path) -> list[Format]:
    """Options of each family, with a checkpoint that fits the sound ones."""

    def of(family: str) -> Format:
        checkpoint = folder / f"{family}.pt"
        torch.save(read_family(family, CONFIGS[family], "net.pt").network().state_dict(), checkpoint)

        def read(path: Path) -> None:
            configured = read_family(family, path, checkpoint)
            configured.check_input_size(configured.image_size)
            configured.level(SIGMA, fractional=False)
            configured.folded_label()
            configured.load(checkpoint)

        return Format(f"config-{family}", ".json", [json.dumps(CONFIGS[family]).encode()], read, text_changed)

    return [of(family) for family in CONFIGS]


def pictured(data: bytes) -> int:
    """Bytes of a float64 picture of the largest side in an input: what preprocesses pictures is tried on one."""
    sides = [int(number) for number in re.findall(rb"[0-9]+", data) if len(number) < 6]
    return max(len(data), *(24 * side**2 for side in sides if side <= SIDE))


def folder_format(
    name: str, folder: Path, files: dict[str, Any], weights: dict[str, bytes], load: Callable[[Path], object]
) -> Format:
    """A folder of JSON `files`, which are changed, and of `weights`, which are not."""
    here = folder / name

    def read(path: Path) -> None:
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        for file, content in weights.items():
            (here / file).write_bytes(content)
        unpacked(path, here)
        load(here)

    return Format(name, ".json", [several(files)], read, one_changed)


def diffusers_folder(folder: Path) -> Format:
    import diffusers

    from diffsmooth_trt.exporting.sources.diffusers import read_folder

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False}
    net = diffusers.UNet2DModel(8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    scheduler = json.loads(diffusers.DDPMScheduler().to_json_string())

    def load(here: Path) -> None:
        configured = read_folder(here, {})
        configured.check_input_size(configured.image_size)
        configured.level(SIGMA, fractional=False)
        configured.load(here)

    files = {"config.json": json.loads(net.to_json_string()), "scheduler_config.json": scheduler}
    weights = {"diffusion_pytorch_model.safetensors": save(dict(net.state_dict()))}
    made = folder_format("diffusers", folder, files, weights, load)
    return replace(made, holds=lambda data: 32 * MOST_STEPS)  # a schedule's numbers, in Python


def transformers_folder(folder: Path) -> Format:
    import transformers

    from diffsmooth_trt.exporting.sources.transformers import load_folder

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    net = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
    files = {"config.json": json.loads(config.to_json_string()), "preprocessor_config.json": processor.to_dict()}
    weights = {"model.safetensors": save(dict(net.state_dict()))}
    made = folder_format("transformers", folder, files, weights, lambda here: load_folder(here, Overrides()))
    return replace(made, holds=pictured)


def timm_config(folder: Path) -> Format:
    said = {
        "architecture": "test_vit", "num_classes": 3, "model_args": {"img_size": 8}, "label_names": ["a", "b", "c"],
        "pretrained_cfg": {
            "input_size": [3, 8, 8], "crop_pct": 0.9, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic", "label_descriptions": {"a": "an a"},
        },
    }  # fmt: skip

    def load(here: Path) -> None:
        saved = SavedConfig.beside(here, "test_vit")
        if saved is not None:
            saved.over({"input_size": (3, 16, 16)})
            saved.arguments()
            saved.class_names(3)

    return folder_format("timm", folder, {"config.json": said}, {}, load)


def shard_index(folder: Path) -> Format:
    index = "model.safetensors.index.json"
    names = {f"layer{i}.weight": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    weights = {name: save({layer: torch.zeros(2)}) for layer, name in names.items()}
    files = {index: {"metadata": {"total_size": 16}, "weight_map": names}}
    return folder_format("shards", folder, files, weights, lambda here: weight_files(here / index))


def formats(folder: Path) -> dict[str, Callable[[], list[Format]]]:
    """What makes them, by the beginning of their names: torch and the libraries take seconds to import."""
    return {
        "config": lambda: families(folder),
        "diffusers": lambda: [diffusers_folder(folder)],
        "transformers": lambda: [transformers_folder(folder)],
        "timm": lambda: [timm_config(folder)],
        "shards": lambda: [shard_index(folder)],
    }
