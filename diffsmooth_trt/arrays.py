"""Images that are arrays in memory."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .grid import Pixels
from .images import CHANNELS, ArraySource, Images, pixel_digest


class ArrayImages(Images):
    """Images uint8 `[N, H, W, C]` in memory, with labels int `[N]` or none; an image's index is its row.

    Raises InputError, naming the argument x, for other types, ranks and orders.
    """

    def __init__(self, x: NDArray[np.uint8], labels: NDArray[Any] | None = None) -> None:
        pixels = checked_pixels(x)
        self.path = Path("x")
        self.source = ArraySource(self.path, [], pixels, None if labels is None else np.asarray(labels))
        self.resize = self.crop = None
        self.skipped = {}
        self.rows = range(len(pixels))

    @cached_property
    def identity(self) -> str:
        """SHA-256, in hex, over the shape and pixels of the images."""
        return hashlib.sha256("\n".join(map(pixel_digest, self)).encode()).hexdigest()


def checked_pixels(x: Any) -> Pixels:
    """`x` if it is an array of images uint8 [N, H, W, C] with at least one image; else InputError that names the argument x."""
    if not isinstance(x, np.ndarray):
        raise InputError(
            f"x is {type(x).__module__}.{type(x).__name__}, expected a NumPy array: np.asarray(x) makes one"
        )
    if x.dtype != np.uint8:
        raise InputError(
            f"x is {x.dtype}, expected uint8 of 0 to 255: certificates are about 8-bit images; for floats in [0, 1] "
            "give np.rint(255 * x).astype(np.uint8), or write them to an .npz and certify that with quantise=True"
        )
    if x.ndim != 4:
        raise InputError(f"x has shape {x.shape}, expected [N, H, W, C]: a single image [H, W, C] is x[None]")
    if 0 in x.shape:
        raise InputError(f"x has shape {x.shape}, expected [N, H, W, C] with one image at least: give images")
    if x.shape[3] not in CHANNELS and x.shape[1] in CHANNELS:
        raise InputError(f"x has shape {x.shape}, expected [N, H, W, C]: give x.transpose(0, 2, 3, 1)")
    if x.shape[3] not in CHANNELS:
        raise InputError(f"x has shape {x.shape}, expected [N, H, W, C] with 1 or 3 channels C: give x in that order")
    return x
