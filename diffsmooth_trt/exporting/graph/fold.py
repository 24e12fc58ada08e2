"""Building blocks of exported networks: what is constant is folded into a norm's affine or a convolution.

Large weights are shared with the source network, never copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .norm import ChannelGroupNorm


def channel_norm(source: nn.Module, scale: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> ChannelGroupNorm:
    """The GroupNorm `source`, then `· scale + shift` per channel."""
    if not isinstance(source, nn.GroupNorm):
        raise TypeError(f"expected a GroupNorm, got {type(source).__name__}")
    return ChannelGroupNorm(source.num_groups, source.eps, source.weight * scale, source.bias * scale + shift)


def affine_conv(
    source: nn.Module,
    rows: slice | Tensor = slice(None),
    *,
    gain: float = 1.0,
    scale: float = 1.0,
    shift: Tensor | float = 0.0,
) -> nn.Conv2d:
    """scale · conv(gain · x) + shift for the outputs `rows` of `source`, a 2-d or a 1 wide 1-d convolution."""
    if not isinstance(source, nn.Conv1d | nn.Conv2d) or source.bias is None:
        raise TypeError(f"expected a convolution with a bias, got {type(source).__name__}")
    weight, bias = source.weight[rows], source.bias[rows] * scale + shift
    if gain * scale != 1:
        weight = weight * (gain * scale)
    if weight.dim() == 3:
        weight = weight[..., None]
    return plain_conv(weight, bias, source.stride[0])


def plain_conv(weight: Tensor, bias: Tensor, stride: int = 1) -> nn.Conv2d:
    """The convolution with these parameters, `[out, in, k, k]` and `[out]`, whose padding keeps the size at stride 1."""
    out, channels, kernel, _ = weight.shape
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, device="meta")
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


class FoldedAttention(nn.Module):
    """x + proj(softmax over keys of (qᵀk/√size) · v) on feature maps, with q, k and v = qkv(norm(x)) never transposed.

    The rows of `qkv` are ordered (q, k, v), head, channel; with `interleaved` head, (q, k, v), channel.
    """

    def __init__(
        self, norm: nn.Module | None, qkv: nn.Module, proj: nn.Module, heads: int, *, interleaved: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.interleaved = heads, interleaved
        self.norm: nn.Module = nn.Identity() if norm is None else channel_norm(norm)
        self.qkv, self.proj_out = affine_conv(qkv), affine_conv(proj)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        size, positions = channels // self.heads, height * width
        qkv = self.qkv(self.norm(x))
        if self.interleaved:
            q, k, v = qkv.reshape(-1, self.heads, 3, size, positions).unbind(2)
        else:
            q, k, v = qkv.reshape(-1, 3, self.heads, size, positions).unbind(1)
        weight = torch.softmax(torch.matmul((q * size**-0.5).transpose(-1, -2), k), dim=-1)
        h = torch.matmul(v, weight.transpose(-1, -2)).reshape(-1, channels, height, width)
        result: Tensor = x + self.proj_out(h)
        return result
