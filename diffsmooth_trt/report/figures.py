"""The certified-accuracy curve."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import write_atomically
from .curves import certified_counts
from .tables import Summary

FORMATS = (".png", ".svg", ".pdf")


def blank(width: float, height: float) -> Any:
    """A matplotlib figure of a size in inches, for `picture`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Any, kind: str) -> bytes:
    """The figure as a picture file of `kind` ("png", "svg", "pdf")."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a sign that the font lacks is drawn as a box
        figure.savefig(file, format=kind, dpi=150)
    return file.getvalue()


def check_suffix(path: Path) -> None:
    """InputError unless --figure has a suffix of a format."""
    if path.suffix not in FORMATS:
        raise InputError(f"--figure {path} has suffix {path.suffix!r}: use one of {', '.join(FORMATS)}")


def draw(summaries: Sequence[Summary], kind: str) -> bytes:
    """Certified accuracy against the ℓ2 radius, one curve a run, as a picture file of `kind` ("png", "svg", "pdf").

    Shares are of the images asked for; of an unfinished run the area up to what the missing ones may add is shaded.
    """
    figure = blank(6.4, 4.0)
    axes = figure.add_subplot()
    certified = [summary for summary in summaries if summary.certified and summary.labelled]
    if not any(summary.certified for summary in summaries):
        raise InputError("--figure needs a certify run: predict runs have no radii")
    if not certified:
        raise InputError("--figure shows certified accuracy, for which images need labels: these have none")
    reach = max(float(summary.radii.max()) for summary in certified)
    grid = np.linspace(0.0, max(reach, 0.1) * 1.05, 500)
    curves = []
    for summary in certified:
        outcome = summary.labels, summary.predicted, summary.radii
        counts, images = certified_counts(*outcome, grid, summary.missing)
        accuracy = 100 * counts / images
        curves += axes.step(grid, accuracy, where="pre")
        if summary.missing:
            most = 100 * summary.most(counts) / images
            axes.fill_between(grid, accuracy, most, step="pre", color=curves[-1].get_color(), alpha=0.2, lw=0)
    spaces = {summary.space for summary in certified}
    where = f"ℓ2 radius in {spaces.pop()}" if len(spaces) == 1 else "ℓ2 radius, each run's in its own space"
    axes.set(xlabel=where, ylabel="certified accuracy, %", xlim=(0, grid[-1]), ylim=(0, 100))
    axes.grid(alpha=0.3)
    legend = axes.legend(curves, [str(number) for number in range(len(curves))], fontsize=7)
    for text, summary in zip(legend.get_texts(), certified, strict=True):
        text.set_parse_math(False)  # names come last: as labels, matplotlib drops those with an underscore in front
        text.set_text(f"{summary.name} ({summary.title})")
    return picture(figure, kind)


def write_figure(path: Path, summaries: Sequence[Summary]) -> None:
    """Write the curve to `path`, whose suffix chooses the format."""
    check_suffix(path)
    write_atomically(path, draw(summaries, path.suffix[1:]))
