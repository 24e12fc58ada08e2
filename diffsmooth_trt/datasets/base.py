"""What a data set is to the package: rows with a label and an index, read one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import InputError
from ..files import file_sha256
from ..grid import Pixels

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
            with reading(path, "a readable file"):
                digests.append([path.name, file_sha256(path)])
        return digests[0][1] if len(digests) == 1 else digest_of(digests)


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


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
