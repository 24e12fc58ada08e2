"""The papers' tab-separated results: `idx label predict radius correct time`, written atomically."""

from __future__ import annotations

import datetime
from pathlib import Path

from ..certify.bounds import truncate
from ..certify.store import Result, RunStore
from ..files import write_atomically

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def tsv_line(result: Result) -> str:
    """One image's line; radii are truncated, an abstention is −1 with radius 0.0."""
    radius = "0.0" if result.predict < 0 or result.radius is None else truncate(result.radius)
    spent = datetime.timedelta(seconds=round(result.seconds, 6))
    fields = (result.image, result.label, result.predict, radius, int(result.correct), spent)
    return "\t".join(str(entry) for entry in fields)


def write_tsv(path: Path, store: RunStore) -> None:
    """Write a run's finished images to `path`."""
    write_atomically(path, "\n".join([HEADER, *(tsv_line(result) for result in store.results())]) + "\n")
