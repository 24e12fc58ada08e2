"""A configuration in, a finished file of records out; nothing is written before all of the input is checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..certify.progress import NoProgress, Progress
from ..datasets import Classes
from ..engine import choose_backend
from ..errors import InputError
from ..noise import Key
from ..noise.selftest import check_noise
from ..runs.identity import differences
from ..runs.record import check_noise_version
from ..stages import note
from .certified import Certifier, dense
from .config import OodConfig
from .distributed import by_workers
from .linf import BallRunner
from .model import Model, ModelFacts
from .record import OodRecord, SetRecord
from .sets import DataSet, label_inside, open_sets, overlaps
from .store import OodStore


def describe(config: OodConfig, model: ModelFacts, sets: list[DataSet]) -> OodRecord:
    """What a new run says of itself; its key is drawn unless the configuration has one."""
    law, smoothed = model.law, config.kind == "certified"
    files = {"classifier": config.classifier, "engine": config.engine, "detector": config.detector}
    named: dict[str, Any] = {name: None if path is None else str(path) for name, path in files.items()}
    return OodRecord(
        asked=config.asked,
        classifier=model.classifier,
        classes=model.classes,
        law=law.digest if law else "",
        total_variation=law.tv_bound(int(np.prod(model.input_shape))) if law and smoothed else 0.0,
        joint=model.joint,
        sets=tuple(SetRecord(data.name, data.images.identity, len(data.images), data.skipped) for data in sets),
        key=Key.draw() if config.key is None else config.key,
        key_drawn=config.key is None,
        versions=model.versions,
        files={**named, "in_data": str(config.in_data), "out_data": list(config.out_data)},
        notes=(*model.notes, *(note for data in sets for note in data.notes), *overlaps(sets)),
        shape=model.input_shape,
        rows=model.rows,
    )


def _is_empty(config: OodConfig) -> bool:
    return config.out.is_file() and config.out.stat().st_size == 0


def _refuse_existing(config: OodConfig) -> None:
    if config.out.exists() and not config.out.is_file():
        raise InputError(f"--out {config.out} is not a regular file: give another name")
    if config.out.exists() and not config.resume and not _is_empty(config):
        raise InputError(f"--out {config.out} exists: pass --resume to go on with it, or another name")


def _open_store(config: OodConfig, record: OodRecord) -> OodStore:
    """A new file, or with `config.resume` the one that is there, if it is of the same run."""
    if not config.out.exists() or _is_empty(config):
        return OodStore.create(config.out, record)
    store = OodStore.open(config.out, write=True)
    try:
        recorded = store.record
        check_noise_version(config.out, recorded.classifier)
        differing = differences(recorded.described(), record.described())
        if config.key is not None and config.key != recorded.key:
            differing.append("key (another one was given)")
        if differing:
            raise InputError(
                f"--resume {config.out}: the run differs in {'; '.join(differing[:3])}; use its settings or another --out"
            )
    except InputError:
        store.close()
        raise
    return store


def _check_records(store: OodStore, sets: list[DataSet]) -> None:
    """InputError unless the images that the file has records of are those of the sets, and their draws can be."""
    digests = [dict(zip(data.rows, data.digests, strict=True)) for data in sets]
    for (number, row), record in store.records.items():
        if number >= len(sets) or digests[number].get(row) != record["sha256"]:
            raise InputError(
                f"{store.path} has a record of set {number}, row {row} with other pixels: the data changed"
            )
        moved = dict(zip(sets[number].rows, sets[number].distances, strict=True))[row]
        if store.record.asked.choice.quantise and record.get("distance") != moved:
            raise InputError(
                f"{store.path} has a record of set {number}, row {row} with distance {record.get('distance')}, here {moved}: the "
                "data changed, or an older version made it; start anew"
            )
        if store.record.asked.certified:
            dense(record)


def run(config: OodConfig, progress: Progress | None = None) -> OodStore:
    """Run `config` to its end and return its file, open for reading. Raises InputError for what cannot be run."""
    _refuse_existing(config)
    if config.cluster.kind == "cpu":
        choose_backend(config.backend)
    with _opened(config) as (model, runner):
        sets = open_sets(config, model.input_shape)
        matching = label_inside(sets[0].images, config, Classes(model.classes, model.class_names))
        record = replace(describe(config, model, sets), labels=None if matching is None else matching.recorded())
        of_data = {text for data in sets for text in data.notes}  # said when they were found
        for text in record.notes:
            if text not in of_data:
                note(text)
        if model.law is not None:
            check_noise(model.law)
        with _open_store(config, record) as store:
            _check_records(store, sets)
            runner.run(sets, store, progress or NoProgress())
    return OodStore.open(config.out)


@contextmanager
def _opened(config: OodConfig) -> Iterator[tuple[ModelFacts, Certifier | BallRunner]]:
    """The run's model and what draws by it: this process, or workers."""
    if config.cluster.address is not None:
        with by_workers(config) as opened:
            yield opened
        return
    model = Model(config)
    try:
        yield model.facts, Certifier.here(model, config) if config.kind == "certified" else BallRunner(model, config)
    finally:
        model.close()
