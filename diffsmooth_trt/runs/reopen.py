"""From a run store back to the configuration that draws its votes: what it records, and the files that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..datasets import files_at
from ..engine import BACKENDS, CUDA_BACKENDS, Engine
from ..errors import InputError
from ..files import file_sha256
from ..images import REFUSE, SKIP, Image, Images, pixel_digest
from ..methods import METHODS, Method, Slot
from ..ranges import flag
from .config import RunConfig
from .engines import build_method, device_of
from .identity import classifier_id, differences
from .record import ClassifierId, RunRecord, naming_damage
from .store import RunStore

Given = Mapping[str, Path | None]
TOGETHER = 16  # images whose draws fill batches together


class Run(Protocol):
    """What any kind of run says of itself."""

    path: Path

    @property
    def files(self) -> Mapping[str, Any]:
        """The paths that it records, by option."""


def recorded_config(store: RunStore, given: Given, threads: int | None, device: str | None = None) -> RunConfig:
    """The run's configuration, its files being those `given` by option, else those that it records.

    It is for `device`, by default the kind that it ran on. Precision and batch are those that ran, so that this machine
    computes alike if it can. Raises InputError for files that are missing or whose SHA-256 is not the recorded one, and for
    values that no run writes.
    """
    with naming_damage(f"{store.path} holds values in its table meta"):
        return _config(store, given, threads, device)


def own_slots(store: RunStore, given: Iterable[str]) -> dict[str, Slot]:
    """The run's engines by the options that name them. InputError where `given` has one that the method takes, but not the run."""
    taken, parts = METHODS[store.record.method].slots, store.record.classifier.parts
    slots = {name: slot for name, slot in taken.items() if not slot.optional or slot.part in parts}
    for name in given:
        if name in taken and name not in slots:
            raise InputError(f"{store.path} is of a run without --{name}: leave it out")
    return slots


def _config(store: RunStore, given: Given, threads: int | None, device: str | None) -> RunConfig:
    record = store.record
    parts = record.classifier.parts
    if record.method not in METHODS or parts["method"] != record.method:
        raise ValueError(f"method {parts['method']!r}")
    method = METHODS[record.method]
    slots = own_slots(store, [name for name, path in given.items() if path is not None])
    needed = (*slots, "data", *(name for name, path in given.items() if path is not None))
    files = {name: locate(store, name, given.get(name)) for name in dict.fromkeys(needed)}
    for name, slot in slots.items():
        check_sha256(name, files[name], parts[slot.part]["sha256"])
    settings = _settings(record, method, [parts[slot.part] for slot in slots.values()], device) | files
    return RunConfig(**settings, threads=threads, key=record.key, out=store.path)


def _settings(
    record: RunRecord, method: type[Method], engines: list[dict[str, Any]], device: str | None
) -> dict[str, Any]:
    """What a run was asked for, besides files and key."""
    # Compiled engines leave no choice.
    chosen = [engine for engine in engines if engine["backend"] in {*BACKENDS, *CUDA_BACKENDS[".onnx"]}]
    parts = record.classifier.parts
    return {
        **record.choice.recorded(),
        **record.stopping.recorded(),
        **{name: parts[name] for name in method.Options.names() if name in parts},
        **device_options(engines, chosen, device),
        "method": method.name,
        "sigma": parts["sigma"] or None,
        "batch": engines[0]["batch"],
    }


def repeating(store: RunStore) -> dict[str, Any]:
    """The arguments of certify or predict that make a run like this one, under a key of its own: files are those it records.

    With the run's key they give its very votes. They name no key, which is nobody's who is shown how a run was made.
    """
    with naming_damage(f"{store.path} holds values in its table meta"):
        record = store.record
        if record.method not in METHODS:
            raise ValueError(f"method {record.method!r}")
        method, parts = METHODS[record.method], record.classifier.parts
        slots = {name: slot for name, slot in method.slots.items() if slot.part in parts}
        settings = _settings(record, method, [parts[slot.part] for slot in slots.values()], None)
        settings |= {name: record.files.get(name) for name in (*slots, "data", "class_map")}
        settings |= {} if record.shard is None else {"shard": str(record.shard)}
        settings |= {"bad_images": SKIP} if record.skipped else {}
        return {name: value for name, value in settings.items() if value is not None and value is not False}


def recorded_images(record: RunRecord, data: Path) -> Images:
    """The images of a run, which lie at `data`, with the labels that it took for classes; where it skipped some, bad ones are left
    out.
    """
    images = Images.chosen(data, replace(record.choice, bad_images=SKIP if record.skipped else REFUSE))
    if record.matching is not None:
        images.match_as(record.matching)
    return images


def device_options(engines: list[dict[str, Any]], chosen: list[dict[str, Any]], device: str | None) -> dict[str, Any]:
    """Device, and backend and precision of those `chosen`, that compute as the recorded engines did, as far as it can."""
    ran_on = "cuda:0" if any("device" in engine for engine in engines) else "cpu"
    device = device or ran_on
    backends, precisions = ({engine[name] for engine in chosen} for name in ("backend", "precision"))
    # bf16 is not asked for but left to the CPU: one without it computes in fp32, and the classifier id says so
    precision = None if not chosen or any("bf16" in name for name in precisions) else "fp32"
    if (device == "cpu") != (ran_on == "cpu"):
        return {"device": device, "backend": None, "precision": precision}  # near, never the same bits
    if device != "cpu":
        precision = next((name for name in ("tf32", "fp32") if name in precisions), None)
    return {"device": device, "backend": backends.pop() if len(backends) == 1 else None, "precision": precision}


def locate(store: Run, name: str, given: Path | None) -> Path:
    """The file `given`, else the one that a run records as `name`."""
    option = flag(name)
    if given is not None:
        return given
    recorded = store.files.get(name)
    if recorded is None:
        raise InputError(f"{store.path} does not record the path of its {option}: pass {option}")
    return find(store.path, recorded, option)


def find(run: Path, recorded: str, option: str) -> Path:
    """The file that `run` records as its `option`, where it was or beside the run; InputError if it is not there."""
    for path in (Path(recorded), run.parent / recorded):
        if files_at(path):
            return path
    raise InputError(f"{option} {recorded}, which {run} records, is not here: pass {option} with its new place")


def check_sha256(name: str, path: Path, recorded: str) -> None:
    """Raise InputError unless the file is there and is the one with that SHA-256."""
    if not path.is_file():
        raise InputError(f"--{name} {path} does not exist: pass the file that the run used")
    sha256 = file_sha256(path)
    if sha256 != recorded:
        raise InputError(
            f"--{name} {path} has SHA-256 {sha256[:16]}…, the run used {recorded[:16]}…: pass the file that the run used"
        )


def check_weights(recorded: ClassifierId, engines: Mapping[str, Engine]) -> None:
    """Raise InputError unless files of weights beside the engines, by part of the method, are the run's too."""
    for part, engine in engines.items():
        here, weights = engine.identity.get("weights"), recorded.engines[part].get("weights")
        if here != weights:
            raise InputError(
                f"{engine.path} has weights files {here}, the run used {weights}: put the run's files beside it"
            )


def open_as_run(store: RunStore, given: Given, threads: int | None) -> tuple[RunConfig, Method]:
    """The run's configuration and its very classifier, whose engines the caller closes; `given` as for `recorded_config`.

    Raises InputError where this machine makes another classifier of the run's files, so that votes would not be the run's.
    """
    config = recorded_config(store, given, threads)
    method = build_method(config, device=device_of(config))
    try:
        check_weights(store.record.classifier, method.engines)
        apart = differences(store.record.classifier.parts, classifier_id(method).parts, words=("run", "here"))
        if apart:
            raise InputError(
                f"this machine makes another classifier of the run's files ({apart[0]}): do it where the run was made"
            )
    except BaseException:
        method.close()
        raise
    return config, method


def finished_images(images: Images, store: RunStore) -> Iterator[Image]:
    """The images that have a result; InputError for one that is not the run's."""
    held = set(store.images_with_results())
    for image in images:
        if image.index not in held:
            continue
        held.remove(image.index)
        known = store.known(image.index)
        if known is None or known[:2] != (image.label, pixel_digest(image)):
            raise InputError(f"image {image.index} in --data is not the run's: pass the data that it used")
        yield image
    if held:
        raise InputError(f"--data has no image {min(held)}, of which the run has a result: pass the data that it used")
