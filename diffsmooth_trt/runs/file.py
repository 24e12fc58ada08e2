"""The file of a run: one SQLite database (WAL, full sync) with configuration, votes per block, and results; or memory.

Tables: `meta` (name, JSON value: record.py), `images` (index, label, SHA-256 of the 8-bit pixels, ℓ2 distance that rounding to
them moved the image, 0.0 unless the run has `quantise`), `blocks` (image, phase, start, stop, votes a class as counts.py writes
them), `partial` (the same for blocks in work, empty when a run ends), `margins` (of runs without votes), `results` (what follows
from the votes or the margin), `decisions` (what follows on each preset radius), `audit` (rows that the run will evaluate again,
empty when it ends; stores from before the audit lack it), `timing` (seconds an image; besides it, two runs of the same
configuration and key differ in `meta` alone: notes, evaluations, audit, paths). A store whose audit failed is not opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..certify.audit_rows import Row
from ..certify.blocks import Block
from ..certify.rules import Margin, Outcome
from ..dtypes import Counts
from ..errors import MALFORMED, InputError, StoreError
from ..files import NO_LINKS, parsed_json, publish_new
from ..locks import NO_LOCKS, Lock, held
from .audit import refuse_void
from .config import MEMORY
from .counts import decoded, encoded
from .record import FORMAT, READABLE, REQUIRED, RunRecord, naming_damage

UNRECORDED = "radii are about the rounded images, the distance was not recorded (an older version made the run)"
NO_LOG = (
    "the file system of the run's file shares no memory: SQLite writes it without a log, and reports of the running run may have "
    "to be asked for again"
)
LOG_BYTES = 1 << 16  # what SQLite needs beside a file that it writes, about
UNABLE = (
    "SQLITE_IOERR",
    "SQLITE_PROTOCOL",
    "SQLITE_CANTOPEN",
    "SQLITE_BUSY",
)  # what it says where it cannot lock or share
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    image INTEGER PRIMARY KEY, label INTEGER NOT NULL, sha256 TEXT NOT NULL, distance REAL NOT NULL
);
CREATE TABLE blocks (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    counts TEXT NOT NULL, PRIMARY KEY (image, phase, start)
) WITHOUT ROWID;
CREATE TABLE results (
    image INTEGER PRIMARY KEY REFERENCES images, predict INTEGER NOT NULL, radius REAL, p_lower REAL,
    hits INTEGER NOT NULL, trials INTEGER NOT NULL
);
CREATE TABLE decisions (
    image INTEGER NOT NULL REFERENCES results, radius REAL NOT NULL, decision TEXT NOT NULL, PRIMARY KEY (image, radius)
) WITHOUT ROWID;
CREATE TABLE margins (image INTEGER PRIMARY KEY REFERENCES images, predict INTEGER NOT NULL, margin REAL NOT NULL);
CREATE TABLE partial (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    counts TEXT NOT NULL, PRIMARY KEY (image, phase, start)
) WITHOUT ROWID;
CREATE TABLE timing (image INTEGER PRIMARY KEY REFERENCES images, seconds REAL NOT NULL);
"""
AUDIT_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, sample INTEGER NOT NULL, place INTEGER NOT NULL,
    label INTEGER NOT NULL, lot REAL NOT NULL, PRIMARY KEY (image, phase, sample)
) WITHOUT ROWID
"""


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn what damaged values and SQLite raise into a StoreError that names the run."""
    try:
        yield
    except MALFORMED as error:
        if isinstance(error, InputError):
            raise
        raise StoreError(f"run store {path} holds damaged values ({error}): restore it from a copy") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"run store {path}: {error}; what was committed before is kept, free space or restore it"
        ) from None


def _connect(path: Path, mode: str, *, locks: bool = True) -> sqlite3.Connection:
    """SQLite on a file; without locks of its own where the file system has none."""
    uri = f"{path.absolute().as_uri()}?mode={mode}{'' if locks else '&nolock=1'}"
    return sqlite3.connect(uri, uri=True, timeout=30)


def _roll_back(path: Path) -> None:
    """Undo what a kill left half-written, for which SQLite has to write: it makes a store in this way until it writes ahead."""
    if path.with_name(f"{path.name}-journal").exists() and os.access(path, os.W_OK):
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(_connect(path, "rw")) as connection:
            connection.execute("SELECT COUNT(*) FROM meta").fetchone()


def _readable(path: Path, mode: str, locks: bool) -> tuple[sqlite3.Connection, Any]:
    """SQLite on a run store, and the store's format. Where it gets no locks, or no shared memory, it reads without."""
    if locks and mode == "ro":
        _roll_back(path)
    for own in (True, False) if locks else (False,):
        connection = _connect(path, mode, locks=own)
        try:
            if not own:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # else it would share memory
            row = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
            return connection, parsed_json(row[0]) if row else None
        except BaseException as error:
            connection.close()
            unable = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname.startswith(UNABLE)
            if not (own and unable):
                raise
    raise AssertionError


def _writable(path: Path, locks: bool) -> tuple[sqlite3.Connection, str | None]:
    """SQLite on a store that this process has the lock of, and what its file system lacks, if something.

    It writes ahead, so that others read meanwhile, where SQLite can lock and share memory.
    """
    if locks:
        connection = _connect(path, "rw")
        with contextlib.suppress(sqlite3.OperationalError):
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("SELECT COUNT(*) FROM meta").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            if mode == "wal":
                return connection, None
        connection.close()
    for own in (True, False) if locks else (False,):
        connection = _connect(path, "rw", locks=own)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            connection.execute("PRAGMA locking_mode = NORMAL")
            connection.execute("SELECT COUNT(*) FROM meta").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            path.with_name(f"{path.name}-shm").unlink(missing_ok=True)  # of the log that could not be
            return connection, NO_LOG if own else NO_LOCKS
        except sqlite3.OperationalError:
            connection.close()
            if not own:
                raise
    raise AssertionError


def _meta_rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value, sort_keys=True)) for name, value in values.items()]


class RunFile:
    """A run's rows; `create` makes the file whole or not at all, `open` takes an existing one. It is the loop's `Ledger`.

    `record` is the table `meta` typed, `meta` its JSON values.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: Lock | None) -> None:
        self.path = path
        self.weaker: list[str] = []  # what its file system does not have, and what that means
        self.connection = connection
        self.lock = lock
        with guarded(path):
            rows = connection.execute("SELECT name, value FROM meta").fetchall()
            self.meta: dict[str, Any] = {name: parsed_json(value) for name, value in rows}
        missing = [name for name in REQUIRED if name not in self.meta]
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)} in its table meta: restore it from a copy")
        refuse_void(path, self.meta.get("audit", {}))
        self.record = self._recorded()

    def _recorded(self) -> RunRecord:
        with naming_damage(f"{self.path} holds values in its table meta"):
            return RunRecord.from_meta(self.meta)

    @property
    def name(self) -> str:
        """What errors call it."""
        return str(self.path)

    @property
    def files(self) -> Mapping[str, str | None]:
        """The paths of engines and data that the run records, by option."""
        return self.record.files

    @property
    def audit(self) -> Mapping[str, Any] | None:
        """What the run's audit found so far."""
        return self.record.audit

    @classmethod
    def create(
        cls, path: Path | None, record: RunRecord, fill: Callable[[sqlite3.Connection], None] | None = None
    ) -> Self:
        """A new store of `record`, with the rows that `fill` puts into it; the file appears complete.

        It is in memory where `path` is None. Raises InputError where the file exists.
        """
        meta = _meta_rows(record.to_meta())
        if path is None:
            connection = sqlite3.connect(MEMORY)
            _fill(connection, meta)
            return cls(Path(MEMORY), connection, None)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with contextlib.closing(_connect(draft, "rwc", locks=False)) as connection:  # nobody else knows of it
                _fill(connection, meta)
                if fill is not None:
                    with connection:
                        fill(connection)
            if is_empty(path):
                path.unlink()
            linked = publish_new(draft, path)
        except FileExistsError:
            raise InputError(f"--out {path} exists: pass --resume to go on with it, or another name") from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"--out {path} cannot be written ({error}): choose another place or free space") from None
        finally:
            for made in (draft, draft.with_name(f"{draft.name}-journal")):
                made.unlink(missing_ok=True)
        store = cls.open(path, write=True)
        if not linked:
            store.weaker.append(NO_LINKS)
        return store

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Self:
        """An existing store, read-only unless `write`. Raises InputError for anything that is not one."""
        if not path.is_file():
            raise InputError(f"run store {path} does not exist: make one with `diffsmooth-trt certify --out {path}`")
        lock = Lock.take(path) if write else None
        connection: sqlite3.Connection | None = None
        try:
            locks = not lock.beside if lock is not None else held(path)[1]
            connection, version = _readable(path, "rw" if write else "ro", locks)
            if version not in READABLE:
                raise InputError(
                    f"{path} is of store format {version}, this version reads up to {FORMAT}: use the one that wrote it"
                )
            lacks = None
            if write:
                connection.close()
                connection, lacks = _writable(path, locks)
            store = cls(path, connection, lock)
            store.weaker += [lacks] if lacks else []
            return store
        except BaseException as error:
            if connection is not None:
                connection.close()
            if lock is not None:
                lock.release()
            if isinstance(error, sqlite3.DatabaseError):
                if write and shutil.disk_usage(path.parent).free < LOG_BYTES:
                    raise StoreError(f"{path} cannot be written: its disk is full; free space, then --resume") from None
                hint = "give the --out of certify or predict"
                if path.with_name(f"{path.name}-wal").exists():
                    hint = "it was interrupted; --resume it, or copy it with its -wal file to a folder you can write"
                raise InputError(f"{path} is not a run store that can be read ({error}): {hint}") from None
            if isinstance(error, ValueError) and not isinstance(error, InputError):
                raise InputError(f"{path} is damaged in its table meta ({error}): restore it from a copy") from None
            raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Whatever is read within is of one moment, though another process may write; damage is a StoreError."""
        with guarded(self.path):
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            finally:
                self.connection.rollback()

    def images_with_results(self) -> list[int]:
        """The images that have a result, ascending."""
        with guarded(self.path):
            return [image for (image,) in self.connection.execute("SELECT image FROM results ORDER BY image")]

    def held(self, block: Block) -> Counts | None:
        """The votes of a block, if it is here; a new array."""
        with guarded(self.path):
            row = self._row("blocks", block)
            if row is None:
                return None
            if row[0] != block.stop:
                raise ValueError(f"image {block.image} does not have the blocks that its run asks for")
            return self._votes(block.image, block.start, *row)

    def _row(self, table: str, block: Block) -> tuple[int, str] | None:
        """Where the votes in `table` that begin with `block` end, and their text."""
        key = (block.image, block.phase, block.start)
        query = f"SELECT stop, counts FROM {table} WHERE image = ? AND phase = ? AND start = ?"
        row: tuple[int, str] | None = self.connection.execute(query, key).fetchone()
        return row

    def has_result(self, image: int) -> bool:
        """Whether an image has a result."""
        with guarded(self.path):
            return self.connection.execute("SELECT 1 FROM results WHERE image = ?", (image,)).fetchone() is not None

    def finished(self) -> int:
        """How many images have a result."""
        with guarded(self.path):
            return int(self.connection.execute("SELECT COUNT(*) FROM results").fetchone()[0])

    def drawn(self) -> int:
        """Samples in the blocks held."""
        with guarded(self.path):
            total = 0
            for table in ("blocks", "partial"):
                (held,) = self.connection.execute(f"SELECT COALESCE(SUM(stop - start), 0) FROM {table}").fetchone()
                total += int(held)
            return total

    def partial(self, block: Block) -> Counts | None:
        """Votes of the first samples of a block that was in work; their number is how many those were. A new array."""
        with guarded(self.path):
            row = self._row("partial", block)
            if row is None:
                return None
            if not block.start < row[0] < block.stop:
                raise ValueError(f"image {block.image} has a part of a block that ends at sample {row[0]}")
            return self._votes(block.image, block.start, *row)

    def _votes(self, image: int, start: int, stop: int, text: str) -> Counts:
        """The votes in a row, or ValueError where they cannot be those of its samples."""
        try:
            return decoded(text, self.record.classes, stop - start, self.record.format)
        except (TypeError, ValueError) as error:
            raise ValueError(f"image {image} has impossible votes in the block of sample {start}: {error}") from None

    def known_images(self) -> dict[int, tuple[int, str, float]]:
        """Label, pixel hash and distance of every image that is here."""
        with guarded(self.path):
            rows = self.connection.execute(f"SELECT image, {self._facts} FROM images").fetchall()
            return {image: self._known(image, *facts) for image, *facts in rows}

    def known(self, image: int) -> tuple[int, str, float] | None:
        """Label, pixel hash and distance of an image, if it is here."""
        with guarded(self.path):
            row = self.connection.execute(f"SELECT {self._facts} FROM images WHERE image = ?", (image,)).fetchone()
            return None if row is None else self._known(image, *row)

    @property
    def _facts(self) -> str:
        return f"label, sha256, {'distance' if self.meta['format'] > 2 else '0.0'}"

    def _known(self, image: int, label: int, sha256: str, distance: float) -> tuple[int, str, float]:
        """A row of `images`, or ValueError where rounding cannot have moved the image so far."""
        if type(distance) is not float or not 0 <= distance < math.inf:
            raise ValueError(f"image {image} has distance {distance}")
        if distance and not self.record.choice.quantise:
            raise ValueError(f"image {image} has distance {distance} in a run that rounds none")
        return int(label), str(sha256), distance

    def add_margin(self, image: int, margin: Margin) -> None:
        """Record what an image's certificate follows from where it has no votes."""
        with guarded(self.path):
            self.connection.execute("INSERT OR REPLACE INTO margins VALUES (?, ?, ?)", (image, *margin))

    def void_votes(self) -> int:
        """How many of the votes held are abstentions."""
        void = self.record.void
        if void is None:
            return 0
        with guarded(self.path):
            rows = self.connection.execute("SELECT image, start, stop, counts FROM blocks")
            return sum(int(self._votes(*row)[void]) for row in rows)

    def add_image(self, image: int, label: int, sha256: str, distance: float = 0.0) -> None:
        """Record an image before its first block."""
        row = (image, label, sha256, distance)[: 4 if self.record.format > 2 else 3]
        with guarded(self.path):
            self.connection.execute(f"INSERT INTO images VALUES ({', '.join('?' * len(row))})", row)

    def add_block(self, block: Block, counts: Counts) -> None:
        """Record a block's votes int64 `[classes]`; they are on disk after the next `commit`."""
        with guarded(self.path):
            row = (block.image, block.phase, block.start, block.stop, encoded(counts, self.record.format))
            self.connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", row)
            self.connection.execute("DELETE FROM partial WHERE image = ? AND phase = ? AND start = ?", row[:3])

    def add_partial(self, block: Block, counts: Counts) -> None:
        """Record the votes so far of a block in work, so that even a slow engine's run loses little when it is killed."""
        with guarded(self.path):
            stop = block.start + int(counts.sum())
            row = (block.image, block.phase, block.start, stop, encoded(counts, self.record.format))
            self.connection.execute("INSERT OR REPLACE INTO partial VALUES (?, ?, ?, ?, ?)", row)

    def add_seconds(self, image: int, seconds: float) -> None:
        """Add to an image's time."""
        with guarded(self.path):
            self.connection.execute(
                "INSERT INTO timing VALUES (?, ?) ON CONFLICT (image) DO UPDATE SET seconds = seconds + excluded.seconds",
                (image, seconds),
            )

    def add_result(self, image: int, outcome: Outcome) -> None:
        """Record what follows from an image's votes, all of which are here."""
        with guarded(self.path):
            row = (image, outcome.predict, outcome.radius, outcome.p_lower, outcome.hits, outcome.trials)
            self.connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", row)
            self.connection.execute("DELETE FROM partial WHERE image = ?", (image,))
            said = zip(self.record.stopping.preset, outcome.decisions, strict=True)
            rows = [(image, radius, decision) for radius, decision in said]
            self.connection.executemany("INSERT INTO decisions VALUES (?, ?, ?)", rows)

    def add_notes(self, notes: Sequence[str]) -> None:
        """Keep what a reader has to know about the votes, once each; reports show it. Drops what was not committed."""
        known = self.record.notes
        new = [note for note in dict.fromkeys(notes) if note not in known]
        if new:
            with guarded(self.path):
                self.connection.rollback()
            self._put(notes=[*known, *new])

    def skip(self, skipped: Mapping[int, tuple[int, str]]) -> None:
        """Keep which images cannot be used, with label and reason: these and no others. Drops what was not committed.

        Raises InputError for one that the run has drawn from.
        """
        drawn = [image for image in skipped if self.known(image) is not None]
        if drawn:
            raise InputError(f"image {drawn[0]}, which {self.path} has drawn from, {skipped[drawn[0]][1]}: restore it")
        if dict(skipped) != dict(self.record.skipped):
            with guarded(self.path):
                self.connection.rollback()
            self._put(skipped={str(row): list(skipped[row]) for row in sorted(skipped)})

    def change_data(self, data: str) -> None:
        """Keep that the data set changed in images that the run has not drawn from. Committed at once."""
        self._put(data=data, data_before=[*self.record.data_before, self.record.data])

    def add_evaluations(self, votes: int, evaluations: int) -> None:
        """Keep how many evaluations of a network some more votes took. Committed at once."""
        before = self.record.evaluations
        self._put(evaluations=[before[0] + votes, before[1] + evaluations])

    def audit_rows(self) -> list[Row]:
        """The rows that wait to be evaluated again; from here on the store has a place for them."""
        with guarded(self.path):
            self.connection.execute(AUDIT_SCHEMA)
            rows = self.connection.execute("SELECT image, phase, sample, place, label, lot FROM audit").fetchall()
        return [Row(*row) for row in rows]

    def change_audit(self, added: Iterable[Row], gone: Iterable[Row]) -> None:
        """Put down rows that wait now, and drop those that no longer do; on disk with what `add_audit` commits."""
        with guarded(self.path):
            places = [row[:3] for row in gone]
            self.connection.executemany("DELETE FROM audit WHERE image = ? AND phase = ? AND sample = ?", places)
            self.connection.executemany("INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?)", list(added))

    def add_audit(self, audit: Mapping[str, Any]) -> None:
        """Keep what the run's audit found so far. Committed at once, with all that was added before."""
        self._put(audit=dict(audit))

    def _put(self, **changed: object) -> None:
        """Change `meta`, and commit that with what was added before."""
        with guarded(self.path):
            self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", _meta_rows(changed))
        self.commit()
        self.meta |= changed
        self.record = self._recorded()

    def commit(self) -> None:
        """Make everything added so far survive a crash."""
        with guarded(self.path):
            self.connection.commit()

    def close(self) -> None:
        """Drop what was not committed and close; the last writer leaves a single file without its log."""
        if self.lock is not None:
            with contextlib.suppress(sqlite3.DatabaseError):  # a reader, or a full disk: the log stays, and is valid
                self.connection.rollback()
                self.connection.execute("PRAGMA journal_mode = DELETE")
        self.connection.close()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(connection: sqlite3.Connection, meta: list[tuple[str, str]]) -> None:
    """Make the tables, and put `meta` into theirs."""
    with connection:
        connection.executescript(SCHEMA)
        connection.execute(AUDIT_SCHEMA)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)


def is_empty(path: Path) -> bool:
    """Whether `path` is a regular file of no bytes."""
    return path.is_file() and not path.stat().st_size
