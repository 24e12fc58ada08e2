"""What an export reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.facts import EngineFacts


@dataclass(frozen=True)
class ExportReport:
    """A finished export: the file, its facts, and how far its outputs were from the source network's."""

    path: Path
    facts: EngineFacts
    max_difference: float
    tolerance: float
    seconds: float
    bytes: int

    @property
    def verification(self) -> dict[str, Any]:
        """How the file compares with the torch source on noised images; see `exporting.verification`."""
        found: dict[str, Any] = self.facts.details["verification"]
        return found
