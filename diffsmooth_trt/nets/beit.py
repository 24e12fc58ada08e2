"""BEiT image classifiers (Bao et al. 2022) under timm's parameter names, so that its checkpoints load without timm.

`beit_{base,large}_patch16_{224,384,512}`: relative position biases in every block, no absolute ones, the mean of the patches'
features as the image's, images scaled to [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arch import ClassifierArch, Triple

PATCH = 16
EPS = 1e-6
HALF: Triple = (0.5, 0.5, 0.5)
SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}  # width, depth, heads


def relative_positions(side: int) -> Tensor:
    """The row of the bias table for each pair of tokens int64 `[side² + 1, side² + 1]`.

    Token 0 is the class token: the table's last three rows are for it as query, as key and as both.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    span = 2 * side - 1
    table = np.empty((side * side + 1, side * side + 1), dtype=np.int64)
    table[1:, 1:] = (rows[:, None] - rows + side - 1) * span + columns[:, None] - columns + side - 1
    table[0, :], table[:, 0], table[0, 0] = span * span, span * span + 1, span * span + 2
    return torch.from_numpy(table)


class _Attention(nn.Module):
    """Self-attention with a bias for each pair of positions; keys have no bias of their own."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3, heads))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        tokens, width = x.shape[1:]
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).reshape(-1, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[positions].permute(2, 0, 1)
        weight = torch.softmax(torch.matmul(q * (width // self.heads) ** -0.5, k.transpose(-1, -2)) + bias, dim=-1)
        result: Tensor = self.proj(torch.matmul(weight, v).transpose(1, 2).reshape(-1, tokens, width))
        return result


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class _Block(nn.Module):
    """Attention and perceptron, each normalised before and scaled by channel after."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn, self.mlp = _Attention(width, heads, side), _Mlp(width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), positions)
        result: Tensor = x + self.gamma_2 * self.mlp(self.norm2(x))
        return result


class _PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.proj(x)
        return features.flatten(2).transpose(1, 2)


class Beit(nn.Module):
    """Normalised images `[N, 3, size, size]` → logits `[N, classes]`."""

    def __init__(self, size: int, width: int, depth: int, heads: int, classes: int = 1000) -> None:
        super().__init__()
        side = size // PATCH
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = _PatchEmbed(width)
        self.blocks = nn.ModuleList(_Block(width, heads, side) for _ in range(depth))
        self.fc_norm, self.head = nn.LayerNorm(width, EPS), nn.Linear(width, classes)
        self.positions: Tensor
        # Made from NumPy: it has its values also where parameters are on the meta device.
        self.register_buffer("positions", relative_positions(side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        h = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        for block in self.blocks:
            h = block(h, self.positions)
        logits: Tensor = self.head(self.fc_norm(h[:, 1:].mean(1)))
        return logits


def beit(name: str, classes: int) -> ClassifierArch:
    """`beit_base_patch16_N` or `beit_large_patch16_N` for images of N×N pixels."""
    _, kind, _, size = name.split("_")
    width, depth, heads = SIZES[kind]
    module = Beit(int(size), width, depth, heads, classes)
    # Older checkpoints hold the table of pairs as well.
    return ClassifierArch(name, module, HALF, HALF, classes, "head", int(size), unused=("relative_position_index",))
