"""Files → images: uint8 `[H, W, C]` with a label and an index, decoded one at a time.

What is read is a data set (`datasets/`); here some of its rows are chosen, scaled and cropped. An index is the row in the data
set and never depends on `skip` or `limit`. Whatever cannot be read as it stands raises InputError.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from .datasets import CHANNELS, ArraySource, Classes, Entry, Header, Image, Matching, Source, decode, match, open_source
from .errors import InputError
from .grid import Pixels, distance
from .ranges import check_types, integer
from .scaling import centre, scaled_size

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
    "together",
]
MAX_SIDE = 16384
REFUSE, SKIP = BAD_IMAGES = ("refuse", "skip")
ENOUGH_BAD = 1000  # where all images so far are bad, the rest is not looked at
MANY = 2**62
FILTERS = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")  # Pillow's


def together(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    """The images in groups of `size`, in order; the last may be smaller."""
    waiting = iter(images)
    while group := list(islice(waiting, size)):
        yield group


def check_filter(name: str) -> None:
    """InputError unless --resize-mode is one of `FILTERS`."""
    if name not in FILTERS:
        raise InputError(f"--resize-mode {name!r} is unknown: use one of {', '.join(FILTERS)}")


def _scaled(pixels: Pixels, resize: int | None, mode: str) -> Pixels:
    """The picture with its shorter side `resize`, by the filter `mode`; one that has it already stays as it is."""
    height, width = pixels.shape[:2]
    if resize is None or resize == min(height, width):
        return pixels
    size = scaled_size(height, width, resize)[::-1]
    if max(size) > MAX_SIDE:
        raise InputError(f"--resize {resize} makes an image {size}, expected sides up to {MAX_SIDE}: use a smaller one")
    picture = PillowImage.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(picture.resize(size, PillowImage.Resampling[mode.upper()])).reshape(*size[::-1], -1)


def _cropped(pixels: NDArray[Any], crop: int | None) -> NDArray[Any]:
    if crop is not None:
        top, left = (centre(side, crop) for side in pixels.shape[:2])
        if crop > min(pixels.shape[:2]):
            raise InputError(f"--crop {crop} is larger than the image {pixels.shape[:2]}: resize first")
        pixels = pixels[top : top + crop, left : left + crop]
    return np.ascontiguousarray(pixels)


def with_channels(pixels: NDArray[Any], channels: int | None) -> NDArray[Any]:
    """`[H, W, C]` with so many channels: a grey image's one as three equal ones, or one of three equal ones."""
    if channels in (None, pixels.shape[2]):
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if not (pixels == pixels[:, :, :1]).all():
        raise InputError("the image has colours, --channels 1 is for grey ones: leave it out, or store grey images")
    return np.ascontiguousarray(pixels[:, :, :1])


@dataclass
class Checked:
    """What the headers of `images` images say besides their sizes: how many are turned, and how many have which colours."""

    images: int = 0
    turned: int = 0
    colours: Counter[str] = field(default_factory=Counter)

    def see(self, header: Header) -> None:
        """Take in a header."""
        self.turned += header.turned
        if header.colours:
            self.colours[header.colours] += 1

    def notes(self) -> list[str]:
        """What a reader has to know of it."""
        notes = [f"turned: {self.turned} images, as their EXIF orientation says"] if self.turned else []
        if self.colours:
            named = ", ".join(f"{count} {name}" for name, count in self.colours.most_common(3))
            notes.append(
                f"colours: {self.colours.total()} images are not sRGB ({named}); their numbers are taken as they are"
            )
        return notes


@dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """Which images of a data set, and what becomes of their pixels; see `Images`. Raises InputError for what cannot be."""

    skip: int = 1
    max: int | None = None
    resize: int | None = None
    crop: int | None = None
    quantise: bool = False
    channels: int | None = None
    bad_images: str = REFUSE
    class_map: Path | None = None
    resize_mode: str = FILTERS[0]

    def __post_init__(self) -> None:
        check_types(self)
        integer("skip", self.skip, 1, MANY)
        if self.max is not None:
            integer("max", self.max, 1, MANY)
        if self.channels not in (None, *CHANNELS):
            raise InputError(f"--channels must be 1 or 3, got {self.channels}: leave it out for what the data set has")
        if self.bad_images not in BAD_IMAGES:
            raise InputError(f"--bad-images {self.bad_images!r} is unknown: use one of {', '.join(BAD_IMAGES)}")
        check_filter(self.resize_mode)
        if self.resize is None and self.resize_mode != FILTERS[0]:
            raise InputError(f"--resize-mode {self.resize_mode} is for --resize: give that too, or leave it out")

    def recorded(self) -> dict[str, Any]:
        """The choice as JSON values; not what becomes of bad images and where classes are said, as their outcome is recorded."""
        left_out = {"bad_images", "class_map"}
        left_out |= {"channels"} if self.channels is None else set()  # as records had it before there was a choice
        left_out |= {"resize_mode"} if self.resize_mode == FILTERS[0] else set()
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any]) -> Self:
        """What `recorded` gave, which may hold other things besides."""
        return cls(**{each.name: recorded[each.name] for each in fields(cls) if each.name in recorded})


class Images:
    """The chosen images of a data set: every `skip`-th row, at most `limit` of them; iterate as often as needed.

    `resize` scales the shorter side by the filter `resize_mode`, and `crop` cuts the centre, both on 8-bit pixels. `quantise`
    rounds floats to them, and each image says how far it was moved (`Image.distance`, of the pixels that `crop` keeps); such an
    image cannot be resized too, as it would have no distance there. `channels` makes of grey images as many equal channels as
    3, or one of three equal ones. Images that cannot be used are refused, or with `bad_images` "skip" left out and put down in
    `skipped`. Memory does not grow with the number of images for parquet files, folders and tars, but by their names and
    places.
    """

    source: Source
    matching: Matching | None = None  # how labels became classes, once `match` said it
    _class: Mapping[int, int] | None = None
    _shape: tuple[int, int, int] | None = None  # [H, W, C] that all images have to have, once `check` knows it
    channels: int | None = None
    resize_mode: str = FILTERS[0]
    skips = False
    skipped: dict[int, tuple[int, str]]  # rows that cannot be used, with their labels and why

    def __init__(
        self,
        path: str | Path,
        *,
        skip: int = 1,
        limit: int | None = None,
        resize: int | None = None,
        crop: int | None = None,
        quantise: bool = False,
        channels: int | None = None,
        bad_images: str = REFUSE,
        resize_mode: str = FILTERS[0],
    ) -> None:
        check_filter(resize_mode)
        for name, value in (("--skip", skip), ("--max", limit), ("--resize", resize), ("--crop", crop)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        for name, value in (("--resize", resize), ("--crop", crop)):
            if value is not None and value > MAX_SIDE:
                raise InputError(f"{name} must be at most {MAX_SIDE} pixels, got {value}: give a smaller one")
        self.path = Path(path)
        self.source = open_source(self.path, quantise)
        self.resize, self.resize_mode, self.crop, self.channels = resize, resize_mode, crop, channels
        self.skips, self.skipped = bad_images == SKIP, {}
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
            channels=choice.channels,
            bad_images=choice.bad_images,
            resize_mode=choice.resize_mode,
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

    @property
    def labelled(self) -> bool:
        """Whether images have labels; else all of them are −1."""
        return self.source.labelled

    def match(self, classes: Classes, class_map: Mapping[str, Entry] | None = None) -> Matching:
        """Take labels for the classes of a classifier, from here on. Raises InputError where it is not known which is which."""
        return self.match_as(match(self.path, self.source, classes, class_map))

    def match_as(self, matching: Matching) -> Matching:
        """Take labels for classes as an earlier `match` said."""
        self._class, self.matching = matching.to_class(self.source), matching
        return matching

    def check(self, shape: tuple[int, int, int]) -> Checked:
        """Read the headers of all images, which have to become `[H, W, C]` = `shape`, before any is decoded.

        What cannot be used is put down in `skipped`, or refused: InputError names the first and how many there are. Damage and
        transparency of pixels are not seen here.
        """
        self.expect(shape)
        checked, bad, ends = Checked(), dict[int, InputError](), dict[tuple[int, ...], InputError | None]()
        for row, label, header in self.source.headers(self.rows):
            checked.images += 1
            error = header if isinstance(header, InputError) else None
            if not isinstance(header, InputError):
                checked.see(header)
                size = (*header.size, header.channels)
                if size not in ends:
                    ends[size] = self._ends_as(size, shape)
                error = ends[size]
            if error is not None:
                bad[row] = error
                self.skipped[row] = (self._to_class(label), error.message)
            if len(bad) == checked.images == ENOUGH_BAD:
                break
        if bad and (not self.skips or len(bad) == checked.images):
            raise self._refused(bad, checked.images)
        return checked

    def expect(self, shape: tuple[int, int, int]) -> None:
        """Take images that do not become `[H, W, C]` = `shape` for ones that cannot be used."""
        self._shape = shape

    def _ends_as(self, size: tuple[int, ...], shape: tuple[int, int, int]) -> InputError | None:
        """Why images of a size do not become `shape`, if they do not."""
        try:
            pixels: Pixels = np.broadcast_to(np.uint8(0), size)
            if self.resize is not None and self.crop is not None:  # the shorter side decides whether it can be cut
                pixels = np.broadcast_to(np.uint8(0), (self.resize, self.resize, size[2]))
            else:
                pixels = _scaled(pixels, self.resize, self.resize_mode)
            end = with_channels(_cropped(pixels, self.crop), self.channels).shape
        except InputError as error:
            return error
        if end == shape:
            return None
        grey = end[2] != shape[2] and 1 in (end[2], shape[2])
        side = min(shape[:2])
        cut = f"pass --resize {side} --crop {side}, or another engine or data set"
        remedy = f"pass --channels {shape[2]}" if grey else cut
        return InputError(f"{tuple(end)}, the engine takes {shape}: {remedy}")

    def _refused(self, bad: Mapping[int, InputError], images: int) -> InputError:
        row, error = next(iter(bad.items()))
        said = error.message if not error.message.startswith("(") else f"image {row} is {error.message}"
        if len(bad) == images:
            return InputError(said)
        more = f"; so are {len(bad) - 1} more of {images}" if len(bad) > 1 else ""
        return InputError(f"{said}{more}; --bad-images skip goes on without, and counts them against the result")

    def read(self, rows: range) -> Iterator[Image]:
        """The images of `rows` (ascending rows of the data set)."""
        for image in self.source.read(rows, self._bad):
            label = self._to_class(image.label)
            try:
                pixels = with_channels(
                    _cropped(_scaled(image.pixels, self.resize, self.resize_mode), self.crop), self.channels
                )
                if self._shape not in (None, pixels.shape):
                    raise InputError(f"image {image.index} is {pixels.shape}, the engine takes {self._shape}")
                moved = self._distance(image, pixels)
            except InputError as error:
                self._bad(image.index, image.label, error)
                continue
            yield Image(image.index, label, pixels, moved)

    def _bad(self, row: int, label: int, error: InputError) -> None:
        """Put down a row that cannot be used, or raise what is wrong with it."""
        if not self.skips:
            if self._shape is None:
                raise error
            raise InputError(f"{error.message}; --bad-images skip goes on without it, and counts it against the result")
        self.skipped[row] = (self._to_class(label), error.message)

    def _to_class(self, label: int) -> int:
        """The class that a label of the data set is."""
        if self._class is None:
            return label
        if label not in self._class:
            raise InputError(f"{self.path} has label {label}, for which nothing says a class: add it to --class-map")
        return self._class[label]

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
        return distance(with_channels(_cropped(given, self.crop), self.channels), pixels)

    def labels(self) -> Iterator[int]:
        """The labels of the chosen images, in their order; no pixel is decoded."""
        return map(self._to_class, self.source.labels(self.rows))

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
