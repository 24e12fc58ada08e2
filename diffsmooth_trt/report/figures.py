"""The certified-accuracy curve."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, StoreError
from .curves import certified_accuracy
from .tables import Summary

FORMATS = (".png", ".svg", ".pdf")


def draw(summaries: Sequence[Summary], kind: str) -> bytes:
    """Certified accuracy against the ℓ2 radius, one curve a run, as a picture file of `kind` ("png", "svg", "pdf")."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    certified = [summary for summary in summaries if summary.certified]
    if not certified:
        raise InputError("--figure needs a certify run: predict runs have no radii")
    reach = max(float(summary.radii.max()) for summary in certified)
    grid = np.linspace(0.0, max(reach, 0.1) * 1.05, 500)
    for summary in certified:
        accuracy = certified_accuracy(summary.labels, summary.predicted, summary.radii, grid)
        axes.step(grid, 100 * np.asarray(accuracy), where="pre", label=f"{summary.name} ({summary.title})")
    axes.set(xlabel="ℓ2 radius", ylabel="certified accuracy, %", xlim=(0, grid[-1]), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150)
    return picture.getvalue()


def write_figure(path: Path, summaries: Sequence[Summary]) -> None:
    """Write the curve to `path`, whose suffix chooses the format."""
    if path.suffix not in FORMATS:
        raise InputError(f"--figure {path} has suffix {path.suffix!r}: use one of {', '.join(FORMATS)}")
    picture = draw(summaries, path.suffix[1:])
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(picture)
        os.replace(draft, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): choose another place or free space") from None
    finally:
        draft.unlink(missing_ok=True)
