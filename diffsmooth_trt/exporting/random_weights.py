"""Random weights in the formats of published checkpoints, so that recipes run, and speed can be measured, without any of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..nets import edm
from ..nets.classifiers import classifier_from_arch
from ..nets.detector import BASE_PREFIX, JOINT_PREFIX, Detector
from ..nets.options import named_options

VIT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
VIT_PREPROCESSOR = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
}


def _shaken(net: nn.Module) -> nn.Module:
    """`net` with small numbers in place of the zeros that training starts from."""
    for parameter in net.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)
    return net


def random_denoiser(config: str, folder: Path, seed: int = 0) -> Path:
    """A plain state dict of the built-in configuration `config`, as OpenAI's checkpoints are."""
    torch.manual_seed(seed)
    path = folder / f"{config}.pt"
    torch.save(_shaken(named_options(config).network()).state_dict(), path)
    return path


def random_edm(config: str, folder: Path, seed: int = 0) -> Path:
    """The parameters of EDM's preconditioned network of the built-in configuration `config`, below "ema" as in its pickles."""
    torch.manual_seed(seed)
    path = folder / f"{config}.pt"
    state = _shaken(edm.named_options(config).network()).state_dict()
    torch.save({"ema": {f"model.{name}": tensor for name, tensor in state.items()}}, path)
    return path


def random_joint(folder: Path, seed: int = 0) -> Path:
    """A joint model's state dict: ProoD's detector under `detector.`, a ResNet-18 under `base_model.`."""
    torch.manual_seed(seed)
    parts = {JOINT_PREFIX: Detector(), BASE_PREFIX: classifier_from_arch("resnet18_ood").module}
    path = folder / "joint.pt"
    torch.save({prefix + name: t for prefix, net in parts.items() for name, t in net.state_dict().items()}, path)
    return path


def random_classifier(arch: str, folder: Path, *, parallel: bool = False, seed: int = 0) -> Path:
    """{"arch", "state_dict"} with names behind the normalisation layer, and behind `module.` where trained in `parallel`."""
    torch.manual_seed(seed)
    prefix = "1.module." if parallel else "1."
    state = _shaken(classifier_from_arch(arch).module).state_dict()
    path = folder / f"{arch}.pth.tar"
    torch.save({"epoch": 90, "arch": arch, "state_dict": {prefix + name: t for name, t in state.items()}}, path)
    return path


def random_vit(folder: Path, classes: int = 10, seed: int = 0, **options: Any) -> Path:
    """A Hugging Face folder of ViT-B/16 (or of other `options`) with its preprocessor file."""
    transformers: Any = importlib.import_module("transformers")

    torch.manual_seed(seed)
    path = folder / "vit"
    config = transformers.ViTConfig(num_labels=classes, **{**VIT_BASE, **options})
    net = transformers.ViTForImageClassification(config)
    _shaken(net)
    net.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(VIT_PREPROCESSOR), encoding="utf-8")
    return path
