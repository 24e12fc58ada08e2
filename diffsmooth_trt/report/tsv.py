"""The papers' tab-separated results: `idx label predict radius correct time`, written atomically.

Scripts read these columns by name. A run whose radii hold on a condition only has a seventh column, `condition`, which says it in
every row: scripts go on reading the file, and nobody who opens it, or loads it as a table, takes it for another.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from ..errors import InputError
from ..files import write_atomically
from ..runs.record import RunRecord
from ..runs.store import Result, RunStore
from ..statistics.bounds import truncate

CONDITION = "\tcondition"
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def tsv_line(result: Result) -> str:
    """One image's line; radii are truncated, an abstention is −1 with radius 0.0."""
    radius = "0.0" if result.predict < 0 or result.radius is None else truncate(result.radius)
    spent = datetime.timedelta(seconds=round(result.seconds, 6))
    fields = (result.image, result.label, result.predict, radius, int(result.correct), spent)
    return "\t".join(str(entry) for entry in fields)


def condition_of(record: RunRecord) -> str:
    """On what condition a run's radii hold, in a phrase without tabs; nothing where there is none but the theorem's."""
    phrases = []
    constant = record.lipschitz_constant
    if constant is not None:
        given = "given" if record.stopping.lipschitz is not None else "derived for ideal denoisers"
        phrases.append(f"only if the logits are {constant:.6g}-Lipschitz in [-1, 1] units ({given})")
    if not record.labelled:
        phrases.append("the images have no labels, so that no share of `correct` means anything")
    if not record.has_distances:
        phrases.append("about the rounded image, its distance from the given one was not recorded")
    return "; ".join(phrases)


def write_tsv(path: Path, store: RunStore) -> None:
    """Write a run to `path`. Raises InputError for an unfinished one: scripts take shares of the rows that there are."""
    results, asked = list(store.results()), len(store.record.asked)
    if len(results) < asked:
        raise InputError(
            f"--tsv: {store.path} has {len(results)} of {asked} images, the shares of which mean nothing: "
            "finish the run with --resume first"
        )
    condition = condition_of(store.record)
    extra = f"\t{condition}" if condition else ""
    lines = [HEADER + (CONDITION if condition else ""), *(tsv_line(result) + extra for result in results)]
    write_atomically(path, "\n".join(lines) + "\n")
