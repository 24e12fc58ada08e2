"""Verifying a run of `ood`: every record is looked at, and images chosen at random are scored again from key and counters.

Which images are scored again is decided by a seed that nobody knew when the run was written: records in the order of SHA-256 of
"seed set row" (decimal numbers, one space between), the first ones. A record agrees only if every number in it is the same.
Attacks are not made again: an adversarial run's records are held to the order score ≤ attacked ≤ bound.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..certify.progress import NoProgress, Progress
from ..errors import MALFORMED, InputError
from ..images import REFUSE, SKIP
from ..noise.selftest import check_noise
from ..runs.identity import versions
from ..runs.record import check_noise_version, naming_damage
from ..runs.reopen import check_sha256, check_weights, device_options, find, locate
from ..runs.verify import (
    Verification,
    check_derived,
    check_fraction,
    check_identity,
    choice,
    note_key,
    note_rows,
    note_versions,
    to_draw,
)
from .certified import Certifier, dense
from .config import OodConfig
from .generated import PREFIX
from .linf import BallRunner
from .model import Model
from .run import describe
from .sets import DataSet, open_sets
from .store import OodStore, Record

ROLES = {"classifier": "classifier", "engine": "denoiser", "detector": "detector"}
DERIVED = ("config", "classes", "law", "total_variation", "joint", "sets", "notes")
NOT_AGAIN = ("attacked", "by")
Place = tuple[int, int]  # set and row


@dataclass
class OodVerification(Verification):
    """What verifying a run of `ood` found: `blocks` of `recorded` images were scored again, with `samples` draws of noise."""

    @property
    def drawn_again(self) -> str:
        """What was scored again, and what of it a seed chose."""
        return (
            f"{self.blocks} of {self.recorded} images ({self.samples} draws) scored again, all records looked at; "
            "choice of images"
        )


class _Replay(OodStore):
    """A run's records in memory but for the `chosen` ones, which are all that is to be scored, and those `left_out`."""

    def __init__(self, store: OodStore, chosen: Collection[Place], left_out: Collection[Place]) -> None:
        kept = {
            place: record for place, record in store.records.items() if place not in chosen and place not in left_out
        }
        super().__init__(store.path, store.record, kept, None)
        self.chosen = chosen

    def lacks(self, number: int, row: int) -> bool:
        return (number, row) in self.chosen

    def add(self, record: Record) -> None:
        self.records[record["set"], record["row"]] = record


def verify(
    run: str | Path,
    *,
    fraction: float = 0.01,
    classifier: str | Path | None = None,
    engine: str | Path | None = None,
    detector: str | Path | None = None,
    in_data: str | Path | None = None,
    out_data: Sequence[str | Path] | None = None,
    device: str | None = None,
    threads: int | None = None,
    blocks_seed: int | None = None,
    unfinished: bool = False,
    progress: Progress | None = None,
) -> OodVerification:
    """Score a random `fraction` of the images of a run of `ood` again and compare; check what its records and files say.

    At least 30 images are scored, all where there are fewer. A run that lacks images does not agree unless it may be
    `unfinished`. The files are those that the run records unless given; `out_data` are all of its sets, in their order.
    `blocks_seed` repeats an earlier choice of images. `agrees` of what it returns says whether all of it is reproduced. Raises
    InputError for what cannot be verified: missing files, engines that are not the run's.
    """
    check_fraction(fraction)
    files = {"classifier": classifier, "engine": engine, "detector": detector, "in_data": in_data}
    given = {name: None if path is None else Path(path) for name, path in files.items()}
    with OodStore.open(Path(run)) as store:
        recorded = store.record
        check_noise_version(store.path, recorded.classifier)
        done = OodVerification(store.path, secrets.randbits(64) if blocks_seed is None else blocks_seed)
        with naming_damage(f"{store.path} holds values in its first line"):
            config = _recorded_config(store, given, out_data, threads, device)
        model = Model(config)
        try:
            check_weights(recorded.classifier, model.opened)
            sets = open_sets(config, model.input_shape)
            here = describe(config, model.facts, sets)
            if model.law is not None:
                check_noise(model.law)
            check_derived(recorded.to_meta(), here.to_meta(), done, DERIVED)
            if recorded.shape is not None and recorded.shape != model.input_shape:
                done.mismatches.append(f"shape: recorded {list(recorded.shape)}, here {list(model.input_shape)}")
            note_key(recorded.key_drawn, done)
            note_rows(recorded.rows, model.opened, done)
            # From here on with what a new run would say of itself: what the file says otherwise is reported already.
            held = OodStore(store.path, here, store.records, None)
            _check_finished(held, unfinished, done)
            _verify_records(held, model, config, sets, done, fraction=fraction, progress=progress or NoProgress())
        finally:
            model.close()
        check_identity(recorded.classifier, here.classifier, done)
        note_versions(recorded.versions, versions(), done)
    return done


def _recorded_config(
    store: OodStore,
    given: Mapping[str, Path | None],
    out_data: Sequence[str | Path] | None,
    threads: int | None,
    device: str | None,
) -> OodConfig:
    """The run's configuration, with files that were given or that it records."""
    classifier = store.record.classifier.parts
    roles = {name: role for name, role in ROLES.items() if role in classifier}
    absent = [name for name in ROLES if name not in roles and given[name] is not None]
    if absent:
        raise InputError(f"{store.path} is of a run without --{absent[0]}: leave it out")
    files = {name: locate(store, name, given[name]) for name in (*roles, "in_data")}
    for name, role in roles.items():
        check_sha256(name, files[name], classifier[role]["sha256"])
    engines = [classifier[role] for role in roles.values()]
    options: dict[str, Any] = {**store.record.asked.recorded(), **files, **device_options(engines, engines, device)}
    return OodConfig(
        **options,
        out_data=_out_data(store, out_data),
        sigma=classifier["sigma"],
        batch=engines[0]["batch"],
        threads=threads,
        key=store.record.key,
        out=store.path,
        bad_images=SKIP if any(each.skipped for each in store.record.sets) else REFUSE,
    )


def _out_data(store: OodStore, given: Sequence[str | Path] | None) -> tuple[str, ...]:
    recorded = [str(name) for name in store.files["out_data"]]
    if given is None:
        return tuple(n if n.startswith(PREFIX) else str(find(store.path, n, "--out-data")) for n in recorded)
    if len(given) != len(recorded):
        raise InputError(
            f"--out-data has {len(given)} sets, the run {len(recorded)} ({', '.join(recorded)}): give all of them in that order"
        )
    return tuple(str(name) for name in given)


def _check_finished(store: OodStore, unfinished: bool, done: Verification) -> None:
    """Add how many images of which sets have no record: as a note if the run may be `unfinished`."""
    lacking = [
        f"{missing} of {each.images} of {each.name}"
        for number, each in enumerate(store.record.sets)
        if (missing := store.missing(number))
    ]
    if lacking and unfinished:
        done.notes.append(f"the run is not finished: no record of {', '.join(lacking)} images")
    elif lacking:
        done.mismatches.append(
            f"missing: no record of {', '.join(lacking)} images; pass --unfinished to verify what a run has done so far"
        )


def _verify_records(
    store: OodStore,
    model: Model,
    config: OodConfig,
    sets: Sequence[DataSet],
    done: Verification,
    *,
    fraction: float,
    progress: Progress,
) -> None:
    """Look at every record, score the chosen ones again and compare."""
    runner = (
        Certifier.here(model, config, audited=False)
        if config.kind == "certified"
        else BallRunner(model, config, attacks=False)
    )
    if not store.records:
        raise InputError(f"{store.path} holds no records yet: go on with the run before verifying it")
    done.recorded = len(store.records)
    wrong = dict(_wrong_records(store, sets, runner))
    done.mismatches += [f"{_name(store, place)}: {said}" for place, said in wrong.items()]
    if config.kind == "adversarial":
        done.notes.append("attacks were not made again: what they found is a score, not a bound")
    ordered = sorted(
        (place for place in store.records if place not in wrong), key=lambda place: choice(done.seed, *place)
    )
    chosen = set(ordered[: to_draw(fraction, len(store.records))])
    replay = _Replay(store, chosen, wrong)
    runner.run(sets, replay, progress)
    for place in sorted(chosen):
        replayed, recorded = replay.records[place], store.records[place]
        lacking = {"distance"} - {*recorded}  # an older version made the run
        names = [
            name
            for name in sorted({*replayed, *recorded} - {*NOT_AGAIN} - lacking)
            if replayed.get(name) != recorded.get(name)
        ]
        done.mismatches += [
            _difference(_name(store, place), name, recorded.get(name), replayed.get(name)) for name in names
        ]
        done.blocks += 1
        done.samples += replayed.get("n", model.draws)


def _name(store: OodStore, place: Place) -> str:
    number, row = place
    sets = store.record.sets
    return f"{sets[number].name if 0 <= number < len(sets) else f'set {number}'}, image {row}"


def _difference(where: str, name: str, recorded: object, replayed: object) -> str:
    if isinstance(recorded, list) or isinstance(replayed, list):
        return f"{where}: other {name} than recorded"
    return f"{where}: recorded {name} {recorded}, here {replayed}"


def _wrong_records(
    store: OodStore, sets: Sequence[DataSet], runner: Certifier | BallRunner
) -> Iterator[tuple[Place, str]]:
    """What no run of this configuration and data can have written, by place."""
    digests = [dict(zip(data.rows, data.digests, strict=True)) for data in sets]
    moved = [dict(zip(data.rows, data.distances, strict=True)) for data in sets]
    for place, record in sorted(store.records.items()):
        number, row = place
        if not 0 <= number < len(sets) or row not in digests[number]:
            yield place, "recorded, but the data holds no such image"
        elif digests[number][row] != record.get("sha256"):
            yield place, "pixels in the data are not those that the run used"
        elif "distance" in record and moved[number][row] != record["distance"]:
            yield place, f"recorded distance {record['distance']}, the data has {moved[number][row]}"
        else:
            said = _wrong_draws(record, runner) if isinstance(runner, Certifier) else _wrong_scores(record)
            if said:
                yield place, said


def _wrong_draws(record: Record, runner: Certifier) -> str | None:
    """Counts that draws cannot have given, or that the run does not stop at."""
    try:
        dense(record)
    except InputError:
        return "bins and counts that draws cannot have given"
    config, n = runner.config, record["n"]
    if n != config.n and not (config.tolerance and n in runner.looks):
        return f"recorded {n} draws, where the run does not stop"
    if not runner.voting:
        return None
    try:
        selection, estimation = record["votes"]
        whole = all(type(count) is int and count >= 0 for count in (*selection, *estimation))
        fits = whole and len(selection) == len(estimation) == runner.model.classes
        fits = fits and (sum(selection), sum(estimation)) == (config.n0, n)
        fits = fits and 0 <= record["passed"] <= 1
    except MALFORMED:
        fits = False
    return None if fits else "votes that its draws cannot have given"


def _wrong_scores(record: Record) -> str | None:
    """Numbers that are none, or in an order that cannot be."""
    scores = [record[name] for name in ("score", "attacked", "bound") if name in record]
    if "score" not in record or not all(isinstance(value, float) and math.isfinite(value) for value in scores):
        return f"scores that are no numbers: {scores}"
    return None if scores == sorted(scores) else f"score, attacked score and bound are not in that order: {scores}"
