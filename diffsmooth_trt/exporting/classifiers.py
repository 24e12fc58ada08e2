"""Checkpoint → classifier with its preprocessing → checked ONNX file."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..files import file_sha256
from ..nets.detector import base_state
from ..nets.resnet import Triple, classifier_from_arch
from .check import ImageCheck
from .checkpoints import export_details, load_into, load_state, round_to_half
from .onnx_file import Writer, write_checked
from .resize import Resize
from .result import ExportReport

Source = str | PathLike[str]


def without_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of `net` in which every BatchNorm2d registered right after a Conv2d is part of that convolution."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return net.requires_grad_(False)


class ClassifierWithPreprocessing(nn.Module):
    """Images `[B, 3, h, w]` in [0, 1] units → logits: resize when `input_size` differs, (x − mean)/std, network.

    The normalisation stays in front of the network: its convolutions pad normalised images with zeros.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: tuple[int, int],
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        resized = input_size is not None and image_size != (input_size, input_size)
        self.resize: nn.Module = Resize(image_size, input_size) if resized and input_size else nn.Identity()
        self.scale: Tensor
        self.offset: Tensor
        double = torch.float64
        scale = 1 / torch.tensor(std, dtype=double)
        self.register_buffer("scale", scale.float().reshape(1, -1, 1, 1))
        self.register_buffer("offset", (-torch.tensor(mean, dtype=double) * scale).float().reshape(1, -1, 1, 1))
        self.net = net
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.resize(x) * self.scale + self.offset)
        return logits


def _triple(name: str, values: Sequence[float] | None, default: Triple, positive: bool) -> Triple:
    if values is None:
        return default
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(math.isfinite(n) and (n > 0 or not positive) for n in numbers):
        raise InputError(f"{name} must be three {'positive ' if positive else ''}numbers in [0, 1] units, got {values}")
    return (numbers[0], numbers[1], numbers[2])


def classifier_file(
    arch: str,
    checkpoint: Source,
    out: Source,
    input_size: int | None,
    image_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    batch: int | None,
    store_fp16: bool,
    write: Writer = write_checked,
) -> ExportReport:
    """See `export_classifier`. `write` makes the file."""
    for name, size in (("--input-size", input_size), ("image size", image_size)):
        if size is not None and not 4 <= size <= 4096:
            raise InputError(f"{name} must lie between 4 and 4096 pixels, got {size}")
    known = classifier_from_arch(arch)
    mean, std = _triple("--mean", mean, known.mean, False), _triple("--std", std, known.std, True)
    state = base_state(load_state(checkpoint))
    weight = state.get(f"{known.head}.weight")
    if weight is not None and weight.dim() == 2 and weight.shape[0] != known.classes:
        known = classifier_from_arch(arch, weight.shape[0])
    load_into(known.module, state, f"checkpoint {checkpoint}")
    fused = without_batch_norm(known.module)
    if store_fp16:
        round_to_half(fused)
    # What is rounded are the fused weights, so they are the source of a half-precision file.
    source, module = (
        ClassifierWithPreprocessing(net, mean, std, (image_size, image_size), input_size)
        for net in (fused if store_fp16 else known.module, fused)
    )
    shape = (3, image_size, image_size)
    facts = EngineFacts(
        role="classifier",
        input_shape=shape,
        classes=known.classes,
        family=arch,
        source_sha256=file_sha256(Path(checkpoint)),
        details=export_details(checkpoint, store_fp16, mean=list(mean), std=list(std), input_size=input_size),
    )
    return write(module, ImageCheck(source, shape, 0.25), facts, Path(out), batch, store_fp16)
