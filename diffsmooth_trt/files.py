"""Files: hashes, outputs that are whole or absent, and outputs that never hit an input."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError, StoreError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_there(path: Path) -> bool:
    """Whether there is a file at `path`, whose name another file says: it may be longer than any file's."""
    return os.path.isfile(path)  # Path.is_file raises OSError for such a name


def content_sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of all files of a folder that are not hidden."""
    if path.is_file():
        return file_sha256(path)
    files = {each.relative_to(path): each for each in path.rglob("*") if each.is_file()}
    hashes = {
        name.as_posix(): file_sha256(each)
        for name, each in files.items()
        if not any(part.startswith(".") for part in name.parts)
    }
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """What changes where a file is written to, or another one is put in its place: device, inode, size, times of changes."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def parsed_json(text: str | bytes) -> Any:
    """The value that JSON text holds. Raises ValueError for text that is none, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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


NO_LINKS = (
    "the file system of the run's file has no hard links: that it never replaces a run that appears meanwhile holds for "
    "processes of this release alone"
)


def publish_new(draft: Path, path: Path) -> bool:
    """Give a finished file its name, unless there is a file of that name: then FileExistsError. Whether a hard link did that.

    A link, unlike a rename, never replaces a file. Where the file system has none (exFAT, FUSE, SMB, some cluster file systems),
    a claim beside it keeps other processes of this function away until it is renamed.
    """
    try:
        os.link(draft, path)
        return True
    except FileExistsError:
        raise
    except OSError:
        pass  # of many kinds; what is wrong with the place is wrong for a rename too
    claim = path.with_name(f".{path.name}.claim")
    try:
        os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise StoreError(
            f"{path} is being made by another process, as {claim} says: wait for it, or where it is gone remove that file"
        ) from None
    try:
        if path.exists():
            raise FileExistsError(path)
        os.rename(draft, path)
    finally:
        claim.unlink(missing_ok=True)
    return False


def create_atomically(path: Path, content: bytes | str) -> None:
    """Make a file whole or not at all, never in the place of one that appeared meanwhile. Raises InputError where there is one."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        publish_new(draft, path)
    except FileExistsError:
        raise InputError(f"--out {path} exists: pass --resume to go on with it, or another name") from None
    except OSError as error:
        raise StoreError(
            f"--out {path} cannot be written ({error.strerror}): choose another place or free space"
        ) from None
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
