"""The run store: one SQLite file a run (WAL, full sync) with configuration, counts per block, and results.

Tables: `meta` (name, JSON value), `images` (index, label, SHA-256 of the pixels), `blocks` (image, phase, start, stop,
JSON list of counts a class), `results` (what follows from the counts), `timing` (seconds an image; the only table that two
runs of the same configuration and key do not share).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import InputError, StoreError
from .plan import Block

FORMAT = 1
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (image INTEGER PRIMARY KEY, label INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE blocks (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    counts TEXT NOT NULL, PRIMARY KEY (image, phase, start)
) WITHOUT ROWID;
CREATE TABLE results (
    image INTEGER PRIMARY KEY REFERENCES images, predict INTEGER NOT NULL, radius REAL, p_lower REAL,
    hits INTEGER NOT NULL, trials INTEGER NOT NULL
);
CREATE TABLE timing (image INTEGER PRIMARY KEY REFERENCES images, seconds REAL NOT NULL);
"""


@dataclass(frozen=True)
class Result:
    """One image's outcome: `predict` −1 is an abstention; radius and p_lower are None for predict runs."""

    image: int
    label: int
    predict: int
    radius: float | None
    p_lower: float | None
    hits: int
    trials: int
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise StoreError(f"{path} already holds that row: another process is writing this run; let it finish") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"run store {path}: {error}; what was committed before is kept, free space or restore it"
        ) from None


class RunStore:
    """An open run store; `create` makes one whole or not at all, `open` takes an existing one."""

    def __init__(self, path: Path, connection: sqlite3.Connection, write: bool) -> None:
        self.path = path
        self.connection = connection
        self.write = write
        with _guarded(path):
            rows = connection.execute("SELECT name, value FROM meta").fetchall()
        self.meta: dict[str, Any] = {name: json.loads(value) for name, value in rows}

    @classmethod
    def create(cls, path: Path, meta: dict[str, Any]) -> Self:
        """A new store with `meta`; the file appears complete. Raises InputError where it exists or cannot be."""
        if path.exists() and path.stat().st_size:
            raise InputError(f"--out {path} exists: pass --resume to go on with it, or another name")
        if not path.parent.is_dir():
            raise InputError(f"--out {path}: the folder {path.parent} does not exist; make it first")
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            connection = sqlite3.connect(draft)
            with contextlib.closing(connection), connection:
                connection.executescript(SCHEMA)
                rows = [(name, json.dumps(value, sort_keys=True)) for name, value in {**meta, "format": FORMAT}.items()]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            os.replace(draft, path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"--out {path} cannot be written ({error}): choose another place or free space") from None
        finally:
            draft.unlink(missing_ok=True)
        return cls.open(path, write=True)

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Self:
        """An existing store, read-only unless `write`. Raises InputError for anything that is not one."""
        if not path.is_file():
            raise InputError(f"run store {path} does not exist: make one with `diffsmooth-trt certify --out {path}`")
        mode = "rw" if write else "ro"
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30)
            found = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
            if write:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} is not a run store ({error}): give the --out of certify or predict") from None
        version = json.loads(found[0]) if found else None
        if version != FORMAT:
            connection.close()
            raise InputError(
                f"{path} is of store format {version}, this version reads {FORMAT}: use the version that wrote it"
            )
        return cls(path, connection, write)

    def done(self) -> dict[tuple[int, int], set[int]]:
        """The starts of the blocks held, by (image, phase)."""
        with _guarded(self.path):
            found: dict[tuple[int, int], set[int]] = {}
            for image, phase, start in self.connection.execute("SELECT image, phase, start FROM blocks"):
                found.setdefault((image, phase), set()).add(start)
            return found

    def finished(self) -> set[int]:
        """The images that have a result."""
        with _guarded(self.path):
            return {image for (image,) in self.connection.execute("SELECT image FROM results")}

    def drawn(self) -> int:
        """Samples in the blocks held."""
        with _guarded(self.path):
            (total,) = self.connection.execute("SELECT COALESCE(SUM(stop - start), 0) FROM blocks").fetchone()
            return int(total)

    def digest(self, image: int) -> tuple[int, str] | None:
        """Label and pixel hash of an image, if it is here."""
        with _guarded(self.path):
            row = self.connection.execute("SELECT label, sha256 FROM images WHERE image = ?", (image,)).fetchone()
        return None if row is None else (int(row[0]), str(row[1]))

    def counts(self, image: int, phase: int, classes: int) -> list[int]:
        """Votes a class over all blocks of an image's phase."""
        total = [0] * classes
        with _guarded(self.path):
            rows = self.connection.execute(
                "SELECT counts FROM blocks WHERE image = ? AND phase = ?", (image, phase)
            ).fetchall()
        for (text,) in rows:
            total = [a + b for a, b in zip(total, json.loads(text), strict=True)]
        return total

    def add_image(self, image: int, label: int, sha256: str) -> None:
        """Record an image before its first block."""
        with _guarded(self.path):
            self.connection.execute("INSERT INTO images VALUES (?, ?, ?)", (image, label, sha256))

    def add_block(self, block: Block, counts: list[int]) -> None:
        """Record a block's votes; they are on disk after the next `commit`."""
        with _guarded(self.path):
            row = (block.image, block.phase, block.start, block.stop, json.dumps(counts))
            self.connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", row)

    def add_seconds(self, image: int, seconds: float) -> None:
        """Add to an image's time."""
        with _guarded(self.path):
            self.connection.execute(
                "INSERT INTO timing VALUES (?, ?) ON CONFLICT (image) DO UPDATE SET seconds = seconds + excluded.seconds",
                (image, seconds),
            )

    def add_result(
        self, image: int, predict: int, radius: float | None, p_lower: float | None, hits: int, trials: int
    ) -> None:
        """Record what follows from an image's counts."""
        with _guarded(self.path):
            row = (image, predict, radius, p_lower, hits, trials)
            self.connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", row)

    def commit(self) -> None:
        """Make everything added so far survive a crash."""
        with _guarded(self.path):
            self.connection.commit()

    def results(self) -> Iterator[Result]:
        """Outcomes by ascending image."""
        with _guarded(self.path):
            yield from (
                Result(*row)
                for row in self.connection.execute(
                    "SELECT r.image, i.label, r.predict, r.radius, r.p_lower, r.hits, r.trials, COALESCE(t.seconds, 0) "
                    "FROM results r JOIN images i USING (image) LEFT JOIN timing t USING (image) ORDER BY r.image"
                )
            )

    def close(self) -> None:
        """Drop what was not committed and close; the last writer leaves a single file without its log."""
        if self.write:
            self.connection.rollback()
            with contextlib.suppress(sqlite3.DatabaseError):  # a reader, or a full disk: the log stays, and is valid
                self.connection.execute("PRAGMA journal_mode = DELETE")
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_run(path: str | Path) -> RunStore:
    """A run store for reading: `meta` and `results()`."""
    return RunStore.open(Path(path))
