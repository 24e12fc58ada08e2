"""Runs as text: certified accuracy at radii, average certified radius, abstentions, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..certify.store import RunStore
from ..errors import InputError
from .curves import average_certified_radius, certified_accuracy

DEFAULT_RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Summary:
    """What a report says about one run: arrays are `[images]`, in ascending image order."""

    name: str
    meta: dict[str, Any]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    radii: NDArray[np.float64]
    samples: NDArray[np.int64]
    seconds: float

    @property
    def certified(self) -> bool:
        """Whether this is a certify run."""
        return bool(self.meta["config"]["command"] == "certify")

    @property
    def abstentions(self) -> int:
        """Images without an answer."""
        return int((self.predicted < 0).sum())

    @property
    def title(self) -> str:
        """Method, σ and sample counts in a line."""
        config, identity = self.meta["config"], self.meta["classifier"]
        drawn = f"n0={config['n0']}, n={config['n']}" if self.certified else f"n={config['n']}"
        return f"{config['command']} {identity['method']}, sigma={identity['sigma']}, {drawn}, alpha={config['alpha']}"

    @property
    def notes(self) -> list[str]:
        """What the reader has to know besides the numbers."""
        engines = {role: part for role, part in self.meta["classifier"].items() if isinstance(part, dict)}
        ran = ", ".join(
            f"{role} {part['sha256'][:12]} ({part['backend']} {part['precision']})" for role, part in engines.items()
        )
        notes = [
            f"classifier id {self.meta['classifier']['id']}: {ran}",
            "per-image certificates: each radius is right with probability at least 1 − alpha",
        ]
        if not self.certified:
            notes[1] = "per-image predictions: each is the smoothed classifier's with probability at least 1 − alpha"
        if self.meta["key_source"] == "given":
            notes.append(
                "the noise key was given, not drawn: trust it only if its giver could not choose it after the fact"
            )
        return notes


def summarise(store: RunStore) -> Summary:
    """Read a run's finished images. Raises InputError where there are none."""
    results = list(store.results())
    if not results:
        raise InputError(f"{store.path} has no finished images: let the run finish, or resume it")
    config = store.meta["config"]
    n0 = config.get("n0", 0)
    return Summary(
        name=Path(store.path).stem,
        meta=store.meta,
        labels=np.array([r.label for r in results]),
        predicted=np.array([r.predict for r in results]),
        radii=np.array([r.radius or 0.0 for r in results]),
        samples=np.array([r.trials + n0 for r in results]),
        seconds=sum(r.seconds for r in results),
    )


def text_table(summaries: Sequence[Summary], radii: Sequence[float] = DEFAULT_RADII) -> str:
    """The runs side by side; accuracies in percent, rounded down."""
    lines = []
    for summary in summaries:
        lines += [f"{summary.name}: {summary.title}", *(f"  {note}" for note in summary.notes)]
    head = ["run", "images"]
    head += [f"acc@{radius:g}" for radius in radii] + ["ACR"] if any(s.certified for s in summaries) else ["accuracy"]
    head += ["abstain", "samples/image", "seconds/image"]
    rows = [_row(summary, radii if any(s.certified for s in summaries) else None) for summary in summaries]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        lines.append(
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    return "\n".join(lines)


def percent(fraction: float) -> str:
    """A fraction in percent with one digit, rounded down."""
    return f"{np.floor(fraction * 1000 + 1e-9) / 10:.1f}%"


def _row(summary: Summary, radii: Sequence[float] | None) -> list[str]:
    correct = summary.predicted == summary.labels
    cells = [summary.name, str(len(summary.labels))]
    if radii is None:
        cells.append(percent(float(correct.mean())))
    elif summary.certified:
        accuracy = certified_accuracy(summary.labels, summary.predicted, summary.radii, radii)
        acr = average_certified_radius(summary.labels, summary.predicted, summary.radii)
        cells += [percent(value) for value in accuracy] + [f"{np.floor(acr * 1e4) / 1e4:.4f}"]
    else:
        cells += ["-"] * (len(radii) + 1)
    cells.append(str(summary.abstentions))
    return [*cells, f"{summary.samples.mean():.0f}", f"{summary.seconds / len(summary.labels):.2f}"]
