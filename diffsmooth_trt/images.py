"""Files → images: uint8 `[H, W, C]` with a label and an index, decoded one at a time.

What is read is a data set (`datasets/`); here some of its rows are chosen, scaled and cropped. An index is the row in the data
set and never depends on `skip` or `limit`. Whatever cannot be read as it stands raises InputError.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from .datasets import CHANNELS, ArraySource, Image, Source, decode, open_source
from .errors import InputError
from .grid import Pixels, distance
from .ranges import integer

__all__ = [
    "CHANNELS",
    "ArraySource",
    "Image",
    "ImageChoice",
    "Images",
    "Source",
    "decode",
    "flat_pixels",
    "open_images",
    "pixel_digest",
]
MAX_SIDE = 16384
MANY = 2**62


def _scaled(pixels: Pixels, resize: int | None) -> Pixels:
    """The picture with its shorter side `resize`; one that has it already stays as it is."""
    height, width = pixels.shape[:2]
    if resize is None or resize == min(height, width):
        return pixels
    scale = resize / min(height, width)
    size = (max(resize, round(width * scale)), max(resize, round(height * scale)))
    if max(size) > MAX_SIDE:
        raise InputError(f"--resize {resize} makes an image {size}, expected sides up to {MAX_SIDE}: use a smaller one")
    picture = PillowImage.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(picture.resize(size, PillowImage.Resampling.BICUBIC)).reshape(*size[::-1], -1)


def _cropped(pixels: NDArray[Any], crop: int | None) -> NDArray[Any]:
    if crop is not None:
        top, left = (pixels.shape[0] - crop) // 2, (pixels.shape[1] - crop) // 2
        if top < 0 or left < 0:
            raise InputError(f"--crop {crop} is larger than the image {pixels.shape[:2]}: resize first")
        pixels = pixels[top : top + crop, left : left + crop]
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """Which images of a data set, and what becomes of their pixels; see `Images`. Raises InputError for what cannot be."""

    skip: int = 1
    max: int | None = None
    resize: int | None = None
    crop: int | None = None
    quantise: bool = False

    def __post_init__(self) -> None:
        integer("skip", self.skip, 1, MANY)
        if self.max is not None:
            integer("max", self.max, 1, MANY)

    def recorded(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return asdict(self)

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any]) -> Self:
        """What `recorded` gave, which may hold other things besides."""
        return cls(**{field.name: recorded[field.name] for field in fields(cls) if field.name in recorded})


class Images:
    """The chosen images of a data set: every `skip`-th row, at most `limit` of them; iterate as often as needed.

    `resize` scales the shorter side (bicubic) and `crop` cuts the centre, both on 8-bit pixels. `quantise` rounds floats to
    them, and each image says how far it was moved (`Image.distance`, of the pixels that `crop` keeps); such an image cannot
    be resized too, as it would have no distance there. Memory does not grow with the number of images for parquet files
    and folders.
    """

    labelled = True  # arrays may come without labels: then every label is −1

    def __init__(
        self,
        path: str | Path,
        *,
        skip: int = 1,
        limit: int | None = None,
        resize: int | None = None,
        crop: int | None = None,
        quantise: bool = False,
    ) -> None:
        for name, value in (("--skip", skip), ("--max", limit), ("--resize", resize), ("--crop", crop)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        for name, value in (("--resize", resize), ("--crop", crop)):
            if value is not None and value > MAX_SIDE:
                raise InputError(f"{name} must be at most {MAX_SIDE} pixels, got {value}: give a smaller one")
        self.path = Path(path)
        self.source = open_source(self.path, quantise)
        self.resize, self.crop = resize, crop
        self.rows = range(0, len(self.source), skip)[:limit]
        if not self.rows:
            raise InputError(f"{path} holds no images")

    @classmethod
    def chosen(cls, path: str | Path, choice: ImageChoice) -> Self:
        """The images of `choice`."""
        return cls(
            path,
            skip=choice.skip,
            limit=choice.max,
            resize=choice.resize,
            crop=choice.crop,
            quantise=choice.quantise,
        )

    def of_rows(self, rows: range) -> Self:
        """Those of the chosen images that lie at `rows` of the data set; `identity` is still the data set's."""
        part = copy.copy(self)
        part.rows = rows
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Image]:
        return self.read(self.rows)

    def read(self, rows: range) -> Iterator[Image]:
        """The images of `rows` (ascending rows of the data set)."""
        for image in self.source.read(rows):
            pixels = _cropped(_scaled(image.pixels, self.resize), self.crop)
            yield Image(image.index, image.label, pixels, self._distance(image, pixels))

    def _distance(self, image: Image, pixels: Pixels) -> float:
        """How far rounding moved the pixels that are left of an image."""
        given = self.source.given(image.index)
        if given is None or not distance(given, image.pixels):
            return 0.0
        if self.resize not in (None, min(given.shape[:2])):
            raise InputError(
                f"{self.path} image {image.index} is off the 8-bit grid and --resize {self.resize} works on 8-bit pixels: "
                "resize the floats before you store them, or store 8-bit images"
            )
        return distance(_cropped(given, self.crop), pixels)

    def labels(self) -> Iterator[int]:
        """The labels of the chosen images, in their order; no pixel is decoded."""
        return self.source.labels(self.rows)

    @cached_property
    def identity(self) -> str:
        """SHA-256, in hex, that names the data set's content wherever it lies, whatever rows, size and crop are chosen.

        It covers every byte of a parquet, .npz or CIFAR file (for one file it is the file's own SHA-256). Of an image
        folder it covers the number of images and their names below the folder, sizes in bytes and labels, not what is
        in them: a run store keeps the SHA-256 of each image's pixels. What was read before is not compared with it.
        """
        return self.source.identity()


def pixel_digest(image: Image) -> str:
    """SHA-256 over the shape and the 8-bit pixels of an image."""
    return hashlib.sha256(repr(image.pixels.shape).encode() + image.pixels.tobytes()).hexdigest()


def flat_pixels(image: Image) -> Pixels:
    """An image's pixels in the order of the network's input, [C, H, W], flat."""
    return np.ascontiguousarray(image.pixels.transpose(2, 0, 1)).reshape(-1)


def open_images(path: str | Path, **options: Any) -> Images:
    """`Images(path, …)` under the name the package exports."""
    return Images(path, **options)
