"""Resizing and centre-cropping as two constant matrices, W_h · X · W_wᵀ: exact on every backend.

Half-pixel centres throughout. With antialias the conventions are those of Pillow and of torch's `antialias=True`: Keys' cubic
with a = -0.5 or the triangle, the kernel stretched by the scale when shrinking, weights of taps inside the image
renormalised. Without it those of torch's `interpolate`: a = -0.75, never stretched, pixels at the border repeated. The two
bilinear forms are the same when enlarging.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...dtypes import Floats64
from ...errors import InputError

MODES = ("bicubic", "bilinear")
CUBIC, CUBIC_PLAIN = -0.5, -0.75


def _cubic(x: Floats64, a: float) -> Floats64:
    """Cubic convolution kernel (Keys 1981) at the distances `x`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    weights: Floats64 = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights


def _triangle(x: Floats64, _: float) -> Floats64:
    weights: Floats64 = np.maximum(1 - np.abs(x), 0.0)
    return weights


_KERNELS: dict[str, tuple[Callable[[Floats64, float], Floats64], int]] = {
    "bicubic": (_cubic, 2),
    "bilinear": (_triangle, 1),
}


def resize_matrix(source: int, target: int, mode: str = "bicubic", antialias: bool = True) -> Floats64:
    """W `[target, source]` with W @ column = the column resized from `source` to `target` pixels (both at least 1).

    Raises InputError unless `mode` is one of `MODES`.
    """
    if mode not in _KERNELS:
        raise InputError(f"--resize-mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    kernel, reach = _KERNELS[mode]
    scale = source / target
    matrix = np.zeros((target, source))
    for row in range(target):
        center = scale * (row + 0.5)
        if antialias:
            stretch = max(scale, 1.0)
            low = max(int(center - reach * stretch + 0.5), 0)
            high = min(int(center + reach * stretch + 0.5), source)
            taps = kernel((np.arange(low, high, dtype=np.float64) + 0.5 - center) / stretch, CUBIC)
            matrix[row, low:high] = taps / taps.sum()
        else:
            at = center - 0.5 if mode == "bicubic" else max(center - 0.5, 0.0)
            places = np.arange(np.floor(at) - reach + 1, np.floor(at) + reach + 1)
            inside = np.clip(places, 0, source - 1).astype(np.int64)
            np.add.at(matrix[row], inside, kernel(places - at, CUBIC_PLAIN))
    return matrix


def resize_facts(to: int, crop: int, at: int, mode: str, antialias: bool) -> dict[str, object]:
    """What a file says of its resize, in its details."""
    return {"to": to, "crop": crop, "crop_at": at, "mode": mode, "antialias": antialias}


class Resize(nn.Module):
    """Images `[N, C, h, w]` of one fixed size → `[N, C, size, size]`, not clipped; of these, `crop` rows and columns from `at`.

    `crop` is by default `size`, and with `at` at most that.
    """

    def __init__(
        self,
        source: tuple[int, int],
        size: int,
        crop: int | None = None,
        at: int = 0,
        mode: str = "bicubic",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.rows: Tensor
        self.columns: Tensor
        kept = slice(at, at + (size if crop is None else crop))
        rows, columns = (resize_matrix(side, size, mode, antialias)[kept] for side in source)
        self.register_buffer("rows", torch.from_numpy(rows).float())
        self.register_buffer("columns", torch.from_numpy(columns.T.copy()).float())

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(torch.matmul(self.rows, x), self.columns)


class SourceResize(nn.Module):
    """The same map as `Resize`, by torch's own `interpolate`: what exported files are compared with."""

    def __init__(self, size: int, crop: int, at: int, mode: str, antialias: bool) -> None:
        super().__init__()
        self.size, self.kept, self.mode, self.antialias = size, slice(at, at + crop), mode, antialias

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (self.size, self.size), mode=self.mode, antialias=self.antialias)
        return x[:, :, self.kept, self.kept]
