"""Encoded images → 8-bit pixels; what does not fit them is refused, not rounded or dropped."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageFile

from ..errors import InputError
from ..grid import Pixels
from .base import first_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
ENCODINGS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # of which the bits of a channel are known, see _check_depth
MODES = ("RGB", "L", "P", "1", "RGBA", "LA")


def decode(data: bytes, name: str) -> Pixels:
    """The 8-bit RGB pixels `[H, W, 3]` of an encoded image; what does not fit them is refused, not rounded or dropped."""
    try:
        with PillowImage.open(io.BytesIO(data), formats=ENCODINGS) as image:
            _check_depth(image, data, name)
            if image.has_transparency_data and np.asarray(image.convert("RGBA"))[:, :, 3].min() < 255:
                raise InputError(f"{name} has transparent pixels, expected opaque ones: put it on a background")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(
            f"{name} is not a readable image ({first_line(error)}): replace it by a {', '.join(ENCODINGS)} image"
        ) from None


def _check_depth(image: ImageFile.ImageFile, data: bytes, name: str) -> None:
    """InputError unless the file's values are 8-bit grey or RGB, or fewer bits that are exact in 8."""
    if image.mode not in MODES:
        raise InputError(f"{name} has pixel mode {image.mode}, which is off the 8-bit grid: convert it to 8-bit RGB")
    if image.format == "PNG" and data[24] > 8:  # IHDR comes first; Pillow would cut 16 bits to 8
        raise InputError(f"{name} has {data[24]} bits a channel, expected at most 8: convert it to 8-bit RGB")
    codec, arguments = (image.tile[0][0], image.tile[0][3]) if image.tile else ("", None)
    if codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and arguments[1:] not in ((), (255,)):
        raise InputError(f"{name} has values up to {arguments[1]}, expected 255: convert it to 8-bit RGB")
