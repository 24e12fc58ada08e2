"""The detector of a joint model → checked ONNX file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..nets.detector import Detector, detector_for, detector_state
from .checks.inputs import ImageCheck
from .sources.checkpoints import export_details, load_into, read_checkpoint, round_to_half
from .sources.shards import files_sha256
from .writers.onnx import write_checked
from .writers.report import ExportReport

Source = str | PathLike[str]


class EffectiveDetector(nn.Module):
    """`Detector` with its last layer as the linear map that it is: weight −exp(w)."""

    def __init__(self, source: Detector) -> None:
        super().__init__()
        with torch.no_grad():
            last = nn.Linear(source.L5.in_features, 1)
            last.weight.copy_(-source.L5.weight.exp())
            last.bias.copy_(source.L5.bias)
        self.layers = nn.Sequential(
            source.C1, nn.ReLU(), source.C2, nn.ReLU(), source.C3, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            source.L4, nn.ReLU(), last,
        )  # fmt: skip
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        d: Tensor = self.layers(x)
        return d


def detector_file(
    checkpoint: Source, out: Source, image_size: int, batch: int | None, store_fp16: bool, *, key: str | None = None
) -> ExportReport:
    """See `export_detector`."""
    if not 4 <= image_size <= 4096:
        raise InputError(f"image size must lie between 4 and 4096 pixels, got {image_size}")
    read = read_checkpoint(checkpoint, key)
    state = detector_state(read.state)
    net = detector_for(state, image_size)
    fits = state["L4.weight"].shape == net.L4.weight.shape
    load_into(
        net, state, f"checkpoint {checkpoint}", read.remedy("check the architecture" if fits else "check --image-size")
    )
    if store_fp16:
        round_to_half(net)
    module = EffectiveDetector(net)
    if store_fp16:
        round_to_half(module)  # −exp of what was rounded; the check below compares with the same
    shape = (3, image_size, image_size)
    facts = EngineFacts(
        role="detector",
        input_shape=shape,
        family="prood",
        source_sha256=files_sha256(read.files),
        details=export_details(
            checkpoint,
            store_fp16,
            widths=[len(layer.weight) for layer in (net.C1, net.C2, net.C3, net.L4)],
            **read.choice.recorded(),
        ),
    )
    source: nn.Module = module if store_fp16 else net.eval()
    return write_checked(module, ImageCheck(source, shape, 0.12), facts, Path(out), batch, store_fp16)
