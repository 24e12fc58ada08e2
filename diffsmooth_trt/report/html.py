"""A single-file HTML page of runs: table, curve, and every image's outcome."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..certify.bounds import truncate
from .figures import draw
from .tables import DEFAULT_RADII, Summary, text_table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { background: #f4f4f4; padding: 1rem; overflow-x: auto } svg { max-width: 100%; height: auto }
table { border-collapse: collapse } td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
.wrong { color: #b00 } .abstain { color: #888 }
"""


def _images(summary: Summary) -> str:
    rows = []
    outcomes = zip(summary.images, summary.labels, summary.predicted, summary.radii, strict=True)
    for image, label, predicted, radius in outcomes:
        kind = "abstain" if predicted < 0 else "" if predicted == label else "wrong"
        answer = "abstains" if predicted < 0 else str(predicted)
        shown = truncate(float(radius)) if summary.certified else "–"
        rows.append(f'<tr class="{kind}"><td>{image}</td><td>{label}</td><td>{answer}</td><td>{shown}</td></tr>')
    head = "<tr><th>image</th><th>label</th><th>answer</th><th>radius</th></tr>"
    return f"<h2>{html.escape(summary.name)}</h2><table>{head}{''.join(rows)}</table>"


def page(summaries: Sequence[Summary], radii: Sequence[float] = DEFAULT_RADII) -> str:
    """The page as text; it refers to nothing outside itself."""
    figure = ""
    if any(summary.certified for summary in summaries):
        svg = draw(summaries, "svg").decode()
        figure = svg[svg.index("<svg") :]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>diffsmooth-trt report</title><style>{STYLE}</style>'
        f"<h1>diffsmooth-trt</h1><pre>{html.escape(text_table(summaries, radii))}</pre>{figure}"
        f"{''.join(_images(summary) for summary in summaries)}</html>\n"
    )
