"""Who writes a file: a lock of the file system, or where that has none (NFS without lockd, FUSE, exFAT) a file beside it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, StoreError
from .files import parsed_json

NO_LOCKS = (
    "the file system of the run's file has no locks: a file beside it says who writes it, which other machines' processes that "
    "died leave behind, and reports of the running run may have to be asked for again"
)


def lock_file(path: Path) -> Path:
    """The file beside `path` that says who writes it, on file systems without locks."""
    return path.with_name(f".{path.name}.lock")


@dataclass
class Lock:
    """That this process writes `path`, until `release` or its end; `beside` where a file beside it says so."""

    path: Path
    descriptor: int
    beside: bool = False

    @classmethod
    def take(cls, path: Path) -> Lock:
        """Raises InputError where another process has it, StoreError where the file cannot be written."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror}): give yourself permission") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(f"--out {path} is being written by another process: let it finish, or stop it") from None
        except OSError:
            pass  # no locks here
        try:
            _write(path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, beside=True)

    def release(self) -> None:
        """Give it back."""
        os.close(self.descriptor)
        if self.beside:
            lock_file(self.path).unlink(missing_ok=True)


def held(path: Path) -> tuple[bool | None, bool]:
    """Whether another process writes `path` (None: that cannot be known), and whether the file system has locks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False, True
    except BlockingIOError:
        return True, True
    except OSError:
        owner = _owner(lock_file(path))
        return (False if owner is None else _lives(owner)), False
    finally:
        os.close(descriptor)


def _write(path: Path) -> None:
    """Make the file beside `path`, in place of one whose process is gone."""
    file = lock_file(path)
    for _ in range(2):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            owner = _owner(file)
            if owner is not None and _lives(owner) is False:
                _remove(file, owner)
                continue
            break
        except OSError as error:
            raise StoreError(f"{file} cannot be made ({error.strerror}): choose another place for --out") from None
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump(_self(), opened)
        return
    named = "another process" if owner is None else f"process {owner.get('pid')} of {owner.get('host')}"
    raise InputError(
        f"--out {path} is being written by {named}, as {file} says: let it finish, or where it is gone remove that file"
    )


def _remove(file: Path, owner: dict[str, Any]) -> None:
    """Remove the file of a process that is gone, and no other that was put in its place meanwhile."""
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(file, aside)
        if _owner(aside) == owner:
            aside.unlink()
        else:
            os.rename(aside, file)


def _self() -> dict[str, Any]:
    return {"host": platform.node(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}


def _owner(file: Path) -> dict[str, Any] | None:
    """What a lock file says; nothing where it is not there, an empty answer where it cannot be read."""
    try:
        owner = parsed_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _lives(owner: dict[str, Any]) -> bool | None:
    """Whether the process that a lock file names is there; None for one of another machine."""
    if owner.get("host") != platform.node() or type(owner.get("pid")) is not int:
        return None
    return owner.get("boot") == _boot() and owner.get("started") == _started(owner["pid"])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine's start; nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
