"""ResNets for 224×224 images (He et al. 2016, table 1; stride in the 3×3 convolution) under torchvision's parameter names.

With wide ones (Zagoruyko & Komodakis 2016) and ResNeXt (Xie et al. 2017), which torchvision builds of the same blocks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .arch import IMAGENET_MEAN, IMAGENET_STD, ClassifierArch
from .resnet import BasicBlock

EXPANSION = 4
Blocks = tuple[int, int, int, int]
BASIC: dict[str, Blocks] = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
# blocks in each stage, groups of the 3×3 convolutions, and channels of a group in the first stage
DEEP: dict[str, tuple[Blocks, int, int]] = {
    "resnet50": ((3, 4, 6, 3), 1, 64),
    "resnet101": ((3, 4, 23, 3), 1, 64),
    "resnet152": ((3, 8, 36, 3), 1, 64),
    "wide_resnet50_2": ((3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ((3, 4, 23, 3), 1, 128),
    "resnext50_32x4d": ((3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ((3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": ((3, 4, 23, 3), 64, 4),
}
NAMES = (*BASIC, *DEEP)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with batch norm around a shortcut."""

    def __init__(self, channels: int, width: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
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
    """Normalised images `[N, 3, H, W]` → logits `[N, classes]`; `name` is one of `NAMES`."""

    def __init__(self, name: str, classes: int = 1000) -> None:
        super().__init__()
        blocks = BASIC[name] if name in BASIC else DEEP[name][0]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(blocks):
            made = []
            for number in range(count):
                made.append(_block(name, channels, 64 << stage, 2 if stage and not number else 1))
                channels = 64 << stage if name in BASIC else EXPANSION * 64 << stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        for stage in range(1, 5):
            h = self.get_submodule(f"layer{stage}")(h)
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits


def _block(name: str, channels: int, planes: int, stride: int) -> nn.Module:
    """A block that takes `channels`; `planes` are 64 in the first stage and double from one to the next."""
    if name in BASIC:
        return BasicBlock(channels, planes, stride, learned=True)
    _, groups, each = DEEP[name]
    return Bottleneck(channels, groups * (planes * each // 64), EXPANSION * planes, stride, groups)


def imagenet_resnet(name: str, classes: int) -> ClassifierArch:
    """The network called `name`, one of `NAMES`, and the ImageNet normalisation, also of Cohen et al. 2019."""
    return ClassifierArch(name, ImageNetResNet(name, classes), IMAGENET_MEAN, IMAGENET_STD, classes, "fc", size=224)
