"""The page of a file that is no run, of `attack`, `transfer` or `ood`: a sentence, numbers, charts of lines, tables, and words.

It has the frame, the style and the rules of the page of runs (html.py): one file, for which a browser fetches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

from .html import framed

SCRIPTS = ("base.js", "charts.js", "chart_page.js")  # in this order
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through `points` (x, y), drawn as they are, marked at `dots`; `colour` and `dash` are looks, three of each."""

    name: str
    points: Points
    dots: Points = ()
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over one axis from `reach[0]` to `reach[1]`, called `x`; `height` are the ends of the other one, called `y`.

    Of a `logarithmic` one these are powers of ten. `between` are two lines that have a shade between them. `narrow` charts stand
    side by side where there is room.
    """

    title: str
    said: str
    x: str
    y: str
    lines: Sequence[Line]
    reach: tuple[float, float]
    height: tuple[float, float] = (0.0, 100.0)
    logarithmic: bool = False
    between: tuple[int, int] | None = None
    narrow: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as text; `text` are the columns that are words."""

    title: str
    said: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = (0,)


@dataclass(frozen=True, kw_only=True)
class ChartPage:
    """What it shows. `lede`: the result in a sentence; `set`: what it is of; `figures`: name, value and what else there is to
    say; `words`: what it rests on; `facts`: names and values, by file. `rounding` says how numbers are rounded."""

    files: Sequence[str]
    lede: str
    set: str
    figures: Sequence[tuple[str, str, str]]
    charts: Sequence[Chart]
    tables: Sequence[Table]
    words: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    warnings: Sequence[str] = field(default=())
    rounding: str = "Percentages and radii are rounded against what is claimed."


def chart_page(page: ChartPage, text: str) -> str:
    """The page as text. text: the report that is shown where no script runs."""
    data = {"version": version("diffsmooth-trt"), "runs": [], **asdict(page)}
    return framed(" · ".join(page.files), text, data, SCRIPTS)


def falling(ends: Sequence[float], whole: int, reach: float) -> list[tuple[float, float]]:
    """The corners of the share of `whole`, in percent, whose `ends` lie at x or beyond, from 0 to `reach`."""
    points, left = [], len(ends)
    for end in sorted(ends):
        points.append((min(end, reach), 100 * left / whole))
        left -= 1
        points.append((min(end, reach), 100 * left / whole))
    height = 100 * sum(end >= reach for end in ends) / whole
    return [(0.0, 100 * len(ends) / whole), *(point for point in points if point[0] < reach), (reach, height)]


def held(steps: Points, reach: float) -> list[tuple[float, float]]:
    """The corners of a line that keeps each value of `steps` (x ascending, y) until the next one, and the last until `reach`."""
    points: list[tuple[float, float]] = []
    for x, y in steps:
        points += [(x, points[-1][1]), (x, y)] if points else [(x, y)]
    return [*points, (reach, points[-1][1])]
