"""Engine files on their way to workers: named by their hashes, sent once, and used where they lie if a worker sees them there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.backends.tensorrt_check import checks_path
from ..engine.graph import weights_beside
from ..engine.opening import COMPILED
from ..engine.record import record_path
from ..errors import InputError
from ..files import file_sha256, write_atomically

Fetch = Callable[[str], bytes]  # the content that has a SHA-256


@dataclass(frozen=True)
class EngineFiles:
    """An engine file and what lies beside it: names below `folder`, with the SHA-256 of each; `name` is the engine's."""

    folder: str
    name: str
    parts: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> EngineFiles:
        """The engine file at `path` with its record or its external weights. Raises InputError where one is missing."""
        if not path.is_file():
            raise InputError(f"engine {path} does not exist: make one with `diffsmooth-trt export`")
        beside = [record_path(path).name] if path.suffix in COMPILED else weights_beside(path)
        if checks_path(path).is_file():
            beside.append(checks_path(path).name)  # on which cards a plan was compared with its graph
        missing = [name for name in beside if not (path.parent / name).is_file()]
        if missing:
            raise InputError(f"{path} needs {missing[0]} beside it, which is not there: copy it there")
        parts = {name: file_sha256(path.parent / name) for name in (path.name, *beside)}
        return cls(str(path.parent.absolute()), path.name, parts)

    @property
    def id(self) -> str:
        """What names all of it: SHA-256 over names and hashes."""
        return hashlib.sha256(repr(sorted(self.parts.items())).encode()).hexdigest()

    def here(self, fetch: Fetch) -> Path:
        """The engine file on this machine: where it lay on the driver's if it is the very file, else a copy in the cache."""
        there = Path(self.folder)
        if all((there / name).is_file() and file_sha256(there / name) == sha for name, sha in self.parts.items()):
            return there / self.name
        folder = cache() / self.id
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, sha in self.parts.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file() or file_sha256(target) != sha:
                content = fetch(sha)
                if hashlib.sha256(content).hexdigest() != sha:
                    raise InputError(f"{name} arrived with another SHA-256 than it was sent with: start the run again")
                write_atomically(target, content)
        return folder / self.name


def cache() -> Path:
    """This user's folder of engine files that came from elsewhere; nobody else may write there. Raises InputError otherwise."""
    folder = Path(tempfile.gettempdir()) / f"diffsmooth-trt-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.stat(follow_symlinks=False)
    if stat.st_uid != os.getuid() or stat.st_mode & 0o077 or folder.is_symlink():
        raise InputError(f"{folder} is another user's, or open to others: remove it, engine files are kept there")
    return folder
