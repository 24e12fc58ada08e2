"""A bench as text, and two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..ranges import number
from ..runs.identity import differences
from ..runs.record import naming_damage
from .result import EAGER, BenchResult, Row


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def text(result: BenchResult) -> str:
    """The table: a line a subject and batch size, then what a step's time goes into, and what to know."""
    lines = [f"{result.classifier['method']} on {result.machine['instruction_set']}, {result.machine['machine']}"]
    head = ["", "batch", "samples/s", "range", "ms/step", "p95", "MiB"]
    eager = {row.batch: row for row in result.rows if row.subject == EAGER}
    head += ["× eager"] if eager else []
    table = [head]
    for row in result.rows:
        memory = "" if row.memory_mib is None else f"{row.memory_mib:.0f}"
        cells = [row.subject, f"{row.batch}{' (auto)' if row.auto else ''}", f"{row.rate.median:.1f}"]
        cells += [
            f"{row.rate.low:.1f}–{row.rate.high:.1f}",
            f"{row.latency.median:.3g}",
            f"{row.latency_p95:.3g}",
            memory,
        ]
        if eager:
            cells.append(f"{row.rate.median / eager[row.batch].rate.median:.2f}" if row.batch in eager else "")
        table.append(cells)
    lines += ["", *_aligned(table)]
    staged = [row for row in result.rows if row.stages]
    if staged:
        lines += ["", *_aligned(_stages(staged))]
    for kind, rate in result.matmul.items():
        lines.append(f"large matrix products here in {kind}: {rate.median:.0f} GFLOP/s")
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])


def _stages(rows: Sequence[Row]) -> list[list[str]]:
    """What share of a step each stage takes, and how near its engines come to the rate of large matrix products."""
    names = list(dict.fromkeys(name for row in rows for name in row.stages))
    parts = [part for part in rows[0].engines if any(row.engines[part].share is not None for row in rows)]
    table = [["share of a step", *names, *(f"{part}/matmul" for part in parts)]]
    for row in rows:
        shares = [f"{row.stages[name]:.1%}" if name in row.stages else "" for name in names]
        rates = [row.engines[part].share for part in parts]
        table.append([f"batch {row.batch}", *shares, *("" if rate is None else f"{rate:.0%}" for rate in rates)])
    return table


@dataclass(frozen=True)
class Comparison:
    """Two benches: lines to print, and the names of what is slower by more than the margin."""

    lines: Sequence[str]
    slower: Sequence[str]


def check_margin(margin: float) -> None:
    """InputError unless a margin is a share between 0 and 1."""
    number("margin", margin, 0, 1, "the share by which a rate may be lower, like 0.1")


def compare(old: BenchResult, new: BenchResult, margin: float, name: str) -> Comparison:
    """Rates of `new` against those of `old`, which `name` names: slower where the new median is below 1 − `margin` of the old.

    Raises InputError where the two have no subject and batch size in common, and for values that are no measurements. Rows of eager
    PyTorch are shown and never judged.
    """
    with naming_damage(f"--compare {name} holds values"):
        return _compared(old, new, margin, name)


def _compared(old: BenchResult, new: BenchResult, margin: float, name: str) -> Comparison:
    before = {(row.subject, row.batch): row for row in old.rows}
    both = [(before[key], row) for row in new.rows if (key := (row.subject, row.batch)) in before]
    if not both:
        has = ", ".join(row.name for row in old.rows)
        raise InputError(f"--compare {name} has {has}, none of which was timed here: choose the same --batches")
    table, slower = [[f"against {name}", "batch", "samples/s", "before", "ratio"]], []
    for was, row in both:
        ratio = row.rate.median / was.rate.median
        worse = ratio < 1 - margin and row.subject != EAGER
        slower += [row.name] if worse else []
        cells = [row.subject, str(row.batch), f"{row.rate.median:.1f}", f"{was.rate.median:.1f}"]
        table.append([*cells, f"{ratio:.3f}{' slower' if worse else ''}"])
    products = [
        f"large matrix products in {kind}: {rate.median / old.matmul[kind].median:.3f} of what they were"
        for kind, rate in new.matmul.items()
        if kind in old.matmul
    ]
    apart = [*_differences(old.machine, new.machine), *_differences(old.classifier, new.classifier)]
    lines = ["", *_aligned(table), *products, *(f"note: another {each}" for each in apart)]
    if slower:
        lines.append(f"slower by more than {margin:.0%}: {'; '.join(slower)}")
    return Comparison(lines, slower)


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return differences(old, new, words=("before", "now"))
