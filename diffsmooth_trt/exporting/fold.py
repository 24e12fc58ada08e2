"""The modules that get exported: everything a fixed σ makes constant is a constant.

σ fixes the timestep, so the time MLP and every embedding layer become numbers inside a GroupNorm's affine or a convolution's
bias; the last convolution keeps the ε channels only. In [0, 1] units the one-shot estimate (Carlini et al. 2023)
(clamp(x_t/√ᾱ − √(1/ᾱ−1) ε, −1, 1) + 1)/2 is clamp(x − ½√(1/ᾱ−1) ε, 0, 1): one subtraction before the network, one addition
and a clamp after it. Large weights are shared with the source network, never copied.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..nets.options import DenoiserOptions
from ..nets.unet import AttentionBlock, ResBlock, UNet
from .norm import ChannelGroupNorm


def channel_norm(source: nn.Module, scale: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> ChannelGroupNorm:
    """The GroupNorm `source`, then `· scale + shift` per channel."""
    if not isinstance(source, nn.GroupNorm):
        raise TypeError(f"expected a GroupNorm, got {type(source).__name__}")
    return ChannelGroupNorm(source.num_groups, source.eps, source.weight * scale, source.bias * scale + shift)


def affine_conv(
    source: nn.Module, rows: int | None = None, gain: float = 1.0, scale: float = 1.0, shift: Tensor | float = 0.0
) -> nn.Conv2d:
    """scale · conv(gain · x) + shift for the first `rows` outputs of `source`, a 2-d or a 1 wide 1-d convolution."""
    if not isinstance(source, nn.Conv1d | nn.Conv2d) or source.bias is None:
        raise TypeError(f"expected a convolution with a bias, got {type(source).__name__}")
    weight, bias = source.weight[:rows], source.bias[:rows] * scale + shift
    if gain * scale != 1:
        weight = weight * (gain * scale)
    if weight.dim() == 3:
        weight = weight[..., None]
    out, channels, kernel, _ = weight.shape
    conv = nn.Conv2d(channels, out, kernel, source.stride[0], kernel // 2, device="meta")
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


class FoldedResBlock(nn.Module):
    """`ResBlock` at one fixed embedding `[4·model_channels]`, without dropout."""

    def __init__(self, source: ResBlock, emb: Tensor) -> None:
        super().__init__()
        norm1, _, conv1 = source.in_layers
        norm2, _, _, conv2 = source.out_layers
        fixed = source.emb_layers(emb[None])[0]
        self.resample, self.skip = source.resample, source.skip_connection
        self.norm1, self.conv2 = channel_norm(norm1), conv2
        if source.scale_shift:
            scale, shift = fixed.chunk(2)
            self.conv1 = conv1
            self.norm2 = channel_norm(norm2, 1 + scale, shift)
        else:
            self.conv1 = affine_conv(conv1, shift=fixed)
            self.norm2 = channel_norm(norm2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        h = self.conv2(F.silu(self.norm2(h)))
        result: Tensor = self.skip(self.resample(x)) + h
        return result


class FoldedAttention(nn.Module):
    """`AttentionBlock` on feature maps, with q, k and v never transposed: softmax over keys of (qᵀk/√size), then v · wᵀ."""

    def __init__(self, source: AttentionBlock) -> None:
        super().__init__()
        self.heads, self.new_order = source.heads, source.new_order
        self.norm = channel_norm(source.norm)
        self.qkv, self.proj_out = affine_conv(source.qkv), affine_conv(source.proj_out)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        size, positions = channels // self.heads, height * width
        qkv = self.qkv(self.norm(x))
        if self.new_order:
            q, k, v = qkv.reshape(-1, 3, self.heads, size, positions).unbind(1)
        else:
            q, k, v = qkv.reshape(-1, self.heads, 3, size, positions).unbind(2)
        weight = torch.softmax(torch.matmul((q * size**-0.5).transpose(-1, -2), k), dim=-1)
        h = torch.matmul(v, weight.transpose(-1, -2)).reshape(-1, channels, height, width)
        result: Tensor = x + self.proj_out(h)
        return result


def _fold_sequence(source: nn.Module, emb: Tensor) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in source.children():
        if isinstance(layer, ResBlock):
            layer = FoldedResBlock(layer, emb)
        elif isinstance(layer, AttentionBlock):
            layer = FoldedAttention(layer)
        layers.append(layer)
    return nn.Sequential(*layers)


class OneShotDenoiser(nn.Module):
    """Noisy images `[B, 3, H, W]` in [0, 1] units, not clipped → denoised images in [0, 1], at one timestep.

    `net` is the source ε-network in eval mode, whose large weights are shared; `alpha_bar` is ᾱ_t of the timestep, `embedded`
    the number the network embeds for it, `label` the class (the null class) of a network with labels.
    """

    def __init__(self, net: UNet, alpha_bar: float, embedded: float, label: int | None = None) -> None:
        super().__init__()
        with torch.no_grad():
            time = torch.tensor([embedded], dtype=torch.float64).float()
            emb = net.embedding(time, None if label is None else torch.tensor([label]))[0]
            first, *down = net.input_blocks
            # The half is subtracted outside: behind zero padding it could not be folded exactly.
            self.conv_in = affine_conv(next(first.children()), gain=2 * math.sqrt(alpha_bar))
            self.down = nn.ModuleList(_fold_sequence(block, emb) for block in down)
            self.middle = _fold_sequence(net.middle_block, emb)
            self.up = nn.ModuleList(_fold_sequence(block, emb) for block in net.output_blocks)
            self.norm_out = channel_norm(net.out[0])
            self.conv_out = affine_conv(
                net.out[2], rows=self.conv_in.in_channels, scale=-math.sqrt(1 / alpha_bar - 1) / 2
            )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x - 0.5)
        skips = [h]
        for block in self.down:
            h = block(h)
            skips.append(h)
        h = self.middle(h)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1))
        return torch.clamp(x + self.conv_out(F.silu(self.norm_out(h))), 0.0, 1.0)


class SourceDenoiser(nn.Module):
    """The same map as `OneShotDenoiser`, written as in Carlini et al. 2023 around the untouched network."""

    def __init__(self, net: UNet, alpha_bar: float, embedded: float, label: int | None = None) -> None:
        super().__init__()
        self.net, self.alpha_bar, self.embedded, self.label = net, alpha_bar, embedded, label

    def forward(self, x: Tensor) -> Tensor:
        time = torch.full((len(x),), self.embedded)
        labels = None if self.label is None else torch.full((len(x),), self.label)
        x_t = math.sqrt(self.alpha_bar) * (2 * x - 1)
        eps: Tensor = self.net(x_t, time, labels)[:, : x.shape[1]]
        estimate = x_t / math.sqrt(self.alpha_bar) - math.sqrt(1 / self.alpha_bar - 1) * eps
        return (estimate.clamp(-1, 1) + 1) / 2


def denoiser_pair(options: DenoiserOptions, net: UNet, sigma: float) -> tuple[SourceDenoiser, OneShotDenoiser]:
    """The unfolded and the folded one-shot denoiser for noise `sigma` (image units), sharing `net`'s large weights.

    Raises InputError when `sigma` is outside the schedule and when a network with labels has no null class.
    """
    if options.num_classes is not None and options.null_class is None:
        raise InputError(
            "the network is class-conditional: denoising without a label needs null_class in its configuration"
        )
    timestep = options.schedule.timestep(sigma)
    alpha_bar = float(options.schedule.alphas_bar[timestep])
    embedded = options.schedule.embedded(timestep)
    net = net.eval()
    source = SourceDenoiser(net, alpha_bar, embedded, options.null_class)
    return source.eval(), OneShotDenoiser(net, alpha_bar, embedded, options.null_class)
