"""Resizing and centre-cropping as two constant matrices, W_h · X · W_wᵀ: exact on every backend.

Half-pixel centres throughout. With antialias the conventions are Pillow's, of which torch's `antialias=True` has two: Keys' cubic
with a = -0.5, the triangle, Lanczos' kernel of three lobes, a box, or a Hamming window, stretched by the scale when shrinking,
weights of taps inside the image renormalised. Without it those of torch's `interpolate`: a = -0.75, never stretched, pixels at the
border repeated. The two bilinear forms are the same when enlarging. The nearest pixel is the one in which the centre lies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor, nn

from ...dtypes import Floats32, Floats64
from ...errors import InputError

MODES = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
BOTH = ("bicubic", "bilinear", "nearest")  # which torch has too
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


def _lanczos(x: Floats64, _: float) -> Floats64:
    weights: Floats64 = np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    return weights


def _box(x: Floats64, _: float) -> Floats64:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _hamming(x: Floats64, _: float) -> Floats64:
    weights: Floats64 = np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)
    return weights


_KERNELS: dict[str, tuple[Callable[[Floats64, float], Floats64], float]] = {
    "bicubic": (_cubic, 2),
    "bilinear": (_triangle, 1),
    "lanczos": (_lanczos, 3),
    "box": (_box, 0.5),
    "hamming": (_hamming, 1),
}


def resize_matrix(source: int, target: int, mode: str = "bicubic", antialias: bool = True) -> Floats64:
    """W `[target, source]` with W @ column = the column resized from `source` to `target` pixels (both at least 1).

    Raises InputError unless `mode` is one of `MODES`, or of `BOTH` without `antialias`.
    """
    check_mode(mode, antialias)
    scale = source / target
    matrix = np.zeros((target, source))
    if mode == "nearest":
        rows = np.arange(target)
        # Pillow adds the scale up, and where a centre lies between two pixels its last bit decides.
        centres = np.cumsum(np.r_[0.5 * scale, np.full(target - 1, scale)]) if antialias else (rows + 0.5) * scale
        matrix[rows, centres.astype(np.int64)] = 1.0
        return matrix
    kernel, reach = _KERNELS[mode]
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


def check_mode(mode: str | None, antialias: bool | None) -> None:
    """InputError for a way to resize that there is not; None leaves it to the model's own files."""
    if mode not in (None, *MODES):
        raise InputError(f"--resize-mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    if antialias is False and mode not in (None, *BOTH):
        raise InputError(f"--no-antialias is how torch resizes, which has no {mode}: use one of {', '.join(BOTH)}")


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
    """The same map as `Resize`, by torch's own `interpolate` or by Pillow: what exported files are compared with."""

    def __init__(self, size: int, crop: int, at: int, mode: str, antialias: bool) -> None:
        super().__init__()
        self.size, self.kept, self.mode, self.antialias = size, slice(at, at + crop), mode, antialias

    def forward(self, x: Tensor) -> Tensor:
        size = (self.size, self.size)
        if self.mode == "nearest" and not self.antialias:
            x = F.interpolate(x, size, mode="nearest-exact")
        elif self.mode in ("bicubic", "bilinear"):
            x = F.interpolate(x, size, mode=self.mode, antialias=self.antialias)
        else:
            x = torch.from_numpy(np.stack([[self._by_pillow(plane) for plane in image] for image in x.numpy()]))
        return x[:, :, self.kept, self.kept]

    def _by_pillow(self, plane: Floats32) -> Floats32:
        mode = PillowImage.Resampling[self.mode.upper()]
        return np.asarray(PillowImage.fromarray(plane).resize((self.size, self.size), mode), np.float32)
