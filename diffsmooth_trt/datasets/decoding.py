"""Encoded images → 8-bit pixels; what does not fit them is refused, not rounded or dropped."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, ImageCms, ImageFile, UnidentifiedImageError
from PIL import Image as PillowImage

from ..errors import InputError
from ..grid import Pixels

# Those of which Pillow, or `_bits`, says how many bits a channel has.
ENCODINGS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "PPM", "GIF", "TIFF", "JPEG2000", "AVIF", "TGA", "QOI", "PCX", "SGI")
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # which Pillow knows by name, or draws by another program
SHOWN = "PNG, JPEG, BMP, WEBP, PPM, GIF, TIFF, AVIF"
MODES = ("RGB", "L", "P", "1", "RGBA", "RGBX", "LA")
SRGB_GAMMA = 0.45455
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_MODES = {0, 2, 3, 4, 6}
SAYS_NOTHING = {b"PLTE", b"sRGB", b"pHYs", b"tIME", b"tEXt", b"bKGD", b"sBIT", b"hIST", b"cHRM"}  # of size or colours
TURNS = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)
_WHOLE = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What an image's header says: (height, width) as viewers show it, whether its orientation turns it, its colour space in
    a few words where that is another one than sRGB ("" else), and how many channels it is read with.
    """

    size: tuple[int, int]
    turned: bool = False
    colours: str = ""
    channels: int = 3


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def suffixes() -> frozenset[str]:
    """Those of all formats of pictures that Pillow reads, in lower case; a file with another one is no image."""
    PillowImage.init()
    kinds = PillowImage.OPEN.keys() - NO_PICTURES
    return frozenset(end for end, kind in PillowImage.registered_extensions().items() if kind in kinds)


def decode(data: bytes | Path, name: str) -> Pixels:
    """The 8-bit RGB pixels `[H, W, 3]` of an encoded image, or of a file of one, turned as its EXIF orientation says.

    What does not fit them is refused, not rounded or dropped. Colours are the numbers in the file, whatever profile or gamma it
    names (`Header.colours`), as torchvision and `datasets` take them. Raises InputError, which begins with `name`.
    """
    with _opened(data, name) as image:
        _load(image)
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[:, :, 3].min() < 255:
            raise InputError(f"{name} has transparent pixels, expected opaque ones: put it on a background")
        turn = TURNS.get(_orientation(image))
        shown = image.convert("RGB")
        return np.asarray(shown if turn is None else shown.transpose(turn), dtype=np.uint8)


def _load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels. What is cut short is damaged, although others in this process may let Pillow fill it with grey."""
    if not ImageFile.LOAD_TRUNCATED_IMAGES:
        image.load()
        return
    with _WHOLE:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = True


def header(data: bytes | Path, name: str) -> Header:
    """What the header of an encoded image, or of a file of one, says; no pixel is decoded. Raises InputError as `decode`.

    Damage and transparency of pixels are not seen.
    """
    if isinstance(data, bytes) and (plain := _plain_png(data)) is not None:
        return Header(plain)
    with _opened(data, name) as image:
        orientation = (
            _orientation(image) if image.format != "PNG" or "exif" in image.info else 1
        )  # else it would decode
        height, width = image.height, image.width
        if orientation in ON_ITS_SIDE and image.format != "TIFF":  # Pillow has turned that already
            height, width = width, height
        return Header((height, width), orientation in TURNS, _colours(image))


def _plain_png(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a PNG of at most 8 bits whose chunks say nothing of orientation, colours or frames; None else."""
    if data[:8] != PNG_SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if bits > 8 or colour not in PNG_MODES or not (width and height):
        return None
    at = 33
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind == b"IDAT":
            return height, width
        if kind not in SAYS_NOTHING:
            return None
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return None


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[ImageFile.ImageFile]:
    """An encoded image, its header read and of a kind that is taken; whatever fails within is said in one line."""
    try:
        source = data if isinstance(data, Path) else io.BytesIO(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data
            with PillowImage.open(source, formats=ENCODINGS) as image:
                _check_depth(image, name)
                yield image
    except InputError:
        raise
    except PermissionError:
        raise InputError(
            f"{name} may not be read (permission denied): expected an image, give yourself read permission"
        ) from None
    except UnidentifiedImageError:  # which says no more, but where in memory the bytes are
        kind = PillowImage.registered_extensions().get(data.suffix.lower()) if isinstance(data, Path) else None
        said = f"a {kind} file" if kind and kind not in ENCODINGS else "of no known format"
        raise InputError(f"{name} is not a readable image ({said}): replace it by a {SHOWN} image") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(
            f"{name} is not a readable image ({first_line(error)}): replace it by a {SHOWN} image"
        ) from None


def _check_depth(image: ImageFile.ImageFile, name: str) -> None:
    """InputError unless the file's values are one picture, of 8-bit grey or RGB or of fewer bits that are exact in 8."""
    if image.mode not in MODES:
        raise InputError(f"{name} has pixel mode {image.mode}, which is off the 8-bit grid: convert it to 8-bit RGB")
    if image.format in ("BMP", "DIB") and not _whole_bmp(image):
        raise InputError(f"{name} has a palette of which Pillow reads wrong pixels: convert it to 8-bit RGB")
    bits = _bits(image)
    if bits > 8:
        raise InputError(f"{name} has {bits} bits a channel, expected at most 8: convert it to 8-bit RGB")
    codec, arguments = (image.tile[0][0], image.tile[0][3]) if image.tile else ("", None)
    if codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and arguments[1:] not in ((), (255,)):
        raise InputError(f"{name} has values up to {arguments[1]}, expected 255: convert it to 8-bit RGB")
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo with its previews
        raise InputError(f"{name} holds several pictures (frames or pages), expected one: save the one that is meant")


def _whole_bmp(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow takes as many bits a pixel as the file has.

    Where a palette is grey it forgets it, and reads 4-bit rows as if they had 8, and 8-bit rows of two colours as if they had 1.
    """
    file = image.fp
    if file is None or image.mode not in ("1", "L"):
        return True
    at = file.tell()
    file.seek(14 if image.format == "BMP" else 0)
    head = file.read(16)
    file.seek(at)
    bits = int.from_bytes(head[10:12] if head[:1] == b"\x0c" else head[14:16], "little")
    return bits == (1 if image.mode == "1" else 8)


def _bits(image: ImageFile.ImageFile) -> int:
    """Bits a channel in the file, where Pillow would cut more than 8 of them to 8 without a word."""
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]  # BitsPerSample
    if image.format not in ("PNG", "JPEG2000", "AVIF", "SGI"):
        return 8
    file = image.fp
    if file is None:
        return 8
    at = file.tell()
    file.seek(0)
    start = file.read(1 << 16)
    file.seek(at)
    if image.format == "PNG":
        return start[24]  # IHDR comes first
    if image.format == "SGI":
        return 8 * start[3]
    if image.format == "JPEG2000":
        size = start.find(b"\xff\x4f\xff\x51")  # SOC and SIZ, of which the 39th byte is the first component's Ssiz
        return 1 + (start[size + 42] & 0x7F) if size >= 0 and size + 42 < len(start) else 8
    box = start.find(b"av1C")
    flags = start[box + 6] if 0 <= box < len(start) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation; 1, upright, where there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds for damaged EXIF data
        return 1


def _colours(image: ImageFile.ImageFile) -> str:
    profile = image.info.get("icc_profile")
    if profile:
        said = _described(bytes(profile))
        return "" if "srgb" in said.lower() else f"profile {said}"
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - SRGB_GAMMA) > 1e-3:
        return f"gamma {gamma:.5g}"
    return ""


@lru_cache(maxsize=64)
def _described(profile: bytes) -> str:
    """What an ICC profile calls itself."""
    try:
        said = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except Exception:  # a damaged profile, or a Pillow without colour management
        said = ""
    return said or "without a name"
