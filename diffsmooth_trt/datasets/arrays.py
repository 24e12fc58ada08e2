"""Images that are arrays: `.npz` (`images` uint8 `[N, H, W, C]`, `labels`), and CIFAR-10/100 binary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..grid import on_grid
from .base import CHANNELS, Image, OnBad, Source, reading, refuse
from .decoding import Header

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class ArraySource(Source):
    """Arrays in memory, as an `.npz` or CIFAR binary files give them; `labels` None where there are none."""

    def __init__(
        self, path: Path, files: list[Path], images: NDArray[Any], labels: NDArray[Any] | None, quantise: bool = False
    ) -> None:
        self.labelled = labels is not None
        if labels is None:
            labels = np.full(images.shape[:1], -1)
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

    def read(self, rows: range, bad: OnBad = refuse) -> Iterator[Image]:
        for row in rows:
            yield Image(row, int(self.numbers[row]), self.images[row])

    def headers(self, rows: range) -> Iterator[tuple[int, int, Header | InputError]]:
        header = Header((self.images.shape[1], self.images.shape[2]), channels=self.images.shape[3])
        return ((row, int(self.numbers[row]), header) for row in rows)

    def labels(self, rows: range) -> Iterator[int]:
        return (int(self.numbers[row]) for row in rows)

    def given(self, row: int) -> NDArray[Any] | None:
        return None if self.floats is None else self.floats[row]


def open_npz(path: Path, quantise: bool) -> Source:
    with reading(path, "a readable .npz of plain arrays"), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds a single array, expected an .npz: use np.savez(path, images=…, labels=…)")
        names = archive.files
        images = next((archive[name] for name in ("images", "image", "x") if name in names), None)
        labels = next((archive[name] for name in ("labels", "label", "y") if name in names), None)
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray | None):
        raise InputError(f"{path} has arrays {', '.join(sorted(names))}: expected 'images' and 'labels'")
    return ArraySource(path, [path], images, labels, quantise)


def open_cifar(path: Path, files: list[Path]) -> Source:
    """CIFAR-10 rows are 1 + 3072 bytes (label first), CIFAR-100 rows 2 + 3072 (coarse label, then the fine one)."""
    data = [np.fromfile(file, dtype=np.uint8) for file in files]
    for head in (1, 2):
        if all(len(part) and len(part) % (head + 3072) == 0 for part in data):
            rows = np.concatenate([part.reshape(-1, head + 3072) for part in data])
            if head == 1 and rows[:, 0].max() > 9:
                continue
            images = rows[:, head:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            source = ArraySource(path, files, np.ascontiguousarray(images), rows[:, head - 1].astype(np.int64))
            source.names = CIFAR10 if head == 1 else None
            return source
    raise InputError(f"{path} is not CIFAR-10 or CIFAR-100 binary: sizes must be multiples of 3073 or 3074 bytes")
