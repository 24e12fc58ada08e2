"""Running a published table: engines, a run store a row, and ours beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import zoo
from ..api import run as run_config
from ..certify.progress import Progress
from ..errors import InputError
from ..files import content_sha256
from ..images import ImageChoice, Images
from ..ood.config import OodConfig
from ..ood.generated import PREFIX
from ..ood.metrics import fpr_nearest
from ..ood.report import versions_of
from ..ood.run import run as run_ood
from ..ood.sets import AVERAGE
from ..runs.config import RunConfig
from .engines import check_hashes, engines_of, files_of, keep_hashes, random_files, zoo_engines
from .estimate import of_ood, of_run, sentence
from .tables import Row, Table, table

NETWORKS = ("published", "random", "zoo")
ZOO_SIGMA = 0.25
SMOOTHED = ("n0", "n", "alpha")  # options of the kind "certified" alone
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One number, in percent: the `paper`'s (None: not at hand), `ours`, and the standard error of their difference.

    The error is that of two samples of images; where both are the same images it is too large. `least`: the paper says "more than".
    """

    what: str
    paper: float | None
    ours: float
    error: float | None = None
    least: bool = False

    def line(self) -> tuple[str, str, str, str]:
        """What, paper, ours, difference against its error."""
        ours = f"{self.ours:.1f}"
        if self.paper is None:
            return self.what, "—", ours, ""
        said = f"{self.ours - self.paper:+.1f}"
        if self.error:
            said += f" ± {self.error:.1f}"
        return self.what, f"{'> ' if self.least else ''}{self.paper:.1f}", ours, said


@dataclass(frozen=True)
class Reproduction:
    """What a table gave: cells by row, how many images each row has, and what has to be known."""

    table: Table
    cells: Mapping[str, Sequence[Cell]]
    images: Mapping[str, int]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The table: row, what, paper, ours, difference ± its standard error."""
        lines = [("row", "at", "paper", "ours", "difference")]
        lines += [(name, *cell.line()) for name, cells in self.cells.items() for cell in cells]
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        shown = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        head = f"{self.table.name}: {self.table.paper}; {self.table.data}; numbers: {self.table.source}"
        counts = ", ".join(f"{name}: {count}" for name, count in self.images.items())
        asked = f"images ({self.table.images} in the paper): {counts}"
        return "\n".join([head, *shown, asked, *(f"note: {note}" for note in self.notes)])


def reproduce(
    name: str,
    *,
    out: str | Path,
    models: str | Path | None = None,
    data: str | Path | None = None,
    out_data: Sequence[str] = (),
    networks: str = "published",
    sigma: Sequence[float] = (),
    estimate: bool = False,
    say: Say = print,
    progress: Progress | None = None,
    **changed: Any,
) -> Reproduction | None:
    """Make the published table `name` again in the folder `out`, or go on where an earlier call was cut off.

    models: the folder of checkpoints. data: the paper's data set, with out_data those out of distribution (DISTRO). networks:
    "published" needs models; "random" and "zoo" run the same way without them, where no number means anything. sigma: only these
    rows. estimate: say how long it takes, and stop (returns None). changed: options of the command other than the paper's, like
    max, n, batch, device; they are noted. Raises InputError for an unknown table, missing files (all are named), and checkpoints
    that are others.
    """
    chosen, folder = table(name), Path(out)
    rows = _rows(chosen, sigma, networks)
    if networks not in NETWORKS:
        raise InputError(f"networks is {networks!r}: use one of {', '.join(NETWORKS)}")
    if networks == "published" and models is None:
        raise InputError("--models is missing: the folder of the checkpoints, or give --random-weights or --zoo")
    if data is None and networks != "zoo":
        raise InputError(f"--data is missing: {chosen.data}")
    source = zoo.IMAGES if data is None else Path(data)
    given = {"data": source, "out_data": tuple(out_data)}
    if chosen.command == "ood" and not out_data:
        raise InputError(
            "--out-data is missing: the paper's out-of-distribution sets, or generated:uniform generated:smooth"
        )
    if folder.is_file():
        raise InputError(f"--out {folder} is a file: give a folder, for engines and runs")
    files = files_of(chosen, rows, Path(models)) if networks == "published" and models is not None else {}
    for path in (str(source), *(name for name in out_data if not name.startswith(PREFIX))):
        Images.chosen(path, ImageChoice(max=1))  # refused before anything is exported
    folder.mkdir(parents=True, exist_ok=True)
    if networks == "random":
        files = random_files(chosen, rows, folder / "random")
        hashes = {file: content_sha256(path) for file, path in files.items()}
    else:
        hashes = check_hashes(chosen, rows, files, folder) if networks == "published" else {}

    def engines_for(row: Row) -> dict[str, Path]:
        if networks == "zoo":
            return zoo_engines(chosen, row)
        engines = engines_of(chosen, row, files, hashes, folder / "engines")
        if networks == "published":
            keep_hashes(chosen, row, hashes, folder)
        return engines

    made = _Runner(chosen, rows, folder, engines_for, {**given, **changed}, progress)
    say(made.estimate())
    if estimate:
        return None
    notes = list(chosen.notes)
    if networks != "published":
        notes.append(f"{networks} networks, not the paper's: only the way is the same")
    notes += [
        f"{option} is {value}, not the paper's"
        for option, value in changed.items()
        if option in ("n", "n0", "max", "alpha", "steps")
    ]
    cells, images = made.run()
    return Reproduction(chosen, cells, images, tuple(notes))


def _rows(chosen: Table, sigma: Sequence[float], networks: str) -> tuple[Row, ...]:
    """The rows asked for; of the zoo those of its noise level, and of `ood` all."""
    wanted = tuple(sigma) or ((ZOO_SIGMA,) if networks == "zoo" and chosen.command == "certify" else ())
    rows = tuple(row for row in chosen.rows if not wanted or row.sigma in wanted)
    if not rows:
        levels = sorted({row.sigma for row in chosen.rows})
        raise InputError(
            f"--sigma {' '.join(map(str, wanted))}: {chosen.name} has rows for {', '.join(map(str, levels))}"
        )
    return (
        rows
        if networks != "zoo" or chosen.command == "certify"
        else tuple(replace(row, sigma=ZOO_SIGMA) for row in rows)
    )


class _Runner:
    def __init__(
        self,
        chosen: Table,
        rows: Sequence[Row],
        folder: Path,
        engines: Callable[[Row], dict[str, Path]],
        given: Mapping[str, Any],
        progress: Progress | None,
    ) -> None:
        self.table, self.rows, self.folder, self.engines = chosen, rows, folder, engines
        self.given, self.progress = given, progress

    def _options(self, row: Row) -> dict[str, Any]:
        given = {name: value for name, value in self.given.items() if value is not None and name != "out_data"}
        options = {**self.table.settings, **row.options, **given, **self.engines(row), "sigma": row.sigma}
        return {**options, "out": self.folder / f"{self.table.name}-{row.name}.sqlite", "resume": True}

    def estimate(self) -> str:
        """How long the rows take here."""
        if self.table.command == "ood":
            return sentence(self.table.name, [of_ood(self._ood_config(row)) for row in self.rows], "evaluations")
        runs = [of_run(RunConfig("certify", **self._options(row))) for row in self.rows]
        return sentence(self.table.name, runs, "votes")

    def run(self) -> tuple[dict[str, list[Cell]], dict[str, int]]:
        """Every row's cells and number of images."""
        cells: dict[str, list[Cell]] = {}
        images: dict[str, int] = {}
        for row in self.rows:
            one = self._certified if self.table.command == "certify" else self._ood
            cells[row.name], images[row.name] = one(row)
        return cells, images

    def _certified(self, row: Row) -> tuple[list[Cell], int]:
        with run_config(RunConfig("certify", **self._options(row)), self.progress) as store:
            results = list(store.results())
        count = len(results)
        radii = sorted({0.0, *row.paper} if row.paper else {0.0, 0.25, 0.5, 0.75, 1.0, 1.5})
        cells = []
        for radius in radii:
            share = sum(result.correct and (result.radius or 0.0) >= radius for result in results) / count
            paper = row.paper.get(radius)
            error = None if paper is None else 100 * _error(share, paper / 100, count, self.table.images)
            cells.append(Cell(f"ε = {radius:g}", paper, 100 * share, error, radius in row.least))
        return cells, count

    def _ood_config(self, row: Row) -> OodConfig:
        taken = {name: value for name, value in self._options(row).items() if name not in ("data", "sigma")}
        taken["out"] = taken["out"].with_suffix(".jsonl")
        if _kind(row) != "certified":
            taken = {name: value for name, value in taken.items() if name not in SMOOTHED}
        return OodConfig(in_data=self.given["data"], out_data=self.given["out_data"], **taken)

    def _ood(self, row: Row) -> tuple[list[Cell], int]:
        config, cells = self._ood_config(row), []
        with run_ood(config, self.progress) as store:
            for version in versions_of(store, config.radii):
                measured = version.measured()[AVERAGE]
                nearest = [fpr_nearest(version.inside, scores) for scores in version.outside.values()]
                fpr = measured.fpr if version.bounds else sum(nearest) / len(nearest)  # DISTRO's, where there is such
                for metric, value in (("AUROC", measured.auroc), ("AUPR", measured.aupr), ("FPR", fpr)):
                    what = f"{version.name} {version.radius:g} {metric}"
                    cells.append(Cell(what, row.paper.get(what), 100 * value))
            return cells, len(store.of_set(0))


def _kind(row: Row) -> str:
    """The kind of an `ood` row."""
    return str(row.options.get("kind", ""))


def _error(ours: float, paper: float, count: int, theirs: int) -> float:
    """The standard error of the difference of two shares, of `count` and `theirs` images, were they samples of one."""
    share = (ours * count + paper * theirs) / (count + theirs)
    return math.sqrt(share * (1 - share) * (1 / count + 1 / theirs))
