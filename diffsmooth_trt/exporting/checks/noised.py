"""Real images with the noise of certification on them, for calibrating and verifying exports."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...dtypes import Floats32
from ...errors import InputError
from ...images import Images
from ...noise import grid_law, sampler
from .inputs import Inputs, noise_levels

# Phases of the noise, apart from those of certification; the key is public: nothing certified rests on these draws.
CALIBRATION, VERIFICATION = 32, 33
KEY = 0


def fitting_pixels(path: str | PathLike[str], shape: tuple[int, int, int], limit: int) -> NDArray[np.uint8]:
    """Up to `limit` images uint8 `[N, C, H, W]`, taken evenly from the whole data set; InputError where sizes differ."""
    path = Path(path)
    everything = len(Images(path))
    images = Images(path, skip=max(1, everything // limit), limit=limit)
    rows = []
    for image in images:
        pixels = image.pixels.transpose(2, 0, 1)
        if pixels.shape != shape:
            raise InputError(
                f"{path.name} holds images {pixels.shape}, the engine takes {shape}: give images of that size"
            )
        rows.append(pixels)
    return np.ascontiguousarray(np.stack(rows))


def noised(pixels: NDArray[np.uint8], sigma: float, count: int, rows: int, phase: int) -> Iterator[Floats32]:
    """`count` noisy images in [0, 1] units in batches of `rows`, the last one filled with further draws.

    `pixels` uint8 `[N, C, H, W]`, used in turn: draw i is image i mod N with noise ⌊i/N⌋. The same in every call.
    """
    law = grid_law(sigma)
    for start in range(0, count, rows):
        draws = np.arange(start, start + rows, dtype=np.uint64)
        images, samples = draws % np.uint64(len(pixels)), draws // np.uint64(len(pixels))
        out = np.empty((rows, *pixels.shape[1:]), np.float32)
        sampler.noisy_images(law, KEY, phase, pixels, images, samples, out, rows=images.astype(np.int64))
        yield out


def noised_conditional(
    pixels: NDArray[np.uint8], highest: float, labels: int, count: int, rows: int, phase: int
) -> Iterator[Inputs]:
    """The same for conditional denoisers: images in [-1, 1] units at random noise levels up to `highest`, and labels."""
    generator = np.random.Generator(np.random.Philox(key=phase))
    for start in range(0, count, rows):
        s, chosen_labels = noise_levels(generator.random(rows), highest), generator.integers(0, labels, rows)
        chosen = pixels[np.arange(start, start + rows) % len(pixels)] / 127.5 - 1
        noise = s[:, None, None, None] * generator.standard_normal(chosen.shape)
        yield (chosen + noise).astype(np.float32), s, chosen_labels
