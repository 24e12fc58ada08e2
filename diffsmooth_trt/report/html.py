"""A page of runs: one HTML file that refers to nothing outside itself, and that a browser is told to fetch nothing for.

The files of `template/` are its frame, its style and its script; the runs are JSON in it, which the script draws.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from .gallery import Seen
from .page_data import document
from .tables import Summary, text_table

SCRIPTS = ("base.js", "charts.js", "gallery.js", "page.js")  # in this order


def page(
    summaries: Sequence[Summary],
    radii: Sequence[float] | None = None,
    seen: Sequence[Seen] | None = None,
    *,
    enveloped: bool = False,
) -> str:
    """The page as text. seen: what else there is of each run; without it the page has no pictures and no votes."""
    also = [Seen()] * len(summaries) if seen is None else seen
    title = " · ".join(summary.name for summary in summaries)
    text = text_table(summaries, radii, enveloped=enveloped)
    return framed(title, text, document(summaries, radii, also, enveloped=enveloped), SCRIPTS)


def framed(title: str, text: str, data: dict[str, Any], scripts: Sequence[str]) -> str:
    """A page whose `scripts` draw `data`; where no script runs it shows `text`."""
    parts = {
        "title": html.escape(title),
        "style": _template("page.css"),
        "text": html.escape(text),
        "data": _inside_script(data),
        "script": "\n".join(map(_template, scripts)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _template("page.html"))


def _template(name: str) -> str:
    return (files(__package__ or "") / "template" / name).read_text(encoding="utf-8")


def _inside_script(value: dict[str, Any]) -> str:
    """JSON that no HTML parser takes for anything else: without <, > and &."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda sign: f"\\u{ord(sign[0]):04x}", text)
