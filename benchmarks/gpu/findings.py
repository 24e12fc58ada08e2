"""What a stage finds, written down at once, and why one ends early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Skipped(Exception):
    """What a stage lacks here; it is no failure."""


def one_line(error: BaseException | str) -> str:
    """An error in one line of at most 400 characters: the first that says something, with the type in front."""
    text = str(error)
    said = next((line.strip() for line in text.splitlines() if line.strip()), "")
    name = "" if isinstance(error, str) else f"{type(error).__name__}: "
    return f"{name}{said}"[:400]


class Findings:
    """A file of JSON lines; `status` is what the stage ends with where it raises nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self.status = path, "done"

    def put(self, **found: Any) -> None:
        """Add findings, by name."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found, default=str) + "\n")
        print(json.dumps(found, default=str)[:2000], flush=True)
