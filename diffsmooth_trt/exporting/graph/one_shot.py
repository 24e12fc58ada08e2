"""The modules that are exported as denoisers, of any family, and the plain ones that they are compared with.

In [0, 1] units the one-shot estimate (Carlini et al. 2023), (clamp(D(2x − 1; s), −1, 1) + 1)/2, is
clamp(½ + skip·(x − ½) + (out/2)·F(2·scale·(x − ½)), 0, 1): one subtraction before the network, one addition and a clamp after
it, since `Family.folded` takes in both factors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...prediction import coefficients
from ..sources.families import Family, Level


def combined(skip: Tensor | float, x: Tensor, out: Tensor | float, answer: Tensor) -> Tensor:
    """skip·x + out·answer, without a multiplication by 1 or an addition of 0."""
    scaled = answer if isinstance(out, float) and out == 1 else out * answer
    if isinstance(skip, float):
        return scaled if skip == 0 else x + scaled
    return skip * x + scaled


class OneShotDenoiser(nn.Module):
    """Noisy images `[B, 3, H, W]` in [0, 1] units, not clipped → denoised images in [0, 1], at one noise level.

    Without `clamp` values outside of [0, 1] stay.
    """

    def __init__(self, family: Family, net: nn.Module, level: Level, clamp: bool = True) -> None:
        super().__init__()
        self.clamp = clamp
        skip, out, scale = coefficients(family.prediction, level.s, family.sigma_data)
        self.skip = skip
        with torch.no_grad():
            self.network = family.folded(net, level, 2 * scale, out / 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        centred = x - 0.5
        h: Tensor = self.network(centred)
        denoised = x + h if self.skip == 1 else centred * self.skip + h + 0.5
        return torch.clamp(denoised, 0.0, 1.0) if self.clamp else denoised


class SourceDenoiser(nn.Module):
    """The same map as `OneShotDenoiser`, written as in the papers around the untouched network."""

    def __init__(self, family: Family, net: nn.Module, level: Level, clamp: bool = True) -> None:
        super().__init__()
        self.family, self.net, self.level, self.label = family, net, level, family.folded_label()
        self.clamp = clamp
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        skip, out, scale = coefficients(self.family.prediction, self.level.s, self.family.sigma_data)
        noise = torch.full((len(x),), self.level.noise_input)
        labels = None if self.label is None else torch.full((len(x),), self.label)
        model = 2 * x - 1
        estimate = skip * model + out * self.family.answer(self.net, scale * model, noise, labels)
        return ((estimate.clamp(-1, 1) if self.clamp else estimate) + 1) / 2


def denoiser_pair(
    family: Family, net: nn.Module, level: Level, clamp: bool = True
) -> tuple[SourceDenoiser, OneShotDenoiser]:
    """The unfolded and the folded one-shot denoiser, sharing `net`'s large weights."""
    return SourceDenoiser(family, net, level, clamp), OneShotDenoiser(family, net, level, clamp)


class ConditionalDenoiser(nn.Module):
    """Images `[B, 3, H, W]` in [-1, 1] plus noise, noise levels s `[B]`, labels int64 `[B]` → D(x; s, y), not clamped."""

    def __init__(self, family: Family, net: nn.Module) -> None:
        super().__init__()
        self.prediction, self.sigma_data = family.prediction, family.sigma_data
        with torch.no_grad():
            self.inputs, self.network = family.row_inputs(), family.by_row(net)
        self.eval()

    def forward(self, x: Tensor, s: Tensor, labels: Tensor) -> Tensor:
        skip, out, scale = coefficients(self.prediction, s[:, None, None, None], self.sigma_data)
        answer: Tensor = self.network(x * scale, self.inputs(s), labels)
        return combined(skip, x, out, answer)


class SourceConditional(nn.Module):
    """The same map as `ConditionalDenoiser` around the untouched network, noise levels and coefficients in float64."""

    def __init__(self, family: Family, net: nn.Module) -> None:
        super().__init__()
        self.family, self.net = family, net
        self.eval()

    def forward(self, x: Tensor, s: Tensor, labels: Tensor) -> Tensor:
        noise = torch.from_numpy(self.family.noise_inputs(s.double().numpy())).float()
        level = s.double()[:, None, None, None]
        skip, out, scale = coefficients(self.family.prediction, level, self.family.sigma_data)
        answer = self.family.answer(self.net, (x * scale).float(), noise, labels)
        return (skip * x + out * answer).float()


def conditional_pair(family: Family, net: nn.Module) -> tuple[SourceConditional, ConditionalDenoiser]:
    """The plain and the fast conditional denoiser, sharing `net`'s large weights."""
    return SourceConditional(family, net), ConditionalDenoiser(family, net)
