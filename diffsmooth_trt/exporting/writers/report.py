"""What an export reports."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.facts import EngineFacts

LEAST_AGREEMENT = 0.995  # of labels with the source's


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
        """How the file compares with the torch source on noised images; see exporting/checks/verification.py."""
        found: dict[str, Any] = self.facts.details["verification"]
        return found

    def show(self) -> None:
        """Print what was written and how it compares with its source; warnings go to standard error."""
        fp32 = "" if self.facts.precision == "fp32" else " (before conversion)"
        print(f"wrote {self.path}: maximum difference from its source {self.max_difference:.2g}{fp32}")
        verification = self.facts.details.get("verification", {"backends": ()})
        for found in verification["backends"]:
            seen = f"{found['backend']}, {found['precision']}: maximum difference {found['max_difference']:.2g}"
            if "mean_difference" in found:
                seen += f", mean {found['mean_difference']:.2g}"
            if "same_labels" in found:
                seen += f", {100 * found['same_labels']:.2f} % identical labels"
            print(f"  {seen} ({verification['images']} noisy images, {verification['data']})")
        for backend, reason in verification.get("not_run", {}).items():
            print(f"  {backend}: not run ({reason})")
        for warning in warnings_of(verification, self.facts.precision):
            print(f"diffsmooth-trt: warning: {warning}", file=sys.stderr)


def warnings_of(verification: dict[str, Any], precision: str) -> list[str]:
    """One line for each backend in which fewer labels than `LEAST_AGREEMENT` are the source's, for a file of `precision`."""
    own = "certify with --precision fp32" if precision == "fp32" else "use a wider --precision"
    return [
        f"only {100 * found['same_labels']:.2f} % of {verification['images']} labels are those of the torch source in "
        f"{found['backend']} ({found['precision']}): expected {100 * LEAST_AGREEMENT} %; {own}"
        for found in verification.get("backends", ())
        if found.get("same_labels", 1.0) < LEAST_AGREEMENT
    ]
