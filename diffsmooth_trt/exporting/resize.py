"""Antialiased bicubic resizing as two constant matrices, W_h · X · W_wᵀ: exact on every backend.

The convention is that of Pillow and of torch's `antialias=True`: Keys' cubic with a = -0.5, half-pixel centres, the kernel
stretched by the scale when shrinking, weights of taps inside the image renormalised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CUBIC = -0.5


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel (Keys 1981) at the distances `x`, with a = -0.5."""
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(source: int, target: int) -> NDArray[np.float64]:
    """W `[target, source]` with W @ column = the column resized from `source` to `target` pixels (both at least 1)."""
    scale = source / target
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    matrix = np.zeros((target, source))
    for row in range(target):
        center = scale * (row + 0.5)
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), source)
        taps = _cubic((np.arange(low, high, dtype=np.float64) + 0.5 - center) / stretch)
        matrix[row, low:high] = taps / taps.sum()
    return matrix


class Resize(nn.Module):
    """Images `[N, C, h, w]` of one fixed size → `[N, C, size, size]`, not clipped."""

    def __init__(self, source: tuple[int, int], size: int) -> None:
        super().__init__()
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", torch.from_numpy(resize_matrix(source[0], size)).float())
        self.register_buffer("columns", torch.from_numpy(resize_matrix(source[1], size).T.copy()).float())

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(torch.matmul(self.rows, x), self.columns)
