"""Runs as text: certified accuracy at radii, average certified radius, abstentions, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..certify.rules import CERTIFIED, REFUTED, UNDECIDED
from ..errors import InputError
from ..images import ImageChoice
from ..runs.audit import audit_line
from ..runs.data import skipped_line
from ..runs.file import UNRECORDED
from ..runs.identity import rows_note
from ..runs.record import RunRecord
from ..runs.store import RunStore
from ..statistics.bounds import ABSTAIN, truncate
from .curves import average_certified_radius, certified_accuracy_interval, certified_counts, most_wrong

DEFAULT_RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


def space_of(choice: ImageChoice, shape: Sequence[int] | None) -> str:
    """Where the images of a run lie that distances are measured in: their shape, and what was done to the data set's images."""
    size = f"^({'×'.join(map(str, shape))})" if shape else " a pixel"
    done = [f"--{name} {value}" for name in ("resize", "crop", "channels") if (value := getattr(choice, name))]
    after = f" after {' '.join(done)}" if done else ""
    return f"[0, 1]{size}{after}{' (--quantise)' if choice.quantise else ''}"


def chosen_of(choice: ImageChoice) -> list[str]:
    """The options that chose a run's images from its data set."""
    return [f"--{name} {value}" for name in ("skip", "max") if (value := getattr(choice, name)) not in (None, 1)]


@dataclass(frozen=True)
class Summary:
    """What a report says about one run: arrays are `[images]`, in ascending order of `images`, the data-set indices.

    They are the images with a result; `missing` more were asked for. `digests` are SHA-256 of their 8-bit pixels, `distances` how
    far rounding to those moved them (None where an older run did not record it).
    """

    name: str
    record: RunRecord
    alpha: float
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    radii: NDArray[np.float64]
    samples: NDArray[np.int64]
    seconds: float
    digests: tuple[str, ...]
    distances: NDArray[np.float64] | None
    missing: int = 0
    decisions: tuple[tuple[str, ...], ...] = ()
    void: int = 0

    @property
    def certified(self) -> bool:
        """Whether this is a certify run."""
        return self.record.stopping.certifies

    @property
    def preset(self) -> tuple[float, ...]:
        """The radii that the run was asked to decide, ascending; none where it was not."""
        return self.record.stopping.preset

    @property
    def asked(self) -> int:
        """How many images the run was asked for."""
        return len(self.images) + self.missing

    def most(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many images of all may be certified in the end where `counts` are now: as many more as are missing.

        By Holm's procedure each image that is certified helps the others, so that it may be all.
        """
        helping = bool(self.preset and self.record.stopping.family_wise and self.missing)
        return np.full_like(counts, self.asked) if helping else counts + self.missing

    @property
    def labelled(self) -> bool:
        """Whether the images have labels, of which accuracies are shares."""
        return self.record.labelled

    @property
    def truth(self) -> NDArray[np.int64]:
        """The classes that count as right, int64 [N]: labels, and without them any answer."""
        return self.labels if self.labelled else self.predicted

    @property
    def abstentions(self) -> int:
        """Images without an answer."""
        return int((self.predicted < 0).sum())

    @property
    def conditional(self) -> bool:
        """Whether its certificates rest on an assumption about the network (Lipschitz)."""
        return self.record.conditional

    @property
    def wrong(self) -> float:
        """The probability with which each certificate alone may be wrong: 0 where all hold together, or none is random."""
        return 0.0 if self.conditional or self.record.stopping.family_wise else self.alpha

    @property
    def space(self) -> str:
        """`space_of` the run."""
        return space_of(self.record.choice, self.record.shape)

    @property
    def title(self) -> str:
        """Method, σ and sample counts, space and choice of images in a line."""
        parts = [
            self._drawn,
            f"{'ℓ2 in' if self.certified else 'images in'} {self.space}",
            *chosen_of(self.record.choice),
        ]
        if self.record.shard is not None:
            parts.append(f"shard {self.record.shard} of {self.record.images} images")
        return "; ".join(
            [*parts, *([f"UNFINISHED: {len(self.images)} of {self.asked} images"] if self.missing else [])]
        )

    @property
    def _drawn(self) -> str:
        asked, classifier = self.record.stopping, self.record.classifier
        if self.conditional:
            return f"certify {classifier.method}, Lipschitz certificate, {classifier.steps} steps"
        drawn = f"n={asked.n}"
        if self.preset:
            drawn = f"radius {', '.join(map(exactly, self.preset))}, n up to {asked.n}"
        elif asked.tolerance is not None:
            drawn = f"tolerance {asked.tolerance}, n up to {asked.n}"
        drawn = f"n0={asked.n0}, {drawn}" if self.certified else drawn
        return f"{asked.command} {classifier.method}, sigma={classifier.sigma}, {drawn}, alpha={asked.alpha}"

    @property
    def fresh(self) -> bool:
        """Whether the classifier adds noise of its own that is new for every draw."""
        return self.record.classifier.fresh

    @property
    def unguaranteed(self) -> bool:
        """Whether its votes were known when the classifier was made: fresh local noise of version 1."""
        return self.fresh and self.record.classifier.noise_version == 1

    @property
    def guarantee(self) -> str:
        """What is right, and with which probability."""
        if self.unguaranteed:
            return (
                "NO guarantee: the fresh local noise of this run came from a public seed, so that its votes were known "
                "when the classifier was made; run again with this release"
            )
        if self.conditional:
            given = self.record.stopping.lipschitz is not None
            source = (
                "given" if given else "derived for ideal denoisers and infinitely many noises, not for this network"
            )
            return (
                "conditional certificates: right only if the logits are L-Lipschitz in [-1, 1] units, "
                f"L = {self.record.lipschitz_constant:.6g} ({source}); no noise, no probability"
            )
        if not self.certified:
            return "per-image predictions: each is the smoothed classifier's with probability at least 1 − alpha"
        if not self.record.stopping.family_wise:
            return "per-image certificates: each radius is right with probability at least 1 − alpha"
        kind = "Holm" if self.preset else "Bonferroni"
        return (
            f"family-wise certificates ({kind}): the radii of all {self.record.images} images are right together with "
            "probability at least 1 − alpha"
        )

    @property
    def notes(self) -> list[str]:
        """What the reader has to know besides the numbers."""
        record = self.record
        engines = record.classifier.engines
        ran = ", ".join(
            f"{role} {part['sha256'][:12]} ({part['backend']} {part['precision']})" for role, part in engines.items()
        )
        audited = "audit: none, a margin is evaluated once" if self.conditional else audit_line(record.audit)
        notes = [f"classifier id {record.classifier.id}: {ran}", self.guarantee, rows_note(record.rows), audited]
        for number, radius in enumerate(self.preset):
            said = [decisions[number] for decisions in self.decisions]
            counts = ", ".join(f"{said.count(kind)} {kind}" for kind in (CERTIFIED, REFUTED, UNDECIDED))
            notes.append(
                f"radius {exactly(radius)}: {counts} (refuted: the selected class is too rare; that is no attack)"
            )
        if self.void:
            notes.append(f"void votes: {self.void} of {int(self.samples.sum())}, counted as abstentions")
        notes += record.notes
        votes, evaluations = record.evaluations
        if votes:
            notes.append(f"network evaluations a vote: {evaluations / votes:.1f}")
        if record.extended_from:
            before = ", ".join(map(str, record.extended_from))
            notes.append(f"n was raised later, from {before}: allowed, as these bounds hold at every look")
        if not record.key_drawn and not self.conditional:
            notes.append(
                "the noise key was given, not drawn: trust it only if its giver could not choose it after the fact"
            )
        if self.fresh:
            notes.append("fresh local noise: f is random; its noise is new for every draw")
        if record.classifier.noise_version == 1:
            notes.append(
                "noise of version 1 (Philox, no cryptographic generator): right only for networks that were not made against it"
            )
        return [*notes, *self._data, *self.rounding, *self.reading]

    @property
    def _data(self) -> list[str]:
        """How labels became classes, and which images were skipped."""
        record = self.record
        lines = [] if record.matching is None else [record.matching.line()]
        if not self.labelled and self.certified:
            counts, _ = certified_counts(self.predicted, self.predicted, self.radii, shown_radii([self]))
            shares = (
                f"{share(int(count), self)} at {exactly(r)}"
                for count, r in zip(counts, shown_radii([self]), strict=True)
            )
            lines.append(f"certified, whatever the class is: {', '.join(shares)}")
        if record.skipped:
            lines.append(skipped_line(record.skipped, ", counted as not certified"))
        if record.data_before:
            lines.append(
                "the data set changed during the run, in images that it had not drawn from: each image's hash is the same"
            )
        return lines

    @property
    def rounding(self) -> list[str]:
        """What was done about images off the grid."""
        if self.distances is None:
            return [
                UNRECORDED if self.certified else "answers are about the rounded images (an older version made the run)"
            ]
        moved = self.distances[self.distances > 0]
        if not moved.size:
            return []
        if self.certified:
            said = "every radius is about the image as given: the distance is taken off, and where nothing is left it abstains"
        else:
            said = "every answer is about the image as given: it needs the votes for all points within that distance"
        return [f"rounded: {moved.size} images, by up to {moved.max():.4f} (ℓ2); {said}"]

    @property
    def reading(self) -> list[str]:
        """How the accuracies and their intervals are to be read."""
        if self.missing:
            return [
                f"unfinished: {len(self.images)} of {self.asked} images; a–b is what the finished run may show at least and at "
                "most; no confidence interval, as images finish in the order of their difficulty"
            ]
        if not self.certified or not self.labelled:
            return []
        drawn = "95% interval: for the distribution that the images were drawn from, where they were"
        if self.conditional or self.unguaranteed:
            return [drawn]
        if not self.wrong:
            return [f"{drawn}; its lower end bounds the robust accuracy too, with probability 97.5% less alpha"]
        most = most_wrong(self.asked, self.wrong)
        return [
            f"{drawn}; its lower end is lowered by alpha, so that with probability 97.5% it bounds the robust accuracy too, "
            "though each certificate may be wrong",
            f"of these {self.asked} certificates at most {most} {'is' if most == 1 else 'are'} wrong with probability 97.5%",
        ]


def summarise(store: RunStore) -> Summary:
    """Read a run's finished images. Raises InputError where there are none."""
    results = list(store.results())
    if not results:
        raise InputError(f"{store.path} has no finished images: let the run finish, or resume it")
    record = store.record
    n0 = record.stopping.n0 if record.stopping.smoothing and record.stopping.certifies else 0
    known = store.known_images()
    here = [known.get(result.image, (result.label, "", 0.0)) for result in results]
    return Summary(
        name=_printable(Path(store.path).stem),
        record=record,
        alpha=record.stopping.alpha,
        images=np.array([r.image for r in results]),
        labels=np.array([r.label for r in results]),
        predicted=np.array([r.predict for r in results]),
        radii=np.array([r.radius or 0.0 for r in results]),
        samples=np.array([0 if r.image in record.skipped else r.trials + n0 for r in results]),
        seconds=sum(r.seconds for r in results),
        digests=tuple(digest for _, digest, _ in here),
        distances=np.array([distance for *_, distance in here]) if record.has_distances else None,
        missing=len(record.asked) - len(results),
        decisions=tuple(r.decisions for r in results),
        void=store.void_votes(),
    )


def envelope(summaries: Sequence[Summary]) -> Summary:
    """The runs as one: each image's largest radius with the right class, else its abstention; alpha is the sum of theirs.

    For finished runs of the same pixels and labels, at several σ say. It picks a classifier for each image, and by its label:
    it says what some classifier of theirs is certified for, and is no certificate of one classifier. Each statement is about its
    own run's classifier, and all of an image's are right together with probability at least 1 − Σ alpha (union bound). Raises
    InputError for runs that do not fit.
    """
    first = summaries[0]
    for summary in summaries:
        kinds = {each.record.stopping.family_wise for each in (summary, first)}
        if not summary.certified or summary.conditional or len(kinds) > 1:
            raise InputError(f"--envelope takes certify runs of one kind, got {summary.name}: leave it out")
        if not summary.labelled:
            raise InputError(f"--envelope takes runs of labelled images, those of {summary.name} have no labels")
        if summary.missing:
            raise InputError(f"--envelope takes finished runs, {summary.name} is not: go on with it by --resume")
        differing = _other_images(summary, first)
        if differing:
            raise InputError(
                f"--envelope: {summary.name} and {first.name} are not of the same images ({differing}): their radii do not "
                "compare; use the same --data, --skip, --max, --resize, --crop, --quantise"
            )
    right = np.stack([np.where(s.predicted == s.labels, s.radii, -1.0) for s in summaries])
    estimated = replace(first.record.stopping, radius=None, tolerance=None)
    return replace(
        first,
        name="envelope",
        record=replace(first.record, stopping=estimated),
        alpha=math.nextafter(math.fsum(s.alpha for s in summaries), 1.0),
        predicted=np.where(right.max(axis=0) >= 0, first.labels, ABSTAIN),
        radii=np.maximum(right.max(axis=0), 0.0),
        samples=np.sum([s.samples for s in summaries], axis=0),
        seconds=math.fsum(s.seconds for s in summaries),
    )


def _other_images(summary: Summary, first: Summary) -> str:
    """In what the images of two runs differ, of which what comes first; nothing where they are the same."""
    if not np.array_equal(summary.images, first.images):
        rows = sorted({*summary.images.tolist()} ^ {*first.images.tolist()})
        return f"image {rows[0]} is in one of them only"
    unknown = np.full(len(first.images), -1.0)
    first_moved, moved = (unknown if each.distances is None else each.distances for each in (first, summary))
    for name, ours, theirs in (
        ("other pixels", summary.digests, first.digests),
        ("another label", summary.labels.tolist(), first.labels.tolist()),
        ("another distance from its pixels", moved.tolist(), first_moved.tolist()),
    ):
        where = [image for image, a, b in zip(first.images, ours, theirs, strict=True) if a != b]
        if where:
            return f"image {where[0]} has {name}"
    return ""


def shown_radii(summaries: Sequence[Summary]) -> tuple[float, ...]:
    """The radii to show unless others are asked for: those preset in the runs, where all certify runs have some."""
    presets = [summary.preset for summary in summaries if summary.certified]
    return tuple(sorted(set().union(*presets))) if presets and all(presets) else DEFAULT_RADII


def _printable(name: str) -> str:
    """A file's name with escapes for what no terminal, page or figure can show, as undecodable bytes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


@dataclass(frozen=True)
class Sheet:
    """The table of runs as text: `lines` above it, `head`, and of each run its cells and, where it has some, its intervals."""

    lines: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[list[str], list[str] | None], ...]

    @property
    def widths(self) -> list[int]:
        """Those of the columns."""
        every = [self.head, *(cells for row in self.rows for cells in row if cells is not None)]
        return [max(len(cells[column]) for cells in every) for column in range(len(self.head))]

    @property
    def table(self) -> list[str]:
        """The table's lines: the names of columns, below each run its interval."""
        widths, lines = self.widths, []
        for cells in (list(self.head), *(cells for row in self.rows for cells in row if cells is not None)):
            aligned = (
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            lines.append("  ".join(aligned).rstrip())
        return lines


def sheet(summaries: Sequence[Summary], radii: Sequence[float] | None = None, *, enveloped: bool = False) -> Sheet:
    """The runs as `text_table` shows them."""
    lines = []
    for summary in summaries:
        lines += [f"{summary.name}: {summary.title}", *(f"  {note}" for note in summary.notes)]
    at = (shown_radii(summaries) if radii is None else radii) if any(s.certified for s in summaries) else None
    if enveloped:
        summaries = [*summaries, envelope(summaries)]
        lines += [
            f"envelope: an image's largest radius; all its radii are right together with probability "
            f"1 − {summaries[-1].alpha:.3g}; it picks "
            "a classifier for each image by its label, so it is no certificate of one classifier"
        ]
    predictions = not all(summary.certified for summary in summaries)
    head = ["run", "images"]
    head += [*(f"acc@{exactly(radius)}" for radius in at), "ACR"] if at is not None else []
    head += ["accuracy"] if predictions else []
    head += ["abstain", "samples/image", "seconds/image"]
    rows = []
    for summary in summaries:
        spans = None
        if at is not None and summary.certified and not summary.missing and summary.labelled:
            spans = _intervals(summary, at, len(head))
        rows.append((_row(summary, at, predictions), spans))
    return Sheet(tuple(lines), tuple(head), tuple(rows))


def text_table(summaries: Sequence[Summary], radii: Sequence[float] | None = None, *, enveloped: bool = False) -> str:
    """The runs side by side; accuracies in percent, rounded down, below each its interval, rounded outward.

    The interval is `certified_accuracy_interval`'s at 95 %: where the images were drawn from some distribution, it holds
    that distribution's certified accuracy, and its lower end bounds the robust accuracy. Of an unfinished run, a cell has the
    shares that it will show at least and at most, and there is no interval. `enveloped` adds the runs' `envelope`.
    """
    grid = sheet(summaries, radii, enveloped=enveloped)
    return "\n".join([*grid.lines, *grid.table])


def _intervals(summary: Summary, at: Sequence[float], columns: int) -> list[str]:
    low, high = certified_accuracy_interval(summary.labels, summary.predicted, summary.radii, at, wrong=summary.wrong)
    spans = [f"{math.floor(1000 * a) / 10:.1f}–{math.ceil(1000 * b) / 10:.1f}" for a, b in zip(low, high, strict=True)]
    cells = ["  95% interval", "", *spans]
    return cells + [""] * (columns - len(cells))


def percent(count: int, images: int) -> str:
    """`count` of `images` in percent with one digit, rounded down; exact, as only integers are divided."""
    tenths = 1000 * count // images
    return f"{tenths // 10}.{tenths % 10}%"


def share(count: int, summary: Summary) -> str:
    """`count` of the images asked for in percent; of an unfinished run from that up to what it is with all missing ones."""
    if not summary.missing:
        return percent(count, summary.asked)
    tenths = -(-1000 * int(summary.most(np.array([count]))[0]) // summary.asked)
    return f"{percent(count, summary.asked)[:-1]}–{tenths // 10}.{tenths % 10}%"


def exactly(radius: float) -> str:
    """The shortest plain decimal that is read as this very float."""
    return f"{Decimal(repr(float(radius) + 0.0)):f}".removesuffix(".0")


def _row(summary: Summary, radii: Sequence[float] | None, predictions: bool) -> list[str]:
    outcome = summary.labels, summary.predicted, summary.radii
    missing = summary.missing
    cells = [summary.name, f"{len(summary.images)}/{summary.asked}" if missing else str(summary.asked)]
    if radii is not None and summary.certified and summary.labelled:
        counts, _ = certified_counts(*outcome, radii)
        cells += [share(int(count), summary) for count in counts]
        average = truncate(average_certified_radius(*outcome, missing), 4)
        cells.append("-" if summary.preset else f"≥{average}" if missing else average)
    elif radii is not None:
        cells += ["-"] * (len(radii) + 1)
    if predictions:
        correct = int((summary.predicted == summary.labels).sum())
        cells.append("-" if summary.certified or not summary.labelled else share(correct, summary))
    abstain = summary.abstentions
    fewest = len(summary.images) - int(summary.most(np.array([len(summary.images) - abstain]))[0]) + missing
    cells.append(f"{max(0, fewest)}–{abstain + missing}" if missing else str(abstain))
    return [*cells, f"{summary.samples.mean():.0f}", f"{summary.seconds / len(summary.images):.2f}"]
