"""ResNet-50 for 224×224 images (He et al. 2016, table 1; stride in the 3×3 convolution) under torchvision's parameter names."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .arch import IMAGENET_MEAN, IMAGENET_STD, ClassifierArch

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with batch norm around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.downsample(x))


class ImageNetResNet(nn.Module):
    """Normalised images `[N, 3, H, W]` → logits `[N, classes]`; `blocks` is the number of bottlenecks in each stage."""

    def __init__(self, blocks: tuple[int, int, int, int], classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(blocks):
            width = 64 << stage
            first = Bottleneck(channels, width, 1 if stage == 0 else 2)
            channels = width * EXPANSION
            self.add_module(
                f"layer{stage + 1}", nn.Sequential(first, *(Bottleneck(channels, width, 1) for _ in range(count - 1)))
            )
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        for stage in range(1, 5):
            h = self.get_submodule(f"layer{stage}")(h)
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits


def resnet50(name: str, classes: int) -> ClassifierArch:
    """ResNet-50 and the ImageNet normalisation, also of Cohen et al. 2019."""
    module = ImageNetResNet((3, 4, 6, 3), classes)
    return ClassifierArch(name, module, IMAGENET_MEAN, IMAGENET_STD, classes, "fc", size=224)
