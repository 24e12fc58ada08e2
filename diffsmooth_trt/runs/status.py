"""How far a run is: read-only, of a run that is written at this moment, or of one whose process is gone."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import MALFORMED, InputError
from ..files import parsed_json
from ..locks import held
from .store import open_run


@dataclass(frozen=True)
class Status:
    """How far a run is.

    `done` of `asked` images have a result, from `samples` draws, which took `seconds_per_image` on average (None before the
    first). `live`: a process is writing it, by a lock that a dead one does not hold; None where that cannot be known.
    `idle`: seconds since it was last written. `left`: seconds that the rest will take at this rate, None where nothing says.
    `shard` is which part of a run it is, `failed` why its votes count for nothing, if they do not, `notes` what it noted.
    """

    run: str
    asked: int
    done: int
    samples: int
    seconds_per_image: float | None
    left: float | None
    live: bool | None
    idle: float
    shard: str | None = None
    failed: str | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The status in words."""
        part = f", shard {self.shard}" if self.shard else ""
        doing = {True: "being written", False: "no process writes it", None: "whether it is being written is not known"}
        state = "finished" if self.done == self.asked else doing[self.live]
        done = f"{self.done} of {self.asked} images, {self.samples} samples"
        lines = [f"{self.run}{part}: {done}; {state}, last {_time(self.idle)} ago"]
        if self.seconds_per_image is not None:
            left = f", about {_time(self.left)} left" if self.left and self.done < self.asked else ""
            lines.append(f"{self.seconds_per_image:.3g} seconds an image{left}")
        if self.failed:
            lines.append(f"FAILED: {self.failed}; its votes count for nothing")
        elif self.done < self.asked and self.live is False:
            lines.append("go on with it: the same command and --resume")
        return [*lines, *self.notes]

    def to_json(self) -> str:
        """The status as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def _time(seconds: float | None) -> str:
    whole = round(seconds or 0)
    hours, rest = divmod(whole, 3600)
    return (
        f"{hours} h {rest // 60:02d} min"
        if hours
        else f"{rest // 60} min {rest % 60:02d} s"
        if rest >= 60
        else f"{whole} s"
    )


def status(run: str | Path) -> Status:
    """How far the run at `run` is. Raises InputError for a file that is no run store."""
    path, failed = Path(run), None
    try:
        store = open_run(path)
    except InputError:
        failed = _failure(path)
        if failed is None:
            raise
        return Status(str(path), 0, 0, 0, None, None, held(path)[0], _idle(path), failed=failed)
    with store:
        asked, done = len(store.record.asked), store.finished() + len(store.record.skipped)
        with store.snapshot() as connection:
            (spent,) = connection.execute("SELECT COALESCE(SUM(seconds), 0) FROM timing").fetchone()
        each = spent / done if done else None
        return Status(
            run=str(path),
            asked=asked,
            done=done,
            samples=store.drawn(),
            seconds_per_image=each,
            left=None if each is None else each * (asked - done),
            live=held(path)[0],
            idle=_idle(path),
            shard=None if store.record.shard is None else str(store.record.shard),
            failed=failed,
            notes=store.record.notes,
        )


def _failure(path: Path) -> str | None:
    """Why the audit of the run at `path` failed; None for any other file."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (text,) = connection.execute("SELECT value FROM meta WHERE name = 'audit'").fetchone()
        finally:
            connection.close()
        said = parsed_json(text).get("void")
    except (sqlite3.Error, *MALFORMED):
        return None
    return str(said) if said else None


def _idle(path: Path) -> float:
    """Seconds since the store or its log was written."""
    logs = [path, path.with_name(f"{path.name}-wal")]
    return max(0.0, time.time() - max(each.stat().st_mtime for each in logs if each.exists()))
