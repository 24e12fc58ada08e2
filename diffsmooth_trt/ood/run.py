"""A configuration in, a finished file of records out; nothing is written before all of the input is checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..api import Silent, independence, versions
from ..certify.loop import Progress
from ..engine import choose_backend
from ..errors import InputError
from ..noise.selftest import check_noise
from ..runs.config import parse_key, recorded_key
from ..runs.identity import check_noise_version, differences
from .certified import Certifier, dense
from .config import OodConfig
from .linf import BallRunner
from .model import Model
from .sets import DataSet, open_sets, overlaps
from .store import OodStore


def describe(config: OodConfig, model: Model, sets: list[DataSet]) -> dict[str, Any]:
    """What decides a run's records besides its key: what a resumed run must agree with."""
    smoothed = config.kind == "certified"
    law = model.law
    return {
        "config": config.recorded(),
        "classifier": model.identity,
        "classes": model.classes,
        "law": law.digest if law else "",
        "total_variation": law.tv_bound(int(np.prod(model.input_shape))) if law and smoothed else 0.0,
        "joint": model.detector is not None,
        "sets": [{"name": data.name, "data": data.images.identity, "images": len(data)} for data in sets],
    }


def notes_on(model: Model, sets: list[DataSet]) -> list[str]:
    """What the user has to know about a run's scores."""
    return [*([model.classifier.warning] if model.classifier.warning else []), *overlaps(sets)]


def _is_empty(config: OodConfig) -> bool:
    return config.out.is_file() and config.out.stat().st_size == 0


def _refuse_existing(config: OodConfig) -> None:
    if config.out.exists() and not config.out.is_file():
        raise InputError(f"--out {config.out} is not a regular file: give another name")
    if config.out.exists() and not config.resume and not _is_empty(config):
        raise InputError(f"--out {config.out} exists: pass --resume to go on with it, or another name")


def _open_store(config: OodConfig, described: dict[str, Any], found: dict[str, Any], notes: list[str]) -> OodStore:
    """A new file, or with `config.resume` the one that is there, of the same run; `found` is what a new one says besides."""
    if not config.out.exists() or _is_empty(config):
        drawn = recorded_key(config.key)
        named = {"classifier": config.classifier, "engine": config.engine, "detector": config.detector}
        files = {name: None if path is None else str(path) for name, path in named.items()}
        files |= {"in_data": str(config.in_data), "out_data": list(config.out_data)}  # type: ignore[dict-item]
        return OodStore.create(
            config.out, {**described, **drawn, **found, "files": files, "versions": versions(), "notes": notes}
        )
    store = OodStore.open(config.out, write=True)
    try:
        check_noise_version(config.out, store.meta)
    except InputError:
        store.close()
        raise
    differing = differences({name: store.meta.get(name) for name in described}, described)
    if config.key is not None and parse_key(config.key) != int(store.meta["key"], 16):
        differing.append("key (another one was given)")
    if differing:
        store.close()
        raise InputError(
            f"--resume {config.out}: the run differs in {'; '.join(differing[:3])}; use its settings or another --out"
        )
    return store


def _check_records(store: OodStore, sets: list[DataSet]) -> None:
    """InputError unless the images that the file has records of are those of the sets, and their draws can be."""
    digests = [dict(zip(data.images.rows, data.digests, strict=True)) for data in sets]
    for (number, row), record in store.records.items():
        if number >= len(sets) or digests[number].get(row) != record["sha256"]:
            raise InputError(
                f"{store.path} has a record of set {number}, row {row} with other pixels: the data changed"
            )
        moved = dict(zip(sets[number].images.rows, sets[number].distances, strict=True))[row]
        if store.meta["config"].get("quantise") and record.get("distance") != moved:
            raise InputError(
                f"{store.path} has a record of set {number}, row {row} with distance {record.get('distance')}, here {moved}: the "
                "data changed, or an older version made it; start anew"
            )
        if store.meta["config"]["kind"] == "certified":
            dense(record)


def run(config: OodConfig, progress: Progress | None = None) -> OodStore:
    """Run `config` to its end and return its file, open for reading. Raises InputError for what cannot be run."""
    _refuse_existing(config)
    choose_backend(config.backend)
    model = Model(config)
    try:
        runner = Certifier(model, config) if config.kind == "certified" else BallRunner(model, config)
        sets = open_sets(config, model.input_shape)
        notes = notes_on(model, sets)
        described = describe(config, model, sets)
        if model.law is not None:
            check_noise(model.law)
        shown = progress or Silent()
        found = {"shape": list(model.input_shape), "rows": independence(model.opened)}
        with _open_store(config, described, found, notes) as store:
            _check_records(store, sets)
            runner.run(sets, store, shown)
    finally:
        model.close()
    return OodStore.open(config.out)
