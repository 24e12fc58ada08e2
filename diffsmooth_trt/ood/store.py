"""A run's file: JSON lines. The first describes the run, every further one is what is known of one image.

Besides them there are lines of what the run's audit has found so far (certify/self_audit.py); the last one counts. A file whose
audit failed is not opened. Lines are only ever appended, and put on disk about every second. A kill loses what came after; a
last line that was cut short is dropped when the run goes on. What unfinished images have drawn is kept in a file of its own
(tasks.py). Everything that reports say is derived from the lines again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from ..errors import MALFORMED, InputError, StoreError
from ..files import create_atomically, parsed_json
from ..locks import Lock
from ..noise.counters import KEY_BITS
from ..runs.audit import refuse_void
from ..runs.record import naming_damage
from .record import FORMAT, KIND, OodRecord
from .tasks import DrawsFile, State

SYNC_SECONDS = 1.0
Record = dict[str, Any]


def is_ood_file(path: Path) -> bool:
    """Whether the file's first line says that it is a run of `diffsmooth-trt ood`."""
    try:
        with path.open("rb") as file:
            first = parsed_json(file.readline(1 << 20))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and first.get("file") == KIND


class OodStore:
    """`record` is the first line typed, `records` the others by (set, row), `audit` what the audit found, `draws` what is counted
    of images in work.

    Use as a context manager.
    """

    def __init__(
        self, path: Path, record: OodRecord, records: dict[tuple[int, int], Record], file: IO[bytes] | None
    ) -> None:
        self.path, self.record, self.records, self._file = path, record, records, file
        self.audit: Record | None = None
        self._told, self._audited = True, time.monotonic()
        self._synced = self._kept = time.monotonic()
        self.draws: dict[tuple[int, int], State] = {}
        self._draws_file: DrawsFile | None = None
        self._held = contextlib.ExitStack()  # the file, and that no other process writes it

    @property
    def files(self) -> Mapping[str, Any]:
        """The paths that the run records, by option."""
        return self.record.files

    @classmethod
    def create(cls, path: Path, record: OodRecord) -> Self:
        """A new file with its first line. Raises StoreError where that cannot be written, InputError where there is a file."""
        first = json.dumps(record.to_meta(), sort_keys=True) + "\n"
        create_atomically(path, first)
        DrawsFile(path, first.encode()).remove()
        return cls.open(path, write=True)

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Self:
        """Read a run's file; with `write` cut off an unfinished last line and append. Raises InputError for any other file."""
        if not write:
            return cls._read(path, None)
        with contextlib.ExitStack() as held:
            held.callback(Lock.take(path).release)
            try:
                file = held.enter_context(path.open("r+b"))
            except OSError as error:
                raise StoreError(f"{path} cannot be written ({error.strerror}): choose another place") from None
            store = cls._read(path, file)
            store._held = held.pop_all()
            return store

    @classmethod
    def _read(cls, path: Path, file: IO[bytes] | None) -> Self:
        """The run that is there; `file`, if given, is open for its further lines."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): give a run of `diffsmooth-trt ood`") from None
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [parsed_json(line) for line in whole.splitlines()]
            meta = lines[0]
            audits = [line["audit"] for line in lines[1:] if "audit" in line]
            lines = [line for line in lines if "audit" not in line]
            records = {(line["set"], line["row"]): line for line in lines[1:]}
            types = {type(number) for place in records for number in place} | {type(meta["format"])}
            known, version = meta["file"] == KIND and 0 <= int(meta["key"], 16) < 2**KEY_BITS, meta["format"]
            once = len(records) == len(lines) - 1
            if not (known and once and types == {int} and all("sha256" in line for line in lines[1:])):
                raise ValueError
        except MALFORMED:
            raise InputError(
                f"{path} is not a run of `diffsmooth-trt ood`, or damaged: give another, or start anew"
            ) from None
        if version != FORMAT:
            raise InputError(f"{path} has format {version}, this version reads {FORMAT}: use the version that made it")
        with naming_damage(f"{path} holds values"):
            made = OodRecord.from_meta(meta)
        if audits:
            refuse_void(path, audits[-1])
        if file is not None:
            try:
                file.truncate(len(whole))
                file.seek(len(whole))
            except OSError as error:
                raise StoreError(f"{path} cannot be written ({error.strerror}): choose another place") from None
        store = cls(path, made, records, file)
        store.audit = audits[-1] if audits else None
        if file is not None:
            store._draws_file = DrawsFile(path, whole.splitlines()[0])
            store.draws = store._draws_file.read()
        return store

    def keeps_draws(self) -> bool:
        """Whether it is time to keep what images in work have counted."""
        return self._draws_file is not None and time.monotonic() - self._kept > SYNC_SECONDS

    def keep_draws(self) -> None:
        """Put `draws` on disk, after all lines: an image is never in neither."""
        if self._draws_file is not None:
            self.sync()
            self._draws_file.write(self.draws.values())
            self._kept = time.monotonic()

    def forget_draws(self) -> None:
        """Every image has its line: take the file of draws away."""
        if self._draws_file is not None:
            self.sync()
            self._draws_file.remove()

    def add(self, record: Record) -> None:
        """Append what is known of one image."""
        self._append(record)
        self.records[record["set"], record["row"]] = record

    def add_audit(self, audit: Record) -> None:
        """Keep what the audit has found so far, in a line about every second; a failed one is put on disk at once."""
        self.audit, self._told = dict(audit), False
        if "void" in audit or time.monotonic() - self._audited > SYNC_SECONDS:
            self._tell()
            self.sync()

    def _tell(self) -> None:
        """Append a line of the audit, unless the last one says the same."""
        if not self._told:
            self._append({"audit": self.audit})
            self._told, self._audited = True, time.monotonic()

    def _append(self, line: Record) -> None:
        if self._file is None:
            raise StoreError(f"{self.path} is open for reading only")
        with self._naming_faults():
            self._file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Put all lines on disk. Raises StoreError where that fails."""
        if self._file is not None:
            with self._naming_faults():
                self._file.flush()
                os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    @contextlib.contextmanager
    def _naming_faults(self) -> Iterator[None]:
        """What the system says of a write that failed becomes a StoreError."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written ({error.strerror}): free space, then --resume") from None

    def lacks(self, number: int, row: int) -> bool:
        """Whether an image is to be scored still."""
        return (number, row) not in self.records

    def of_set(self, number: int) -> list[Record]:
        """The records of one set, by row."""
        return [record for (which, _), record in sorted(self.records.items()) if which == number]

    def missing(self, number: int) -> int:
        """How many images of a set lack their record still; negative where there are more than the run was asked for."""
        asked = self.record.sets[number]
        return asked.images - len(asked.skipped) - len(self.of_set(number))

    def finished(self) -> bool:
        """Whether every image has its record."""
        return all(self.missing(number) == 0 for number in range(len(self.record.sets)))

    def close(self) -> None:
        """Put all lines on disk and close the file. Raises StoreError where that fails."""
        with self._naming_faults(), self._held:  # closing the file writes again what could not be written
            if self._file is not None:
                self._tell()
            self.sync()
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
