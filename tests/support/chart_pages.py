"""Reading the pages of files that are no runs: what their charts hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def embedded(page: Path) -> dict[str, Any]:
    """The values that a page draws; it fetches nothing, and says so to browsers."""
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and not re.search(r"(src|href)=.?https?:", text)
    found: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    return found


def height(points: Sequence[Sequence[float]], x: float, *, until: bool = False) -> float:
    """Where a line of steps is at `x`: on the right of a step there, or on its left with `until`."""
    before = [b for a, b in points if (a < x if until else a <= x)]
    return before[-1]
