"""The UNet of OpenAI's improved-diffusion and guided-diffusion under their published parameter names.

Nichol & Dhariwal 2021 (improved-diffusion) and Dhariwal & Nichol 2021 (guided-diffusion) share one network; the second
adds head width, residual up/down-sampling and another attention order. A published state dict loads with `strict=True`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding `[N, dim]` (cosines first) of `timesteps` `[N]`, which may be fractional."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponent)[None]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


def _zeroed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3×3 convolution when `use_conv`."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class Downsample(nn.Module):
    """Halving by a strided 3×3 convolution when `use_conv`, by 2×2 averages otherwise."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.op: nn.Module = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.op(x)
        return halved


class ResBlock(nn.Module):
    """Two GroupNorm–SiLU–conv stages around the embedding, with a skip connection; `resample` is "up", "down" or ""."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int,
        *,
        scale_shift: bool,
        resample: str = "",
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.resample: nn.Module = nn.Identity()
        if resample:
            self.resample = Upsample(channels, False) if resample == "up" else Downsample(channels, False)
        width = 2 * out_channels if scale_shift else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, width))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out_channels != channels:
            self.skip_connection = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[1](self.in_layers[0](x))))
        x = self.resample(x)
        shift = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + shift)
        for layer in list(self.out_layers)[1:]:
            h = layer(h)
        result: Tensor = self.skip_connection(x) + h
        return result


class AttentionBlock(nn.Module):
    """Self-attention over positions; `new_order` splits q, k, v before the heads (guided-diffusion's 64×64 models)."""

    def __init__(self, channels: int, heads: int, new_order: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        qkv = self.qkv(self.norm(flat))
        size = channels // self.heads
        if self.new_order:
            q, k, v = qkv.reshape(batch, 3, self.heads, size, height * width).unbind(1)
        else:
            q, k, v = qkv.reshape(batch, self.heads, 3, size, height * width).unbind(2)
        q, k, v = (part.transpose(-1, -2) for part in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v)
        h = h.transpose(-1, -2).reshape(batch, channels, height * width)
        result: Tensor = (flat + self.proj_out(h)).reshape(batch, channels, height, width)
        return result


class EmbedSequential(nn.Sequential):
    """A sequence that hands the embedding to the residual blocks among its members."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """ε-network `[N, C, H, W]`, timesteps `[N]` (already rescaled), labels `[N]` or None → `[N, out_channels, H, W]`.

    `attention_at` holds down-sampling rates (1, 2, 4, …), not resolutions; `head_channels` overrides `heads`.
    `num_classes` adds a label embedding; for a network trained with label dropout one row of it is the null class.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_at: Iterable[int],
        channel_mult: Iterable[float],
        dropout: float = 0.0,
        conv_resample: bool = True,
        num_classes: int | None = None,
        heads: int = 1,
        head_channels: int = -1,
        heads_upsample: int = -1,
        scale_shift: bool = False,
        resblock_updown: bool = False,
        new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        self.model_channels = model_channels
        self.num_classes = num_classes
        attention_at = frozenset(attention_at)
        widths = [int(mult * model_channels) for mult in channel_mult]
        emb = 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb)

        def res(channels: int, out: int, resample: str = "") -> ResBlock:
            return ResBlock(channels, emb, dropout, out, scale_shift=scale_shift, resample=resample)

        def attention(channels: int, count: int) -> AttentionBlock:
            count = count if head_channels == -1 else channels // head_channels
            return AttentionBlock(channels, count, new_attention_order)

        def resampler(channels: int, way: str) -> nn.Module:
            if resblock_updown:
                return res(channels, channels, way)
            return Upsample(channels, conv_resample) if way == "up" else Downsample(channels, conv_resample)

        channels = widths[0]
        self.input_blocks = nn.ModuleList([EmbedSequential(nn.Conv2d(in_channels, channels, 3, padding=1))])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [res(channels, width)]
                channels = width
                if 2**level in attention_at:
                    layers.append(attention(channels, heads))
                self.input_blocks.append(EmbedSequential(*layers))
                skips.append(channels)
            if level + 1 < len(widths):
                self.input_blocks.append(EmbedSequential(resampler(channels, "down")))
                skips.append(channels)

        self.middle_block = EmbedSequential(
            res(channels, channels), attention(channels, heads), res(channels, channels)
        )

        self.output_blocks = nn.ModuleList()
        up_heads = heads if heads_upsample == -1 else heads_upsample
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                layers = [res(channels + skips.pop(), width)]
                channels = width
                if 2**level in attention_at:
                    layers.append(attention(channels, up_heads))
                if level and i == num_res_blocks:
                    layers.append(resampler(channels, "up"))
                self.output_blocks.append(EmbedSequential(*layers))

        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            _zeroed(nn.Conv2d(channels, out_channels, 3, padding=1)),
        )

    def embedding(self, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The vector `[N, 4·model_channels]` that conditions every residual block."""
        if (labels is None) != (self.num_classes is None):
            raise ValueError("labels are needed exactly when the network is class-conditional")
        emb: Tensor = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        return emb if labels is None else emb + self.label_emb(labels)

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.torso(x, self.embedding(timesteps, labels))

    def torso(self, x: Tensor, emb: Tensor) -> Tensor:
        """Everything after the embedding."""
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        result: Tensor = self.out(x)
        return result
