"""Runs as tables and JSON: AUROC, AUPR and FPR at 95 % TPR of every set and their average, in every version the run has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Floats64
from ..errors import EngineError, InputError
from ..report.tables import chosen_of, space_of
from ..runs.audit import audit_line
from ..runs.data import skipped_line
from ..runs.identity import rows_note
from .bounds import further, shifted_lower, shifted_upper
from .certified import bound_of, certificate_of, estimate_of, passed_of
from .metrics import Metrics, bounded, fpr_nearest, metrics
from .sets import AVERAGE
from .store import OodStore

ESTIMATE = "certified (estimate)"


@dataclass(frozen=True)
class Version:
    """One way of scoring a run's sets: scores of the in-distribution set, and of each other one by name.

    `radius` is that of the ball which the out-of-distribution scores hold for: ℓ2 for certified ones, ℓ∞ for the rest. `bounds`
    says that scores of both sides are bounds, so that ties count against us. `missing` is how many images have no score, of the
    in-distribution set under "": the metrics are then the worst that the finished run may show.
    """

    name: str
    radius: float
    inside: Floats64
    outside: dict[str, Floats64]
    bounds: bool = False
    missing: Mapping[str, int] = field(default_factory=dict)

    def measured(self) -> dict[str, Metrics]:
        """The metrics of every set, and their average."""
        worst = np.full(self.missing.get("", 0), -np.inf)
        by_set = {
            name: self._one(np.r_[self.inside, worst], np.r_[scores, np.full(self.missing.get(name, 0), np.inf)])
            for name, scores in self.outside.items()
        }
        rows = np.array([[m.auroc, m.aupr, m.fpr] for m in by_set.values()])
        return {**by_set, AVERAGE: Metrics(*(float(value) for value in rows.mean(axis=0)))}

    def _one(self, inside: Floats64, outside: Floats64) -> Metrics:
        return (bounded if self.bounds or any(self.missing.values()) else metrics)(inside, outside)


def _outside(store: OodStore) -> dict[str, list[dict[str, Any]]]:
    return {each.name: store.of_set(number) for number, each in enumerate(store.record.sets) if number}


def _missing(store: OodStore) -> dict[str, int]:
    """How many images of each set have no score, of the in-distribution one under "": those without a record yet, and those
    that cannot be used. InputError where there are too many records.
    """
    sets = store.record.sets
    if min(store.missing(number) for number in range(len(sets))) < 0:
        raise InputError(f"{store.path} has more records than images it was asked for: restore it from a copy")
    return {each.name if number else "": store.missing(number) + len(each.skipped) for number, each in enumerate(sets)}


def _check_complete(store: OodStore) -> None:
    if not store.of_set(0) or not any(_outside(store).values()):
        raise InputError(f"{store.path} has no records of both kinds of images yet: finish it with --resume")


def _of_ball(store: OodStore) -> list[Version]:
    """clean, guaranteed and adversarial scores, as far as the records have them; EngineError where their order is impossible."""
    inside = np.array([record["score"] for record in store.of_set(0)])
    epsilon = store.record.asked.epsilon
    versions = []
    for name, key, radius in (
        ("clean", "score", 0.0),
        ("adversarial", "attacked", epsilon),
        ("guaranteed", "bound", epsilon),
    ):
        records = _outside(store)
        if all(key in record for rows in records.values() for record in rows):
            scores = {out: np.array([record[key] for record in rows]) for out, rows in records.items()}
            versions.append(Version(name, radius, inside, scores, missing=_missing(store)))
    for better, worse in pairwise(versions):
        for name, first in better.measured().items():
            if worse.measured()[name].auroc > first.auroc + 1e-9:
                raise EngineError(
                    f"{store.path.name}, {name}: the {worse.name} AUROC is above the {better.name} one, which cannot be: "
                    "the engine does not compute what its graph says; try --backend onnxruntime"
                )
    return versions


def _of_smoothing(store: OodStore, radii: Sequence[float]) -> list[Version]:
    """The smoothed confidences as estimated, then their bounds: the in-distribution ones' at 0, the others' over each radius.

    Radii are around the images as given: for one that was rounded, its distance is added, in-distribution at radius 0 too.
    """
    run, missing = store.record, _missing(store)
    sigma = run.classifier.sigma
    inside = np.array(
        [shifted_lower(bound_of(record, run), record.get("distance", 0.0), sigma) for record in store.of_set(0)]
    )
    bounds = {
        name: [(bound_of(record, run), record.get("distance", 0.0)) for record in rows]
        for name, rows in _outside(store).items()
    }
    estimates = {name: np.array([estimate_of(record) for record in rows]) for name, rows in _outside(store).items()}
    means = np.array([estimate_of(record) for record in store.of_set(0)])
    versions = [Version("estimated", 0.0, means, estimates, missing=missing)]
    for radius in radii:
        moved = {
            name: np.array([shifted_upper(b, further(radius, distance), sigma) for b, distance in values])
            for name, values in bounds.items()
        }
        versions.append(Version(certified_name(store), radius, inside, moved, bounds=True, missing=missing))
    return versions


def certified_name(store: OodStore) -> str:
    """What certified figures are: without `family_wise` each bound is right with 1 − α, all of them together are not."""
    return "certified" if store.record.asked.family_wise else ESTIMATE


def _of_distro(store: OodStore, radii: Sequence[float]) -> list[Version]:
    """DISTRO's score at each radius: probability of the class + √(2/π)·R where R reaches the radius, else 0, on both sides.

    As in its code, images that abstain have score 0 at the lowest radius and are left out of the others, and at a radius where all
    scores of both sides are 0, or a side has none, a set is left out.
    """
    run = store.record

    def pairs(rows: list[dict[str, Any]]) -> tuple[NDArray[np.bool_], Floats64, Floats64]:
        certificates = [certificate_of(record, run) for record in rows]
        radius = np.array([each.radius for each in certificates])
        passed = np.array([passed_of(record) for record in rows])
        return np.array([each.predict >= 0 for each in certificates]), radius, passed + math.sqrt(2 / math.pi) * radius

    def scored(side: tuple[NDArray[np.bool_], Floats64, Floats64], r: float, lowest: bool) -> Floats64:
        decided, radius, score = side
        scores = np.where(decided & (radius >= r), score, 0.0)
        return scores if lowest else scores[decided]

    inside, outside = pairs(store.of_set(0)), {name: pairs(rows) for name, rows in _outside(store).items()}
    versions = []
    for number, r in enumerate(radii):
        first, others = scored(inside, r, not number), {name: scored(o, r, not number) for name, o in outside.items()}
        kept = {name: scores for name, scores in others.items() if len(scores) and (first.any() or scores.any())}
        if len(first) and kept:
            versions.append(Version("distro-l2", r, first, kept, missing=_missing(store)))
    return versions


def versions_of(store: OodStore, radii: Sequence[float]) -> list[Version]:
    """Every version of the scores that a run's records hold. Raises InputError where a side has none yet."""
    _check_complete(store)
    if not store.record.asked.certified:
        return _of_ball(store)
    return (_of_distro if store.record.asked.score == "distro-l2" else _of_smoothing)(store, radii)


def set_names(versions: Sequence[Version]) -> list[str]:
    """The out-of-distribution sets of any of the versions: distro-l2 leaves some out at some radii."""
    return list(dict.fromkeys(name for version in versions for name in version.outside))


def guarantee(store: OodStore) -> str:
    """What is right about the numbers, and with which probability."""
    asked = store.record.asked
    if asked.certified and asked.score == "distro-l2":
        return "DISTRO's score, for comparison: it bounds nothing (the radius is of the class, not of the confidence)"
    if asked.certified:
        ball = "against every perturbation of the out-of-distribution images up to the ℓ2 radius"
        likely = f"right with probability {1 - asked.alpha:g} or more over the noise drawn"
        if asked.family_wise:
            return (
                f"certified: {ball}; all bounds together are {likely}, and so are the figures; ties count against them"
            )
        return (
            f"{ESTIMATE}: {ball}; each image's bound is {likely}, but not all of them together, so the figures are estimates: "
            "--family-wise makes them certificates"
        )
    said = {
        "clean": "clean: images as they are, nothing is guaranteed",
        "guaranteed": "guaranteed: for every ℓ∞ perturbation of the out-of-distribution images up to "
        f"{asked.epsilon}; no probability is involved",
        "adversarial": f"adversarial: the worst of the {asked.budget} attacks found; worse perturbations may exist",
    }
    return said[asked.kind]


def rounding(store: OodStore) -> list[str]:
    """What has to be known of a run that rounds images off the grid."""
    asked = store.record.asked
    if not asked.choice.quantise:
        return []
    distances = [record.get("distance") for record in store.records.values()]
    if not asked.certified or asked.score == "distro-l2":
        return ["--quantise: all scores are those of the rounded images"] if any(d != 0.0 for d in distances) else []
    if any(d is None for d in distances):
        return [
            "--quantise: radii are about the rounded images, the distance was not recorded (an older version made the run)"
        ]
    moved = [d for d in distances if d]
    if not moved:
        return []
    return [
        f"rounded: {len(moved)} images, by up to {max(moved):.4f} (ℓ2); bounds are about the images as given, estimates about the "
        "rounded ones"
    ]


def shown(value: float, upward: bool) -> str:
    """A percentage to 2 digits, rounded down or up. Shares are ratios of counts: the shortest decimal of the float is rounded,
    so that 0.07 is 7.00, not the 6.99 or 7.01 that its binary digits give.
    """
    return f"{(100 * Decimal(repr(value))).quantize(Decimal('0.01'), ROUND_CEILING if upward else ROUND_FLOOR):f}"


def _grid(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def text_report(store: OodStore, versions: Sequence[Version]) -> str:
    """The tables of a run and its `versions_of`, in percent, as text: a row a version, three columns a set."""
    names, finished = [*set_names(versions), AVERAGE], store.finished()
    least, most = ("", "") if finished else ("≥", "≤")
    head = ["scores", "radius", *(f"{name} AUROC/AUPR/FPR" for name in names)]
    rows = [head]
    for version in versions:
        measured = version.measured()
        cells = [
            "—"
            if m is None
            else f"{least}{shown(m.auroc, False)} / {least}{shown(m.aupr, False)} / {most}{shown(m.fpr, True)}"
            for m in map(measured.get, names)
        ]
        rows.append([version.name, f"{version.radius:g}", *cells])
    run, choice = store.record, store.record.asked.choice
    distance = {"clean": "images in", "certified": "radii: ℓ2 in"}.get(run.asked.kind, "radii: ℓ∞ in")
    space = "; ".join([f"{distance} {space_of(choice, run.shape)}", *chosen_of(choice)])
    lines = [_grid(rows), space, guarantee(store), rows_note(run.rows)]
    if run.asked.certified:
        drawn = [f"{np.mean([r['n'] for r in store.of_set(i)]):.0f}" for i in range(len(run.sets)) if store.of_set(i)]
        lines.append(f"draws an image on average: {', '.join(drawn)} (in-distribution first)")
        lines.append(audit_line(store.audit))
    if not finished:
        lacking = ", ".join(
            f"{missing} of {each.images} of {each.name}"
            for number, each in enumerate(run.sets)
            if (missing := store.missing(number))
        )
        lines.append(
            f"UNFINISHED: no record yet of {lacking} images; the figures are the worst that the finished run may show, with each "
            "of those ranked against us; go on with --resume"
        )
    lines += [
        f"{each.name}: {skipped_line({row: (-1, why) for row, why in each.skipped.items()}, ', ranked against us')}"
        for each in run.sets
        if each.skipped
    ]
    lines += rounding(store)
    return "\n".join([*lines, *(f"warning: {note}" for note in run.notes)])


def as_json(store: OodStore, versions: Sequence[Version]) -> dict[str, Any]:
    """All numbers of the tables of a run and its `versions_of`, with what they were made from."""
    run = store.record
    names = ("config", "classifier", "key", "key_source", "sets", "versions", "notes")
    meta = {name: value for name, value in run.to_meta().items() if name in names}
    tables: list[dict[str, Any]] = [
        {"scores": v.name, "radius": v.radius, "sets": {name: asdict(m) for name, m in v.measured().items()}}
        for v in versions
    ]
    for version, row in zip(versions, tables, strict=True):
        if not version.bounds and not any(version.missing.values()):  # DISTRO's convention; of bounds it is none
            nearest = {name: fpr_nearest(version.inside, scores) for name, scores in version.outside.items()}
            row["fpr_nearest"] = {**nearest, AVERAGE: float(np.mean(list(nearest.values())))}
    draws = {each.name: [r["n"] for r in store.of_set(i) if "n" in r] for i, each in enumerate(run.sets)}
    means = {name: float(np.mean(values)) for name, values in draws.items() if values}
    missing = {each.name: store.missing(number) for number, each in enumerate(run.sets)}
    return {
        **meta,
        "audit": store.audit,
        "metrics": tables,
        "mean_draws": means,
        "guarantee": guarantee(store),
        "missing": missing,
        "rows": rows_note(run.rows),
    }
