"""The run store: one SQLite file a run (WAL, full sync) with configuration, votes per block, and results.

Tables: `meta` (name, JSON value), `images` (index, label, SHA-256 of the 8-bit pixels, ℓ2 distance that rounding to them moved
the image, 0.0 unless the run has `quantise`), `blocks` (image, phase, start, stop,
JSON list of votes a class), `partial` (the same for blocks in work, empty when a run ends), `margins` (of runs without votes),
`results` (what follows from the votes or the margin), `decisions` (what follows on each preset radius), `audit` (rows that the
run will evaluate again, empty when it ends; stores from before the audit lack it), `timing` (seconds an image; besides it, two
runs of the same configuration and key differ in `meta` alone: notes, evaluations, audit, paths). Results are derived from the
votes again whenever they are read. A store whose audit failed (audit_record.py) is not opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from ..certify.audit_rows import Row
from ..certify.blocks import Block, Plan
from ..certify.rules import LipschitzRule, Margin, Outcome, RadiusRule, Rule, Votes, rule_of
from ..errors import InputError, StoreError
from .audit import refuse_void

FORMAT = 3
READABLE = (1, 2, FORMAT)  # format 1 has no table `decisions`, nor runs that need it; 1 and 2 have no distances
UNRECORDED = "radii are about the rounded images, the distance was not recorded (an older version made the run)"
REQUIRED = (
    "config",
    "classifier",
    "classes",
    "total_variation",
    "key",
    "key_source",
    "law",
    "data",
    "images",
    "versions",
)
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


@dataclass(frozen=True, kw_only=True)
class Result(Outcome):
    """One image's outcome with its label and the seconds that it took."""

    image: int
    label: int
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise StoreError(f"run store {path} holds damaged values ({error}): restore it from a copy") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"run store {path}: {error}; what was committed before is kept, free space or restore it"
        ) from None


def _lock(path: Path) -> int:
    """A descriptor that holds the file's write lock; closing it (after SQLite's own) or dying gives the lock back."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"--out {path} is being written by another process: let it finish, or stop it") from None
    return descriptor


def _meta_rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value, sort_keys=True)) for name, value in values.items()]


class RunStore:
    """An open run store; `create` makes one whole or not at all, `open` takes an existing one."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self.connection = connection
        self.lock = lock
        with _guarded(path):
            rows = connection.execute("SELECT name, value FROM meta").fetchall()
            self.meta: dict[str, Any] = {name: json.loads(value) for name, value in rows}

    @classmethod
    def create(cls, path: Path, meta: dict[str, Any]) -> Self:
        """A new store with `meta`; the file appears complete. Raises InputError where it exists."""
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with contextlib.closing(sqlite3.connect(draft)) as connection, connection:
                connection.executescript(SCHEMA)
                connection.execute(AUDIT_SCHEMA)
                connection.executemany("INSERT INTO meta VALUES (?, ?)", _meta_rows({**meta, "format": FORMAT}))
            if is_empty(path):
                path.unlink()
            os.link(draft, path)  # unlike a rename, it never replaces a run that appeared meanwhile
        except FileExistsError:
            raise InputError(f"--out {path} exists: pass --resume to go on with it, or another name") from None
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
        lock = _lock(path) if write else None
        connection: sqlite3.Connection | None = None
        try:
            mode = "rw" if write else "ro"
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30)
            found = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
            version = json.loads(found[0]) if found else None
            if version not in READABLE:
                raise InputError(
                    f"{path} is of store format {version}, this version reads up to {FORMAT}: use the one that wrote it"
                )
            if write:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            store = cls(path, connection, lock)
            missing = [name for name in REQUIRED if name not in store.meta]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)} in its table meta: restore it from a copy")
            refuse_void(path, store.meta)
            return store
        except BaseException as error:
            if connection is not None:
                connection.close()
            if lock is not None:
                os.close(lock)
            if isinstance(error, sqlite3.DatabaseError):
                hint = "give the --out of certify or predict"
                if path.with_name(f"{path.name}-wal").exists():
                    hint = "it was interrupted; --resume it, or copy it with its -wal file to a folder you can write"
                raise InputError(f"{path} is not a run store that can be read ({error}): {hint}") from None
            if isinstance(error, ValueError) and not isinstance(error, InputError):
                raise InputError(f"{path} is damaged in its table meta ({error}): restore it from a copy") from None
            raise

    @cached_property
    def rule(self) -> Rule:
        """What the run's votes say, and when they suffice; StoreError where it is not the one that was recorded."""
        with _guarded(self.path):
            rule = rule_of(self.meta)
            if isinstance(rule, RadiusRule) and rule.recorded != self.meta["thresholds"]:
                raise ValueError("the thresholds do not follow from its radii and alpha")
        return rule

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Whatever is read within is of one moment, though another process may write; damage is a StoreError."""
        with _guarded(self.path):
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            finally:
                self.connection.rollback()

    @property
    def plan(self) -> Plan:
        """The samples that the run asks for, at most."""
        return self.rule.plan

    def extend(self, n: int) -> None:
        """Let a run that may stop early go up to `n` draws; what is no longer finished loses its result. Committed at once."""
        before = self.meta["config"]["n"]
        config = {**self.meta["config"], "n": n}
        changed = {"config": config, "extended_from": [*self.meta.get("extended_from", []), before]}
        rule = rule_of({**self.meta, **changed})
        if isinstance(rule, RadiusRule):
            changed["thresholds"] = rule.recorded
        images = self.images_with_results()
        unfinished = [image for image in images if not self._complete(rule, self.votes(image))]
        with _guarded(self.path):
            for table in ("decisions", "results"):
                self.connection.executemany(f"DELETE FROM {table} WHERE image = ?", [(i,) for i in unfinished])
        self._put(**changed)
        self.__dict__.pop("rule", None)

    @staticmethod
    def _complete(rule: Rule, votes: Votes) -> bool:
        return rule.stops(votes) or votes.trials >= rule.plan.phases[-1][1]

    def images_with_results(self) -> list[int]:
        """The images that have a result, ascending."""
        with _guarded(self.path):
            return [image for (image,) in self.connection.execute("SELECT image FROM results ORDER BY image")]

    def held(self, block: Block) -> list[int] | None:
        """The votes of a block, if it is here."""
        with _guarded(self.path):
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
        found: tuple[int, str] | None = self.connection.execute(query, key).fetchone()
        return found

    def has_result(self, image: int) -> bool:
        """Whether an image has a result."""
        with _guarded(self.path):
            return self.connection.execute("SELECT 1 FROM results WHERE image = ?", (image,)).fetchone() is not None

    def finished(self) -> int:
        """How many images have a result."""
        with _guarded(self.path):
            return int(self.connection.execute("SELECT COUNT(*) FROM results").fetchone()[0])

    def drawn(self) -> int:
        """Samples in the blocks held."""
        with _guarded(self.path):
            total = 0
            for table in ("blocks", "partial"):
                (held,) = self.connection.execute(f"SELECT COALESCE(SUM(stop - start), 0) FROM {table}").fetchone()
                total += int(held)
            return total

    def partial(self, block: Block) -> list[int] | None:
        """Votes of the first samples of a block that was in work; their number is how many those were."""
        with _guarded(self.path):
            row = self._row("partial", block)
            if row is None:
                return None
            if not block.start < row[0] < block.stop:
                raise ValueError(f"image {block.image} has a part of a block that ends at sample {row[0]}")
            return self._votes(block.image, block.start, *row)

    def _votes(self, image: int, start: int, stop: int, text: str) -> list[int]:
        """The votes in a row, or ValueError where they cannot be those of its samples."""
        votes: list[int] = json.loads(text)
        wrong = any(type(count) is not int or count < 0 for count in votes)
        if wrong or len(votes) != int(self.meta["classes"]) or sum(votes) != stop - start:
            raise ValueError(f"image {image} has impossible votes in the block of sample {start}")
        return votes

    @property
    def has_distances(self) -> bool:
        """Whether it says how far rounding moved each image: with `quantise` not before format 3, else it is 0."""
        return bool(self.meta["format"] > 2 or not self.meta["config"].get("quantise"))

    @property
    def asked(self) -> range:
        """The rows of the images that the run was asked for: all of the data set, or with `skip` and `max` some."""
        with _guarded(self.path):
            count, skip = self.meta["images"], self.meta["config"].get("skip", 1)
            if not (type(count) is type(skip) is int and count > 0 and skip > 0):
                raise ValueError(f"images {count} and skip {skip}, which are no numbers from 1 on")
            return range(0, count * skip, skip)

    def known_images(self) -> dict[int, tuple[int, str, float]]:
        """Label, pixel hash and distance of every image that is here."""
        with _guarded(self.path):
            rows = self.connection.execute(f"SELECT image, {self._facts} FROM images").fetchall()
            return {image: self._known(image, *facts) for image, *facts in rows}

    def known(self, image: int) -> tuple[int, str, float] | None:
        """Label, pixel hash and distance of an image, if it is here."""
        with _guarded(self.path):
            row = self.connection.execute(f"SELECT {self._facts} FROM images WHERE image = ?", (image,)).fetchone()
            return None if row is None else self._known(image, *row)

    @property
    def _facts(self) -> str:
        return f"label, sha256, {'distance' if self.meta['format'] > 2 else '0.0'}"

    def _known(self, image: int, label: int, sha256: str, distance: float) -> tuple[int, str, float]:
        """A row of `images`, or ValueError where rounding cannot have moved the image so far."""
        if type(distance) is not float or not 0 <= distance < math.inf:
            raise ValueError(f"image {image} has distance {distance}")
        if distance and not self.meta["config"].get("quantise"):
            raise ValueError(f"image {image} has distance {distance} in a run that rounds none")
        return int(label), str(sha256), distance

    def counts(self, image: int) -> dict[int, list[int]]:
        """Votes a class by phase; raises StoreError unless the image's blocks are those that its run asks for."""
        return {phase: total.tolist() for phase, total in self.votes(image).totals.items()}

    def votes(self, image: int) -> Votes:
        """An image's votes; raises StoreError unless its blocks are those that its run asks for, each complete.

        Where the moment of stopping owes its last digit to a library, and the image has a result, any look may be the last.
        """
        known = self.known(image)
        votes = Votes(self.plan, int(self.meta["classes"]), known[2] if known else 0.0)
        any_look = not self.rule.stops_exactly and self.has_result(image)
        with _guarded(self.path):
            rows = self.connection.execute(
                "SELECT phase, start, stop, counts FROM blocks WHERE image = ? ORDER BY phase, start", (image,)
            ).fetchall()
            ended = False
            for block, row in zip_longest(self.plan.blocks(image), rows):
                if row is None and (ended or (any_look and votes.looked)):
                    break
                if row is None or (ended and not any_look) or row[:3] != (block.phase, block.start, block.stop):
                    raise ValueError(f"image {image} does not have the blocks that its run asks for")
                votes.add(block, self._votes(image, *row[1:]))
                ended = votes.looked and self.rule.stops(votes)
            if isinstance(self.rule, LipschitzRule):
                query = "SELECT predict, margin FROM margins WHERE image = ?"
                votes.margin = self.connection.execute(query, (image,)).fetchone()
                if votes.margin is None:
                    raise ValueError(f"image {image} has no margin")
        return votes

    def add_margin(self, image: int, margin: Margin) -> None:
        """Record what an image's certificate follows from where it has no votes."""
        with _guarded(self.path):
            self.connection.execute("INSERT OR REPLACE INTO margins VALUES (?, ?, ?)", (image, *margin))

    def void_votes(self) -> int:
        """How many of the votes held are abstentions."""
        void = self.meta.get("void")
        if void is None:
            return 0
        with _guarded(self.path):
            return sum(int(json.loads(text)[void]) for (text,) in self.connection.execute("SELECT counts FROM blocks"))

    def add_image(self, image: int, label: int, sha256: str, distance: float = 0.0) -> None:
        """Record an image before its first block."""
        row = (image, label, sha256, distance)[: 4 if self.meta["format"] > 2 else 3]
        with _guarded(self.path):
            self.connection.execute(f"INSERT INTO images VALUES ({', '.join('?' * len(row))})", row)

    def add_block(self, block: Block, counts: list[int]) -> None:
        """Record a block's votes; they are on disk after the next `commit`."""
        with _guarded(self.path):
            row = (block.image, block.phase, block.start, block.stop, json.dumps(counts))
            self.connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", row)
            self.connection.execute("DELETE FROM partial WHERE image = ? AND phase = ? AND start = ?", row[:3])

    def add_partial(self, block: Block, counts: list[int]) -> None:
        """Record the votes so far of a block in work, so that even a slow engine's run loses little when it is killed."""
        with _guarded(self.path):
            row = (block.image, block.phase, block.start, block.start + sum(counts), json.dumps(counts))
            self.connection.execute("INSERT OR REPLACE INTO partial VALUES (?, ?, ?, ?, ?)", row)

    def add_seconds(self, image: int, seconds: float) -> None:
        """Add to an image's time."""
        with _guarded(self.path):
            self.connection.execute(
                "INSERT INTO timing VALUES (?, ?) ON CONFLICT (image) DO UPDATE SET seconds = seconds + excluded.seconds",
                (image, seconds),
            )

    def add_result(self, image: int) -> None:
        """Record what follows from an image's votes, all of which are here."""
        outcome = self.rule.outcome(self.votes(image))
        with _guarded(self.path):
            row = (image, outcome.predict, outcome.radius, outcome.p_lower, outcome.hits, outcome.trials)
            self.connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", row)
            self.connection.execute("DELETE FROM partial WHERE image = ?", (image,))
            if isinstance(self.rule, RadiusRule):
                said = zip(self.rule.radii, outcome.decisions, strict=True)
                rows = [(image, radius, decision) for radius, decision in said]
                self.connection.executemany("INSERT INTO decisions VALUES (?, ?, ?)", rows)

    def add_notes(self, notes: Sequence[str]) -> None:
        """Keep what a reader has to know about the votes, once each; reports show it. Drops what was not committed."""
        known = self.meta.get("notes", [])
        new = [note for note in dict.fromkeys(notes) if note not in known]
        if new:
            with _guarded(self.path):
                self.connection.rollback()
            self._put(notes=[*known, *new])

    def add_evaluations(self, votes: int, evaluations: int) -> None:
        """Keep how many evaluations of a network some more votes took. Committed at once."""
        before = self.meta.get("evaluations", [0, 0])
        self._put(evaluations=[before[0] + votes, before[1] + evaluations])

    def audit_rows(self) -> list[Row]:
        """The rows that wait to be evaluated again; from here on the store has a place for them."""
        with _guarded(self.path):
            self.connection.execute(AUDIT_SCHEMA)
            rows = self.connection.execute("SELECT image, phase, sample, place, label, lot FROM audit").fetchall()
        return [Row(*row) for row in rows]

    def change_audit(self, added: Iterable[Row], gone: Iterable[Row]) -> None:
        """Put down rows that wait now, and drop those that no longer do; on disk with what `add_audit` commits."""
        with _guarded(self.path):
            places = [row[:3] for row in gone]
            self.connection.executemany("DELETE FROM audit WHERE image = ? AND phase = ? AND sample = ?", places)
            self.connection.executemany("INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?)", list(added))

    def add_audit(self, audit: Mapping[str, Any]) -> None:
        """Keep what the run's audit found so far. Committed at once, with all that was added before."""
        self._put(audit=dict(audit))

    def _put(self, **changed: object) -> None:
        """Change `meta`, and commit that with what was added before."""
        with _guarded(self.path):
            self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", _meta_rows(changed))
        self.commit()
        self.meta |= changed

    def commit(self) -> None:
        """Make everything added so far survive a crash."""
        with _guarded(self.path):
            self.connection.commit()

    def results(self) -> Iterator[Result]:
        """Outcomes by ascending image, derived from the votes; StoreError where the recorded one says otherwise.

        A family-wise run with preset radii adds what Holm's procedure gives for the images finished so far. StoreError, too,
        for a result of an image that the run was not asked for.
        """
        rule, images, asked = self.rule, self.images_with_results(), self.asked
        foreign = [image for image in images if image not in asked]
        if foreign:
            raise StoreError(f"run store {self.path} has image {foreign[0]}, which its run was not asked for")
        if not isinstance(rule, RadiusRule) or rule.images == 1:
            yield from map(self.result, images)
            return
        votes = {image: self.votes(image) for image in images}
        alone = [self._agreed(image, each) for image, each in votes.items()]
        for result, outcome in zip(alone, rule.family(list(votes.values())), strict=True):
            yield replace(result, **vars(outcome))

    def result(self, image: int) -> Result:
        """One image's outcome, derived from its votes alone; StoreError unless it is the recorded one."""
        return self._agreed(image, self.votes(image))

    def _agreed(self, image: int, votes: Votes) -> Result:
        outcome = self.rule.outcome(votes)
        with _guarded(self.path):
            row = self.connection.execute(
                "SELECT i.label, COALESCE(t.seconds, 0), r.predict, r.radius, r.p_lower, r.hits, r.trials "
                "FROM results r JOIN images i USING (image) LEFT JOIN timing t USING (image) WHERE r.image = ?",
                (image,),
            ).fetchone()
            if row is None:
                raise ValueError(f"image {image} lacks its result or its row in the table images")
            label, seconds, predict, radius, p_lower, hits, trials = row
            recorded = Outcome(predict, radius, p_lower, hits, trials, self._decisions(image))
            if not outcome.agrees(recorded, votes.distance):
                raise StoreError(f"run store {self.path}: the result of image {image} does not follow from its votes")
        return Result(**vars(outcome), image=image, label=label, seconds=seconds)

    def _decisions(self, image: int) -> tuple[str, ...]:
        if not isinstance(self.rule, RadiusRule):
            return ()
        query = "SELECT radius, decision FROM decisions WHERE image = ? ORDER BY radius"
        rows = self.connection.execute(query, (image,)).fetchall()
        fits = tuple(radius for radius, _ in rows) == self.rule.radii
        return tuple(said for _, said in rows) if fits else ()

    def close(self) -> None:
        """Drop what was not committed and close; the last writer leaves a single file without its log."""
        if self.lock is not None:
            with contextlib.suppress(sqlite3.DatabaseError):  # a reader, or a full disk: the log stays, and is valid
                self.connection.rollback()
                self.connection.execute("PRAGMA journal_mode = DELETE")
        self.connection.close()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_empty(path: Path) -> bool:
    """Whether `path` is a regular file of no bytes."""
    return path.is_file() and not path.stat().st_size


def open_run(path: str | Path) -> RunStore:
    """A run store for reading: `meta` and `results()`."""
    return RunStore.open(Path(path))
