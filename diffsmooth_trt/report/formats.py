"""Tables of runs for other programs (CSV, JSON, parquet) and for papers and pages (LaTeX, Markdown).

The first three hold numbers: shares are fractions of the images asked for, ends of intervals are rounded outward, radii are
what was certified to the last bit. The others hold what the text table shows.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..statistics.bounds import truncate
from .curves import average_certified_radius, certified_accuracy_interval, certified_counts
from .tables import Sheet, Summary, envelope, exactly, sheet, shown_radii
from .tsv import condition_of

Row = dict[str, Any]
SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".tex": "latex", ".md": "markdown"}
FORMATS = tuple(SUFFIXES.values())


def rows_of_runs(
    summaries: Sequence[Summary], radii: Sequence[float] | None = None, *, enveloped: bool = False
) -> list[Row]:
    """A row a run, in numbers.

    `certified@r` counts images, `accuracy@r` is their share of `images`, those asked for; `low@r` and `high@r` are the ends of its
    95 % interval or, of a run that is not `finished`, the share that it will have at least and at most. None: the run has no such
    value.
    """
    at = (shown_radii(summaries) if radii is None else radii) if any(s.certified for s in summaries) else ()
    every = [*summaries, envelope(summaries)] if enveloped else summaries
    rows = [_run(summary, at) for summary in every]
    if any(row["condition"] for row in rows):
        return rows
    return [{name: value for name, value in row.items() if name != "condition"} for row in rows]


def _run(summary: Summary, at: Sequence[float]) -> Row:
    record, asked = summary.record, summary.record.stopping
    correct = int((summary.predicted == summary.labels).sum())
    average = average_certified_radius(summary.labels, summary.predicted, summary.radii, summary.missing)
    return {
        "run": summary.name,
        "command": asked.command,
        "method": record.method,
        "sigma": record.classifier.sigma,
        "n0": asked.n0 if summary.certified and asked.smoothing else None,
        "n": asked.n if asked.smoothing else None,
        "alpha": summary.alpha,
        "images": summary.asked,
        "finished": not summary.missing,
        "results": len(summary.images),
        **_accuracies(summary, at),
        "acr": average if summary.certified and not summary.preset else None,
        "accuracy": None if summary.certified else correct / summary.asked,
        "abstentions": summary.abstentions,
        "samples_per_image": float(summary.samples.mean()),
        "seconds_per_image": summary.seconds / len(summary.images),
        "classifier_id": record.classifier.id,
        "space": summary.space,
        "guarantee": summary.guarantee,
        "condition": condition_of(record),
    }


def _accuracies(summary: Summary, at: Sequence[float]) -> Row:
    names = [(f"certified@{r}", f"accuracy@{r}", f"low@{r}", f"high@{r}") for r in map(exactly, at)]
    if not summary.certified or not len(at):
        return dict.fromkeys(name for four in names for name in four)
    outcome, images = (summary.labels, summary.predicted, summary.radii), summary.asked
    counts = certified_counts(*outcome, at)[0]
    if summary.missing:
        low, high = (counts / images).tolist(), (summary.most(counts) / images).tolist()
    else:
        low, high = (ends.tolist() for ends in certified_accuracy_interval(*outcome, at, wrong=summary.wrong))
    row: Row = {}
    for four, count, least, most in zip(names, counts, low, high, strict=True):
        row |= dict(zip(four, (int(count), int(count) / images, least, most), strict=True))
    return row


def rows_of_images(summaries: Sequence[Summary]) -> list[Row]:
    """A row an image and run: label, answer (−1: abstention), certified radius (None: a predict run), decisions on preset radii.

    Raises InputError for an unfinished run: shares of the rows that there are mean nothing.
    """
    presets = sorted({radius for summary in summaries for radius in summary.preset})
    conditions = [condition_of(summary.record) for summary in summaries]
    rows = []
    for summary, condition in zip(summaries, conditions, strict=True):
        if summary.missing:
            raise InputError(
                f"--rows images: {summary.name} has {len(summary.images)} of {summary.asked} images, the shares of which mean "
                "nothing: finish the run with --resume first"
            )
        said = summary.decisions if summary.preset else ((),) * len(summary.images)
        columns = (summary.images, summary.labels, summary.predicted, summary.radii, summary.samples)
        for image, label, predict, radius, samples, decisions in zip(*(c.tolist() for c in columns), said, strict=True):
            row: Row = {"run": summary.name, "image": image, "label": label, "predict": predict}
            row |= {"radius": radius if summary.certified else None, "correct": predict == label, "samples": samples}
            by = dict(zip(summary.preset, decisions, strict=True))
            row |= {f"decision@{exactly(preset)}": by.get(preset) for preset in presets}
            rows.append(row | ({"condition": condition} if any(conditions) else {}))
    return rows


def table(
    summaries: Sequence[Summary], radii: Sequence[float] | None, *, kind: str, rows: str, enveloped: bool = False
) -> bytes:
    """The table as a file of `kind`, one of FORMATS; rows: "runs" or "images"."""
    if rows == "images":
        images = rows_of_images(summaries)
        return WRITERS[kind](images) if kind in WRITERS else TEXTS[kind](*_shown(images)).encode()
    if kind in WRITERS:
        return WRITERS[kind](rows_of_runs(summaries, radii, enveloped=enveloped))
    return TEXTS[kind](*_cells(sheet(summaries, radii, enveloped=enveloped))).encode()


def kind_of(path: Path | None, asked: str | None) -> str:
    """The format of a table for `path`: the one `asked` for, else that of its suffix."""
    kind = asked or SUFFIXES.get(path.suffix if path else "")
    if kind is None:
        raise InputError(
            f"--table {path} has suffix {path.suffix if path else ''!r}: use one of {', '.join(SUFFIXES)}, or pass --format"
        )
    return kind


def _csv(rows: Sequence[Row]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _json(rows: Sequence[Row]) -> bytes:
    return (json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return bytes(sink.getvalue().to_pybytes())


def _cells(grid: Sheet) -> tuple[list[str], list[list[str]]]:
    """The text table with its intervals in the cells, and the lines above it left out."""
    rows = []
    for cells, spans in grid.rows:
        both = zip(cells, spans or [""] * len(cells), strict=True)
        rows.append([f"{cell} ({span})" if column and span else cell for column, (cell, span) in enumerate(both)])
    return list(grid.head), rows


def _shown(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    def cell(name: str, value: Any) -> str:
        if value is None:
            return "–"
        return truncate(value) if name == "radius" else ("yes" if value else "no") if name == "correct" else str(value)

    return list(rows[0]), [[cell(name, value) for name, value in row.items()] for row in rows]


def _latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular for the package booktabs."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", _latex_row(head), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}"]) + "\n"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "≥": r"$\geq$"}


def _latex_row(cells: Sequence[str]) -> str:
    escaped = (re.sub(r"[\\~^–≥&%$#_{}]", lambda sign: LATEX.get(sign[0], f"\\{sign[0]}"), cell) for cell in cells)
    return " & ".join(escaped) + r" \\"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    escaped = [[re.sub(r"([|`*_<>[\]\\])", r"\\\1", cell) for cell in cells] for cells in (head, *rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (escaped[0], ruler, *escaped[1:]))


WRITERS: dict[str, Callable[[Sequence[Row]], bytes]] = {"csv": _csv, "json": _json, "parquet": _parquet}
TEXTS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], str]] = {"latex": _latex, "markdown": _markdown}
