"""CIFAR ResNets (He et al. 2016, section 4.2) under the parameter names of the two common public layouts.

`resnet20…110`: shortcuts without parameters (every second pixel, zero channels on both sides) and a last layer `linear`.
`cifar_resnet20…110`: Cohen et al. 2019, 1×1 convolution and batch norm as shortcuts and a last layer `fc`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

DEPTHS = (20, 32, 44, 56, 110)
ARCHS = (*(f"resnet{depth}" for depth in DEPTHS), *(f"cifar_resnet{depth}" for depth in DEPTHS))

Triple = tuple[float, float, float]


class _PadShortcut(nn.Module):
    """Option A of He et al.: half the resolution by taking every second pixel, more channels by zeros."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.before, self.after = more // 2, more - more // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm around a shortcut; the shortcut is named `downsample` as in Cohen et al."""

    def __init__(self, channels: int, out_channels: int, stride: int, learned: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 and learned:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        elif stride != 1:
            self.downsample = _PadShortcut(out_channels - channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.downsample(x))


class CifarResNet(nn.Module):
    """Normalised images `[N, 3, H, W]` → logits `[N, classes]`; `depth` is 6n + 2; `learned` chooses the layout."""

    def __init__(self, depth: int, *, learned: bool, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)

        def stage(channels: int, out: int, stride: int) -> nn.Sequential:
            first = BasicBlock(channels, out, stride, learned)
            return nn.Sequential(first, *(BasicBlock(out, out, 1, learned) for _ in range(blocks - 1)))

        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.head = "fc" if learned else "linear"
        self.add_module(self.head, nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.layer3(self.layer2(self.layer1(h)))
        logits: Tensor = self.get_submodule(self.head)(h.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class ClassifierArch:
    """A classifier's network, the normalisation its checkpoints expect ([0, 1] units), and its last layer's name."""

    name: str
    module: nn.Module
    mean: Triple
    std: Triple
    classes: int
    head: str


def classifier_from_arch(name: str, classes: int = 10) -> ClassifierArch:
    """The network called `name` (one of `ARCHS` or `cifar_ood.OOD_ARCHS`) with `classes` outputs; InputError names the known
    ones.
    """
    from .cifar_ood import OOD_ARCHS, ood_classifier

    if name in OOD_ARCHS:
        return ood_classifier(name, classes)
    if name not in ARCHS:
        raise InputError(f"classifier architecture {name!r} is unknown: use one of {', '.join((*ARCHS, *OOD_ARCHS))}")
    learned = name.startswith("cifar_")
    module = CifarResNet(int(name.removeprefix("cifar_").removeprefix("resnet")), learned=learned, classes=classes)
    if learned:
        return ClassifierArch(name, module, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), classes, "fc")
    return ClassifierArch(name, module, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), classes, "linear")
