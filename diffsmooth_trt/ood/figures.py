"""The figure of a run: histograms of scores, ROC curves, and for certified runs AUROC against the radius."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import write_atomically
from ..report.figures import blank, picture
from .metrics import curve
from .report import Version, set_names
from .sets import AVERAGE
from .store import OodStore


def colours_of(versions: Sequence[Version]) -> dict[str, str]:
    """One colour a set through all panels; the in-distribution set, under "", has the first."""
    return {name: f"C{number}" for number, name in enumerate(["", *set_names(versions)])}


def _widths(names: Iterable[str]) -> dict[str, float]:
    """Widths of the sets' lines in points: a later one, drawn over an earlier one that it equals, leaves that one's edges."""
    given = list(names)
    return {name: 1 + 0.9 * (len(given) - 1 - number) for number, name in enumerate(given)}


def title_of(store: OodStore, versions: Sequence[Version]) -> str:
    """Kind, score, norm, ε or σ, and how many images of each set there are."""
    run = store.record
    asked, sigma = run.asked, run.classifier.parts.get("sigma")
    said = {"clean": "images as they are", "certified": f"ℓ2, σ = {sigma:g}, α = {asked.alpha:g}" if sigma else "ℓ2"}
    ball = said.get(asked.kind, f"ℓ∞, ε = {asked.epsilon:g}")
    name = versions[-1].name if asked.certified else asked.kind
    counts = ", ".join(
        f"{each.name.lstrip('_')} {len(store.of_set(number))}"
        + ("" if not store.missing(number) else f" of {each.images}")
        for number, each in enumerate(run.sets)
    )
    unfinished = "" if store.finished() else "UNFINISHED: of the images scored so far\n"
    return f"{unfinished}{name}, score {asked.score}; {ball}\nimages: {counts}"


def _histograms(axes: Any, version: Version, colours: Mapping[str, str]) -> None:
    """The share of each set's images a bin, on a logarithmic axis: what all scores of one value make does not flatten the rest."""
    values = np.concatenate([version.inside, *version.outside.values()])
    finite = values[np.abs(values) < 1e300]  # histograms of larger ones overflow
    bins = np.linspace(finite.min(), finite.max() + 1e-9, 41) if finite.size else np.linspace(0, 1, 41)
    widths = _widths(version.outside)
    for name, scores in {"": version.inside, **version.outside}.items():
        kept = scores[np.isfinite(scores)]
        shares = np.full(len(kept), 1 / max(len(scores), 1))
        style: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.35}
        if name:
            style = {"histtype": "step", "linewidth": widths[name]}
        label = name.lstrip("_") or "in-distribution"
        axes.hist(kept, bins, weights=shares, color=colours[name], label=label, **style)
    axes.set(xlabel=f"score ({version.name})", ylabel="share of the set's images, a bin", yscale="log")
    axes.set_ylim(top=9.9)  # room for the legend above all shares
    axes.legend(fontsize=7, loc="upper center", ncols=2)


def _roc(axes: Any, versions: Sequence[Version], colours: Mapping[str, str]) -> None:
    styles, widths = ("-", "--", ":", "-."), _widths(set_names(versions))
    for version, style in zip(versions, styles, strict=False):
        for name, scores in version.outside.items():
            if not len(scores):  # of an unfinished run
                continue
            _, tpr, fpr = curve(version.inside, scores)
            drawn = {"color": colours[name], "lw": widths[name], "drawstyle": "steps-post"}
            axes.plot(np.r_[0, fpr], np.r_[0, tpr], style, **drawn)
        axes.plot([], [], style, color="k", lw=1, label=f"{version.name}, radius {version.radius:g}")
    axes.set(
        xlabel="out-of-distribution accepted", ylabel="in-distribution accepted", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    axes.legend(fontsize=7, loc="lower right")


def _against_radius(axes: Any, versions: Sequence[Version], colours: Mapping[str, str]) -> None:
    measured = [(version.radius, version.measured()) for version in versions]
    for name in [*set_names(versions), AVERAGE]:
        points = [(radius, 100 * row[name].auroc) for radius, row in measured if name in row]
        axes.plot(*zip(*points, strict=True), marker=".", color=colours.get(name, "k"), label=name.lstrip("_"))
    axes.set(xlabel="ℓ2 radius", ylabel=f"AUROC, % ({versions[0].name})", ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def figure_of(store: OodStore, versions: Sequence[Version]) -> Any:
    """The matplotlib figure of a run and its `versions_of`. Raises InputError where there are none."""
    if not versions:
        raise InputError("--figure has nothing to show: every score of both sides is 0")
    smoothed = store.record.asked.certified
    figure = blank(4.6 * (3 if smoothed else 2), 4.2)
    panels = figure.subplots(1, 3 if smoothed else 2)
    colours = colours_of(versions)
    _histograms(panels[0], versions[0], colours)
    _roc(panels[1], versions[:4], colours)
    if smoothed:
        _against_radius(panels[2], [version for version in versions if version.name != "estimated"], colours)
    figure.suptitle(title_of(store, versions), fontsize=8)
    return figure


def draw(store: OodStore, versions: Sequence[Version], kind: str) -> bytes:
    """The figure of a run and its `versions_of` as a picture file of `kind` ("png", "svg", "pdf")."""
    return picture(figure_of(store, versions), kind)


def write_figure(path: Path, store: OodStore, versions: Sequence[Version]) -> None:
    """Write the figure to `path`, whose suffix chooses the format: .png, .svg or .pdf."""
    write_atomically(path, draw(store, versions, path.suffix[1:]))
