"""Every built-in classifier architecture by name. A new one is one line of `KNOWN`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError
from .arch import ClassifierArch
from .beit import beit
from .cifar_ood import OOD_ARCHS, ood_classifier
from .imagenet_resnet import NAMES, imagenet_resnet
from .resnet import DEPTHS, cifar_resnet
from .wide_resnet import wide_resnet

Maker = Callable[[str, int], ClassifierArch]  # (name, classes) → the architecture


@dataclass(frozen=True)
class Entry:
    """Architectures whose whole name matches `pattern`; `names` are those that errors list and that loading tries."""

    pattern: str
    names: tuple[str, ...]
    make: Maker
    classes: int = 10


_DEPTHS = "|".join(map(str, DEPTHS))
KNOWN: tuple[Entry, ...] = (
    Entry(rf"resnet({_DEPTHS})", tuple(f"resnet{depth}" for depth in DEPTHS), cifar_resnet),
    Entry(rf"cifar_resnet({_DEPTHS})", tuple(f"cifar_resnet{depth}" for depth in DEPTHS), cifar_resnet),
    Entry(r"wrn-[0-9]{1,3}-[0-9]{1,2}", ("wrn-28-10", "wrn-34-10", "wrn-40-2"), wide_resnet),
    Entry("|".join(OOD_ARCHS), tuple(OOD_ARCHS), ood_classifier),
    Entry("|".join(NAMES), NAMES, imagenet_resnet, 1000),
    Entry(r"beit_(base|large)_patch16_(224|384|512)", ("beit_large_patch16_224", "beit_large_patch16_512"), beit, 1000),
)


def classifier_names() -> list[str]:
    """The names that errors list."""
    return [name for entry in KNOWN for name in entry.names]


def classifier_from_arch(name: str, classes: int | None = None) -> ClassifierArch:
    """The network called `name` with `classes` outputs (by default its data set's); InputError names the known ones."""
    for entry in KNOWN:
        if re.fullmatch(entry.pattern, name):
            return entry.make(name, classes or entry.classes)
    raise InputError(
        f"classifier architecture {name!r} is unknown: use one of {', '.join(classifier_names())}, "
        "hf with a folder as checkpoint, timm/NAME, or torchvision/NAME"
    )
