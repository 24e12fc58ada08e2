"""Runs as text: certified accuracy at radii, average certified radius, abstentions, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..certify.bounds import truncate
from ..certify.store import RunStore
from ..errors import InputError
from .curves import average_certified_radius, certified_counts

DEFAULT_RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Summary:
    """What a report says about one run: arrays are `[images]`, in ascending order of `images`, the data-set indices."""

    name: str
    meta: dict[str, Any]
    images: NDArray[np.int64]
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
        identity, asked = self.meta["classifier"], self.meta.get("images")
        if identity.get("local_noise") == "fresh":
            seed = identity["classifier_seed"]
            note = f"fresh local noise: the guarantee is over the pseudo-randomness of classifier seed {seed} too"
            notes.append(f"{note}; trust it only if its giver could not choose it after the fact" if seed else note)
        if asked is not None and len(self.images) < asked:
            notes.append(f"unfinished: {len(self.images)} of {asked} images")
        return notes


def summarise(store: RunStore) -> Summary:
    """Read a run's finished images. Raises InputError where there are none."""
    results = list(store.results())
    if not results:
        raise InputError(f"{store.path} has no finished images: let the run finish, or resume it")
    config = store.meta["config"]
    n0 = config.get("n0", 0)
    return Summary(
        name=_printable(Path(store.path).stem),
        meta=store.meta,
        images=np.array([r.image for r in results]),
        labels=np.array([r.label for r in results]),
        predicted=np.array([r.predict for r in results]),
        radii=np.array([r.radius or 0.0 for r in results]),
        samples=np.array([r.trials + n0 for r in results]),
        seconds=sum(r.seconds for r in results),
    )


def _printable(name: str) -> str:
    """A file's name with escapes for what no terminal, page or figure can show, as undecodable bytes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


def text_table(summaries: Sequence[Summary], radii: Sequence[float] = DEFAULT_RADII) -> str:
    """The runs side by side; accuracies in percent, rounded down."""
    lines = []
    for summary in summaries:
        lines += [f"{summary.name}: {summary.title}", *(f"  {note}" for note in summary.notes)]
    at = radii if any(summary.certified for summary in summaries) else None
    predictions = not all(summary.certified for summary in summaries)
    head = ["run", "images"]
    head += [*(f"acc@{_exactly(radius)}" for radius in at), "ACR"] if at is not None else []
    head += ["accuracy"] if predictions else []
    head += ["abstain", "samples/image", "seconds/image"]
    rows = [_row(summary, at, predictions) for summary in summaries]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        lines.append(
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    return "\n".join(lines)


def percent(count: int, images: int) -> str:
    """`count` of `images` in percent with one digit, rounded down; exact, as only integers are divided."""
    tenths = 1000 * count // images
    return f"{tenths // 10}.{tenths % 10}%"


def _exactly(radius: float) -> str:
    """The shortest plain decimal that is read as this very float."""
    return f"{Decimal(repr(float(radius) + 0.0)):f}".removesuffix(".0")


def _row(summary: Summary, radii: Sequence[float] | None, predictions: bool) -> list[str]:
    outcome = summary.labels, summary.predicted, summary.radii
    cells = [summary.name, str(len(summary.images))]
    if radii is not None and summary.certified:
        counts, images = certified_counts(*outcome, radii)
        cells += [percent(int(count), images) for count in counts]
        cells.append(truncate(average_certified_radius(*outcome), 4))
    elif radii is not None:
        cells += ["-"] * (len(radii) + 1)
    if predictions:
        correct = int((summary.predicted == summary.labels).sum())
        cells.append("-" if summary.certified else percent(correct, len(summary.images)))
    cells.append(str(summary.abstentions))
    return [*cells, f"{summary.samples.mean():.0f}", f"{summary.seconds / len(summary.images):.2f}"]
