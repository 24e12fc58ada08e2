"""A single-file HTML page of runs: table, curve, and every image's outcome."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..statistics.bounds import truncate
from .figures import draw
from .tables import Summary, text_table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { background: #f4f4f4; padding: 1rem; overflow-x: auto } svg { max-width: 100%; height: auto }
table { border-collapse: collapse } td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
.wrong { color: #b00 } .abstain { color: #888 }
"""


def _images(summary: Summary) -> str:
    rows, matching = [], summary.record.matching
    names = {} if matching is None else {number: name for name, number in matching.classes.items()}

    def named(label: int) -> str:
        return f"{label} {html.escape(names[label])}" if label in names else str(label)

    said = summary.decisions or ((),) * len(summary.images)
    outcomes = zip(summary.images, summary.labels, summary.predicted, summary.radii, summary.samples, said, strict=True)
    for image, label, predicted, radius, samples, decisions in outcomes:
        kind = "abstain" if predicted < 0 else "" if predicted == label else "wrong"
        answer = "abstains" if predicted < 0 else named(int(predicted))
        shown = truncate(float(radius)) if summary.certified else "–"
        cells = (image, named(int(label)), answer, shown, samples, *decisions)
        rows.append(f'<tr class="{kind}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    titles = ("image", "label", "answer", "radius", "samples", *(f"≥ {radius}" for radius in summary.preset))
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in titles)}</tr>"
    lacking = f"<p>{summary.missing} of {summary.asked} images have no result yet.</p>" if summary.missing else ""
    return f"<h2>{html.escape(summary.name)}</h2>{lacking}<table>{head}{''.join(rows)}</table>"


def page(summaries: Sequence[Summary], radii: Sequence[float] | None = None, *, enveloped: bool = False) -> str:
    """The page as text; it refers to nothing outside itself."""
    figure = ""
    if any(summary.certified and summary.labelled for summary in summaries):
        svg = draw(summaries, "svg").decode()
        figure = svg[svg.index("<svg") :]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>diffsmooth-trt report</title><style>{STYLE}</style>'
        f"<h1>diffsmooth-trt</h1><pre>{html.escape(text_table(summaries, radii, enveloped=enveloped))}</pre>{figure}"
        f"{''.join(_images(summary) for summary in summaries)}</html>\n"
    )
