"""A configuration in, an open run store out; nothing is written before all of it is checked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..certify.lipschitz import run_margins
from ..certify.loop import Runner
from ..certify.places import SLACK
from ..certify.progress import NoProgress, Progress
from ..certify.rules import RadiusRule
from ..certify.stopping import Stopping
from ..device.selftest import check_device_noise
from ..engine import choose_backend
from ..errors import InputError
from ..images import ImageChoice, Images
from ..methods import Method
from ..noise import Key, grid_law
from .config import RunConfig
from .engines import device_of, sized_method
from .identity import classifier_id, independence, rows_note, versions
from .record import RunRecord
from .resume import open_store, recorded_batch, refuse_existing
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
        check_labels(images, method)
        check_noise(method, config.stopping)
        key, drawn = output.run_key()
        record = describe(method, images, config.choice, config.stopping, key=key)
        named = {**config.files, "classifier": config.files.get("classifier"), "data": config.data}
        files = {name: None if path is None else str(path) for name, path in named.items()}
        record = replace(record, batch_choice=fitted.choice, source=config.data.name, files=files, key_drawn=drawn)
        record = replace(record, shard=output.shard)
        store = open_store(output, record)
        try:
            draw(method, store, images.of_rows(record.asked), progress, stop_after=output.stop_after)
        except BaseException:
            store.close()
            raise
    finally:
        method.close()
    if output.out is None:
        return store
    store.close()
    return open_run(output.out)


def describe(
    method: Method, images: Images, choice: ImageChoice, stopping: Stopping, *, key: Key | None = None
) -> RunRecord:
    """What a new run of `method` on `images` says of itself; its key is drawn unless one is given."""
    law = grid_law(method.sigma) if stopping.smoothing else None
    record = RunRecord(
        method=method.name,
        choice=choice,
        stopping=stopping,
        classifier=classifier_id(method),
        classes=method.bins,
        law=law.digest if law else "",
        total_variation=law.tv_bound(int(np.prod(method.input_shape))) if law else 0.0,
        data=images.identity,
        images=len(images),
        key=Key.draw() if key is None else key,
        key_drawn=key is None,
        versions=versions(method.device),
        void=method.void,
        slack=SLACK if method.place_dependent else 0.0,
        lipschitz_constant=None if stopping.smoothing else stopping.lipschitz or method.lipschitz_constant,
        shape=method.input_shape,  # of the space that radii are distances in
        rows=independence(method.engines),
    )
    rule = record.rule
    return replace(record, thresholds=rule.recorded) if isinstance(rule, RadiusRule) else record


def check_labels(images: Images, method: Method) -> None:
    """InputError unless every label is one of the method's classes."""
    for row, label in zip(images.rows, images.labels(), strict=True) if images.labelled else ():
        if not 0 <= label < method.classes:
            raise InputError(
                f"image {row} has label {label}, the classifier has {method.classes} classes: "
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
    stop_at = None if stop_after is None else time.monotonic() + 3600 * stop_after
    record, shown = store.record, progress or NoProgress()
    found: Mapping[str, Any] = independence(method.engines)
    if record.rows != found:
        store.add_notes([f"a resumed part of this run: {rows_note(found)}"])
    try:
        if record.stopping.smoothing:
            Runner(method, store, store.rule, record.key, shown, stop_at).run(images)
        else:
            run_margins(method, store, store.rule, images, shown, stop_at=stop_at)
    finally:
        store.add_notes(method.notes)  # of votes that an interrupted run keeps, too
    if any(method.spent):
        store.add_evaluations(*method.spent)
