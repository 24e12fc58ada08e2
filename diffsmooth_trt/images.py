"""Files → images: uint8 `[H, W, C]` with a label and an index, decoded one at a time.

Sources: parquet in the Hugging Face image layout (`img` or `image` = {bytes, path}, `label`), an image folder (one
sub-folder a class), an `.npz` (`images` uint8 `[N, H, W, C]`, `labels`), CIFAR-10/100 binary files. An index is the row
in the data set and never depends on `skip` or `limit`. Whatever cannot be read as it stands raises InputError.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile

from .errors import InputError
from .files import file_sha256
from .grid import Pixels, distance, on_grid
from .ranges import integer

FORMATS = "a parquet file, an image folder, an .npz or CIFAR binary .bin files"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
ENCODINGS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # of which the bits of a channel are known, see _check_depth
MODES = ("RGB", "L", "P", "1", "RGBA", "LA")
MAX_SIDE = 16384
MANY = 2**62
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Image:
    """One image: its row in the data set, its class, its pixels uint8 `[H, W, C]`.

    `distance` is the ℓ2 distance of the image as given from pixels/255, rounded up: 0.0 unless `quantise` moved it.
    """

    index: int
    label: int
    pixels: Pixels
    distance: float = 0.0


class Source(ABC):
    """Rows of one data set, read in ascending order; `files` are what it is read from."""

    files: list[Path]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: range) -> Iterator[Image]:
        """The images of `rows`, decoded lazily."""

    @abstractmethod
    def labels(self, rows: range) -> Iterator[int]:
        """The labels of `rows`, without their pixels."""

    def given(self, row: int) -> NDArray[Any] | None:
        """The floats `[H, W, C]` that a row's pixels were rounded from; None where nothing was rounded."""
        return None

    def identity(self) -> str:
        """What `Images.identity` promises: the file's own SHA-256, or one over the names and SHA-256 of several."""
        digests = []
        for path in self.files:
            with _reading(path, "a readable file"):
                digests.append([path.name, file_sha256(path)])
        return digests[0][1] if len(digests) == 1 else _digest(digests)


class ParquetSource(Source):
    """Encoded images in a parquet file; one record batch is in memory at a time."""

    BATCH = 256
    KIND = "a readable parquet file"

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [path]
        with _reading(path, self.KIND):
            self.file = pq.ParquetFile(path)
            schema = self.file.schema_arrow
        columns = [name for name in ("img", "image") if schema.names.count(name) == 1]
        labels = [name for name in ("label", "fine_label", "labels") if schema.names.count(name) == 1]
        if not columns or not labels:
            raise InputError(
                f"{path} has columns {', '.join(schema.names)}: expected 'img' or 'image' with encoded bytes, and 'label'"
            )
        self.image_column, self.label_column = columns[0], labels[0]
        kind = schema.field(self.label_column).type
        if not pa.types.is_integer(kind):
            raise InputError(f"{path} column '{self.label_column}' is {kind}, expected integers: store class numbers")
        kind, self.bytes_column = schema.field(self.image_column).type, self.image_column
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, self.bytes_column = kind.field("bytes").type, f"{self.image_column}.bytes"
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{path} column '{self.image_column}' is {kind}, expected encoded bytes: use the Hugging Face image layout"
            )

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def read(self, rows: range) -> Iterator[Image]:
        for row, record in self._records(rows, [self.bytes_column, self.label_column]):
            yield Image(row, self._label(record, row), self._decode(record[self.image_column], row))

    def labels(self, rows: range) -> Iterator[int]:
        for row, record in self._records(rows, [self.label_column]):
            yield self._label(record, row)

    def _records(self, rows: range, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        row, wanted = 0, iter(rows)
        target = next(wanted, None)
        with _reading(self.path, self.KIND):
            for batch in self.file.iter_batches(self.BATCH, columns=columns):
                while target is not None and target < row + len(batch):
                    yield target, batch.slice(target - row, 1).to_pylist()[0]
                    target = next(wanted, None)
                row += len(batch)
                if target is None:
                    return

    def _label(self, record: dict[str, Any], row: int) -> int:
        label = record[self.label_column]
        if label is None:
            raise InputError(f"{self.path} row {row} has no label: expected a class number, remove the row")
        return int(label)

    def _decode(self, cell: Any, row: int) -> Pixels:
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise InputError(f"{self.path} row {row} holds no image bytes: expected the Hugging Face image layout")
        return decode(data, f"{self.path} row {row}")


class FolderSource(Source):
    """`folder/class name/*.png`: rows are the sorted images of the sorted sub-folders, a sub-folder is a class.

    Names that start with a dot count as if they were not there; a sub-folder without images is refused, because leaving
    it out would move the labels behind it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path, "a readable folder"):
            folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
            classes = [_image_files(folder) for folder in folders]
        self.files = [file for files in classes for file in files]
        self.numbers = [label for label, files in enumerate(classes) for _ in files]
        empty = [folder.name for folder, files in zip(folders, classes, strict=True) if not files]
        if self.files and empty:
            raise InputError(
                f"{path} has sub-folders without images ({', '.join(empty[:3])}): remove them or fill them"
            )
        if not self.files:
            raise InputError(
                f"{path} holds no images: expected one sub-folder a class with {', '.join(sorted(SUFFIXES))}"
            )

    def __len__(self) -> int:
        return len(self.files)

    def read(self, rows: range) -> Iterator[Image]:
        for row in rows:
            file = self.files[row]
            with _reading(file, "a readable image"):
                data = file.read_bytes()
            yield Image(row, self.numbers[row], decode(data, str(file)))

    def labels(self, rows: range) -> Iterator[int]:
        return (self.numbers[row] for row in rows)

    def identity(self) -> str:
        rows = []
        for file, label in zip(self.files, self.numbers, strict=True):
            with _reading(file, "a readable image"):
                rows.append([file.relative_to(self.path).as_posix(), file.stat().st_size, label])
        return _digest([len(rows), rows])


class ArraySource(Source):
    """Arrays in memory, as an `.npz` or CIFAR binary files give them."""

    def __init__(
        self, path: Path, files: list[Path], images: NDArray[Any], labels: NDArray[Any], quantise: bool = False
    ) -> None:
        shape = images.shape
        if len(shape) != 4 or shape[3] not in CHANNELS or 0 in shape[1:] or labels.shape != shape[:1]:
            raise InputError(
                f"{path} holds images {images.shape} and labels {labels.shape}: expected [N, H, W, C] and [N], C 1 or 3"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{path} holds labels of dtype {labels.dtype}: expected integers")
        self.files, self.numbers = files, labels
        self.images = on_grid(images, str(path), quantise)
        self.floats = images if quantise and images.dtype != np.uint8 else None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: range) -> Iterator[Image]:
        for row in rows:
            yield Image(row, int(self.numbers[row]), self.images[row])

    def labels(self, rows: range) -> Iterator[int]:
        return (int(self.numbers[row]) for row in rows)

    def given(self, row: int) -> NDArray[Any] | None:
        return None if self.floats is None else self.floats[row]


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Say in one line why `path` is not `kind`; the libraries that read raise many kinds for damaged files."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{error.filename or path} may not be read (permission denied): expected {kind}, give yourself read permission"
        ) from None
    except Exception as error:
        raise InputError(f"{path} is not {kind} ({_first_line(error)}): download or make it again") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _image_files(folder: Path) -> list[Path]:
    """The images below `folder`, sorted; a broken link is refused, for without it every later row would move."""
    found: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here, name) for name in files if not name.startswith(".")]
    found = sorted(file for file in found if file.suffix.lower() in SUFFIXES)
    for file in found:
        if not file.is_file():
            raise InputError(f"{file} is a broken link or a device, expected an image: restore or remove it")
    return found


def _refuse(error: OSError) -> None:
    raise error


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
            f"{name} is not a readable image ({_first_line(error)}): replace it by a {', '.join(ENCODINGS)} image"
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


def _open_npz(path: Path, quantise: bool) -> Source:
    with _reading(path, "a readable .npz of plain arrays"), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds a single array, expected an .npz: use np.savez(path, images=…, labels=…)")
        names = archive.files
        images = next((archive[name] for name in ("images", "image", "x") if name in names), None)
        labels = next((archive[name] for name in ("labels", "label", "y") if name in names), None)
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise InputError(f"{path} has arrays {', '.join(sorted(names))}: expected 'images' and 'labels'")
    return ArraySource(path, [path], images, labels, quantise)


def _open_cifar(path: Path, files: list[Path]) -> Source:
    """CIFAR-10 rows are 1 + 3072 bytes (label first), CIFAR-100 rows 2 + 3072 (coarse label, then the fine one)."""
    data = [np.fromfile(file, dtype=np.uint8) for file in files]
    for head in (1, 2):
        if all(len(part) and len(part) % (head + 3072) == 0 for part in data):
            rows = np.concatenate([part.reshape(-1, head + 3072) for part in data])
            if head == 1 and rows[:, 0].max() > 9:
                continue
            images = rows[:, head:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            return ArraySource(path, files, np.ascontiguousarray(images), rows[:, head - 1].astype(np.int64))
    raise InputError(f"{path} is not CIFAR-10 or CIFAR-100 binary: sizes must be multiples of 3073 or 3074 bytes")


def _open_source(path: Path, quantise: bool) -> Source:
    with _reading(path, "readable"):
        if not path.exists():
            raise InputError(f"{path} does not exist: give {FORMATS}")
        if path.is_dir():
            files = sorted(file for file in path.glob("[!.]*.bin") if file.is_file())
            binaries = [file for file in files if "test" in file.stem] or files
            return _open_cifar(path, binaries) if binaries else FolderSource(path)
        if path.suffix == ".parquet":
            return ParquetSource(path)
        if path.suffix == ".npz":
            return _open_npz(path, quantise)
        if path.suffix == ".bin":
            return _open_cifar(path, [path])
    raise InputError(f"{path} is of no known kind: give {FORMATS}")


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
        self.source = _open_source(self.path, quantise)
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
