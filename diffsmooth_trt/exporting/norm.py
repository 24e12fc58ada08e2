"""GroupNorm in the form that inference backends run fastest on feature maps.

ONNX's own GroupNormalization and the reshaped InstanceNormalization make OpenVINO leave its blocked layout at every
normalisation. Channel-wise means need no reshape of the feature map: only a `[B, C]` vector is averaged over groups.
Measured with the zoo's UNet, batch 64, 2 threads, samples/s in fp32 (OpenVINO, ONNX Runtime): this form 272, 233;
GroupNormalization 185, 216; InstanceNormalization 186, 248; LayerNormalization 190, 240.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelGroupNorm(nn.Module):
    """`nn.GroupNorm` (Wu & He 2018) with affine `weight` and `bias` `[C]`: feature maps `[B, C, H, W]` → the same."""

    def __init__(self, groups: int, eps: float, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.groups, self.eps, self.channels = groups, eps, len(weight)
        self.weight = nn.Parameter(weight.detach().reshape(1, -1, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().reshape(1, -1, 1, 1), requires_grad=False)
        # Multiplying by ones repeats a group's mean for its channels in one node.
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(1, 1, self.channels // groups))

    def _group_mean(self, x: Tensor) -> Tensor:
        """Means over positions and over each group's channels `[B, C, 1, 1]`."""
        means = x.mean((2, 3), keepdim=True)
        size = self.channels // self.groups
        if size == 1:
            return means
        pooled = means.reshape(-1, self.groups, size).mean(2, keepdim=True)
        return (pooled * self.spread).reshape(-1, self.channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Two passes: E[x²] − E[x]² cancels in low precision.
        centred = x - self._group_mean(x)
        variance = self._group_mean(centred * centred)
        return centred * (self.weight * torch.rsqrt(variance + self.eps)) + self.bias
