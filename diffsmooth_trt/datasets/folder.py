"""Image folders: one sub-folder a class, or images without classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from ..errors import InputError
from .base import EncodedSource, digest_of, reading, some
from .decoding import suffixes

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"}


class Files(Sequence[Path]):
    """Files below a folder; each takes the memory of its name alone."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self.folder / name for name in self.names[index]]
        return self.folder / self.names[index]


class FolderSource(EncodedSource):
    """`folder/class name/*.png`: rows are the sorted images of the sorted sub-folders, a sub-folder is a class.

    Linked folders are followed. Where there are no sub-folders with images, those of the folder itself are rows without
    labels. Names that start with a dot count as if they were not there. Raises InputError for folders of splits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        listing = _Found(suffixes())
        with reading(path, "a readable folder"):
            entries = sorted(path.iterdir())
            folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
            classes = [listing.below(folder, folder.name) for folder in folders]
            direct = sorted(listing.files_of(path))
        _check_splits(path, [(f.name, names) for f, names in zip(folders, classes, strict=True)], bool(direct))
        self.labelled = any(classes)
        if self.labelled:
            listing.others += direct
            names = [name for each in classes for name in each]
            self.numbers = np.repeat(np.arange(len(classes), dtype=np.int32), [len(each) for each in classes])
            self.names, self.ranked = tuple(folder.name for folder in folders), True
            self.empty = tuple(folder.name for folder, each in zip(folders, classes, strict=True) if not each)
        else:
            names, self.numbers = direct, np.full(len(direct), -1, dtype=np.int32)
        if not names:
            raise InputError(f"{path} holds no images: expected one sub-folder a class, of .png, .jpg or others")
        self.files: Files = Files(path, names)
        self.odd = listing.odd
        self.left_out = tuple(listing.said())

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, rows: range) -> Iterator[tuple[int, int, bytes | Path | InputError, str]]:
        for row in rows:
            file = self.files[row]
            data: Path | InputError = file
            if self.files.names[row] in self.odd:
                data = InputError(f"{file} is a broken link or a device, expected an image: restore or remove it")
            yield row, int(self.numbers[row]), data, str(file)

    def labels(self, rows: range) -> Iterator[int]:
        return (int(self.numbers[row]) for row in rows)

    def identity(self) -> str:
        rows = []
        for name, label in zip(self.files.names, self.numbers.tolist(), strict=True):
            file = self.path / name
            with reading(file, "a readable image"):
                rows.append([name, 0 if name in self.odd else file.stat().st_size, label])
        return digest_of([len(rows), rows])


class _Found:
    """What lies in a folder: images, as names below it, of them those that are no files (`odd`), and the rest (`others`)."""

    def __init__(self, images: frozenset[str]) -> None:
        self.images = images
        self.odd: set[str] = set()
        self.others: list[str] = []
        self.again: list[str] = []

    def below(self, folder: Path, name: str) -> list[str]:
        """The images below `folder`, sorted by their parts; a folder that is linked into itself, or twice, counts once."""
        taken, waiting, seen = [], [(folder, name)], set()
        while waiting:
            here, prefix = waiting.pop()
            place = here.stat()
            if (place.st_dev, place.st_ino) in seen:
                self.again.append(prefix)
                continue
            seen.add((place.st_dev, place.st_ino))
            taken += self.files_of(here, f"{prefix}/")
            with os.scandir(here) as entries:
                inner = sorted(entry.name for entry in entries if self._is_folder(entry))
            waiting += [(here / each, f"{prefix}/{each}") for each in reversed(inner)]
        return sorted(taken, key=lambda each: each.split("/"))

    def files_of(self, folder: Path, prefix: str = "") -> list[str]:
        """The images in `folder` itself."""
        taken = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if self._is_folder(entry):
                    continue
                if entry.name.startswith(".") or os.path.splitext(entry.name)[1].lower() not in self.images:
                    self.others += [] if entry.is_dir() else [name]
                    continue
                taken.append(name)
                if not entry.is_file():
                    self.odd.add(name)
        return taken

    @staticmethod
    def _is_folder(entry: os.DirEntry[str]) -> bool:
        return entry.is_dir() and not entry.name.startswith(".")

    def said(self) -> Iterator[str]:
        """What is left out."""
        if self.others:
            yield f"left out: {len(self.others)} files that are no images of a class ({some(sorted(self.others))})"
        if self.again:
            yield f"left out: {len(self.again)} folders that are linked twice ({some(sorted(self.again))})"


def _check_splits(path: Path, folders: list[tuple[str, list[str]]], direct: bool) -> None:
    """InputError for a folder of splits, or of one folder that holds the classes: a label would be a split's."""
    held = [(name, files) for name, files in folders if files]
    splits = [name for name, files in held if name.lower() in SPLITS]
    deeper = [name for name, files in held if any(file.count("/") > 1 for file in files)]
    if splits and (len(splits) == len(held) or set(splits) & set(deeper)):
        raise InputError(
            f"{path} holds the splits {', '.join(splits)}, expected one sub-folder a class: give one of them, like "
            f"{path / min(splits, key=lambda name: not name.lower().startswith('te'))}"
        )
    if len(held) == 1 and deeper and not direct:
        raise InputError(
            f"{path} holds the folder {held[0][0]} alone, with folders in it: give {path / held[0][0]} if those are the classes"
        )
