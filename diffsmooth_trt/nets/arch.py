"""What a classifier architecture is: the network, and what its published checkpoints expect around it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

Triple = tuple[float, float, float]

CIFAR_MEAN: Triple = (0.4914, 0.4822, 0.4465)
CIFAR_STD: Triple = (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassifierArch:
    """A classifier's network and the normalisation its checkpoints expect ([0, 1] units).

    `head` is the name of its last layer, whose weight has `classes` rows; `size` the side of the images that it takes;
    `unused` are parts of names of what published checkpoints hold and the network never reads.
    """

    name: str
    module: nn.Module
    mean: Triple
    std: Triple
    classes: int
    head: str
    size: int = 32
    unused: tuple[str, ...] = ()
