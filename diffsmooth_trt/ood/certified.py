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

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ..certify.audit_rows import Seat
from ..certify.batch import Span, packed
from ..certify.blocks import BLOCK
from ..certify.progress import Progress
from ..certify.self_audit import SelfAudit
from ..certify.step import Steps
from ..dtypes import Floats64, Labels
from ..errors import MALFORMED, InputError
from ..images import Image
from ..noise import Key
from ..statistics.bounds import Certificate, certificate
from ..statistics.sequential import looks
from .bounds import BINS, MIDDLES, complement_lower, edge_mean, mean_upper, with_total_variation
from .config import OodConfig
from .counted import UNSETTLED, Counting, LocalSteps, Through, counts_classes, phase_of
from .model import Model, ModelFacts
from .record import OodRecord
from .sets import DataSet
from .store import OodStore, Record
from .tasks import Range, Task

# Images in work at once: no more than fill so many batches, of which the last may be partly empty.
GROUP = 64
BATCHES = 64


def dense(record: Record) -> NDArray[np.int64]:
    """A record's counts int64 `[BINS]`. Raises InputError for a damaged one: bins that do not exist, counts that are not n."""
    try:
        bins, drawn, n = np.array(record["bins"]), np.array(record["counts"]), record["n"]
        whole = bins.dtype.kind == drawn.dtype.kind == "i" and bins.shape == drawn.shape == (len(np.unique(bins)),)
        sound = whole and bins.min() >= 0 and bins.max() < BINS and drawn.min() >= 0 and drawn.sum() == n > 0
    except MALFORMED:
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

    def __init__(
        self,
        model: ModelFacts,
        config: OodConfig,
        steps: Callable[[Key], Steps],
        passed: Callable[[Key, int, Task], float] | None = None,
        *,
        audited: bool = True,
        workers: int = 1,
    ) -> None:
        """Draws by what `steps` makes of the run's key, for so many `workers`; `passed` gives what distro-l2 needs besides."""
        self.audited, self.workers, self.begin, self.passed = audited, workers, steps, passed
        self.audit: SelfAudit | None = None
        self.model, self.config = model, config
        self.voting = counts_classes(config.score)
        self.looks = looks(config.n) if config.tolerance else tuple(range(BLOCK, config.n, BLOCK))
        self.inside: Floats64 = np.empty(0)  # the in-distribution bounds, ascending
        self._through: deque[Through] = deque()  # rows that the gate let through, which wait for a batch
        self._drawing: deque[Sequence[Span]] = deque()  # batches under way

    @classmethod
    def here(cls, model: Model, config: OodConfig, *, audited: bool = True) -> Self:
        """By this process."""
        counting = Counting(model, config.gate)
        return cls(model.facts, config, lambda key: LocalSteps(counting, key), Passing(model), audited=audited)

    def run(self, sets: Sequence[DataSet], store: OodStore, progress: Progress) -> None:
        """Finish every image of every set, the in-distribution one first: its bounds are what the others' are compared with."""
        self.store, self.progress, self.key, self.alpha = store, progress, store.record.key, store.record.level
        self.steps = self.begin(self.key)
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
        counts = self.store.audit
        if counts is None:
            return SelfAudit(self.model.batch, counts={"before": drawn} if drawn else {})
        counts = {**counts, "of": max(counts["of"], drawn - counts.get("before", 0))}
        return SelfAudit(self.model.batch, counts=counts)

    def _run_set(self, number: int, data: DataSet) -> None:
        waiting = (image for image in data.images if self.store.lacks(number, image.index))
        active: list[Task] = []
        most = BATCHES * self.model.batch * self.workers
        while True:
            rows = sum(map(self._rows, active))
            while len(active) < GROUP * self.workers and rows < most and (image := next(waiting, None)):
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
        self._finish_audit()

    def _finish_audit(self) -> None:
        """Evaluate again what is left of the rows that were chosen."""
        while self.audit is not None:
            while self.steps.flying and self.steps.full:
                self._collect({})
            seats = self.audit.rest()
            if seats:
                self._launch(seats)
            if self.steps.flying and (self.steps.synchronous or not seats):
                self._collect({})
            elif not seats:
                break

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
        except MALFORMED:
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
        self._draw(number, packed(work, self.model.batch), active)
        for task in active:
            task.end()
        return sum(block.stop - block.start for block, _ in work)

    def _draw(self, number: int, batches: Iterator[Sequence[Span]], active: list[Task]) -> None:
        """Draw the batches, the rows that the gate lets through, and those that the audit evaluates again, and count them."""
        owners = {task.image.index: task for task in active}
        while True:
            while self.steps.flying and self.steps.full:
                self._collect(owners)
            spans = (
                (self.audit and self.audit.due()) or self._from_gate() or next(batches, None) or self._rest_from_gate()
            )
            if spans:
                self._launch(spans)
                for span in spans:
                    if type(span) is Span:
                        owners[span.block.image].filled = span.start + span.high - span.low
            if self.steps.flying and (self.steps.synchronous or not spans):
                self._collect(owners)
            elif not spans:
                break
            self._keep(number, active)

    def _from_gate(self) -> Sequence[Span]:
        """A full batch of rows that the gate let through, once there are enough of them."""
        if len(self._through) < self.model.batch:
            return ()
        rows = [self._through.popleft() for _ in range(self.model.batch)]
        return [_through(span, 0, place) for place, span in enumerate(rows)]

    def _rest_from_gate(self) -> Sequence[Span]:
        """What is left of them when there is nothing else."""
        if self.steps.flying:
            return ()
        rows = [_through(span, 0, place) for place, span in enumerate(self._through)]
        self._through.clear()
        return rows

    def _launch(self, spans: Sequence[Span]) -> None:
        """Begin a batch; what the audit evaluates again it evaluates whole, whatever the gate."""
        audited = isinstance(spans[0], Seat)
        self.steps.launch([_through(span, span.low, span.low) for span in spans] if audited else spans)
        self._drawing.append(spans)

    def _collect(self, owners: dict[int, Task]) -> None:
        """Take in the oldest batch under way: codes to be counted or compared, and rows that the gate lets through."""
        done = self.steps.collect()
        spans, codes = self._drawing.popleft(), done.labels
        if self.audit is not None and isinstance(spans[0], Seat):
            try:
                self.audit.compare(spans, codes)
            finally:
                self.store.add_audit(self.audit.found)
            return
        padded, settled = len(codes) < self.model.batch, codes != UNSETTLED
        if not settled.all():
            rows = [(span, row) for span in spans for row in range(span.low, span.high)]
            self._through += [_through(*rows[i], 0) for i in np.flatnonzero(~settled)]
            spans = [_alone(*rows[i], place) for place, i in enumerate(np.flatnonzero(settled))]
            codes = codes[settled]
        if not spans:
            return
        if self.audit is not None:
            self.audit.see(spans, codes, padded=padded)
        for image, part in _grouped(np.repeat([s.block.image for s in spans], [s.high - s.low for s in spans]), codes):
            self._count(owners[image], part)

    def _count(self, task: Task, codes: Labels) -> None:
        """Count the rows of an image; selection only counts votes, which for a joint model are its classifier's."""
        if task.selected:
            task.counts += np.bincount(codes % BINS, minlength=BINS)
        if task.votes is not None:
            part = task.votes[1 if task.selected else 0]
            part += np.bincount(codes // BINS, minlength=len(part))

    def _keep(self, number: int, active: Sequence[Task]) -> None:
        """Keep what the images in work have counted, about every second."""
        if self.store.keeps_draws():
            waiting: dict[int, list[Range]] = {}
            under_way = (span for spans in self._drawing for span in spans if not isinstance(span, Seat))
            for span in (*under_way, *self._through):
                waiting.setdefault(span.block.image, []).append((span.start, span.start + span.high - span.low))
            for task in active:
                at = task.image.index
                self.store.draws[number, at] = task.state(number, waiting.get(at, ()))
            self.store.keep_draws()

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
            assert self.passed is not None  # its configuration is refused where nobody can
            record["passed"] = self.passed(self.key, number, task)
        return record


class Passing:
    """The further pass of distro-l2, by engines that are open here."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, key: Key, number: int, task: Task) -> float:
        """The probability of the selected class of the image itself, by a denoiser's own noise where there is one."""
        model, pixels = self.model, task.image.pixels.transpose(2, 0, 1)
        images = np.repeat(np.ascontiguousarray(pixels, np.float32)[None] / np.float32(255), model.batch, axis=0)
        d, seen = model.distances(images), images
        if model.denoiser is not None:
            words = np.full(model.batch, task.image.index, np.uint64)
            seen = model.with_noise(images, key, phase_of(number, 2), words, 0)
        chosen = 0 if task.votes is None else int(np.argmax(task.votes[0]))
        return float(model.score.probabilities(model.logits(seen), d)[0, chosen])


def _alone(span: Span, row: int, place: int) -> Span:
    """Row `row` of a span's batch as a span of its own, at `place`."""
    return Span(span.block, span.pixels, place, place + 1, span.start + row - span.low)


def _through(span: Span, row: int, place: int) -> Through:
    """The same as a row that the gate let through."""
    return Through(**vars(_alone(span, row, place)))


def _grouped(images: NDArray[Any], codes: Labels) -> Iterator[tuple[int, Labels]]:
    """The codes of each image."""
    for image in np.unique(images):
        yield int(image), codes[images == image]
