"""A part of a run that a machine of its own draws: every k-th of the images asked for, under the key of all."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, StoreError
from ..files import publish_new
from ..noise import Key

MOST = 10**6


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, numbered from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that a text like 2/3 names; InputError for any other."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise InputError(f"--shard takes a part and their number like 2/3, got {text!r}")
        number, of = int(match[1]), int(match[2])
        if not 1 <= number <= of <= MOST:
            raise InputError(
                f"--shard must be 1/{of or 1} to {of or 1}/{of or 1}, got {text}: parts are numbered from 1"
            )
        return cls(number, of)

    def rows(self, asked: range) -> range:
        """The shard's of the rows asked for."""
        return asked[self.number - 1 :: self.of]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def shared_key(path: Path) -> tuple[Key, bool]:
    """The key in a file of 64 hexadecimal digits, and whether this call drew it: the first one makes the file.

    The file appears whole, for its owner alone. Raises InputError for a file that is none, StoreError where it cannot be made.
    """
    if not path.exists():
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # machines share no process numbers
        key = Key.draw()
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{key.hex}\n")
                file.flush()
                os.fsync(file.fileno())
            publish_new(draft, path)  # it never replaces the key of another shard that was first
            return key, True
        except FileExistsError:
            pass
        except OSError as error:
            raise StoreError(f"--key-file {path} cannot be made ({error.strerror}): choose another place") from None
        finally:
            draft.unlink(missing_ok=True)
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        raise InputError(f"--key-file {path} cannot be read as text: give a file of 64 hexadecimal digits") from None
    try:
        return Key.parse(text), False
    except InputError:
        raise InputError(
            f"--key-file {path} holds {len(text)} characters, expected 64 hexadecimal digits: give the file of the first shard, or "
            "a name that does not exist to draw a key"
        ) from None
