"""The CIFAR classifiers that out-of-distribution papers publish, under their checkpoints' parameter names.

`resnet18_ood` is ProoD's ResNet-18 (Meinke et al. 2022; `shortcut`, `linear`, images as they are), alone or under `base_model.`
in a joint model's checkpoint. `densenet100` is DenseNet-BC with growth 12 as ACET and ATOM use it (Chen et al. 2021); ATOM's
has one output more than classes, "out of distribution", which the checkpoint's last layer tells. The WideResNet-40-2 of VOS (Du
et al. 2022) and LogitNorm (Wei et al. 2022; mean 0.492, 0.482, 0.446, standard deviation 0.247, 0.244, 0.262) has a module of
its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arch import ClassifierArch, Triple


class ShortcutBlock(nn.Module):
    """Two 3×3 convolutions with batch norm; the shortcut is named `shortcut` and learned where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    """Images `[N, 3, H, W]` → logits `[N, classes]`; widths 64 to 512, two blocks each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for number in range(1, 5):
            before, out, stride = widths[number - 1], widths[number], 1 if number == 1 else 2
            self.add_module(
                f"layer{number}", nn.Sequential(ShortcutBlock(before, out, stride), ShortcutBlock(out, out, 1))
            )
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            h = self.get_submodule(f"layer{number}")(h)
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


class _Nested(nn.Module):
    """A sequence that its checkpoints keep under `layer`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class Bottleneck(nn.Module):
    """DenseNet-BC's layer: batch norm, relu, 1×1 to 4·growth, batch norm, relu, 3×3 to growth, appended to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([x, h], dim=1)


class Transition(nn.Module):
    """Half the channels, half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(nn.Module):
    """DenseNet-BC (Huang et al. 2017) for CIFAR: three blocks of (depth − 4)/6 layers, normalised images → logits."""

    def __init__(self, classes: int, depth: int = 100, growth: int = 12) -> None:
        super().__init__()
        layers, channels = (depth - 4) // 6, 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for number in (1, 2, 3):
            block = _Nested(*(Bottleneck(channels + i * growth, growth) for i in range(layers)))
            self.add_module(f"block{number}", block)
            channels += layers * growth
            if number < 3:
                self.add_module(f"trans{number}", Transition(channels))
                channels //= 2
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        for name in ("block1", "trans1", "block2", "trans2", "block3"):
            h = self.get_submodule(name)(h)
        logits: Tensor = self.fc(F.relu(self.bn1(h)).mean((2, 3)))
        return logits


# Name: what makes the network for a number of classes, mean and standard deviation of its inputs, its last layer's name.
OOD_ARCHS: dict[str, tuple[Callable[[int], nn.Module], Triple, Triple, str]] = {
    "resnet18_ood": (ResNet18, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "linear"),
    "densenet100": (
        DenseNet,
        (125.3 / 255, 123.0 / 255, 113.9 / 255),
        (63.0 / 255, 62.1 / 255, 66.7 / 255),
        "fc",
    ),
}


def ood_classifier(name: str, classes: int) -> ClassifierArch:
    """The network called `name`, one of `OOD_ARCHS`, with `classes` outputs."""
    make, mean, std, head = OOD_ARCHS[name]
    return ClassifierArch(name, make(classes), mean, std, classes, head)
