"""Files → images: uint8 `[H, W, C]` with a label and an index, decoded one at a time.

Sources: parquet in the Hugging Face image layout (`img` or `image` = {bytes, path}, `label`), an image folder (one
sub-folder a class), an `.npz` (`images` uint8 `[N, H, W, C]`, `labels`), CIFAR-10/100 binary files. An index is the row
in the data set and never depends on `skip` or `limit`.
"""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image as PillowImage

from .errors import InputError

Pixels = NDArray[np.uint8]
FORMATS = "a parquet file, an image folder, an .npz or CIFAR binary .bin files"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}


@dataclass(frozen=True)
class Image:
    """One image: its row in the data set, its class, its pixels uint8 `[H, W, C]`."""

    index: int
    label: int
    pixels: Pixels


class Source(ABC):
    """Rows of one data set, read in ascending order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: range) -> Iterator[Image]:
        """The images of `rows`, decoded lazily."""


class ParquetSource(Source):
    """Encoded images in a parquet file; one record batch is in memory at a time."""

    BATCH = 256

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} is not a readable parquet file ({_first_line(error)}): download it again"
            ) from None
        names = self.file.schema_arrow.names
        columns = [name for name in ("img", "image") if name in names]
        labels = [name for name in ("label", "fine_label", "labels") if name in names]
        if not columns or not labels:
            raise InputError(
                f"{path} has columns {', '.join(names)}: expected 'img' or 'image' with encoded bytes, and 'label'"
            )
        self.image_column, self.label_column = columns[0], labels[0]

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def read(self, rows: range) -> Iterator[Image]:
        row, wanted = 0, iter(rows)
        target = next(wanted, None)
        for batch in self.file.iter_batches(self.BATCH, columns=[self.image_column, self.label_column]):
            while target is not None and target < row + len(batch):
                record = batch.slice(target - row, 1).to_pylist()[0]
                yield Image(target, int(record[self.label_column]), self._decode(record[self.image_column], target))
                target = next(wanted, None)
            row += len(batch)
            if target is None:
                return

    def _decode(self, cell: Any, row: int) -> Pixels:
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise InputError(f"{self.path} row {row} holds no image bytes: expected the Hugging Face image layout")
        return decode(data, f"{self.path} row {row}")


class FolderSource(Source):
    """`folder/class name/*.png`: classes are the sorted sub-folder names, rows their sorted files."""

    def __init__(self, path: Path) -> None:
        classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
        self.files = [
            (label, file)
            for label, folder in enumerate(classes)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise InputError(
                f"{path} holds no images: expected one sub-folder a class with {', '.join(sorted(SUFFIXES))}"
            )

    def __len__(self) -> int:
        return len(self.files)

    def read(self, rows: range) -> Iterator[Image]:
        for row in rows:
            label, file = self.files[row]
            yield Image(row, label, decode(file.read_bytes(), str(file)))


class ArraySource(Source):
    """Arrays in memory, as an `.npz` or CIFAR binary files give them."""

    def __init__(self, path: Path, images: NDArray[Any], labels: NDArray[Any], quantise: bool) -> None:
        if images.ndim != 4 or images.shape[3] not in (1, 3) or labels.shape != (len(images),):
            raise InputError(
                f"{path} holds images {images.shape} and labels {labels.shape}: expected [N, H, W, C] and [N]"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{path} holds labels of dtype {labels.dtype}: expected integers")
        self.images, self.labels = on_grid(images, str(path), quantise), labels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: range) -> Iterator[Image]:
        for row in rows:
            yield Image(row, int(self.labels[row]), self.images[row])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def decode(data: bytes, name: str) -> Pixels:
    """The 8-bit RGB pixels `[H, W, 3]` of an encoded image; deeper files are refused, not rounded."""
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            if image.mode not in ("RGB", "L", "P", "RGBA", "CMYK", "YCbCr", "1"):
                raise InputError(
                    f"{name} has pixel mode {image.mode}, which is off the 8-bit grid: convert it to 8-bit RGB"
                )
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(f"{name} is not a readable image ({_first_line(error)}): replace the file") from None


def on_grid(images: NDArray[Any], name: str, quantise: bool = False) -> Pixels:
    """`images` as uint8; floats in [0, 1] must lie on the grid 1/255·ℤ unless `quantise` rounds them to it."""
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{name} holds images of dtype {images.dtype}: expected uint8 or floats in [0, 1]")
    levels = np.rint(images.astype(np.float64) * 255.0)
    if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 255):
        raise InputError(f"{name} holds values outside [0, 1]: divide 0…255 images by 255")
    worst = float(np.abs(images.astype(np.float64) * 255.0 - levels).max())
    if worst > 1e-3 and not quantise:
        raise InputError(
            f"{name} holds images off the 8-bit grid (by {worst / 255:.2g}): the noise is exact only on k/255; "
            "pass --quantise to round them"
        )
    return levels.astype(np.uint8)


def _open_npz(path: Path, quantise: bool) -> Source:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable .npz of plain arrays ({_first_line(error)})") from None
    images = next((arrays[name] for name in ("images", "image", "x") if name in arrays), None)
    labels = next((arrays[name] for name in ("labels", "label", "y") if name in arrays), None)
    if images is None or labels is None:
        raise InputError(f"{path} has arrays {', '.join(sorted(arrays))}: expected 'images' and 'labels'")
    return ArraySource(path, images, labels, quantise)


def _open_cifar(path: Path, files: list[Path]) -> Source:
    """CIFAR-10 rows are 1 + 3072 bytes (label first), CIFAR-100 rows 2 + 3072 (coarse label, then the fine one)."""
    data = [np.fromfile(file, dtype=np.uint8) for file in files]
    for head in (1, 2):
        if all(len(part) and len(part) % (head + 3072) == 0 for part in data):
            rows = np.concatenate([part.reshape(-1, head + 3072) for part in data])
            if head == 1 and rows[:, 0].max() > 9:
                continue
            images = rows[:, head:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            return ArraySource(path, np.ascontiguousarray(images), rows[:, head - 1].astype(np.int64), False)
    raise InputError(f"{path} is not CIFAR-10 or CIFAR-100 binary: sizes must be multiples of 3073 or 3074 bytes")


def _open_source(path: Path, quantise: bool) -> Source:
    if not path.exists():
        raise InputError(f"{path} does not exist: give {FORMATS}")
    if path.is_dir():
        binaries = sorted(path.glob("*test*.bin")) or sorted(path.glob("*.bin"))
        return _open_cifar(path, binaries) if binaries else FolderSource(path)
    if path.suffix == ".parquet":
        return ParquetSource(path)
    if path.suffix == ".npz":
        return _open_npz(path, quantise)
    if path.suffix == ".bin":
        return _open_cifar(path, [path])
    raise InputError(f"{path} is of no known kind: give {FORMATS}")


def _resized(pixels: Pixels, resize: int | None, crop: int | None) -> Pixels:
    if resize is not None:
        height, width = pixels.shape[:2]
        scale = resize / min(height, width)
        size = (max(resize, round(width * scale)), max(resize, round(height * scale)))
        pixels = np.asarray(PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.BICUBIC))
    if crop is not None:
        top, left = (pixels.shape[0] - crop) // 2, (pixels.shape[1] - crop) // 2
        if top < 0 or left < 0:
            raise InputError(f"--crop {crop} is larger than the image {pixels.shape[:2]}: resize first")
        pixels = pixels[top : top + crop, left : left + crop]
    return np.ascontiguousarray(pixels)


class Images:
    """The chosen images of a data set: every `skip`-th row, at most `limit` of them; iterate as often as needed.

    `resize` scales the shorter side (bicubic) and `crop` cuts the centre, both on 8-bit pixels. Memory does not grow
    with the number of images for parquet files and folders.
    """

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
        self.path = Path(path)
        self.source = _open_source(self.path, quantise)
        self.resize, self.crop = resize, crop
        self.rows = range(0, len(self.source), skip)[:limit]
        if not self.rows:
            raise InputError(f"{path} holds no images")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Image]:
        return self.read(self.rows)

    def read(self, rows: range) -> Iterator[Image]:
        """The images of `rows` (ascending rows of the data set)."""
        for image in self.source.read(rows):
            yield Image(image.index, image.label, _resized(image.pixels, self.resize, self.crop))


def open_images(path: str | Path, **options: Any) -> Images:
    """`Images(path, …)` under the name the package exports."""
    return Images(path, **options)
