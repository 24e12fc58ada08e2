"""Runs as tables and JSON: AUROC, AUPR and FPR at 95 % TPR of every set and their average, in every version the run has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from ..certify.identity import rows_note
from ..errors import EngineError, InputError
from .bounds import Floats, shifted_upper
from .certified import bound_of, estimate_of, radius_of
from .metrics import Metrics, metrics
from .scores import Score
from .sets import AVERAGE
from .store import OodStore


@dataclass(frozen=True)
class Version:
    """One way of scoring a run's sets: scores of the in-distribution set, and of each other one by name.

    `radius` is that of the ball which the out-of-distribution scores hold for: ℓ2 for certified ones, ℓ∞ for the rest.
    """

    name: str
    radius: float
    inside: Floats
    outside: dict[str, Floats]

    def measured(self) -> dict[str, Metrics]:
        """The metrics of every set, and their average."""
        found = {name: metrics(self.inside, scores) for name, scores in self.outside.items()}
        rows = np.array([[m.auroc, m.aupr, m.fpr] for m in found.values()])
        return {**found, AVERAGE: Metrics(*(float(value) for value in rows.mean(axis=0)))}


def _outside(store: OodStore) -> dict[str, list[dict[str, Any]]]:
    return {
        entry["name"]: store.of_set(number)
        for number, entry in enumerate(store.meta["sets"])
        if number and store.of_set(number)
    }


def _check_complete(store: OodStore) -> None:
    if not store.of_set(0) or not _outside(store):
        raise InputError(f"{store.path} has no records of both kinds of images yet: finish it with --resume")


def _of_ball(store: OodStore) -> list[Version]:
    """clean, guaranteed and adversarial scores, as far as the records have them; EngineError where their order is impossible."""
    inside = np.array([record["score"] for record in store.of_set(0)])
    epsilon = float(store.meta["config"].get("epsilon", 0.0))
    found = []
    for name, key, radius in (
        ("clean", "score", 0.0),
        ("adversarial", "attacked", epsilon),
        ("guaranteed", "bound", epsilon),
    ):
        records = _outside(store)
        if all(key in record for rows in records.values() for record in rows):
            scores = {out: np.array([record[key] for record in rows]) for out, rows in records.items()}
            found.append(Version(name, radius, inside, scores))
    for better, worse in pairwise(found):
        for name, first in better.measured().items():
            if worse.measured()[name].auroc > first.auroc + 1e-9:
                raise EngineError(
                    f"{store.path.name}, {name}: the {worse.name} AUROC is above the {better.name} one, which cannot be: "
                    "the engine does not compute what its graph says; try --backend onnxruntime"
                )
    return found


def _of_smoothing(store: OodStore, radii: Sequence[float]) -> list[Version]:
    """The smoothed confidences as estimated, then their bounds: the in-distribution ones' at 0, the others' over each radius."""
    sigma = float(store.meta["classifier"]["sigma"])
    inside = np.array([bound_of(record, store.meta) for record in store.of_set(0)])
    bounds = {name: [bound_of(record, store.meta) for record in rows] for name, rows in _outside(store).items()}
    estimates = {name: np.array([estimate_of(record) for record in rows]) for name, rows in _outside(store).items()}
    found = [Version("estimated", 0.0, np.array([estimate_of(record) for record in store.of_set(0)]), estimates)]
    for radius in radii:
        moved = {name: np.array([shifted_upper(b, radius, sigma) for b in values]) for name, values in bounds.items()}
        found.append(Version("certified", radius, inside, moved))
    return found


def _of_distro(store: OodStore, radii: Sequence[float]) -> list[Version]:
    """The published score at each radius: mean probability + √(2/π)·R where R reaches the radius, else 0, on both sides."""
    score = Score(store.meta["config"]["score"])

    def pairs(rows: list[dict[str, Any]]) -> tuple[Floats, Floats]:
        radius = np.array([radius_of(record, store.meta) for record in rows])
        mean = score.stretch(np.array([estimate_of(record) for record in rows]), store.meta["classes"])
        return radius, mean + math.sqrt(2 / math.pi) * radius

    inside, outside = pairs(store.of_set(0)), {name: pairs(rows) for name, rows in _outside(store).items()}
    return [
        Version(
            "distro-l2",
            r,
            np.where(inside[0] >= r, inside[1], 0.0),
            {name: np.where(radius >= r, score, 0.0) for name, (radius, score) in outside.items()},
        )
        for r in radii
    ]


def versions_of(store: OodStore, radii: Sequence[float]) -> list[Version]:
    """Every version of the scores that a run's records hold. Raises InputError where a side has none yet."""
    _check_complete(store)
    if store.meta["config"]["kind"] != "certified":
        return _of_ball(store)
    return (_of_distro if store.meta["config"]["score"] == "distro-l2" else _of_smoothing)(store, radii)


def guarantee(store: OodStore) -> str:
    """What is right about the numbers, and with which probability."""
    config = store.meta["config"]
    if config["kind"] == "certified" and config["score"] == "distro-l2":
        return "published score, for comparison: it bounds nothing (the radius is of the class, not of the confidence)"
    if config["kind"] == "certified":
        alpha, every = config["alpha"], "all bounds together are" if config["family_wise"] else "each image's bound is"
        return (
            f"certified: against every perturbation of the out-of-distribution images up to the ℓ2 radius; {every} right with "
            f"probability {1 - alpha:g} or more over the noise drawn"
        )
    said = {
        "clean": "clean: images as they are, nothing is guaranteed",
        "guaranteed": "guaranteed: for every ℓ∞ perturbation of the out-of-distribution images up to "
        f"{config.get('epsilon')}; no probability is involved",
        "adversarial": f"adversarial: the worst of the {config.get('budget')} attacks found; worse perturbations may exist",
    }
    return said[config["kind"]]


def shown(value: float, upward: bool) -> str:
    """A percentage to 2 digits, rounded down or up. Shares are ratios of counts: the shortest decimal of the float is rounded,
    so that 0.07 is 7.00, not the 6.99 or 7.01 that its binary digits give.
    """
    return f"{(100 * Decimal(repr(value))).quantize(Decimal('0.01'), ROUND_CEILING if upward else ROUND_FLOOR):f}"


def _grid(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def text_report(store: OodStore, found: Sequence[Version]) -> str:
    """The tables of a run and its `versions_of`, in percent, as text: a row a version, three columns a set."""
    names = [*found[0].outside, AVERAGE]
    head = ["scores", "radius", *(f"{name} AUROC/AUPR/FPR" for name in names)]
    rows = [head]
    for version in found:
        measured = version.measured()
        cells = [
            f"{shown(m.auroc, False)} / {shown(m.aupr, False)} / {shown(m.fpr, True)}"
            for m in (measured[n] for n in names)
        ]
        rows.append([version.name, f"{version.radius:g}", *cells])
    lines = [_grid(rows), guarantee(store), rows_note(store.meta)]
    if store.meta["config"]["kind"] == "certified":
        drawn = [
            f"{np.mean([r['n'] for r in store.of_set(i)]):.0f}"
            for i in range(len(store.meta["sets"]))
            if store.of_set(i)
        ]
        lines.append(f"draws an image on average: {', '.join(drawn)} (in-distribution first)")
    if not store.finished():
        lines.append("unfinished: some images have no record yet, go on with --resume")
    return "\n".join([*lines, *(f"warning: {note}" for note in store.meta.get("notes", ()))])


def as_json(store: OodStore, found: Sequence[Version]) -> dict[str, Any]:
    """All numbers of the tables of a run and its `versions_of`, with what they were made from."""
    meta = {
        name: store.meta[name] for name in ("config", "classifier", "key", "key_source", "sets", "versions", "notes")
    }
    tables = [
        {"scores": v.name, "radius": v.radius, "sets": {name: asdict(m) for name, m in v.measured().items()}}
        for v in found
    ]
    draws = {entry["name"]: [r["n"] for r in store.of_set(i) if "n" in r] for i, entry in enumerate(store.meta["sets"])}
    means = {name: float(np.mean(values)) for name, values in draws.items() if values}
    return {
        **meta,
        "metrics": tables,
        "mean_draws": means,
        "guarantee": guarantee(store),
        "rows": rows_note(store.meta),
    }
