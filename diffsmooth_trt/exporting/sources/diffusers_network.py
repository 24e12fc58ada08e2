"""The diffusers library's `UNet2DModel` in the form that inference backends run fastest.

Its residual, attention and enlarging blocks are replaced; what joins them stays the library's.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ...errors import InputError
from ..graph.fold import FoldedAttention, affine_conv, channel_norm, plain_conv


def embedding(net: Any, times: Tensor, labels: Tensor | None) -> Tensor:
    """The vector `[B, C]` that conditions every residual block."""
    emb: Tensor = net.time_embedding(net.time_proj(times))
    return emb if labels is None else emb + net.class_embedding(labels)


class Residual(nn.Module):
    """`ResnetBlock2D` without dropout; `emb` `[1, C]` folds the embedding of all rows away, None takes one a row."""

    def __init__(self, source: Any, emb: Tensor | None) -> None:
        super().__init__()
        self.act, self.embed = source.nonlinearity, None
        self.resample = _resample(source.upsample or source.downsample)
        self.shortcut: nn.Module = source.conv_shortcut or nn.Identity()
        self.norm1, self.norm2, self.conv1 = channel_norm(source.norm1), channel_norm(source.norm2), source.conv1
        self.scaled = source.time_embedding_norm == "scale_shift"
        factor = source.output_scale_factor
        self.conv2, self.factor = affine_conv(source.conv2, scale=1 / factor), 1 / factor
        if source.time_emb_proj is None:
            return
        before = nn.Identity() if source.skip_time_act else source.nonlinearity
        self.embed = nn.Sequential(before, source.time_emb_proj)
        if emb is not None:
            fixed, self.embed = self.embed(emb)[0], None
            if self.scaled:
                scale, shift = fixed.chunk(2)
                self.norm2 = channel_norm(source.norm2, 1 + scale, shift)
            else:
                self.conv1 = affine_conv(source.conv1, shift=fixed)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.conv1(self.resample(self.act(self.norm1(x))))
        if self.embed is None:
            h = self.norm2(h)
        else:
            shift = self.embed(temb)[:, :, None, None]
            if self.scaled:
                scale, shift = shift.chunk(2, dim=1)
                h = self.norm2(h, 1 + scale, shift)
            else:
                h = self.norm2(h + shift)
        x = self.shortcut(self.resample(x))
        result: Tensor = (x if self.factor == 1 else x * self.factor) + self.conv2(self.act(h))
        return result


class AttentionLayer(FoldedAttention):
    """The library's self-attention over positions, with its residual sum."""

    def __init__(self, source: Any) -> None:
        channels = source.to_q.in_features
        parts = (source.to_q, source.to_k, source.to_v)
        bias = torch.cat([p.bias if p.bias is not None else torch.zeros(p.out_features) for p in parts])
        qkv = plain_conv(torch.cat([part.weight for part in parts])[:, :, None, None], bias)
        out = source.to_out[0]
        super().__init__(source.group_norm, qkv, plain_conv(out.weight[:, :, None, None], out.bias), source.heads)
        if source.to_q.out_features != channels:
            raise InputError("an attention layer narrower than its input cannot be exported: use another network")
        self.factor = 1 / source.rescale_output_factor

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        result = super().forward(x)
        return result if self.factor == 1 else result * self.factor


class Doubling(nn.Module):
    """`Upsample2D` by copying, whose own form asks for the batch size."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        if source.use_conv_transpose or not source.interpolate or source.norm is not None:
            raise InputError("this network enlarges by transposed convolutions, which cannot be exported: use another")
        self.conv: nn.Module = (
            (source.conv if source.name == "conv" else source.Conv2d_0) if source.use_conv else nn.Identity()
        )

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


def _resample(source: nn.Module | None) -> nn.Module:
    if source is None:
        return nn.Identity()
    return Doubling(source) if isinstance(source, Upsample2D) else source


def _swap(module: nn.Module, emb: Tensor | None) -> None:
    """Replace the library's blocks inside `module`, in place."""
    for name, child in module.named_children():
        made: nn.Module | None = None
        if isinstance(child, ResnetBlock2D):
            made = Residual(child, emb)
        elif isinstance(child, Attention):
            made = AttentionLayer(child)
        elif isinstance(child, Upsample2D):
            made = Doubling(child)
        elif isinstance(child, nn.GroupNorm):
            made = channel_norm(child)
        if made is None:
            _swap(child, emb)
        else:
            setattr(module, name, made)


class _Torso(nn.Module):
    """`UNet2DModel` after its embedding, in its fast form."""

    def __init__(self, net: Any, emb: Tensor | None, out: float = 1.0) -> None:
        super().__init__()
        self.centre = bool(net.config.center_input_sample)
        shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
        net = copy.deepcopy(net, shared)
        # The image channels only: a learned variance is of no use here.
        conv_out = affine_conv(net.conv_out, slice(3))
        _swap(net, emb)
        self.conv_in, self.down, self.mid, self.up = net.conv_in, net.down_blocks, net.mid_block, net.up_blocks
        self.norm_out, self.act, self.conv_out = net.conv_norm_out, net.conv_act, conv_out
        self.depths = [len(block.resnets) for block in net.up_blocks]
        self.out = out

    def torso(self, x: Tensor, emb: Tensor | None) -> Tensor:
        side = x = 2 * x - 1 if self.centre else x
        h = self.conv_in(x)
        skips: tuple[Tensor, ...] = (h,)
        for block in self.down:
            if hasattr(block, "skip_conv"):
                h, more, side = block(h, emb, side)
            else:
                h, more = block(h, emb)
            skips += more
        if self.mid is not None:
            h = self.mid(h, emb)
        image: Tensor | None = None
        for block, depth in zip(self.up, self.depths, strict=True):
            skips, used = skips[:-depth], skips[-depth:]
            if hasattr(block, "skip_conv"):
                h, image = block(h, used, emb, image)
            else:
                h = block(h, used, emb)
        h = self.conv_out(self.act(self.norm_out(h)))
        h = h if image is None else h + image
        result: Tensor = h if self.out == 1 else h * self.out
        return result


class FoldedUNet2D(_Torso):
    """x ↦ out·F(gain·x) at the fixed embedding `emb` `[1, C]`."""

    def __init__(self, net: Any, emb: Tensor, gain: float, out: float) -> None:
        super().__init__(net, emb, out)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.torso(x * self.gain, None)


class ConditionalUNet2D(_Torso):
    """Scaled images, timesteps and labels of every row → the network's image channels."""

    def __init__(self, net: Any) -> None:
        super().__init__(net, None)
        self.time_proj, self.time_embedding, self.class_embedding = (
            net.time_proj,
            net.time_embedding,
            net.class_embedding,
        )

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return self.torso(x, embedding(self, times, labels))
