"""The 8-bit grid k/255 on which the noise is exact: which floats mean its points, and how far the others are moved to it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Pixels = NDArray[np.uint8]
FLOATS: tuple[type[np.floating[Any]], ...] = (np.float16, np.float32, np.float64)


def on_grid(images: NDArray[Any], name: str, quantise: bool = False) -> Pixels:
    """`images` as uint8 k; floats in [0, 1] must mean k/255 (see `denoted`) unless `quantise` rounds them to the nearest.

    Raises InputError, which begins with `name`, for other dtypes and for values that round to no k of 0 … 255.
    """
    if images.dtype == np.uint8:
        return images
    if images.dtype.type not in FLOATS:
        raise InputError(f"{name} holds images of dtype {images.dtype}: expected uint8 or floats in [0, 1]")
    with np.errstate(over="ignore"):  # an overflow is infinite, and refused
        values = images.astype(np.float64) * 255.0
    levels = np.rint(values)
    if not (np.isfinite(levels).all() and levels.min(initial=0) >= 0 and levels.max(initial=0) <= 255):
        raise InputError(f"{name} holds values outside [0, 1]: divide 0…255 images by 255")
    pixels = levels.astype(np.uint8)
    if not quantise and not denoted(images, pixels).all():
        worst = float(np.abs(values - levels)[~denoted(images, pixels)].max()) / 255
        raise InputError(
            f"{name} holds {images.dtype} images off the 8-bit grid (by {worst:.2g}): the noise is exact only on k/255; store "
            "8-bit images, or where there is --quantise pass it to round them, which takes the distance off every radius"
        )
    return pixels


def denoted(images: NDArray[Any], pixels: Pixels) -> NDArray[np.bool_]:
    """Whether each float means k/255, k its pixel: as a float32 or float64 it is the nearest to it, or next to that one.

    Dividing by 255 gives the nearest, multiplying by 1/255 one of its neighbours at most. A float16 means 0 and 1 alone: the
    nearest to another k/255 is up to 2.4e-4 off, 0.06 of a step, which is no matter of last digits.
    """
    low, high = _bounds(images.dtype.name)
    return np.asarray((images >= low[pixels]) & (images <= high[pixels]))


@lru_cache(maxsize=len(FLOATS))
def _bounds(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The least and the greatest float of the dtype `name` that mean k/255, `[256]` each, ascending k."""
    kind = np.dtype(name).type
    nearest = np.arange(256, dtype=kind) / kind(255)  # IEEE division of exact operands
    if kind is np.float16:
        nearest[1:255] = np.nan  # equal to nothing
        return nearest, nearest
    return np.nextafter(nearest, kind(-1)), np.nextafter(nearest, kind(2))


def distance(images: NDArray[Any], pixels: Pixels) -> float:
    """‖x − k/255‖₂ of one image, x its floats and k its pixels, rounded up; coordinates that mean k/255 count as 0.

    A coordinate: 255x rounds by at most 255.5·2⁻⁵³ < 2⁻⁴⁵, subtracting k from it (at most ½ away) is exact, so that
    e = |255x − k| + 2⁻⁴⁴ is not below |255·x − k| after its own rounding. Each e² rounds by a relative 2⁻⁵³, `math.fsum` is the
    exact sum rounded once, so is the root, and so is the division: a factor 1 + 2⁻⁵⁰ covers the four. The same bits everywhere.
    """
    off = ~denoted(images, pixels)
    if not off.any():
        return 0.0
    steps = np.abs(images[off].astype(np.float64) * 255.0 - pixels[off]) + 2.0**-44
    return math.sqrt(math.fsum((steps * steps).tolist())) / 255.0 * (1 + 2.0**-50)
