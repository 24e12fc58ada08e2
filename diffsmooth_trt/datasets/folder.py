"""Image folders: one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .base import Image, Source, digest_of, reading
from .decoding import SUFFIXES, decode


class FolderSource(Source):
    """`folder/class name/*.png`: rows are the sorted images of the sorted sub-folders, a sub-folder is a class.

    Names that start with a dot count as if they were not there; a sub-folder without images is refused, because leaving
    it out would move the labels behind it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, "a readable folder"):
            folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
            classes = [image_files(folder) for folder in folders]
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
            with reading(file, "a readable image"):
                data = file.read_bytes()
            yield Image(row, self.numbers[row], decode(data, str(file)))

    def labels(self, rows: range) -> Iterator[int]:
        return (self.numbers[row] for row in rows)

    def identity(self) -> str:
        rows = []
        for file, label in zip(self.files, self.numbers, strict=True):
            with reading(file, "a readable image"):
                rows.append([file.relative_to(self.path).as_posix(), file.stat().st_size, label])
        return digest_of([len(rows), rows])


def image_files(folder: Path) -> list[Path]:
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
