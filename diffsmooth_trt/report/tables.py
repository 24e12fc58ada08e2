"""Runs as text: certified accuracy at radii, average certified radius, abstentions, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..certify.bounds import ABSTAIN, truncate
from ..certify.identity import rows_note
from ..certify.outcome import CERTIFIED, REFUTED, UNDECIDED
from ..certify.store import RunStore
from ..errors import InputError
from .curves import average_certified_radius, certified_accuracy_interval, certified_counts

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
    decisions: tuple[tuple[str, ...], ...] = ()
    void: int = 0

    @property
    def certified(self) -> bool:
        """Whether this is a certify run."""
        return bool(self.meta["config"]["command"] == "certify")

    @property
    def preset(self) -> tuple[float, ...]:
        """The radii that the run was asked to decide, ascending; none where it was not."""
        return tuple(self.meta["config"].get("radius", ()))

    @property
    def abstentions(self) -> int:
        """Images without an answer."""
        return int((self.predicted < 0).sum())

    @property
    def title(self) -> str:
        """Method, σ and sample counts in a line."""
        config, identity = self.meta["config"], self.meta["classifier"]
        if "lipschitz_constant" in self.meta:
            return f"certify {identity['method']}, Lipschitz certificate, {identity['steps']} steps"
        drawn = f"n={config['n']}"
        if self.preset:
            drawn = f"radius {', '.join(map(_exactly, self.preset))}, n up to {config['n']}"
        elif "tolerance" in config:
            drawn = f"tolerance {config['tolerance']}, n up to {config['n']}"
        drawn = f"n0={config['n0']}, {drawn}" if self.certified else drawn
        return f"{config['command']} {identity['method']}, sigma={identity['sigma']}, {drawn}, alpha={config['alpha']}"

    @property
    def guarantee(self) -> str:
        """What is right, and with which probability."""
        if "lipschitz_constant" in self.meta:
            given = self.meta["config"].get("lipschitz") is not None
            source = (
                "given" if given else "derived for ideal denoisers and infinitely many noises, not for this network"
            )
            return (
                "conditional certificates: right only if the logits are L-Lipschitz in [-1, 1] units, "
                f"L = {self.meta['lipschitz_constant']:.6g} ({source}); no noise, no probability"
            )
        if not self.certified:
            return "per-image predictions: each is the smoothed classifier's with probability at least 1 − alpha"
        if not self.meta["config"].get("family_wise"):
            return "per-image certificates: each radius is right with probability at least 1 − alpha"
        kind = "Holm" if self.preset else "Bonferroni"
        return (
            f"family-wise certificates ({kind}): the radii of all {self.meta['images']} images are right together with "
            "probability at least 1 − alpha"
        )

    @property
    def notes(self) -> list[str]:
        """What the reader has to know besides the numbers."""
        engines = {role: part for role, part in self.meta["classifier"].items() if isinstance(part, dict)}
        ran = ", ".join(
            f"{role} {part['sha256'][:12]} ({part['backend']} {part['precision']})" for role, part in engines.items()
        )
        notes = [f"classifier id {self.meta['classifier']['id']}: {ran}", self.guarantee, rows_note(self.meta)]
        for number, radius in enumerate(self.preset):
            said = [decisions[number] for decisions in self.decisions]
            counts = ", ".join(f"{said.count(kind)} {kind}" for kind in (CERTIFIED, REFUTED, UNDECIDED))
            notes.append(
                f"radius {_exactly(radius)}: {counts} (refuted: the selected class is too rare; that is no attack)"
            )
        if self.void:
            notes.append(f"void votes: {self.void} of {int(self.samples.sum())}, counted as abstentions")
        notes += self.meta.get("notes", [])
        votes, evaluations = self.meta.get("evaluations", (0, 0))
        if votes:
            notes.append(f"network evaluations a vote: {evaluations / votes:.1f}")
        if "extended_from" in self.meta:
            before = ", ".join(map(str, self.meta["extended_from"]))
            notes.append(f"n was raised later, from {before}: allowed, as these bounds hold at every look")
        if self.meta["key_source"] == "given" and "lipschitz_constant" not in self.meta:
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
        decisions=tuple(r.decisions for r in results),
        void=store.void_votes() if "void" in store.meta else 0,
    )


def envelope(summaries: Sequence[Summary]) -> Summary:
    """The runs as one: each image's largest radius with the right class, else its abstention; alpha is the sum of theirs.

    For runs of one set of images, at several σ say. Each statement is about its own run's classifier, and all of an image's
    are right together with probability at least 1 − Σ alpha (union bound). Raises InputError for runs that do not fit.
    """
    first = summaries[0]
    for summary in summaries:
        kinds = {bool(each.meta["config"].get("family_wise")) for each in (summary, first)}
        if not summary.certified or "lipschitz_constant" in summary.meta or len(kinds) > 1:
            raise InputError(f"--envelope takes certify runs of one kind, got {summary.name}: leave it out")
        same = summary.meta["data"] == first.meta["data"] and np.array_equal(summary.images, first.images)
        if not same:
            raise InputError(
                f"--envelope: {summary.name} has other images than {first.name}: use the same --data, --skip, --max"
            )
    right = np.stack([np.where(s.predicted == s.labels, s.radii, -1.0) for s in summaries])
    alpha = math.fsum(s.meta["config"]["alpha"] for s in summaries)
    config = {name: value for name, value in first.meta["config"].items() if name not in ("radius", "tolerance")}
    config["alpha"] = math.nextafter(alpha, 1.0)
    return replace(
        first,
        name="envelope",
        meta={**first.meta, "config": config},
        predicted=np.where(right.max(axis=0) >= 0, first.labels, ABSTAIN),
        radii=np.maximum(right.max(axis=0), 0.0),
        samples=np.sum([s.samples for s in summaries], axis=0),
        seconds=math.fsum(s.seconds for s in summaries),
    )


def shown_radii(summaries: Sequence[Summary]) -> tuple[float, ...]:
    """The radii to show unless others are asked for: those preset in the runs, where all certify runs have some."""
    presets = [summary.preset for summary in summaries if summary.certified]
    return tuple(sorted(set().union(*presets))) if presets and all(presets) else DEFAULT_RADII


def _printable(name: str) -> str:
    """A file's name with escapes for what no terminal, page or figure can show, as undecodable bytes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


def text_table(summaries: Sequence[Summary], radii: Sequence[float] | None = None, *, enveloped: bool = False) -> str:
    """The runs side by side; accuracies in percent, rounded down, below each its interval, rounded outward.

    The interval is `certified_accuracy_interval`'s at 95 %: where the images were drawn from some distribution, it holds
    that distribution's certified accuracy. `enveloped` adds the runs' `envelope`.
    """
    lines = []
    for summary in summaries:
        lines += [f"{summary.name}: {summary.title}", *(f"  {note}" for note in summary.notes)]
    at = (shown_radii(summaries) if radii is None else radii) if any(s.certified for s in summaries) else None
    if enveloped:
        summaries = [*summaries, envelope(summaries)]
        alpha = summaries[-1].meta["config"]["alpha"]
        lines += [
            f"envelope: an image's largest radius; all its radii are right together with probability 1 − {alpha:.3g}"
        ]
    predictions = not all(summary.certified for summary in summaries)
    head = ["run", "images"]
    head += [*(f"acc@{_exactly(radius)}" for radius in at), "ACR"] if at is not None else []
    head += ["accuracy"] if predictions else []
    head += ["abstain", "samples/image", "seconds/image"]
    rows = [head]
    for summary in summaries:
        rows.append(_row(summary, at, predictions))
        if at is not None and summary.certified:
            rows.append(_intervals(summary, at, len(head)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = (cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def _intervals(summary: Summary, at: Sequence[float], columns: int) -> list[str]:
    low, high = certified_accuracy_interval(summary.labels, summary.predicted, summary.radii, at)
    spans = [f"{math.floor(1000 * a) / 10:.1f}–{math.ceil(1000 * b) / 10:.1f}" for a, b in zip(low, high, strict=True)]
    cells = ["  95% interval", "", *spans]
    return cells + [""] * (columns - len(cells))


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
        cells.append("-" if summary.preset else truncate(average_certified_radius(*outcome), 4))
    elif radii is not None:
        cells += ["-"] * (len(radii) + 1)
    if predictions:
        correct = int((summary.predicted == summary.labels).sum())
        cells.append("-" if summary.certified else percent(correct, len(summary.images)))
    cells.append(str(summary.abstentions))
    return [*cells, f"{summary.samples.mean():.0f}", f"{summary.seconds / len(summary.images):.2f}"]
