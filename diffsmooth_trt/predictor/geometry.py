"""Bilinear resize of the shorter side, then the centre: two small matrices, which NumPy and torch multiply with alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dtypes import Floats32, Floats64
from ..errors import InputError

Shape = tuple[int, int, int]


def bilinear(length: int, size: int) -> Floats64:
    """`[size, length]`: each output is between the two inputs around its centre, pixel centres being at i + ½, edges repeated.

    No antialiasing: what torch's `interpolate(mode="bilinear", align_corners=False)` computes.
    """
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    low = np.minimum(places.astype(int), length - 1)
    high, share = np.minimum(low + 1, length - 1), places - low
    weights, rows = np.zeros((size, length)), np.arange(size)
    weights[rows, low] += 1 - share
    weights[rows, high] += share
    return weights


@dataclass(frozen=True)
class Fitting:
    """How images are brought to the classifier's size: `rows` [h, H] and `columns` [w, W], None where nothing is to be done."""

    rows: Floats32 | None = None
    columns: Floats32 | None = None

    @classmethod
    def between(cls, given: Shape, taken: Shape) -> Fitting:
        """From images `given` to those `taken`, (C, H, W) each: resized as little as covers the classifier's size,
        for squares the shorter side to its side, then the centre is cut, as torchvision cuts it. InputError for other channels."""
        if given[0] != taken[0]:
            raise InputError(
                f"images have {given[0]} channels, the classifier takes {taken[0]}: give engines for images of one kind"
            )
        if given == taken:
            return cls()
        scale = max(size / length for length, size in zip(given[1:], taken[1:], strict=True))
        matrices = []
        for length, size in zip(given[1:], taken[1:], strict=True):
            whole = bilinear(length, max(size, round(length * scale)))
            first = round((len(whole) - size) / 2)
            matrices.append(whole[first : first + size].astype(np.float32))
        return cls(*matrices)

    def __call__(self, images: Floats32) -> Floats32:
        """float32 `[B, C, H, W]` → `[B, C, h, w]`."""
        if self.rows is None or self.columns is None:
            return images
        return np.ascontiguousarray(self.rows @ images @ self.columns.T)
