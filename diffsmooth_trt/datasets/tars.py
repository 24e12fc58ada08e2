"""WebDataset tars: files that share a name up to its first dot are a sample, of an image and its label (`.cls`, or `.json`)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import parsed_json
from .base import EncodedSource, reading, some
from .decoding import suffixes

KIND = "a readable, uncompressed tar"


class TarSource(EncodedSource):
    """Samples of tars in the order in which they lie there; images are read where they lie.

    `.cls` holds a class number or name, `.json` one as `label`. Without either, rows have no labels.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.files = path, list(files)
        self._places: list[tuple[int, int, int]] = []  # of each row: which file, offset, size
        labels: list[int | str | None] = []
        self._images, self._others = suffixes(), list[str]()
        for number, file in enumerate(self.files):
            with reading(file, KIND):
                for place, label in self._samples(file):
                    self._places.append((number, *place))
                    labels.append(label)
        if not self._places:
            raise InputError(f"{path} holds no images: expected samples like 000.jpg and 000.cls")
        self.places = np.array(self._places, dtype=np.int64)
        del self._places
        self.left_out = (f"left out: {len(self._others)} files in it ({some(self._others)})",) if self._others else ()
        self._know(labels)

    def _samples(self, file: Path) -> Iterator[tuple[tuple[int, int], int | str | None]]:
        """(offset, size) and label of each sample of a tar."""
        key, image, label = "", None, None
        with tarfile.open(file, "r:") as tar, file.open("rb") as raw:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, end = base.partition(".")
                if f"{folder}/{stem}" != key:
                    if image is not None:
                        yield image, label
                    key, image, label = f"{folder}/{stem}", None, None
                if f".{end.lower()}" in self._images:
                    if image is not None:
                        raise InputError(f"{file} has two images of sample {stem}: expected one, remove the other")
                    image = (member.offset_data, member.size)
                elif end in ("cls", "json"):
                    raw.seek(member.offset_data)
                    label = _label(raw.read(member.size), end, label)
                else:
                    self._others.append(member.name)
            if image is not None:
                yield image, label

    def _know(self, labels: list[int | str | None]) -> None:
        known = [label for label in labels if label is not None]
        self.labelled = any(label != -1 for label in known)
        if self.labelled and len(known) < len(labels):
            row = labels.index(None)
            raise InputError(f"{self.path} row {row} has no label, others have: expected a .cls beside each image")
        if any(isinstance(label, str) for label in known):
            self.names, self.ranked = tuple(sorted({str(label) for label in known})), True
            ranks = {name: rank for rank, name in enumerate(self.names)}
            labels = [ranks[str(label)] for label in labels]
        self.numbers = np.array([-1 if label is None else label for label in labels], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def encoded(self, rows: range) -> Iterator[tuple[int, int, bytes | Path | InputError, str]]:
        for row in rows:
            number, offset, size = self.places[row].tolist()
            with reading(self.files[number], KIND), self.files[number].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
            yield row, int(self.numbers[row]), data, f"{self.files[number]} row {row}"

    def labels(self, rows: range) -> Iterator[int]:
        return (int(self.numbers[row]) for row in rows)


def _label(content: bytes, kind: str, known: int | str | None) -> int | str | None:
    """The label that a sample's file says: a number where it is one, else a name."""
    said: Any = content.decode("utf-8").strip()
    if kind == "json":
        values = parsed_json(said)
        said = values.get("label", known) if isinstance(values, dict) else known
    try:
        return None if said is None else int(said)
    except ValueError:
        return str(said)
