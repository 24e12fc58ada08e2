"""WebDataset tars: files that share a name up to its first dot are a sample, of an image and its label (`.cls`, or `.json`)."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import parsed_json
from .base import EncodedSource, reading, some
from .decoding import suffixes

KIND = "a readable, uncompressed tar"
NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)


@dataclass
class _Sample:
    """What was read of the sample `key`: offset and size of its image, and its label."""

    key: str
    image: tuple[int, int] | None = None
    label: int | str | None = None


class TarSource(EncodedSource):
    """Samples of tars in the order in which they lie there; images are read where they lie.

    `.cls` holds a class number or name, `.json` one as `label`. Without either, rows have no labels. Names that start with a dot,
    as macOS puts them beside every file, count as if they were not there. Raises InputError where files of one sample do not follow
    one another: labels would be lost.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.files = path, list(files)
        self._places: list[tuple[int, int, int]] = []  # of each row: which file, offset, size
        labels: list[int | str | None] = []
        self._images = suffixes()
        self._others, self._links, self._alone = list[str](), list[str](), list[str]()
        for number, file in enumerate(self.files):
            with reading(file, KIND):
                for sample in self._samples(file):
                    if sample.image is not None:
                        self._places.append((number, *sample.image))
                        labels.append(sample.label)
                    elif sample.label is not None:
                        self._alone.append(sample.key)
        if not self._places:
            raise InputError(f"{path} holds no images: expected samples like 000.jpg and 000.cls")
        self.places = np.array(self._places, dtype=np.int64)
        del self._places
        kinds = ((self._others, "files"), (self._links, "links, which hold no bytes,"), (self._alone, "labels alone"))
        self.left_out = tuple(f"left out: {len(names)} {what} in it ({some(names)})" for names, what in kinds if names)
        self._know(labels)

    def _samples(self, file: Path) -> Iterator[_Sample]:
        """The samples of a tar; some may have no image."""
        sample = _Sample("")
        with tarfile.open(file, "r:") as tar, file.open("rb") as raw:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
                folder, _, base = member.name.rpartition("/")
                stem, _, end = base.partition(".")
                end = end.lower()
                if member.isdir():
                    continue
                if base.startswith(".") or not member.isfile():
                    (self._others if member.isfile() else self._links).append(member.name)
                    continue
                if f"{folder}/{stem}" != sample.key:
                    yield sample
                    sample = _Sample(f"{folder}/{stem}")
                if f".{end}" in self._images:
                    if sample.image is not None:
                        raise InputError(f"{file} has two images of sample {stem}: expected one, remove the other")
                    sample.image = (member.offset_data, member.size)
                elif end in ("cls", "json"):
                    raw.seek(member.offset_data)
                    sample.label = _label(raw.read(member.size), end, sample.label)
                else:
                    self._others.append(member.name)
            yield sample

    def _know(self, labels: list[int | str | None]) -> None:
        known = [label for label in labels if label is not None]
        self.labelled = any(label != -1 for label in known)
        if self._alone and len(known) < len(labels):
            raise InputError(
                f"{self.path} has the label of {self._alone[0].strip('/')} apart from its image, expected the files of a sample "
                "one after the other: make it again by `tar --sort=name`"
            )
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
    if said is None or (isinstance(said, int) and not isinstance(said, bool)):
        return said
    if isinstance(said, str):
        return int(said) if NUMBER.fullmatch(said) else said
    if isinstance(said, float) and said.is_integer():
        return int(said)
    raise InputError(f"a sample has the label {str(said)[:40]!r}, expected a class number or a name: write one")
