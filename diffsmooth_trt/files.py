"""Files: hashes, outputs that are whole or absent, and outputs that never hit an input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from .errors import InputError, StoreError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """What changes where a file is written to, or another one is put in its place: device, inode, size, times of changes."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; a device or pipe is written to as it stands. Raises StoreError on failure."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): choose another place or free space") from None
    finally:
        draft.unlink(missing_ok=True)


def check_outputs(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Raise InputError unless every output names a file in an existing folder that is no input and no other output."""
    seen = {name: path for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        if path.is_dir() or not path.name:
            raise InputError(f"{name} {path} is a folder: give a file name in it")
        if not path.parent.is_dir():
            raise InputError(f"{name} {path}: the folder {path.parent} does not exist; make it first")
        for other, taken in seen.items():
            if path.resolve() == taken.resolve() or (path.is_file() and taken.exists() and path.samefile(taken)):
                raise InputError(f"{name} {path} is also {other}, which it would destroy: give it another name")
        seen[name] = path
