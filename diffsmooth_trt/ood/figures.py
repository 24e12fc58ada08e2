"""The figure of a run: histograms of scores, ROC curves, and for certified runs AUROC against the radius."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically
from .metrics import curve
from .report import Version
from .store import OodStore


def _histograms(axes: Any, version: Version) -> None:
    values = np.concatenate([version.inside, *version.outside.values()])
    finite = values[np.abs(values) < 1e300]  # histograms of larger ones overflow
    bins = np.linspace(finite.min(), finite.max() + 1e-9, 41) if finite.size else np.linspace(0, 1, 41)
    axes.hist(version.inside, bins, density=True, histtype="stepfilled", alpha=0.35, label="in-distribution")
    for name, scores in version.outside.items():
        axes.hist(scores[np.isfinite(scores)], bins, density=True, histtype="step", label=name.lstrip("_"))
    axes.set(xlabel=f"score ({version.name})", ylabel="density")
    axes.legend(fontsize=7)


def _roc(axes: Any, versions: Sequence[Version]) -> None:
    styles = ("-", "--", ":", "-.")
    colours = {name: f"C{number + 1}" for number, name in enumerate(versions[0].outside)}
    for version, style in zip(versions, styles, strict=False):
        for name, scores in version.outside.items():
            _, tpr, fpr = curve(version.inside, scores)
            axes.plot(np.r_[0, fpr], np.r_[0, tpr], style, color=colours[name], lw=1, drawstyle="steps-post")
        axes.plot([], [], style, color="k", lw=1, label=f"{version.name}, radius {version.radius:g}")
    axes.set(
        xlabel="out-of-distribution accepted", ylabel="in-distribution accepted", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    axes.legend(fontsize=7, loc="lower right")


def _against_radius(axes: Any, versions: Sequence[Version]) -> None:
    radii = [version.radius for version in versions]
    measured = [version.measured() for version in versions]
    for name in measured[0]:
        axes.plot(radii, [100 * row[name].auroc for row in measured], marker=".", label=name.lstrip("_"))
    axes.set(xlabel="ℓ2 radius", ylabel=f"AUROC, % ({versions[0].name})", ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def draw(store: OodStore, found: Sequence[Version], kind: str) -> bytes:
    """The figure of a run and its `versions_of` as a picture file of `kind` ("png", "svg", "pdf")."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    smoothed = store.record.asked.certified
    figure = Figure(figsize=(4.6 * (3 if smoothed else 2), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3 if smoothed else 2)
    _histograms(panels[0], found[0])
    _roc(panels[1], found[:4])
    if smoothed:
        _against_radius(panels[2], [version for version in found if version.name != "estimated"])
    if not store.finished():
        figure.suptitle("UNFINISHED: histograms and ROC curves are of the images scored so far", fontsize=8)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a sign that the font lacks is drawn as a box
        figure.savefig(picture, format=kind, dpi=150)
    return picture.getvalue()


def write_figure(path: Path, store: OodStore, found: Sequence[Version]) -> None:
    """Write the figure to `path`, whose suffix chooses the format: .png, .svg or .pdf."""
    write_atomically(path, draw(store, found, path.suffix[1:]))
