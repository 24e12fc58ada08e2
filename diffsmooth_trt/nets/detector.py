"""The detector CNN of ProoD (Meinke et al. 2022), which DISTRO (Franco et al. 2023) uses too, under its published parameter names.

Three convolutions, an average pool and two linear layers. The last layer stores w and multiplies by −exp(w): after a ReLU its
inputs are non-negative, so d(x) never exceeds its bias, and p_in = 1/(1 + exp(−d)) cannot approach 1 far from the data.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

# Widths of C1, C2, C3 and L4 of the published sizes for 32×32 images.
SIZES = {"S": (128, 256, 256, 128), "XS": (64, 128, 128, 128)}
NAMES = ("C1", "C2", "C3", "L4", "L5")
JOINT_PREFIX, BASE_PREFIX = "detector.", "base_model."


class NegativeLinear(nn.Linear):
    """A linear layer whose effective weight is −exp(weight), so below 0."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, -self.weight.exp(), self.bias)


class Detector(nn.Module):
    """Images `[N, 3, S, S]` in [0, 1], S a multiple of 4 → d `[N, 1]`, larger = more in-distribution."""

    def __init__(self, widths: tuple[int, int, int, int] = SIZES["S"], image_size: int = 32) -> None:
        super().__init__()
        first, second, third, hidden = widths
        self.C1 = nn.Conv2d(3, first, 3, padding=1)
        self.C2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.C3 = nn.Conv2d(second, third, 3, padding=1)
        self.L4 = nn.Linear(third * (image_size // 4) ** 2, hidden)
        self.L5 = NegativeLinear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.C3(F.relu(self.C2(F.relu(self.C1(x))))))
        d: Tensor = self.L5(F.relu(self.L4(F.avg_pool2d(h, 2).flatten(1))))
        return d


def detector_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The detector's part of a state dict: all of it, or what a joint model keeps under `detector.`."""
    joint = {name.removeprefix(JOINT_PREFIX): value for name, value in state.items() if name.startswith(JOINT_PREFIX)}
    return joint or dict(state)


def base_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's part of a state dict: all of it, or what a joint model keeps under `base_model.`."""
    joint = {name.removeprefix(BASE_PREFIX): value for name, value in state.items() if name.startswith(BASE_PREFIX)}
    return joint or dict(state)


def detector_for(state: Mapping[str, Tensor], image_size: int) -> Detector:
    """An empty network of the widths that `state` has; InputError unless it is a detector's for images of that size."""
    missing = [name for name in NAMES if f"{name}.weight" not in state]
    if missing:
        raise InputError(
            f"the checkpoint has no {', '.join(missing)}: expected the detector CNN with layers {', '.join(NAMES)}"
        )
    flat = [name for name in NAMES if state[f"{name}.weight"].dim() < 2 or not len(state[f"{name}.weight"])]
    if flat:
        shape = list(state[f"{flat[0]}.weight"].shape)
        raise InputError(
            f"{flat[0]}.weight has shape {shape}: expected the detector CNN with layers {', '.join(NAMES)}"
        )
    widths = tuple(len(state[f"{name}.weight"]) for name in NAMES[:4])
    if image_size % 4:
        raise InputError(f"the image size is {image_size}, expected a multiple of 4: resize the images")
    return Detector((widths[0], widths[1], widths[2], widths[3]), image_size)
