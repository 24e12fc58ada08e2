"""A run of out-of-distribution detection as a page: scores, ROC curves, AUROC against the radius, and all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Floats64
from ..errors import InputError
from ..report.chart_page import Chart, ChartPage, Line, Points, Table, chart_page, held
from ..report.plain_words import classifier_facts, key_words
from ..runs.audit import audit_line
from ..runs.identity import rows_note
from .figures import title_of
from .metrics import curve
from .report import Version, guarantee, rounding, set_names, shown, text_report
from .sets import AVERAGE
from .store import OodStore

BINS, MOST_STEPS, LARGEST = 40, 400, 1e300


def page(store: OodStore, versions: Sequence[Version]) -> str:
    """The page of a run and its `versions_of`. Raises InputError where there are none."""
    if not versions:
        raise InputError("--html has nothing to show: every score of both sides is 0")
    title = title_of(store, versions).split("\n")
    return chart_page(
        ChartPage(
            files=[store.path.name],
            lede=_lede(store, versions),
            set="; ".join(title if store.finished() else title[1:]),
            warnings=_warnings(store),
            figures=_figures(store, versions),
            charts=_charts(store, versions),
            tables=[_table(store, versions)],
            words=_words(store),
            facts=[("What was scored with what", _facts(store))],
            rounding="Figures are in percent; those that bound are rounded against what is claimed.",
        ),
        text_report(store, versions),
    )


def _ends(store: OodStore) -> tuple[str, str]:
    """What stands before a figure that is at least, and at most, what it says."""
    return ("", "") if store.finished() else ("≥ ", "≤ ")


def _lede(store: OodStore, versions: Sequence[Version]) -> str:
    """How well the first version separates, and the first one within a radius."""
    first, (least, _) = versions[0], _ends(store)
    last = next((version for version in versions if version.radius), versions[-1])
    names = ", ".join(first.outside) + " on average" * (len(first.outside) > 1)
    said = f"Against {names}: AUROC {least}{_auroc(first)} % {_version(store, first)}"
    return f"{said}." if last is first else f"{said}, and {least}{_auroc(last)} % {_version(store, last)}."


def _auroc(version: Version) -> str:
    return shown(version.measured()[AVERAGE].auroc, upward=False)


def _version(store: OodStore, version: Version) -> str:
    norm = "ℓ2" if store.record.asked.certified else "ℓ∞"
    return f"{version.name} within {norm} radius {version.radius:g}" if version.radius else version.name


def _warnings(store: OodStore) -> list[str]:
    said = list(store.record.notes)
    if not store.finished():
        lacking = [(store.missing(number), each) for number, each in enumerate(store.record.sets)]
        parts = ", ".join(f"{missing} of {each.images} of {each.name}" for missing, each in lacking if missing)
        said.append(
            f"This run is unfinished: it has no record yet of {parts} images. The figures are the worst that the finished run "
            "may show."
        )
    return said


def _figures(store: OodStore, versions: Sequence[Version]) -> list[tuple[str, str, str]]:
    first, (least, most) = versions[0].measured()[AVERAGE], _ends(store)
    found = [
        ("AUROC", f"{least}{shown(first.auroc, False)} %", versions[0].name),
        ("AUPR", f"{least}{shown(first.aupr, False)} %", versions[0].name),
        ("FPR at 95 % TPR", f"{most}{shown(first.fpr, True)} %", versions[0].name),
    ]
    found += [(f"AUROC, radius {v.radius:g}", f"{least}{_auroc(v)} %", v.name) for v in versions[1:4]]
    counts = [(each.name, len(store.of_set(number))) for number, each in enumerate(store.record.sets)]
    return [*found, ("images", f"{sum(n for _, n in counts):,}", ", ".join(f"{name} {n}" for name, n in counts))]


def _charts(store: OodStore, versions: Sequence[Version]) -> list[Chart]:
    charts = []
    for name in set_names(versions):
        having = [version for version in versions if len(version.outside.get(name, ()))]
        if having:  # an unfinished run lacks whole sets, distro-l2 some at some radii
            charts += [_scores(having[0], name), _roc(store, having[:3], name)]
    bounded = [version for version in versions if version.name != "estimated"]
    if store.record.asked.certified and len({version.radius for version in bounded}) > 1:
        charts.append(_against_radius(bounded))
    return charts


def _scores(version: Version, name: str) -> Chart:
    """Histograms of one set and the in-distribution one, on a logarithmic axis: what all scores of one value make does not flatten
    the rest."""
    sides = {"in-distribution": version.inside, name: version.outside[name]}
    values = np.concatenate(list(sides.values()))
    finite = values[np.abs(values) < LARGEST]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    bins = min(BINS, max(10, math.isqrt(min(map(len, sides.values())))))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    least = 10.0 ** math.floor(math.log10(100 / max(map(len, sides.values()))))
    lines = [
        Line(name=side, points=_histogram(scores, edges, least), colour=number, dash=number)
        for number, (side, scores) in enumerate(sides.items())
    ]
    return Chart(
        title=f"Scores: {name}",
        said=f"The share of each set's images in each of {bins} bins ({version.name}), on a logarithmic axis.",
        x="score",
        y="% of the set's images",
        lines=lines,
        reach=(float(edges[0]), float(edges[-1])),
        height=(least, 100.0),
        logarithmic=True,
        narrow=True,
    )


def _histogram(scores: Floats64, edges: NDArray[np.float64], least: float) -> Points:
    counts, _ = np.histogram(scores[np.abs(scores) < LARGEST], edges)
    shares = np.maximum(100 * counts / max(len(scores), 1), least)
    return held(list(zip(edges[:-1].tolist(), shares.tolist(), strict=True)), float(edges[-1]))


def _roc(store: OodStore, versions: Sequence[Version], name: str) -> Chart:
    """Where there are many thresholds, some of them: a line is then below the curve between two, never above."""
    lines = []
    for number, version in enumerate(versions):
        _, reached, passed = curve(version.inside, version.outside[name])
        some = np.unique(np.linspace(0, len(passed) - 1, MOST_STEPS).astype(int))
        steps = [(0.0, 0.0), *zip((100 * passed[some]).tolist(), (100 * reached[some]).tolist(), strict=True)]
        lines.append(Line(name=_version(store, version), points=held(steps, 100.0), colour=number, dash=number))
    return Chart(
        title=f"ROC: {name}",
        said="Of each threshold, the share of images on either side that are taken for in-distribution.",
        x="out-of-distribution accepted, %",
        y="in-distribution accepted, %",
        lines=lines,
        reach=(0.0, 100.0),
        narrow=True,
    )


def _against_radius(versions: Sequence[Version]) -> Chart:
    measured = [(version.radius, version.measured()) for version in versions]
    names = set_names(versions)
    shown_ = [*names, AVERAGE] if len(names) > 1 else names  # the average of one set is that set's
    lines = []
    for number, name in enumerate(shown_):
        points = [(radius, 100 * row[name].auroc) for radius, row in measured if name in row]
        lines.append(Line(name=name, points=points, dots=points, colour=number % 3, dash=number // 3))
    return Chart(
        title="AUROC against the radius",
        said=f"{versions[0].name.capitalize()}: out-of-distribution images may be moved by as much as the radius.",
        x="ℓ2 radius",
        y="AUROC, %",
        lines=lines,
        reach=(0.0, max(radius for radius, _ in measured)),
    )


def _table(store: OodStore, versions: Sequence[Version]) -> Table:
    least, most = _ends(store)
    rows = []
    for version in versions:
        measured: Mapping[str, object] = version.measured()
        names = list(measured) if len(measured) > 2 else list(measured)[:1]
        for name in names:
            m = version.measured()[name]
            figures = f"{least}{shown(m.auroc, False)}", f"{least}{shown(m.aupr, False)}", f"{most}{shown(m.fpr, True)}"
            rows.append([version.name, f"{version.radius:g}", name, *figures])
    head = ["scores", "radius", "set", "AUROC, %", "AUPR, %", "FPR at 95 % TPR, %"]
    return Table(title="All figures", said="", head=head, rows=rows, text=(0, 2))


def _words(store: OodStore) -> list[tuple[str, str]]:
    kind, _, rest = guarantee(store).partition(": ")
    said = [
        (f"{kind[:1].upper()}{kind[1:]}", f"{rest[:1].upper()}{rest[1:]}."),
        ("The networks", f"{rows_note(store.record.rows).capitalize()}."),
    ]
    said += [("Rounding", f"{line}.") for line in rounding(store)]
    if store.record.asked.certified:
        said.append(("Audit", f"{audit_line(store.audit).removeprefix('audit: ').capitalize()}."))
    return said


def _facts(store: OodStore) -> list[tuple[str, str]]:
    run, asked = store.record, store.record.asked
    files = {name: str(path) for name, path in run.files.items() if isinstance(path, str)}
    pairs = [
        ("Kind and score", f"{asked.kind}, {asked.score}"),
        ("α", f"{asked.alpha:g}{', all bounds together' if asked.family_wise else ', each bound'}" * asked.certified),
        *classifier_facts(run.classifier, files),
        *((f"Set: {each.name}", f"{each.images} images, SHA-256 {each.data}") for each in run.sets),
        ("Key", key_words(run.key, run.key_drawn)),
        ("Versions", ", ".join(f"{name} {value}" for name, value in run.versions.items())),
    ]
    return [(name, value) for name, value in pairs if value]
