"""The certified kind: smoothed confidences, bounded by draws, with bounds that hold for every point within an ℓ2 radius.

h(x) = E[u(x + δ)], u the confidence in [0, 1] (`Score.confidence`). Of an in-distribution image what is bounded is h from below, of
an out-of-distribution one h from above; α is for that side alone. The side is turned so that what is counted is always bounded
from above: u itself or 1 − u.

**The gate.** Of a joint model, u = p_in·(classifier's confidence) ≤ p_in. Where the detector alone says p_in ≤ gate, the
denoiser and the classifier are not run: an upper bound counts p_in instead of u, a lower one 0. Both are bounds of the same
model's h, as sound as before.

**The audit.** As in every run, rows are evaluated again among other mates (certify/self_audit.py): the bin that is counted, and for
distro-l2 the class, have to be the same. Rows that wait are in memory only; a resumed run chooses as many more as a kill lost.

**distro-l2** (Franco et al. 2023): the probability of the selected class in one further pass of the image itself, plus √(2/π)·R, R
the certified radius of that class; 0 where R is below the radius asked for. In that pass the denoiser adds noise of its own, as
in the published code (the image's noise of part 2, number 0); the detector sees the image. It bounds nothing; it is for comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from ..certify.audit_rows import Seat
from ..certify.batch import Span, fill, packed
from ..certify.blocks import BLOCK
from ..certify.progress import Progress
from ..certify.self_audit import SelfAudit
from ..dtypes import Floats32, Floats64
from ..errors import InputError
from ..images import Image
from ..noise import OOD
from ..statistics.bounds import Certificate, certificate
from ..statistics.sequential import looks
from .bounds import BINS, MIDDLES, bin_values, complement_lower, edge_mean, mean_upper, with_total_variation
from .config import OodConfig
from .model import Model
from .record import OodRecord
from .sets import DataSet
from .store import OodStore, Record
from .tasks import Task

# Images in work at once: no more than fill so many batches, of which the last may be partly empty.
GROUP = 64
BATCHES = 64


def phase_of(number: int, part: int) -> int:
    """The phase word of set `number`: part 0 selects a class, 1 estimates, 2 is for noise that a score is averaged over."""
    return OOD + 4 * number + part


def dense(record: Record) -> NDArray[np.int64]:
    """A record's counts int64 `[BINS]`. Raises InputError for a damaged one: bins that do not exist, counts that are not n."""
    try:
        bins, drawn, n = np.array(record["bins"]), np.array(record["counts"]), record["n"]
        whole = bins.dtype.kind == drawn.dtype.kind == "i" and bins.shape == drawn.shape == (len(np.unique(bins)),)
        sound = whole and bins.min() >= 0 and bins.max() < BINS and drawn.min() >= 0 and drawn.sum() == n > 0
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        where = f"set {record.get('set')}, row {record.get('row')}"
        raise InputError(f"the record of {where} is damaged (bins, counts, n): take its line out, then --resume")
    counts = np.zeros(BINS, np.int64)
    counts[bins] = drawn
    return counts


def bound_of(record: Record, of: OodRecord) -> float:
    """The bound of h that a record of the run `of` proves: from below for set 0, from above for the others."""
    raised = with_total_variation(mean_upper(dense(record), of.level), of.total_variation)
    return raised if record["set"] else complement_lower(raised)


def estimate_of(record: Record) -> float:
    """The mean confidence of the draws, up to 1/512 off; both sides in steps of 1/256, so that neither gains by rounding."""
    middles = MIDDLES if record["set"] else 1 - MIDDLES
    return float(dense(record) @ middles) / int(record["n"])


def certificate_of(record: Record, of: OodRecord) -> Certificate:
    """The certificate of the smoothed class (Cohen et al. 2019), of a run with distro-l2."""
    selection, estimation = (np.array(votes, dtype=np.int64) for votes in record["votes"])
    return certificate(selection, estimation, of.level, of.classifier.sigma, of.total_variation)


def passed_of(record: Record) -> float:
    """The probability of the selected class in the further pass. Raises InputError for records that have none."""
    if "passed" not in record:
        raise InputError("a record of distro-l2 has no further pass: an older version made the run, start anew")
    return float(record["passed"])


class Certifier:
    """Draws what each image needs, and records the counts. Noise depends on key, set and row alone; when to stop on the draws and
    the configuration, for out-of-distribution images also on the in-distribution records; neither on how rows are packed.
    """

    def __init__(self, model: Model, config: OodConfig, *, audited: bool = True) -> None:
        self.audited = audited
        self.audit: SelfAudit | None = None
        if model.law is None:
            raise InputError("--sigma is missing: smoothing needs a noise level in image units")
        self.model, self.config, self.law = model, config, model.law
        self.voting = model.score.kind == "distro-l2"
        self.gate = config.gate if model.detector is not None and not self.voting else 0.0
        self.noisy = np.empty((model.batch, *model.input_shape), np.float32)
        self.looks = looks(config.n) if config.tolerance else tuple(range(BLOCK, config.n, BLOCK))
        self.inside: Floats64 = np.empty(0)  # the in-distribution bounds, ascending
        self._pending: list[tuple[Span, Floats32, float]] = []  # rows that the gate let through, with noisy image and d

    def run(self, sets: Sequence[DataSet], store: OodStore, progress: Progress) -> None:
        """Finish every image of every set, the in-distribution one first: its bounds are what the others' are compared with."""
        self.store, self.progress, self.key, self.alpha = store, progress, store.record.key, store.record.level
        done, drawn = len(self.store.records), sum(r["n"] for r in self.store.records.values())
        drawn += sum(sum(state["counts"]) for state in self.store.draws.values())
        self.audit = self._open_audit(drawn) if self.audited else None
        self.progress.start(sum(map(len, sets)), done, None, drawn)
        for number, data in enumerate(sets):
            if number == 1:
                self.inside = np.sort([bound_of(record, store.record) for record in store.of_set(0)])
            self._run_set(number, data)
        self.store.forget_draws()

    def _open_audit(self, drawn: int) -> SelfAudit:
        """The run's audit, where the file's was left; `drawn` is what its records hold."""
        found = self.store.audit
        if found is None:
            return SelfAudit(self.model.batch, found={"before": drawn} if drawn else {})
        found = {**found, "of": max(found["of"], drawn - found.get("before", 0))}
        return SelfAudit(self.model.batch, found=found)

    def _check(self, number: int, seats: Sequence[Seat] | None) -> bool:
        """Evaluate rows again, if there are some; AuditError, and the file marked void, where one differs."""
        if self.audit is None or not seats:
            return False
        fill(self.law, self.key, seats, self.noisy)
        d, logits = self.model.distances(self.noisy), self.model.logits(self.noisy)
        values = self.model.score.confidence(logits, d)
        if self.gate and d is not None:
            settled, counted = self._gated(d, number)
            values = np.where(settled, counted, values)
        try:
            self.audit.compare(seats, self._codes(self._sided(values, number), logits))
        finally:
            self.store.add_audit(self.audit.found)
        return True

    def _codes(self, values: Floats64, logits: Floats32 | None) -> NDArray[np.int64]:
        """What is counted of each row as one number: its bin, and its class where that is counted too."""
        bins = bin_values(values).astype(np.int64)
        return bins + BINS * logits.argmax(axis=1) if self.voting and logits is not None else bins

    def _run_set(self, number: int, data: DataSet) -> None:
        waiting = (image for image in data.images if self.store.lacks(number, image.index))
        active: list[Task] = []
        while True:
            rows = sum(map(self._rows, active))
            while len(active) < GROUP and rows < BATCHES * self.model.batch and (image := next(waiting, None)):
                active.append(self._task(number, image))
                rows += self._rows(active[-1])
            if not active:
                break
            rows = self._round(number, active)
            finished = [task for task in active if task.drawn and self._stops(number, task)]
            for task in finished:
                self.store.draws.pop((number, task.image.index), None)
                self.store.add(self._record(number, task))
            active = [task for task in active if not any(task is other for other in finished)]
            self.progress.update(rows, len(finished))
        while self.audit is not None and self._check(number, self.audit.rest()):
            pass

    def _task(self, number: int, image: Image) -> Task:
        """The image's task, as an unfinished run left it. InputError for counts that are not this image's."""
        state = self.store.draws.get((number, image.index))
        if state is None:
            task = Task(image)
            if self.voting:
                task.votes = (np.zeros(self.model.classes, np.int64), np.zeros(self.model.classes, np.int64))
                task.selected = False
            return task
        try:
            task = Task.of_state(image, state)
            stop = self._next(task) if task.selected else self.config.n0
            sound = (state["sha256"], task.stop, self._votes_fit(task)) == (task.digest, stop, True)
        except (ValueError, KeyError, TypeError, IndexError):
            sound = False
        if not sound:
            raise InputError(
                f"{self.store.path}.draws holds other draws of set {number}, row {image.index} than this run's: remove that file, "
                "and unfinished images are drawn anew"
            )
        return task

    def _votes_fit(self, task: Task) -> bool:
        """Whether votes are there where the score counts them, of every class, and in selection as many as there are draws."""
        if task.votes is None or not self.voting:
            return task.votes is None and task.selected and not self.voting
        selection, estimation = task.votes
        whole = len(selection) == len(estimation) == self.model.classes
        return whole and (not task.selected or int(selection.sum()) == self.config.n0)

    def _next(self, task: Task) -> int:
        """How many draws the task has after the next block."""
        return next((stop for stop in self.looks if stop > task.drawn), self.config.n)

    def _rows(self, task: Task) -> int:
        """How many draws the next block of estimation is."""
        return self._next(task) - task.drawn

    def _round(self, number: int, active: list[Task]) -> int:
        """Draw the next block of each task; how many rows that were."""
        work = []
        for task in active:
            if not task.begun:
                task.begin(self._next(task) if task.selected else self.config.n0)
            phase = phase_of(number, 1 if task.selected else 0)
            work += [(block, task.pixels) for block in task.blocks(phase)]
        owners = {task.image.index: task for task in active}
        for spans in packed(work, self.model.batch):
            fill(self.law, self.key, spans, self.noisy)
            self._count(self._measured(spans, owners, number), owners)
            while self.audit is not None and self._check(number, self.audit.due()):
                pass
            for span in spans:
                owners[span.block.image].filled = span.start + span.high - span.low
            self._keep(number, active)
        while self._pending:
            self._count(self._flush(number), owners)
        for task in active:
            task.end()
        return sum(block.stop - block.start for block, _ in work)

    def _count(self, measured: Iterable[tuple[int, Floats64]], owners: dict[int, Task]) -> None:
        """Count values by image; selection only counts votes."""
        for image, values in measured:
            if owners[image].selected:
                owners[image].counts += np.bincount(bin_values(values), minlength=BINS)

    def _keep(self, number: int, active: Sequence[Task]) -> None:
        """Keep what the images in work have counted, about every second."""
        if self.store.keeps_draws():
            waiting: dict[int, list[int]] = {}
            for span, _, _ in self._pending:
                waiting.setdefault(span.block.image, []).append(span.start)
            for task in active:
                at = task.image.index
                self.store.draws[number, at] = task.state(number, waiting.get(at, ()))
            self.store.keep_draws()

    def _sided(self, confidence: Floats64, number: int) -> Floats64:
        """What is counted: the confidence, or for the in-distribution set 1 minus it, rounded up."""
        return confidence if number else np.minimum(np.nextafter(1 - confidence, 2.0), 1.0)

    def _gated(self, d: Floats32, number: int) -> tuple[NDArray[np.bool_], Floats64]:
        """Which rows the gate settles, and what stands for their confidence."""
        inside = expit(d.astype(np.float64))
        # 1 − u is at most 1 where u ≥ 0 is all that is known; p_in is raised by more than computing u may round.
        counted = np.minimum(inside + 2.0**-40, 1.0) if number else np.zeros(len(d))
        return inside <= self.gate, counted

    def _measured(self, spans: Sequence[Span], owners: dict[int, Task], number: int) -> Iterator[tuple[int, Floats64]]:
        """The counted values of a filled batch by image; those that the gate lets through may come later."""
        used = spans[-1].high
        padded = used < self.model.batch
        d = self.model.distances(self.noisy)
        if self.gate and d is not None:
            settled, counted = self._gated(d[:used], number)
            rows = [(span, row) for span in spans for row in range(span.low, span.high)]
            chosen = [_alone(*rows[i], place) for place, i in enumerate(np.flatnonzero(settled))]
            yield from self._taken(chosen, self._sided(counted[settled], number), padded=padded)
            through = np.flatnonzero(~settled)
            self._pending += [(_alone(*rows[i], 0), self.noisy[i].copy(), float(d[i])) for i in through]
            while len(self._pending) >= self.model.batch:
                yield from self._flush(number)
            return
        logits = self.model.logits(self.noisy)
        if self.voting:
            self._vote(spans, owners, logits, d)
        values = self._sided(self.model.score.confidence(logits, d)[:used], number)
        yield from self._taken(spans, values, logits[:used], padded=padded)

    def _taken(
        self, spans: Sequence[Span], values: Floats64, logits: Floats32 | None = None, *, padded: bool
    ) -> Iterator[tuple[int, Floats64]]:
        """The values by image; the audit chooses among the rows."""
        if not len(values):
            return
        if self.audit is not None:
            self.audit.see(spans, self._codes(values, logits), padded=padded)
        yield from _grouped(np.repeat([s.block.image for s in spans], [s.high - s.low for s in spans]), values)

    def _flush(self, number: int) -> Iterator[tuple[int, Floats64]]:
        """Run up to a batch of the rows that the gate let through."""
        taken, self._pending = self._pending[: self.model.batch], self._pending[self.model.batch :]
        order = np.minimum(np.arange(self.model.batch), len(taken) - 1)
        logits = self.model.logits(np.stack([taken[i][1] for i in order]))
        d = np.array([taken[i][2] for i in order], np.float32)
        values = self._sided(self.model.score.confidence(logits, d)[: len(taken)], number)
        spans = [_alone(span, 0, place) for place, (span, _, _) in enumerate(taken)]
        yield from self._taken(spans, values, padded=len(taken) < self.model.batch)

    def _vote(self, spans: Sequence[Span], owners: dict[int, Task], logits: Floats32, d: Floats32 | None) -> None:
        """Count classes; those of a joint model are its classifier's, whose probabilities it orders alike."""
        labels = logits.argmax(axis=1)
        for span in spans:
            votes = owners[span.block.image].votes
            if votes is not None:
                part = votes[1 if owners[span.block.image].selected else 0]
                part += np.bincount(labels[span.low : span.high], minlength=len(part))

    def _stops(self, number: int, task: Task) -> bool:
        """Whether a task is finished: at n, or where more draws would hardly matter (a guess; the bound is right anyway).

        In-distribution: the bound is at most `tolerance` from the mean. Out-of-distribution: if the draws left up to n went on like
        those so far, the share of in-distribution bounds that the image's bound stays below, which is its part of the AUROC,
        would grow by at most `tolerance`, at radius 0 and at the radius of interest.
        """
        if task.drawn >= self.config.n:
            return True
        if not self.config.tolerance:
            return False
        bound = mean_upper(task.counts, self.alpha)
        if not number:
            return bound - edge_mean(task.counts) <= self.config.tolerance
        # Counts are whole: rounded down, the projection has at most n draws, and a little less mass where draws are rare.
        later = mean_upper(task.counts * self.config.n // task.drawn, self.alpha)
        shift = self.config.radius / float(self.model.sigma or 1)
        moved = ndtr(ndtri(np.array([bound, later])) + shift)
        gains = (self._behind(bound) - self._behind(later), self._behind(moved[0]) - self._behind(moved[1]))
        return max(gains) <= self.config.tolerance

    def _behind(self, value: float) -> float:
        """The share of in-distribution bounds that do not exceed `value`."""
        return float(np.searchsorted(self.inside, value, side="right")) / len(self.inside)

    def _record(self, number: int, task: Task) -> Record:
        used = np.flatnonzero(task.counts)
        record: dict[str, Any] = {
            "set": number,
            "row": task.image.index,
            "label": task.image.label,
            "sha256": task.digest,
            "n": task.drawn,
            "bins": used.tolist(),
            "counts": task.counts[used].tolist(),
        }
        if self.config.quantise:
            record["distance"] = task.image.distance
        if task.votes is not None:
            record["votes"] = [votes.tolist() for votes in task.votes]
            record["passed"] = self._passed(number, task)
        return record

    def _passed(self, number: int, task: Task) -> float:
        """The probability of the selected class of the image itself, by a denoiser's own noise where there is one."""
        model, pixels = self.model, task.image.pixels.transpose(2, 0, 1)
        images = np.repeat(np.ascontiguousarray(pixels, np.float32)[None] / np.float32(255), model.batch, axis=0)
        d, seen = model.distances(images), images
        if model.denoiser is not None:
            words = np.full(model.batch, task.image.index, np.uint64)
            seen = model.with_noise(images, self.key, phase_of(number, 2), words, 0)
        chosen = 0 if task.votes is None else int(np.argmax(task.votes[0]))
        return float(model.score.probabilities(model.logits(seen), d)[0, chosen])


def _alone(span: Span, row: int, place: int) -> Span:
    """Row `row` of a span's batch as a span of its own, at `place`."""
    return Span(span.block, span.pixels, place, place + 1, span.start + row - span.low)


def _grouped(images: NDArray[Any], values: Floats64) -> Iterator[tuple[int, Floats64]]:
    """The values of each image."""
    for image in np.unique(images):
        yield int(image), values[images == image]
