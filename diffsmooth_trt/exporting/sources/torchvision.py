"""Any classifier of torchvision with the user's own checkpoint, where torchvision is installed. Nothing is fetched."""

from __future__ import annotations

import difflib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...scaling import centre
from ..graph.preprocessing import Preprocessing
from .checkpoints import load_into, read_checkpoint
from .loaded import LoadedClassifier
from .shards import files_sha256

DEFAULT_CLASSES = 1000


def _models() -> Any:
    """torchvision.models."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # one that was built for another torch raises the latter
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"--arch torchvision/… needs torchvision, which cannot be imported ({reason}): install the one that fits torch "
            f"{torch.__version__}"
        ) from None
    return models


def preprocessing_of(models: Any, name: str) -> Preprocessing:
    """What the evaluation transform of a model's first published weights does (IMAGENET1K_V1: shorter side 256, crop 224)."""
    transform = next(iter(models.get_model_weights(name))).transforms()
    (size,), (to,) = transform.crop_size, transform.resize_size
    mean, std = tuple(transform.mean), tuple(transform.std)
    return Preprocessing(mean, std, size, to, transform.interpolation.value, True, centre(to, size))


def _classes(models: Any, name: str, state: dict[str, Tensor]) -> int:
    """How many classes the last layer of a checkpoint has; the default's where it has none."""
    with torch.device("meta"):
        made = models.get_model(name, weights=None, **_extra(name)).named_parameters()
    heads = [key for key, value in made if key.endswith(".weight") and value.shape[0] == DEFAULT_CLASSES]
    weight = state.get(heads[-1]) if heads else None
    return DEFAULT_CLASSES if weight is None or weight.dim() < 2 else len(weight)


def _extra(name: str) -> dict[str, Any]:
    """No weights are drawn at random: the checkpoint's replace them, and two networks warn that it takes long."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def load_torchvision(arch: str, checkpoint: Path, key: str | None = None) -> LoadedClassifier:
    """The classifier `torchvision/NAME` with a checkpoint's weights, as many classes as its last layer has."""
    models = _models()
    name = arch.removeprefix("torchvision/")
    known = models.list_models(module=models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3))
        raise InputError(
            f"--arch {arch}: torchvision has no classifier {name!r}{f' (it has {near})' if near else ''}: "
            "use a name of torchvision.models.list_models()"
        )
    read = read_checkpoint(checkpoint, key)
    classes = _classes(models, name, read.state)
    net = models.get_model(name, weights=None, num_classes=classes, **_extra(name)).eval()
    load_into(net, read.state, f"checkpoint {checkpoint}", read.remedy("check --arch"))
    return LoadedClassifier(
        net,
        classes,
        preprocessing_of(models, name),
        arch,
        files_sha256(read.files),
        details={**read.choice.recorded(), "torchvision": version("torchvision")},
    )
