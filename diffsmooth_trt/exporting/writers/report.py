"""What an export reports."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.backends.tensorrt_check import LEAST_AGREEMENT
from ...engine.facts import EngineFacts
from ...engine.record import Record
from ...errors import InputError
from ..checks.compare import Comparison
from ..checks.denoising import denoising_warnings


@dataclass(frozen=True)
class ExportReport:
    """A finished export: the file, its facts, how its outputs compare with its source's, and what that took.

    `tolerance` is the largest difference that would have passed, None where none was too large; `record` is that of a compiled
    engine. `comparison` is made on a few random images before any conversion, and for a plan on the images it is verified on;
    it is None for a plan that no GPU here runs.
    """

    path: Path
    facts: EngineFacts
    comparison: Comparison | None
    tolerance: float | None
    seconds: float
    bytes: int
    record: Record | None = None

    @property
    def max_difference(self) -> float:
        """The largest difference from the source; NaN where there was no comparison."""
        return float("nan") if self.comparison is None else self.comparison.maximum

    @property
    def verification(self) -> dict[str, Any]:
        """How the file compares with the torch source on noised images; see exporting/checks/verification.py."""
        verification: dict[str, Any] = self.facts.details["verification"]
        return verification

    def show(self, text: bool = True) -> None:
        """Print what was written and how it compares with its source, if `text`; warnings go to standard error."""
        plan = self.record is not None and self.record.kind == "plan"
        wrote = f"wrote {self.path}: maximum difference from its source {self.max_difference:.2g}"
        for line in (self._plan_lines(wrote) if plan else self._lines(wrote)) if text else ():
            print(line)
        for warning in self._plan_warnings() if plan else self._warnings():
            print(f"diffsmooth-trt: {warning}", file=sys.stderr)

    def _plan_lines(self, wrote: str) -> list[str]:
        comparison, record = self.comparison, self.record
        if comparison is None and record is not None:
            machine = record.machine
            return [
                f"wrote {self.path}: {self.bytes / 2**20:.0f} MiB for {', '.join(machine['targets'])} by TensorRT for RTX "
                f"{machine['tensorrt']}, {self.seconds:.0f} s; not compared with {record.source['name']}: no such GPU is here; "
                "keep both beside one another, the first run on a card compares them"
            ]
        same = (
            ""
            if comparison is None or comparison.agreement is None
            else f", {100 * comparison.agreement:.2f} % of {comparison.rows} labels alike"
        )
        return [wrote if comparison is None else f"{wrote}, mean {comparison.mean:.2g}{same}"]

    def _plan_warnings(self) -> list[str]:
        warning = None if self.comparison is None else self.comparison.warning()
        return [] if warning is None else [f"{self.path}: {warning}"]

    def _lines(self, wrote: str) -> list[str]:
        lines = [wrote if self.facts.precision == "fp32" else f"{wrote} (before conversion)"]
        lines += weights_lines(self.facts.details.get("weights_of"))
        beyond = self.facts.details.get("beyond_range", {})
        if beyond:
            name, size = max(beyond.items(), key=lambda each: each[1])
            kept = self.facts.details["kept_fp32"]["range"]
            lines.append(
                f"  {kept} operators stay in fp32, beyond the range of {self.facts.precision}: {len(beyond)} values, "
                f"{name} reaches {size:.3g}"
            )
        verification = self.facts.details.get("verification", {"backends": ()})
        for trial in verification["backends"]:
            seen = f"{trial['backend']}, {trial['precision']}: maximum difference {trial['max_difference']:.2g}"
            if "mean_difference" in trial:
                seen += f", mean {trial['mean_difference']:.2g}"
            if "same_labels" in trial:
                seen += f", {100 * trial['same_labels']:.2f} % identical labels"
            lines.append(f"  {seen} ({verification['images']} noisy images, {verification['data']})")
        seen = verification.get("denoising")
        if seen and seen["after"] < seen["before"]:
            lines.append(
                f"  denoising: the error of {seen['images']} images falls from {seen['before']:.3g} to {seen['after']:.3g} (RMS)"
            )
        not_run = verification.get("not_run", {})
        return lines + [f"  {backend}: not run ({reason})" for backend, reason in not_run.items()]

    def _warnings(self) -> list[str]:
        warnings = warnings_of(self.facts.details.get("verification", {}), self.facts.precision)
        warnings += denoising_warnings(self.facts.details.get("verification", {}).get("denoising"))
        if self.facts.details.get("null_class_trained") is False:
            warnings.append(
                "the network was not trained without a class: give certify --method apndc a second one by --unconditional"
            )
        return [f"warning: {warning}" for warning in warnings]


def weights_lines(weights: dict[str, Any] | None) -> list[str]:
    """Which weights of a checkpoint with several were taken, and how to take others; none for a plain state dict."""
    if weights is None:
        return []
    line = f"  weights: {weights['key']}{' (averaged over training)' if weights['averaged'] else ''}"
    if "others" in weights:
        line += f"; the checkpoint also has {', '.join(weights['others'])}, to be taken by --checkpoint-key"
    unnamed = weights.get("without names")
    return [line, *([f"  not read, for its tensors have no names: {', '.join(unnamed)}"] if unnamed else [])]


def tolerated(comparison: Comparison, tolerance: float) -> dict[str, Any]:
    """What facts record of a difference that passed."""
    return {"max_difference": comparison.differences["max_difference"], "tolerance": float(f"{tolerance:.2g}")}


def check_difference(out: Path, comparison: Comparison, tolerance: float, remedy: str) -> None:
    """InputError where what is to become `out` differs from its source by more than `tolerance`."""
    if comparison.maximum > tolerance:
        raise InputError(
            f"{out.name} differs from its source by {comparison.maximum:.2g} where {tolerance:.2g} is allowed: nothing was "
            f"written; {remedy}"
        )


def warnings_of(verification: dict[str, Any], precision: str) -> list[str]:
    """One line for each backend in which fewer labels than `LEAST_AGREEMENT` are the source's, for a file of `precision`."""
    own = "certify with --precision fp32" if precision == "fp32" else "use a wider --precision"
    return [
        f"only {100 * trial['same_labels']:.2f} % of {verification['images']} labels are those of the torch source in "
        f"{trial['backend']} ({trial['precision']}): expected {100 * LEAST_AGREEMENT} %; {own}"
        for trial in verification.get("backends", ())
        if trial.get("same_labels", 1.0) < LEAST_AGREEMENT
    ]
