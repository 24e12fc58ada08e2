"""From images in [0, 1] to what a classifier takes: resize, centre crop, normalise. The model's own values, and overrides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import NO_NUMBER, InputError, shown
from ...nets.arch import Triple
from ...scaling import centre
from .resize import Resize, SourceResize, check_mode, resize_facts

SIDES = (4, 4096)  # pixels


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `resize_to`² pixels, keep the `input_size`² of them that begin at `crop_at`, (x − mean)/std.

    Where `bgr`, the network takes blue first; mean and std are then in that order.

    Images that have `input_size` already are neither resized nor cropped: whoever feeds them has done so.
    """

    mean: Triple
    std: Triple
    input_size: int
    resize_to: int
    mode: str = "bicubic"
    antialias: bool = True
    crop_at: int = 0
    bgr: bool = False

    def resize(self, image_size: int, source: bool = False) -> nn.Module:
        """The resize and crop of square images with sides of `image_size`; as a `source`, by torch's `interpolate`."""
        if image_size == self.input_size:
            return nn.Identity()
        if source:
            return SourceResize(self.resize_to, self.input_size, self.crop_at, self.mode, self.antialias)
        size = (image_size, image_size)
        return Resize(size, self.resize_to, self.input_size, self.crop_at, self.mode, self.antialias)

    def facts(self, image_size: int) -> dict[str, Any]:
        """What a file says about it, in its details."""
        facts = {"mean": list(self.mean), "std": list(self.std), "input_size": self.input_size}
        resized = resize_facts(self.resize_to, self.input_size, self.crop_at, self.mode, self.antialias)
        if self.bgr:
            facts["channels"] = "BGR"
        return {**facts, "resize": None if image_size == self.input_size else resized}


@dataclass(frozen=True)
class Overrides:
    """What the caller wants otherwise than the model's own files say; None leaves it to them.

    `image_size` is the side of the images that come in, `input_size` that of the network's input, `resize_to` the side
    that images are resized to before the centre is cropped (by default `input_size`: no crop).
    """

    image_size: int | None = None
    input_size: int | None = None
    resize_to: int | None = None
    resize_mode: str | None = None
    antialias: bool | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        sizes = (("--image-size", self.image_size), ("--input-size", self.input_size), ("--resize-to", self.resize_to))
        for name, size in sizes:
            if size is not None and not SIDES[0] <= size <= SIDES[1]:
                raise InputError(f"{name} must lie between {SIDES[0]} and {SIDES[1]} pixels, got {size}")
        check_mode(self.resize_mode, self.antialias)
        for name, given in (("--mean", self.mean), ("--std", self.std)):
            if max(map(abs, triple(name, given, positive=name == "--std") or (0.0,))) > 1:
                raise InputError(f"{name} must be in [0, 1] image units, got {given}: divide by 255")

    def over(self, own: Preprocessing) -> Preprocessing:
        """`own` with what was given instead."""
        size = own.input_size if self.input_size is None else self.input_size
        if self.resize_to is not None:
            to, at = self.resize_to, centre(self.resize_to, size)
        elif self.input_size is not None:
            to, at = size, 0
        else:
            to, at = own.resize_to, own.crop_at
        if to < size:
            raise InputError(
                f"--resize-to {to} is smaller than the {size} pixels that are cropped: give {size} or more"
            )
        check_mode(self.resize_mode or own.mode, own.antialias if self.antialias is None else self.antialias)
        return replace(
            own,
            mean=triple("--mean", self.mean, positive=False) or own.mean,
            std=triple("--std", self.std, positive=True) or own.std,
            input_size=size,
            resize_to=to,
            crop_at=at,
            mode=self.resize_mode or own.mode,
            antialias=own.antialias if self.antialias is None else self.antialias,
        )


def triple(name: str, values: Sequence[float] | None, *, positive: bool) -> Triple | None:
    """Three finite numbers, or None for None; InputError for anything else."""
    if values is None:
        return None
    try:
        numbers = [float(value) for value in values]
    except NO_NUMBER:
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(n) and (n > 0 or not positive) for n in numbers):
        raise InputError(
            f"{name} must be three {'positive ' if positive else ''}numbers in [0, 1] units, got {shown(values)}"
        )
    return (numbers[0], numbers[1], numbers[2])


class Normalise(nn.Module):
    """(x − mean)/std by channel as one multiply-add; where `bgr`, of channels in reverse order."""

    def __init__(self, mean: Triple, std: Triple, bgr: bool = False) -> None:
        super().__init__()
        self.order: Tensor | None
        self.register_buffer("order", torch.tensor([2, 1, 0]) if bgr else None)
        self.scale: Tensor
        self.offset: Tensor
        double = torch.float64
        scale = 1 / torch.tensor(std, dtype=double)
        self.register_buffer("scale", scale.float().reshape(1, -1, 1, 1))
        self.register_buffer("offset", (-torch.tensor(mean, dtype=double) * scale).float().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.order is not None:
            x = x.index_select(1, self.order)
        return x * self.scale + self.offset


class ClassifierWithPreprocessing(nn.Module):
    """Images `[B, 3, h, w]` in [0, 1] units → logits: resize and crop, (x − mean)/std, network.

    The normalisation stays in front of the network: its convolutions pad normalised images with zeros. `source` makes it
    the one to compare with.
    """

    def __init__(self, net: nn.Module, preprocessing: Preprocessing, image_size: int, source: bool = False) -> None:
        super().__init__()
        self.resize = preprocessing.resize(image_size, source)
        self.normalise = Normalise(preprocessing.mean, preprocessing.std, preprocessing.bgr)
        self.net = net
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalise(self.resize(x)))
        return logits
