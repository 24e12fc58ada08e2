"""Shards of a run → the store that one machine would have written."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import check_outputs
from ..ranges import path
from .counts import decoded, encoded
from .file import guarded
from .identity import differences
from .record import RunRecord
from .store import RunStore, open_run

OLDEST = 3  # the first format that has shards
# In an order in which every row's image is there before it.
TABLES = ("images", "blocks", "results", "decisions", "margins", "partial", "audit", "timing")


def merge(runs: Sequence[str | Path], out: str | Path, *, unfinished: bool = False) -> RunStore:
    """The run of which `runs` are the shards, in any order, as a new store at `out`, open for reading.

    Its images, blocks, results and decisions are those that one machine would have written under the same key. Shards may be
    unfinished: the merged run then is, and `certify --resume` goes on with it. Raises InputError for shards of different runs,
    for one that is given twice, and for one that is missing unless the merged run may be `unfinished`; StoreError for a shard
    whose results do not follow from its votes. The new store has the latest format among the shards'.
    """
    if isinstance(runs, str | Path) or not runs:
        raise InputError(
            f"merge takes the run stores of shards, got {runs!r}: give all of them, like ['1.sqlite', '2.sqlite']"
        )
    paths, target = [path("run", run) for run in runs], path("out", out)
    check_outputs({"--out": target}, {f"run {path}": path for path in paths})
    if target.exists():
        raise InputError(f"--out {target} exists: give another name")
    with ExitStack() as opened:
        stores = [opened.enter_context(open_run(path)) for path in paths]
        _check_shards(stores, unfinished)
        for store in stores:
            for _ in store.results():  # derived from the votes: a damaged shard is found here
                pass

        record = _merged([store.record for store in stores])

        def fill(connection: sqlite3.Connection) -> None:
            for store in stores:
                for table in TABLES:
                    rows = _rows_of(store, table, record.format)
                    if rows:
                        marks = ", ".join("?" * len(rows[0]))
                        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

        with RunStore.create(target, record, fill) as made:
            made.add_notes(made.weaker)
    return open_run(target)


def _rows_of(store: RunStore, table: str, version: int) -> list[tuple[Any, ...]]:
    """The rows of a table of a shard as a store of format `version` has them."""
    with guarded(store.path):
        rows: list[tuple[Any, ...]] = store.connection.execute(f"SELECT * FROM {table}").fetchall()
        record = store.record
        if record.format == version or table not in ("blocks", "partial"):
            return rows
        votes = [decoded(text, record.classes, stop - start, record.format) for *_, start, stop, text in rows]
        return [(*row[:-1], encoded(each, version)) for row, each in zip(rows, votes, strict=True)]


def _check_shards(stores: Sequence[RunStore], unfinished: bool) -> None:
    """InputError unless the stores are shards of one run, each of them once, and all of them unless it may be `unfinished`."""
    first = stores[0]
    seen: dict[int, Path] = {}
    for store in stores:
        record = store.record
        if record.shard is None or record.format < OLDEST:
            raise InputError(f"{store.path} is no shard that this version made: give runs of `certify --shard`")
        differing = differences(first.record.described(), record.described(), words=(str(first.path), str(store.path)))
        if record.key != first.record.key:
            differing.append("key (draw all shards under one --key-file)")
        if record.shard.of != first.record.shard.of:  # type: ignore[union-attr]
            differing.append(f"shard ({first.path}: {first.record.shard}, {store.path}: {record.shard})")
        if differing:
            raise InputError(f"{store.path} is a shard of another run than {first.path}: {'; '.join(differing[:3])}")
        if record.shard.number in seen:
            raise InputError(
                f"{store.path} is shard {record.shard}, and so is {seen[record.shard.number]}: give each shard once"
            )
        seen[record.shard.number] = store.path
    of = first.record.shard.of  # type: ignore[union-attr]
    missing = sorted({*range(1, of + 1)} - {*seen})
    if missing and not unfinished:
        named = ", ".join(f"{number}/{of}" for number in missing[:5])
        raise InputError(
            f"shard {named}{' …' if missing[5:] else ''} is missing of {of}: give all runs, or pass --unfinished to go on with "
            "what is there by --resume"
        )


def _merged(records: Sequence[RunRecord]) -> RunRecord:
    """What the whole run says of itself."""
    first = records[0]
    return replace(
        first,
        shard=None,
        key_drawn=any(record.key_drawn for record in records),
        notes=tuple(dict.fromkeys(note for record in records for note in record.notes)),
        evaluations=(sum(r.evaluations[0] for r in records), sum(r.evaluations[1] for r in records)),
        audit=_audit([dict(record.audit) for record in records if record.audit is not None]),
        skipped={row: why for record in records for row, why in sorted(record.skipped.items())},
        rows=_rows([record.rows for record in records if record.rows is not None]),
        format=max(record.format for record in records),
    )


def _audit(audits: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What the audits of all shards found together: their counts add."""
    names = dict.fromkeys(name for each in audits for name in each)
    return {name: sum(int(each.get(name, 0)) for each in audits) for name in names} or None


def _rows(states: Sequence[Any]) -> dict[str, str] | None:
    """Rows are proved independent where they are in every shard."""
    parts = dict.fromkeys(part for each in states for part in each)
    proved = {part: all(each.get(part) == "proved" for each in states) for part in parts}
    return {part: "proved" if sure else "assumed" for part, sure in proved.items()} or None
