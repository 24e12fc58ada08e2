"""The modules exported for diffusion classifiers: noise level and label come with every row.

Any ε-network trained with labels gives a denoiser D(x; s, y) = x − s·ε(x/√(1+s²), t(s), y) of images in [-1, 1] units with
noise s (Chen et al. 2024); t(s) is fractional. Large weights are shared with the source network, never copied.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..nets.options import DenoiserOptions
from ..nets.unet import AttentionBlock, ResBlock, UNet, timestep_embedding
from ..schedule import Schedule
from .fold import FoldedAttention, affine_conv, channel_norm


def classes_of(options: DenoiserOptions) -> int:
    """The number of real classes, labels 0…classes−1; a null class is the label after them.

    Raises InputError for networks without labels and for those whose null class is another label.
    """
    if options.num_classes is None:
        raise InputError(
            "--conditional needs a network trained with labels, this one has none: set class_cond true in its "
            "configuration, or leave --conditional out and give --sigma"
        )
    if options.null_class not in (None, options.num_classes - 1):
        raise InputError(
            f"null_class {options.null_class} stands between the classes: --conditional needs it to be the last label "
            f"({options.num_classes - 1}); reorder the rows of label_emb.weight"
        )
    classes = options.num_classes - (options.null_class is not None)
    if classes < 2:
        raise InputError(f"--conditional needs at least two classes, this network has {classes}: use another one")
    return classes


class RowTimestep(nn.Module):
    """What the network embeds for noise levels s `[B]`: `schedule.embedded` of `schedule.fractional_timestep(s)`."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.factor = schedule.embedded(1)
        ratios = schedule.ratios
        self.ratios: Tensor
        self.widths: Tensor
        self.register_buffer("ratios", torch.from_numpy(ratios).float())
        # Above the last ratio the timestep is the last one: that interval has no end.
        self.register_buffer("widths", torch.from_numpy(np.append(np.diff(ratios), np.inf)).float())

    def forward(self, s: Tensor) -> Tensor:
        place = ((s[:, None] >= self.ratios[None]).sum(1) - 1).clamp(min=0)
        share = ((s - self.ratios[place]) / self.widths[place]).clamp(0, 1)
        return (place + share) * self.factor


class ConditionalResBlock(nn.Module):
    """`ResBlock` without dropout; the row's scale and shift become the second norm's affine."""

    def __init__(self, source: ResBlock) -> None:
        super().__init__()
        norm1, _, self.conv1 = source.in_layers
        norm2, _, _, self.conv2 = source.out_layers
        self.norm1, self.norm2 = channel_norm(norm1), channel_norm(norm2)
        self.emb_layers, self.scale_shift = source.emb_layers, source.scale_shift
        self.resample, self.skip = source.resample, source.skip_connection

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        shift = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm2(h, 1 + scale, shift)
        else:
            h = self.norm2(h + shift)
        result: Tensor = self.skip(self.resample(x)) + self.conv2(F.silu(h))
        return result


def _fast(source: nn.Module) -> ConditionalSequential:
    layers: list[nn.Module] = []
    for layer in source.children():
        if isinstance(layer, ResBlock):
            layer = ConditionalResBlock(layer)
        elif isinstance(layer, AttentionBlock):
            layer = FoldedAttention(layer)
        layers.append(layer)
    return ConditionalSequential(*layers)


class ConditionalSequential(nn.Sequential):
    """A sequence that hands the embedding to the residual blocks among its members."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ConditionalResBlock) else layer(x)
        return x


class ConditionalDenoiser(nn.Module):
    """Images `[B, 3, H, W]` in [-1, 1] plus noise, noise levels s `[B]`, labels int64 `[B]` → D(x; s, y), not clamped.

    `net` is the source ε-network in eval mode, whose large weights are shared.
    """

    def __init__(self, net: UNet, schedule: Schedule) -> None:
        super().__init__()
        with torch.no_grad():
            self.timestep = RowTimestep(schedule)
            self.model_channels = net.model_channels
            self.time_embed, self.label_emb = net.time_embed, net.label_emb
            first, *down = net.input_blocks
            self.conv_in = affine_conv(next(first.children()))
            self.down = nn.ModuleList(_fast(block) for block in down)
            self.middle = _fast(net.middle_block)
            self.up = nn.ModuleList(_fast(block) for block in net.output_blocks)
            self.norm_out = channel_norm(net.out[0])
            self.conv_out = affine_conv(net.out[2], rows=self.conv_in.in_channels)
        self.eval()

    def forward(self, x: Tensor, s: Tensor, labels: Tensor) -> Tensor:
        time = timestep_embedding(self.timestep(s), self.model_channels)
        emb = self.time_embed(time) + self.label_emb(labels)
        level = s[:, None, None, None]
        h = self.conv_in(x * torch.rsqrt(1 + level * level))
        skips = [h]
        for block in self.down:
            h = block(h, emb)
            skips.append(h)
        h = self.middle(h, emb)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        eps: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return x - level * eps


class SourceConditional(nn.Module):
    """The same map as `ConditionalDenoiser`, written as in the papers around the untouched network."""

    def __init__(self, net: UNet, schedule: Schedule) -> None:
        super().__init__()
        self.net, self.schedule = net, schedule

    def forward(self, x: Tensor, s: Tensor, labels: Tensor) -> Tensor:
        times = self.schedule.fractional_timestep(s.double().numpy()) * self.schedule.embedded(1)
        level = s[:, None, None, None]
        eps: Tensor = self.net(x / torch.sqrt(1 + level**2), torch.from_numpy(times).float(), labels)
        return x - level * eps[:, : x.shape[1]]


def conditional_pair(options: DenoiserOptions, net: UNet) -> tuple[SourceConditional, ConditionalDenoiser]:
    """The plain and the fast conditional denoiser, sharing `net`'s large weights; InputError as in `classes_of`."""
    classes_of(options)
    net = net.eval()
    return SourceConditional(net, options.schedule).eval(), ConditionalDenoiser(net, options.schedule)
