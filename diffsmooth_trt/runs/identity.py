"""Identities: naming what decides a vote, and saying in what two of them differ."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from ..device import CPU, Device
from ..engine import Engine
from ..methods import Method
from ..noise import NOISE_VERSION
from .record import ClassifierId

INDEPENDENT, ASSUMED = "rows: proved independent", "rows: assumed independent"


def rows_note(rows: Mapping[str, str] | None) -> str:
    """Whether the rows of the batches that a run's engines computed are proved independent (engine/rows), in one line.

    `rows` is what it records of each engine; runs from before there were proofs record nothing of it.
    """
    states = {} if rows is None else rows
    assumed = [part for part, state in states.items() if state != "proved"]
    if states and not assumed:
        return INDEPENDENT
    named = f" ({', '.join(assumed)})" if assumed else ""
    return f"{ASSUMED}{named}: certificates hold if no row of a batch influences another, which was tried on few batches only"


def independence(engines: Mapping[str, Engine]) -> dict[str, str]:
    """Whether rows are "proved" or "assumed" to be independent, for each engine by its part of the method."""
    return {part: engine.rows for part, engine in engines.items()}


def caveats(engines: Mapping[str, Engine]) -> list[str]:
    """What reports say of engines that were not compared with the graphs they were compiled from, or differ from them."""
    return [engine.caveat for engine in engines.values() if engine.caveat]


def fingerprint(parts: Mapping[str, Any]) -> str:
    """The name of a classifier, 16 hex digits: SHA-256 of its parts as JSON, sorted by name; "id" itself left out."""
    text = json.dumps({name: part for name, part in parts.items() if name != "id"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def named(parts: Mapping[str, Any]) -> ClassifierId:
    """A classifier of these parts, with its id."""
    return ClassifierId({**parts, "id": fingerprint(parts)})


def classifier_id(method: Method) -> ClassifierId:
    """Everything that decides a vote besides key and image, with the hash that names it."""
    engines = {part: engine.identity for part, engine in method.engines.items()}
    return named({**method.identity, "noise_version": NOISE_VERSION, "sigma": method.sigma, **engines})


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What a run has to know of its method, wherever that runs; names are those of `Method`. `versions` are its machine's."""

    name: str
    classifier: ClassifierId
    sigma: float
    classes: int
    bins: int
    void: int | None
    batch: int
    input_shape: tuple[int, int, int]
    place_dependent: bool
    lipschitz_constant: float | None
    rows: Mapping[str, str]
    versions: Mapping[str, str]
    class_names: tuple[str, ...] | None = None


def facts_of(method: Method) -> MethodFacts:
    """The facts of a method that runs here."""
    return MethodFacts(
        name=method.name,
        classifier=classifier_id(method),
        sigma=method.sigma,
        classes=method.classes,
        bins=method.bins,
        void=method.void,
        batch=method.batch,
        input_shape=method.input_shape,
        place_dependent=method.place_dependent,
        lipschitz_constant=method.lipschitz_constant,
        rows=independence(method.engines),
        versions=versions(method.device),
        class_names=method.classifier.facts.class_names,
    )


def versions(device: Device = CPU) -> dict[str, str]:
    """What a run records of the software and the machine it ran on."""
    return {
        "diffsmooth-trt": version("diffsmooth-trt"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": version("scipy"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        **device.versions,
    }


def differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "", words: tuple[str, str] = ("run", "asked")
) -> list[str]:
    """One phrase for each value that differs, by its dotted name; `words` say whose the values are."""
    phrases = []
    for name in sorted({*stored, *asked} - {"id"}):
        old, new = stored.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            phrases += differences(old, new, f"{prefix}{name}.", words)
        elif old != new:
            phrases.append(f"{prefix}{name} ({words[0]}: {_short(old)}, {words[1]}: {_short(new)})")
    return phrases


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
