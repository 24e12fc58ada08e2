"""What a command shows while it works and in the end: a bar and text, or lines of JSON, or the text alone."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from ..report.progress import JsonLines, ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..exporting import ExportReport
    from ..report.tables import Summary
    from ..runs.verify import Verification


def add_shown(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """--quiet, and --json where the command takes it."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar: results, warnings and errors alone")
    if json:
        parser.add_argument("--json", action="store_true", help="lines of JSON instead of bar and text, for scripts")


def shown(arguments: argparse.Namespace, command: str) -> ProgressBar | JsonLines:
    """The progress of a command with the options of `add_shown`."""
    if getattr(arguments, "json", None) is True and not getattr(arguments, "quiet", False):
        return JsonLines(command, sys.stdout)
    return ProgressBar(command, shown=not (getattr(arguments, "quiet", False) or getattr(arguments, "json", False)))


def tell(arguments: argparse.Namespace, command: str, text: str, values: dict[str, Any]) -> None:
    """What a command found in the end: `text`, or `values` as a line of JSON."""
    if arguments.json:
        JsonLines(command, sys.stdout).say("done", **values)
    else:
        print(text)


def of_run(summary: Summary) -> dict[str, Any]:
    """A run's results as JSON values; radii are null where a run decides preset ones, which stand in `decisions` then."""
    columns = zip(summary.images, summary.labels, summary.predicted, summary.radii, summary.samples, strict=True)
    results = [
        {
            "image": int(image),
            "label": int(label),
            "predict": int(predict),
            "radius": float(radius) if math.isfinite(radius) and not summary.preset else None,
            "samples": int(samples),
            **(
                {"decisions": dict(zip(map(repr, summary.preset), summary.decisions[at], strict=True))}
                if summary.preset
                else {}
            ),
        }
        for at, (image, label, predict, radius, samples) in enumerate(columns)
    ]
    return {
        "run": summary.name,
        "classifier_id": summary.record.classifier.id,
        "method": summary.record.method,
        "sigma": summary.record.classifier.sigma,
        "alpha": summary.alpha,
        "images": len(results),
        "missing": summary.missing,
        "abstained": summary.abstentions,
        "results": results,
    }


def of_verification(done: Verification) -> dict[str, Any]:
    """What a verification found."""
    counts = {name: getattr(done, name) for name in ("recorded", "blocks", "samples", "results", "seed")}
    return {"run": str(done.run), "agrees": done.agrees, "mismatches": done.mismatches, "notes": done.notes, **counts}


def show(arguments: argparse.Namespace, make: Callable[[], ExportReport]) -> None:
    """Make an export, showing how far it is, and say what was written; warnings go to standard error."""
    with shown(arguments, "export"):
        report = make()
    if arguments.json:
        tell(arguments, "export", "", of_export(report))
    report.show(text=not arguments.json)


def of_export(report: ExportReport) -> dict[str, Any]:
    """What an export wrote, and how it compares with its source; `max_difference` is null where nothing was compared."""
    difference = report.max_difference
    return {
        "out": str(report.path),
        "bytes": report.bytes,
        "seconds": round(report.seconds, 1),
        "max_difference": None if math.isnan(difference) else difference,
        "verification": report.facts.details.get("verification"),
    }
