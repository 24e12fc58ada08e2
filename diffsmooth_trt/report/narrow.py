"""The text of a report on a narrow terminal: a run below another, a value a line."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from .tables import Sheet, Summary, sheet

LEAST = 24  # columns, whatever the terminal has


def fitted_table(
    summaries: Sequence[Summary], radii: Sequence[float] | None = None, *, width: int | None, enveloped: bool = False
) -> str:
    """`text_table` where its table fits into `width` columns, or None is given; else no line is longer than that."""
    grid = sheet(summaries, radii, enveloped=enveloped)
    if width is None or max(map(len, grid.table)) <= width:
        return "\n".join([*grid.lines, *grid.table])
    return "\n".join(_upright(grid, max(width, LEAST)))


def _upright(grid: Sheet, width: int) -> list[str]:
    lines: list[str] = []
    for line in grid.lines:
        indent = "  " if line.startswith(" ") else ""
        lines += textwrap.wrap(line.strip(), width, initial_indent=indent, subsequent_indent=f"{indent}  ")
    names = grid.head[1:]
    longest = max(map(len, names))
    for cells, spans in grid.rows:
        lines += ["", *textwrap.wrap(cells[0], width)]
        values = max(map(len, cells[1:]))
        for column, (name, cell) in enumerate(zip(names, cells[1:], strict=True), 1):
            span = f"  {spans[column]}" if spans and spans[column] else ""
            line = f"{name.ljust(longest)}  {cell.rjust(values)}"
            lines += [line + span] if len(line + span) <= width else [*textwrap.wrap(line, width), f" {span}".rstrip()]
        lines += ["beside acc: the 95% interval"] if spans else []
    return [line for line in lines if line or lines]
