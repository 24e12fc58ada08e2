"""CIFAR ResNets (He et al. 2016, section 4.2) under the parameter names of the two common public layouts.

`resnet20…110`: shortcuts without parameters (every second pixel, zero channels on both sides) and a last layer `linear`.
`cifar_resnet20…110`: Cohen et al. 2019, 1×1 convolution and batch norm as shortcuts and a last layer `fc`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .arch import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, ClassifierArch

DEPTHS = (20, 32, 44, 56, 110)


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


def cifar_resnet(name: str, classes: int) -> ClassifierArch:
    """The network called `resnetD` or `cifar_resnetD`, D one of `DEPTHS`."""
    learned = name.startswith("cifar_")
    module = CifarResNet(int(name.removeprefix("cifar_").removeprefix("resnet")), learned=learned, classes=classes)
    if learned:
        return ClassifierArch(name, module, CIFAR_MEAN, CIFAR_STD, classes, "fc")
    return ClassifierArch(name, module, IMAGENET_MEAN, IMAGENET_STD, classes, "linear")
