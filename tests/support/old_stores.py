"""Run stores as earlier releases wrote them, made of this version's."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path


def as_format_3(path: Path) -> None:
    """As release 0.4 wrote it: votes are lists of all classes."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        ((classes,),) = connection.execute("SELECT value FROM meta WHERE name = 'classes'").fetchall()
        for table in ("blocks", "partial"):
            for *place, text in connection.execute(f"SELECT image, phase, start, counts FROM {table}").fetchall():
                votes = json.dumps([json.loads(text).get(str(label), 0) for label in range(int(classes))])
                change = f"UPDATE {table} SET counts = ? WHERE image = ? AND phase = ? AND start = ?"
                connection.execute(change, (votes, *place))
        connection.execute("UPDATE meta SET value = '3' WHERE name = 'format'")


def as_format_2(path: Path) -> None:
    """As release 0.3 wrote it: also without distances."""
    as_format_3(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE images DROP COLUMN distance")
        connection.execute("UPDATE meta SET value = '2' WHERE name = 'format'")
