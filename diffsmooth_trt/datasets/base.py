"""What a data set is to the package: rows with a label and an index, read one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import InputError
from ..files import file_sha256
from ..grid import Pixels
from .decoding import Header, decode, first_line, header

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


OnBad = Callable[[int, int, InputError], None]  # what is told of a row that cannot be read: row, label, why


def refuse(row: int, label: int, error: InputError) -> None:
    """Raise what is wrong with a row."""
    raise error


class Source(ABC):
    """Rows of one data set, read in ascending order; `files` are what it is read from.

    Labels are numbers of its own, of which `names` are the classes where it knows them. They are `ranked` where a number says
    nothing but a name's place among the others; `empty` are names of which it has no image. Where it is not `labelled`, all of
    them are −1. `left_out` says what lies there and is no row, a sentence each.
    """

    files: Sequence[Path]
    names: tuple[str, ...] | None = None
    ranked = False
    empty: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    labelled: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: range, bad: OnBad = refuse) -> Iterator[Image]:
        """The images of `rows`, decoded lazily; of those that cannot be, `bad` is told."""

    @abstractmethod
    def labels(self, rows: range) -> Iterator[int]:
        """The labels of `rows`, without their pixels."""

    @abstractmethod
    def headers(self, rows: range) -> Iterator[tuple[int, int, Header | InputError]]:
        """Of each of `rows` its label, and what its header says or why it cannot be read; no pixel is decoded."""

    def given(self, row: int) -> NDArray[Any] | None:
        """The floats `[H, W, C]` that a row's pixels were rounded from; None where nothing was rounded."""
        return None

    def identity(self) -> str:
        """What `Images.identity` promises: the file's own SHA-256, or one over the names and SHA-256 of several."""
        digests = []
        for path in self.files:
            with reading(path, "a readable file"):
                digests.append([path.name, file_sha256(path)])
        return digests[0][1] if len(digests) == 1 else digest_of(digests)


class EncodedSource(Source):
    """Images that are encoded, in files of their own or within others."""

    @abstractmethod
    def encoded(self, rows: range) -> Iterator[tuple[int, int, bytes | Path | InputError, str]]:
        """Of each of `rows` its label, its encoded bytes, a file of them or why there are none, and what errors call it."""

    def read(self, rows: range, bad: OnBad = refuse) -> Iterator[Image]:
        for row, label, data, name in self.encoded(rows):
            try:
                if isinstance(data, InputError):
                    raise data
                pixels = decode(data, name)
            except InputError as error:
                bad(row, label, error)
                continue
            yield Image(row, label, pixels)

    def headers(self, rows: range) -> Iterator[tuple[int, int, Header | InputError]]:
        for row, label, data, name in self.encoded(rows):
            try:
                if isinstance(data, InputError):
                    raise data
                outcome: Header | InputError = header(data, name)
            except InputError as error:
                outcome = error
            yield row, label, outcome


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of `names`, with … for the rest."""
    return f"{', '.join(names[:most])}{', …' if len(names) > most else ''}"


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
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
        raise InputError(f"{path} is not {kind} ({first_line(error)}): download or make it again") from None


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
