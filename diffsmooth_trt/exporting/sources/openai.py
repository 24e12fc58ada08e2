"""improved-diffusion (Nichol & Dhariwal 2021) and guided-diffusion (Dhariwal & Nichol 2021)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nets.options import DenoiserOptions
from ...nets.unet import AttentionBlock, ResBlock, UNet, timestep_embedding
from ..graph.fold import FoldedAttention, affine_conv, channel_norm
from .families import Level, ScheduledFamily


class OpenAI(ScheduledFamily):
    """See `families.Family`."""

    labels_option = "class_cond true"

    def __init__(self, options: DenoiserOptions) -> None:
        self.options, self.name, self.schedule = options, options.family, options.schedule
        self.image_size, self.labels, self.null_class = options.image_size, options.num_classes, options.null_class
        self.prediction = "sample" if options.predict_xstart else "epsilon"

    def check_input_size(self, size: int) -> None:
        self.options.check_input_size(size)

    def network(self) -> UNet:
        return self.options.network()

    def recorded(self) -> dict[str, Any]:
        return asdict(self.options)

    def answer(self, net: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        answer: Tensor = net(x, noise, labels)[:, : x.shape[1]]
        return answer

    def folded(self, net: nn.Module, level: Level, gain: float, out: float) -> nn.Module:
        time = torch.tensor([level.noise_input], dtype=torch.float64).float()
        label = self.folded_label()
        emb = cast(UNet, net).embedding(time, None if label is None else torch.tensor([label]))[0]
        return FoldedUNet(cast(UNet, net), emb, gain, out)

    def by_row(self, net: nn.Module) -> nn.Module:
        return ConditionalUNet(cast(UNet, net))


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


class Blocks(nn.Sequential):
    """A sequence that hands the embedding to the residual blocks among its members that take one."""

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ConditionalResBlock) else layer(x)
        return x


class _Torso(nn.Module):
    """`UNet` in its fast form: `emb` folds the embedding of all rows away; None keeps one a row."""

    def __init__(self, net: UNet, emb: Tensor | None, gain: float = 1.0, out: float = 1.0) -> None:
        super().__init__()
        first, *down = net.input_blocks
        self.conv_in = affine_conv(next(first.children()), gain=gain)
        self.down = nn.ModuleList(_fast(block, emb) for block in down)
        self.middle = _fast(net.middle_block, emb)
        self.up = nn.ModuleList(_fast(block, emb) for block in net.output_blocks)
        self.norm_out = channel_norm(net.out[0])
        # The image channels only: a learned variance is of no use here.
        self.conv_out = affine_conv(net.out[2], slice(self.conv_in.in_channels), scale=out)

    def torso(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.conv_in(x)
        skips = [h]
        for block in self.down:
            h = block(h, emb)
            skips.append(h)
        h = self.middle(h, emb)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        result: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return result


class FoldedUNet(_Torso):
    """x ↦ out·F(gain·x) at the fixed embedding `emb` `[4·model_channels]`."""

    def __init__(self, net: UNet, emb: Tensor, gain: float, out: float) -> None:
        super().__init__(net, emb, gain, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.torso(x, None)


class ConditionalUNet(_Torso):
    """Scaled images, timesteps as the network embeds them and labels, of every row → the network's image channels."""

    def __init__(self, net: UNet) -> None:
        super().__init__(net, None)
        self.model_channels = net.model_channels
        self.time_embed, self.label_emb = net.time_embed, net.label_emb

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(times, self.model_channels))
        return self.torso(x, emb + self.label_emb(labels))


def _fast(source: nn.Module, emb: Tensor | None) -> Blocks:
    layers: list[nn.Module] = []
    for layer in source.children():
        if isinstance(layer, ResBlock):
            layer = ConditionalResBlock(layer) if emb is None else FoldedResBlock(layer, emb)
        elif isinstance(layer, AttentionBlock):
            interleaved = not layer.new_order
            layer = FoldedAttention(layer.norm, layer.qkv, layer.proj_out, layer.heads, interleaved=interleaved)
        layers.append(layer)
    return Blocks(*layers)
