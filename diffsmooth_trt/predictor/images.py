"""What the predictor takes: 8-bit images or floats. Nothing is certified, so that floats need not lie on the 8-bit grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Floats32
from ..errors import InputError


def channels_first(x: NDArray[Any], shape: tuple[int, int, int]) -> Floats32:
    """Images `[N, H, W, C]`, uint8 or floats in [0, 1], as float32 `[N, C, H, W]`; `shape` is (C, H, W). InputError otherwise."""
    channels, height, width = shape
    if not isinstance(x, np.ndarray) or x.shape[1:] != (height, width, channels):
        kind = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"x is {kind}, expected an array [N, {height}, {width}, {channels}]: give images of that size")
    return checked(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "x")


def checked(x: NDArray[Any], name: str) -> Floats32:
    """Images of uint8, or of floats in [0, 1], as float32; InputError, naming the argument, for other values."""
    if x.dtype == np.uint8:
        scaled: Floats32 = x.astype(np.float32) / np.float32(255)
        return scaled
    if x.dtype.kind != "f":
        raise InputError(f"{name} is {x.dtype}, expected uint8, or floats in [0, 1]: convert it")
    if x.size and not (x.min() >= 0 and x.max() <= 1):  # NaN too
        raise InputError(
            f"{name} has values from {x.min():.6g} to {x.max():.6g}, expected floats in [0, 1] or uint8: divide by 255, or clip"
        )
    return x.astype(np.float32)
