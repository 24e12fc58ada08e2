"""Wide residual networks for 32×32 images (Zagoruyko & Komodakis 2016, section 2) under the names of the common PyTorch layout.

`conv1`, `block1…3.layer.N.{bn1, conv1, bn2, conv2, convShortcut}`, `bn1`, `fc`: the layout of xternalz/WideResNet-pytorch
that robustness work (TRADES and after) took over. Its training normalises by mean (125.3, 123.0, 113.9)/255 and standard
deviation (63.0, 62.1, 66.7)/255; robustness checkpoints often do not normalise at all.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .arch import ClassifierArch

MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


class PreActivationBlock(nn.Module):
    """Norm, rectifier and 3×3 convolution, twice; where channels change, the shortcut starts after the first rectifier."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if channels != out_channels:
            self.convShortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        if hasattr(self, "convShortcut"):
            x = self.convShortcut(h)
        result: Tensor = x + self.conv2(F.relu(self.bn2(self.conv1(h))))
        return result


class _Stage(nn.Module):
    """Blocks of one width, named `layer`."""

    def __init__(self, blocks: int, channels: int, out: int, stride: int) -> None:
        super().__init__()
        first = PreActivationBlock(channels, out, stride)
        self.layer = nn.Sequential(first, *(PreActivationBlock(out, out, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        return h


class WideResNet(nn.Module):
    """Normalised images `[N, 3, H, W]` → logits `[N, classes]`; `depth` is 6n + 4, `width` multiplies the channels."""

    def __init__(self, depth: int, width: int, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _Stage(blocks, 16, widths[0], 1)
        self.block2 = _Stage(blocks, widths[0], widths[1], 2)
        self.block3 = _Stage(blocks, widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(h)).mean((2, 3)))
        return logits


def wide_resnet(name: str, classes: int) -> ClassifierArch:
    """`wrn-D-W`: depth D = 6n + 4 of at least 10, W times the channels."""
    depth, width = (int(part) for part in name.split("-")[1:])
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise InputError(
            f"classifier architecture {name!r}: the depth must be 6n + 4 from 10 on and the width 1 or more, as in wrn-28-10"
        )
    # TRADES' networks build a fourth stage that they never call; its parameters are in their checkpoints.
    return ClassifierArch(name, WideResNet(depth, width, classes), MEAN, STD, classes, "fc", unused=("sub_block1.",))
