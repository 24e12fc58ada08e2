"""Verifying a run: recorded votes drawn again from key and counters, and everything that follows from them derived again.

At least 30 blocks are drawn again, all where there are fewer. Which ones is decided by a seed that nobody knew when the run was
written: blocks in the order of SHA-256 of "seed image phase start" (decimal numbers, one space between), the first ones. A
replayed block agrees only if every class has exactly the recorded votes. Whether all images that the run was asked for have a
result is looked at, too.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..certify.batch import packed
from ..certify.blocks import Block
from ..certify.lipschitz import margins
from ..certify.places import most_moved
from ..certify.progress import NoProgress, Progress
from ..certify.step import Step
from ..dtypes import Counts
from ..engine import Engine
from ..errors import MALFORMED, InputError, StoreError
from ..images import Image, Images, flat_pixels, pixel_digest
from ..methods import Method
from ..noise import ESTIMATION, NOISE_VERSION, PREDICTION, SELECTION, grid_law
from .counts import decoded
from .engines import build_method, device_of
from .file import UNRECORDED
from .identity import INDEPENDENT, differences, facts_of, fingerprint, rows_note, versions
from .record import ClassifierId, RunRecord, check_noise_version
from .reopen import check_weights, recorded_config, recorded_images
from .run import describe
from .store import RunStore, open_run

LEAST_BLOCKS = 30  # drawn again whatever the fraction: with fewer, one forged block in ten stays unseen too easily
PHASES = {SELECTION: "selection", ESTIMATION: "estimation", PREDICTION: "prediction"}
MENTIONS = ("images", "blocks", "partial", "margins", "timing")  # tables that may hold images without a result
WORDS = ("recorded", "here")  # whose values differ
DERIVED = ("classes", "law", "total_variation", "data", "images")


@dataclass
class Verification:
    """What a verification found: one line each in `mismatches` (none: the run is reproduced) and `notes`.

    `blocks` of `recorded` blocks (`samples` samples) were drawn again, those that `seed` chose; `results` results were
    derived again.
    """

    run: Path
    seed: int
    recorded: int = 0
    blocks: int = 0
    samples: int = 0
    results: int = 0
    mismatches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether everything that was looked at agrees."""
        return not self.mismatches

    @property
    def drawn_again(self) -> str:
        """What was drawn and derived again, and what of it a seed chose."""
        return (
            f"{self.blocks} of {self.recorded} blocks ({self.samples} samples) drawn again, "
            f"{self.results} results derived again; choice of blocks"
        )

    @property
    def verdict(self) -> str:
        """All of it in one line."""
        count = len(self.mismatches)
        verdict = "verified" if self.agrees else f"NOT reproduced here, {count} mismatch{'es' * (count > 1)}"
        return f"{self.run}: {verdict}; {self.drawn_again}: --blocks-seed {self.seed}"

    def lines(self) -> list[str]:
        """Mismatches, notes and the verdict."""
        return [*self.mismatches, *(f"note: {note}" for note in self.notes), self.verdict]


@dataclass
class _Chosen:
    """What one look into the store found: label, pixel hash, distance an image; the blocks to draw again, with the
    texts of their votes, which are sound.
    """

    images: dict[int, tuple[int, str, float]]
    chosen: dict[int, list[tuple[Block, str]]]


def choice(seed: int, *numbers: int) -> bytes:
    """What orders the things that `numbers` name: the first ones are drawn again. SHA-256 of "seed number number …"."""
    return hashlib.sha256(" ".join(map(str, (seed, *numbers))).encode()).digest()


def check_fraction(fraction: float) -> None:
    """Raise InputError unless `fraction` is a share of the blocks."""
    if not 0 < fraction <= 1:
        raise InputError(f"--fraction must be above 0 and at most 1, got {fraction}: 1 draws every block again")


def to_draw(fraction: float, recorded: int) -> int:
    """How many of the `recorded` blocks are drawn again: a `fraction`, at least LEAST_BLOCKS, all where there are fewer."""
    return min(recorded, max(LEAST_BLOCKS, math.ceil(fraction * recorded)))


def check_asked(
    asked: Sequence[int], held: Sequence[int], unfinished: bool, done: Verification, what: str = "result"
) -> None:
    """Add images without a `what`, as notes if the run may be `unfinished`, and images that it was not asked for."""
    missing, foreign = sorted({*asked} - {*held}), sorted({*held} - {*asked})
    if missing:
        text = f"{len(missing)} of {len(asked)} images have no {what} ({_some(missing)})"
        if unfinished:
            done.notes.append(f"the run is not finished: {text}")
        else:
            done.mismatches.append(f"missing: {text}; pass --unfinished to verify what a run has done so far")
    if foreign:
        done.mismatches.append(
            f"not asked for: the run has {len(foreign)} image{'s' * (len(foreign) > 1)} more ({_some(foreign)})"
        )


def _some(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:10]))}{', …' if len(numbers) > 10 else ''}"


def verify(
    run: str | Path,
    *,
    given: Mapping[str, Path | None],
    fraction: float = 0.01,
    device: str | None = None,
    threads: int | None = None,
    seed: int,
    allow_host_code: bool = False,
    unfinished: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Draw a random `fraction` of a run's blocks again, those that `seed` chooses; see `diffsmooth_trt.verify`.

    `given` are the files by option; those that it lacks, or has None for, are those that the run records.
    """
    check_fraction(fraction)
    with open_run(run) as store:
        record = store.record
        check_noise_version(store.path, record.classifier)
        config = recorded_config(store, given, threads, device).changed(allow_host_code=allow_host_code)
        images = recorded_images(record, config.data)
        opened = device_of(config)
        method = build_method(config, device=opened)
        done = Verification(store.path, seed)
        try:
            check_weights(record.classifier, method.engines)
            check_skipped(record, images, method.input_shape, done)
            here = describe(facts_of(method), images, config.choice, config.stopping, key=record.key)
            if record.shard is not None:
                images = images.of_rows(record.shard.rows(images.rows))
            if record.stopping.smoothing:
                shown = progress or NoProgress()
                verify_votes(
                    store, method, images, here, done, fraction=fraction, progress=shown, unfinished=unfinished
                )
            else:
                verify_margins(store, method, images, here, done, fraction=fraction, unfinished=unfinished)
        finally:
            method.close()
        if record.shape is not None and record.shape != method.input_shape:
            done.mismatches.append(f"shape: recorded {list(record.shape)}, here {list(method.input_shape)}")
        note_rows(record.rows, method.engines, done)
        check_identity(record.classifier, here.classifier, done)
        note_versions(record.versions, versions(opened), done)
    return done


def check_skipped(record: RunRecord, images: Images, shape: tuple[int, int, int], done: Verification) -> None:
    """Add images that the run skipped though they can be used; skipped ones count as not certified."""
    if not record.skipped:
        return
    images.expect((*shape[1:], shape[0]))
    for row in record.skipped:
        if any(True for _ in images.read(range(row, row + 1))):
            done.mismatches.append(f"image {row}: recorded as one that cannot be used, here it can")
    done.notes.append(f"{len(record.skipped)} images were skipped as they cannot be used; they count as not certified")


def verify_votes(
    store: RunStore,
    method: Method,
    images: Images,
    here: RunRecord,
    done: Verification,
    *,
    fraction: float,
    progress: Progress,
    unfinished: bool = False,
) -> None:
    """Check `store` against the rebuilt `method` and `images`; `here` is what a new run of them would say of itself.

    A run that is still being written is looked at as of its last commit; that images are missing is a mismatch unless it may
    be `unfinished`. Raises InputError for a store without blocks.
    """
    check_derived(store.record.described(), here.described(), done)
    check_votes(store.record, here, done)
    held = _read(store, fraction, images.rows, unfinished, done)
    note_key(store.record.key_drawn, done)
    if not store.record.has_distances:
        done.notes.append(UNRECORDED)
        held.images |= {image: (*known[:2], math.nan) for image, known in held.images.items()}
    samples = sum(block.stop - block.start for chosen in held.chosen.values() for block, _ in chosen)
    progress.start(len(held.chosen), 0, samples, 0)
    _replay(store.record, method, images, held, done, progress)


def verify_margins(
    store: RunStore,
    method: Method,
    images: Images,
    here: RunRecord,
    done: Verification,
    *,
    fraction: float,
    unfinished: bool = False,
) -> None:
    """Compute the margins of a `fraction` of the images again and compare them exactly; otherwise as `verify_votes`."""
    record = store.record
    check_derived(record.described(), here.described(), done)
    if not math.isclose(record.lipschitz_constant or 0.0, here.lipschitz_constant or 0.0, rel_tol=1e-9):
        done.mismatches.append(f"constant: recorded {record.lipschitz_constant}, here {here.lipschitz_constant}")
    held = {store.result(image).image for image in store.images_with_results()}
    done.recorded = done.results = len(held)
    if not held:
        raise InputError(f"run store {store.path} holds no margins yet: go on with the run before verifying it")
    count = to_draw(fraction, len(held))
    order = sorted(held, key=lambda image: choice(done.seed, image, 0, 0))
    chosen = set(order[:count])
    there = {*held} | {*record.skipped} | {*store.known_images()} - {*images.rows}
    check_asked(images.rows, sorted(there), unfinished, done)
    if not record.has_distances:
        done.notes.append(UNRECORDED)

    def same() -> Iterator[Image]:
        left = set(held)
        for image in images:
            if image.index not in left:
                continue
            left.remove(image.index)
            moved = image.distance if record.has_distances else 0.0
            if store.known(image.index) != (image.label, pixel_digest(image), moved):
                done.mismatches.append(
                    f"image {image.index}: label, pixels or distance in --data are not those of the run"
                )
            elif image.index in chosen:
                yield image
        done.mismatches += [f"image {index}: recorded, but --data holds no such image" for index in sorted(left)]

    for batch in margins(method, same()):
        for image, margin in batch:
            recorded = store.votes(image.index).margin
            if margin != recorded:
                done.mismatches.append(f"image {image.index}: recorded class and margin {recorded}, computed {margin}")
            done.blocks += 1


def check_derived(
    recorded: Mapping[str, Any], here: Mapping[str, Any], done: Verification, names: Sequence[str] = DERIVED
) -> None:
    """Add what follows from engines and data and is not what the run recorded."""
    for name in names:
        if recorded.get(name) != here[name]:
            done.mismatches.append(f"{name}: recorded {recorded.get(name)}, here {here[name]}")


def note_key(drawn: bool, done: Verification) -> None:
    """Add what a key that was not drawn means."""
    if not drawn:
        done.notes.append("the key was given, not drawn: whoever gave it could have tried many and kept one")


def check_votes(recorded: RunRecord, here: RunRecord, done: Verification) -> None:
    """Add where the class of abstentions is not the method's, or what bounds allow for the place in a batch is left out."""
    check_derived({"void": recorded.void}, {"void": here.void}, done, ("void",))
    if here.slack > recorded.slack:
        done.mismatches.append(f"slack: recorded {recorded.slack or None}, here {here.slack}")


def note_rows(rows: Mapping[str, str] | None, engines: Mapping[str, Engine], done: Verification) -> None:
    """Add where the rows of the run's engines were not proved independent, or not those of `engines` that are recorded so."""
    for role, state in rows.items() if rows is not None else ():
        if state == "proved" and (role not in engines or engines[role].rows != state):
            done.mismatches.append(f"rows: those of the {role} are recorded as proved independent, here they are not")
    if (note := rows_note(rows)) != INDEPENDENT:
        done.notes.append(note)


def check_identity(recorded: ClassifierId, here: ClassifierId, done: Verification) -> None:
    """Add in what the classifier id here differs from the recorded one, which may explain mismatches."""
    if recorded.id != fingerprint(recorded.parts):
        done.mismatches.append(f"classifier id: {recorded.id} is not the hash of the recorded classifier")
    if recorded.noise_version != NOISE_VERSION:
        done.mismatches.append(f"noise version: recorded {recorded.noise_version}, here {NOISE_VERSION}")
    differing = differences(recorded.parts, here.parts, words=WORDS)
    if differing:
        done.notes.append(f"the classifier id differs in {', '.join(differing)}: votes may differ by that alone")


def note_versions(recorded: Mapping[str, Any], here: Mapping[str, Any], done: Verification) -> None:
    """Add in what the versions here differ from the recorded ones."""
    elsewhere = differences(recorded, here, words=WORDS)
    if elsewhere:
        done.notes.append(f"other versions: {', '.join(elsewhere)}")


def _read(store: RunStore, fraction: float, asked: range, unfinished: bool, done: Verification) -> _Chosen:
    """Choose blocks, and check what needs no engine; one transaction, so that a live run is seen at one moment."""
    with store.snapshot() as connection:
        images = store.known_images()
        (done.recorded,) = connection.execute("SELECT COUNT(*) FROM blocks").fetchone()
        if not done.recorded:
            raise InputError(f"run store {store.path} holds no votes yet: go on with the run before verifying it")
        count = to_draw(fraction, done.recorded)
        chosen: dict[int, list[tuple[Block, str]]] = {}
        for _, block, text in heapq.nsmallest(count, _blocks(store, done), key=lambda entry: entry[0]):
            chosen.setdefault(block.image, []).append((block, text))
        _check_results(store, images, done)
        results = {image for (image,) in connection.execute("SELECT image FROM results")}
        mentioned = {image for table in MENTIONS for (image,) in connection.execute(f"SELECT image FROM {table}")}
        check_asked(asked, sorted(results | {*store.record.skipped} | (mentioned - {*asked})), unfinished, done)
    return _Chosen(images, chosen)


def _blocks(store: RunStore, done: Verification) -> Iterator[tuple[bytes, Block, str]]:
    """Every recorded block that can be drawn again, after the hash that orders it; a mismatch for each that cannot."""
    limits = dict(store.plan.phases)
    for *place, text in store.connection.execute("SELECT image, phase, start, stop, counts FROM blocks"):
        block = Block(*place)
        if not _possible(block, text, limits, store.record):
            done.mismatches.append(
                f"{_name(block)}: recorded votes that its samples cannot have given, or an unasked block"
            )
            continue
        yield choice(done.seed, block.image, block.phase, block.start), block, text


def _possible(block: Block, text: str, limits: Mapping[int, int], record: RunRecord) -> bool:
    """Whether a block's text can be its votes, and the run's plan asks for such samples."""
    whole = all(type(number) is int for number in vars(block).values())
    if not (whole and block.image >= 0 and 0 <= block.start < block.stop <= limits.get(block.phase, 0)):
        return False
    try:
        _votes(block, text, record)
    except MALFORMED:
        return False
    return True


def _votes(block: Block, text: str, record: RunRecord) -> Counts:
    return decoded(text, record.classes, block.stop - block.start, record.format)


def _check_results(store: RunStore, images: Mapping[int, object], done: Verification) -> None:
    held = [image for (image,) in store.connection.execute("SELECT image FROM results ORDER BY image").fetchall()]
    for image in held:
        try:
            store.result(image)
            done.results += 1
        except StoreError as error:
            done.mismatches.append(f"image {image}: {error.message}")
    if store.record.format > 1:
        decided = store.connection.execute("SELECT image, radius FROM decisions ORDER BY image, radius").fetchall()
        radii = store.record.stopping.preset
        if decided != [(image, radius) for image in held for radius in radii]:
            done.mismatches.append("decisions: not one on each preset radius of each image with a result")
    for image in sorted({*images} - {*held}):
        try:
            store.counts(image)
        except StoreError:
            continue  # its votes are not complete, so no result is due
        done.mismatches.append(f"image {image}: has all its votes, but no result")


def _name(block: Block) -> str:
    phase = PHASES.get(block.phase, f"phase {block.phase}")
    return f"image {block.image}, {phase}, from sample {block.start} to before {block.stop}"


def _work(
    images: Images, held: _Chosen, shape: Sequence[int], done: Verification
) -> Iterator[tuple[Block, NDArray[np.uint8]]]:
    """The chosen blocks with the pixels they start from; images that are not the run's are reported, not drawn."""
    left = dict(held.images)
    for image in images if left else ():
        recorded = left.pop(image.index, None)
        if recorded is not None:
            given = (image.label, pixel_digest(image), image.distance)
            if not (given[2] == recorded[2] or math.isnan(recorded[2])):
                done.mismatches.append(f"image {image.index}: recorded distance {recorded[2]}, --data has {given[2]}")
            if given[0] != recorded[0]:
                done.mismatches.append(f"image {image.index}: recorded label {recorded[0]}, --data has {given[0]}")
            if given[1] != recorded[1] or image.pixels.transpose(2, 0, 1).shape != tuple(shape):
                done.mismatches.append(f"image {image.index}: pixels in --data are not those that the run used")
            else:
                yield from ((block, flat_pixels(image)) for block, _ in held.chosen.get(image.index, ()))
        if not left:
            return
    done.mismatches += [f"image {index}: recorded, but --data holds no such image" for index in sorted(left)]


def _replay(
    record: RunRecord, method: Method, images: Images, held: _Chosen, done: Verification, progress: Progress
) -> None:
    """Draw the chosen blocks again, packed into full batches, and compare each with its record."""
    step = Step(method, grid_law(method.sigma), record.key)
    recorded = {block: text for chosen in held.chosen.values() for block, text in chosen}
    waiting = {image: len(chosen) for image, chosen in held.chosen.items()}
    drawn: dict[Block, Counts] = {}

    def collect() -> None:
        spans, counts, *_ = step.collect()
        finished = 0
        for span, counted in zip(spans, counts, strict=True):
            votes = drawn.setdefault(span.block, np.zeros(method.bins, dtype=np.int64))
            votes += counted
            if span.start + span.high - span.low < span.block.stop:
                continue
            done.blocks += 1
            done.samples += span.block.stop - span.block.start
            known = _votes(span.block, recorded[span.block], record)
            compare_votes(_name(span.block), known, drawn.pop(span.block), record.slack, done)
            waiting[span.block.image] -= 1
            finished += not waiting[span.block.image]
        progress.update(spans[-1].high, finished)

    for spans in packed(_work(images, held, method.input_shape, done), method.batch):
        if step.full:
            collect()
        step.launch(spans)
    while step.flying:
        collect()


def compare_votes(name: str, recorded: Counts, replayed: Counts, slack: float, done: Verification) -> None:
    """Add a mismatch of the votes that `name` names, in the classes that differ, unless they are equal.

    Where they depend on places in the batch (places.py), by `slack` at most: unless fewer moved than that explains.
    """
    width = max(len(recorded), len(replayed))
    old, new = (np.pad(votes, (0, width - len(votes))) for votes in (recorded, replayed))
    differing = np.flatnonzero(old != new).tolist()
    moved = int(np.abs(old - new).sum()) // 2
    if 0 < moved <= most_moved(int(old.sum()), slack, 1e-6):
        done.notes.append(f"{name}: {moved} votes moved, as last bits depend on places in the batch here")
    elif differing:
        before, after = (", ".join(f"{label}: {votes[label]}" for label in differing) for votes in (old, new))
        done.mismatches.append(f"{name}: recorded votes {{{before}}}, replayed {{{after}}}")
