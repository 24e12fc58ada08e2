"""A configuration in, an open run store out; nothing is written before all of it is checked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..certify.lipschitz import run_margins
from ..certify.loop import Runner
from ..certify.places import SLACK
from ..certify.progress import NoProgress, Progress
from ..certify.rules import RadiusRule
from ..certify.step import Step
from ..certify.stopping import Stopping
from ..datasets import Classes, read_class_map
from ..device.selftest import check_device_noise
from ..engine import choose_backend
from ..errors import InputError
from ..images import ImageChoice, Images, pixel_digest
from ..methods import Method
from ..noise import Key, grid_law
from .config import RunConfig
from .data import look_over, say_skipped
from .denoising import denoising_notes
from .engines import device_of, sized_method
from .identity import MethodFacts, caveats, facts_of, independence, rows_note
from .record import RunRecord
from .resume import open_store, recorded_batch, refuse_existing
from .shard import Shard
from .store import RunStore, open_run


def run(config: RunConfig, progress: Progress | None = None) -> RunStore:
    """Run `config` to its end and return the store, open for reading; it is in memory where the configuration has no `out`."""
    output, engines = config.output, config.engines
    refuse_existing(output)
    if engines.device == "cpu":
        choose_backend(engines.backend)
    images = Images.chosen(config.data, config.choice)
    device = device_of(config)
    fitted = sized_method(config, device, recorded_batch(output, engines.batch))
    method = fitted.method
    try:
        check_noise(method, config.stopping)
        with opened_store(config, images, facts_of(method), fitted.choice) as store:
            draw(method, store, images, progress, stop_after=output.stop_after)
    finally:
        method.close()
    return finished(store)


@contextmanager
def opened_store(
    config: RunConfig, images: Images, facts: MethodFacts, batch_choice: Mapping[str, Any] | None = None
) -> Iterator[RunStore]:
    """The store that a run of `config` on `images` writes, closed where the run fails; nothing is written before all is checked."""
    said = prepare(images, config.choice, facts, config.output.shard)
    key, drawn = config.output.run_key()
    record = describe(facts, images, config.choice, config.stopping, key=key)
    named = {**config.files, "classifier": config.files.get("classifier"), "data": config.data}
    named |= {} if config.choice.class_map is None else {"class_map": config.choice.class_map}
    files = {name: None if path is None else str(path) for name, path in named.items()}
    record = replace(record, batch_choice=batch_choice, source=config.data.name, files=files, key_drawn=drawn)
    store = open_store(config.output, replace(record, shard=config.output.shard))
    try:
        if store.record.data != record.data:
            take_data(store, images, record.data)
        store.skip(images.skipped)
        store.add_notes([*said, *store.weaker])
        yield store
    except BaseException:
        store.close()
        raise


def prepare(images: Images, choice: ImageChoice, facts: MethodFacts, shard: Shard | None = None) -> list[str]:
    """Look at all images that a run will draw from, before it does: which class each label is, and what the headers say.

    Returns what reports have to say of them. Raises InputError where it is not known which class a label is, and for images
    that cannot be used, unless they are to be skipped.
    """
    said = None if choice.class_map is None else read_class_map(choice.class_map)
    images.match(Classes(facts.classes, facts.class_names), said)
    check_labels(images, facts)
    notes = look_over(images, facts.input_shape, images.rows if shard is None else shard.rows(images.rows))
    say_skipped(images)
    return notes


def take_data(store: RunStore, images: Images, data: str) -> None:
    """Go on with a data set of other content, if the images that the run has drawn from are the same. InputError else."""
    left = store.known_images()
    last = max(left, default=-1)
    for image in images.of_rows(images.rows[: sum(row <= last for row in images.rows)]):
        known = left.pop(image.index, None)
        if known is not None and known != (image.label, pixel_digest(image), image.distance):
            left[image.index] = known
            break
    if left:
        raise InputError(
            f"image {min(left)} differs from the one in {store.path}: --data is not the run's; give its images as they were"
        )
    store.change_data(data)


def finished(store: RunStore) -> RunStore:
    """The store of a run that ended, open for reading."""
    if store.lock is None:
        return store
    store.close()
    return open_run(store.path)


def describe(
    facts: MethodFacts, images: Images, choice: ImageChoice, stopping: Stopping, *, key: Key | None = None
) -> RunRecord:
    """What a new run of a method on `images` says of itself; its key is drawn unless one is given."""
    law = grid_law(facts.sigma) if stopping.smoothing else None
    record = RunRecord(
        method=facts.name,
        choice=choice,
        stopping=stopping,
        classifier=facts.classifier,
        classes=facts.bins,
        law=law.digest if law else "",
        total_variation=law.tv_bound(int(np.prod(facts.input_shape))) if law else 0.0,
        data=images.identity,
        images=len(images),
        key=Key.draw() if key is None else key,
        key_drawn=key is None,
        versions=facts.versions,
        void=facts.void,
        slack=SLACK if facts.place_dependent else 0.0,
        lipschitz_constant=None if stopping.smoothing else stopping.lipschitz or facts.lipschitz_constant,
        shape=facts.input_shape,  # of the space that radii are distances in
        rows=facts.rows,
        labels=None if images.matching is None else images.matching.recorded(),
        class_names=Classes(facts.classes, facts.class_names).names,
    )
    rule = record.rule
    return replace(record, thresholds=rule.recorded) if isinstance(rule, RadiusRule) else record


def check_labels(images: Images, facts: MethodFacts) -> None:
    """InputError unless every label is one of the method's classes."""
    for row, label in zip(images.rows, images.labels(), strict=True) if images.labelled else ():
        if not 0 <= label < facts.classes:
            raise InputError(
                f"image {row} has label {label}, the classifier has {facts.classes} classes: "
                "give the data set that it was trained for"
            )


def check_noise(method: Method, stopping: Stopping) -> None:
    """NoiseError unless the method's device draws the very noise that certificates rest on."""
    for law in (*([grid_law(method.sigma)] if stopping.smoothing else []), *method.own_laws()):
        with method.device.errors():
            check_device_noise(law, method.device)


def draw(
    method: Method,
    store: RunStore,
    images: Images,
    progress: Progress | None = None,
    *,
    stop_after: float | None = None,
) -> None:
    """Draw all that the store's run still lacks of `images`; Stopped after so many hours, with all votes kept."""
    record, shown = store.record, progress or NoProgress()
    images, stop_at = images.of_rows(record.asked), deadline(stop_after)
    note_resumed(store, independence(method.engines))
    store.add_notes(caveats(method.engines))
    if not store.drawn():
        store.add_notes(list(denoising_notes(method, images)))
    try:
        if record.stopping.smoothing:
            step = Step(method, grid_law(method.sigma), record.key)
            Runner(method, store, store.rule, step, shown, stop_at).run(images)
        else:
            run_margins(method, store, store.rule, images, shown, stop_at=stop_at)
    finally:
        store.skip(images.skipped)
        store.add_notes(method.notes)  # of votes that an interrupted run keeps, too
    if any(method.spent):
        store.add_evaluations(*method.spent)


def deadline(hours: float | None) -> float | None:
    """When a run stops that has so many hours, by time.monotonic()."""
    return None if hours is None else time.monotonic() + 3600 * hours


def note_resumed(store: RunStore, rows: Mapping[str, str]) -> None:
    """Note where rows of the engines that go on are not as independent as the run's were."""
    if store.record.rows != rows:
        store.add_notes([f"a resumed part of this run: {rows_note(rows)}"])
