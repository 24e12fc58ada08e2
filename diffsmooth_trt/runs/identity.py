"""Identities: naming what decides a vote, and saying in what two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..noise.counters import DRAWN_BY, NOISE_VERSION

INDEPENDENT, ASSUMED = "rows: proved independent", "rows: assumed independent"


def rows_note(meta: Mapping[str, Any]) -> str:
    """Whether the rows of the batches that a run's engines computed are proved independent (engine/rows), in one line.

    Runs from before there were proofs say nothing of it.
    """
    recorded = meta.get("rows")
    states = {role: str(state) for role, state in recorded.items()} if isinstance(recorded, dict) else {}
    assumed = [role for role, state in states.items() if state != "proved"]
    if states and not assumed:
        return INDEPENDENT
    named = f" ({', '.join(assumed)})" if assumed else ""
    return f"{ASSUMED}{named}: certificates hold if no row of a batch influences another, which was tried on few batches only"


def fingerprint(parts: Mapping[str, Any]) -> str:
    """The name of a classifier, 16 hex digits: SHA-256 of its parts as JSON, sorted by name; "id" itself left out."""
    text = json.dumps({name: part for name, part in parts.items() if name != "id"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_noise_version(run: Path, meta: Mapping[str, Any]) -> None:
    """InputError for a run whose noise an earlier release draws: it can be reported, not verified or resumed."""
    classifier = meta.get("classifier")
    drawn = classifier.get("noise_version") if isinstance(classifier, dict) else None
    if drawn in DRAWN_BY:
        raise InputError(
            f"{run} has noise of version {drawn}, this release draws version {NOISE_VERSION}: use release {DRAWN_BY[drawn]} "
            "to verify or resume it; `report` reads it as it is"
        )


def differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "", words: tuple[str, str] = ("run", "asked")
) -> list[str]:
    """One phrase for each value that differs, by its dotted name; `words` say whose the values are."""
    found = []
    for name in sorted({*stored, *asked} - {"id"}):
        old, new = stored.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.", words)
        elif old != new:
            found.append(f"{prefix}{name} ({words[0]}: {_short(old)}, {words[1]}: {_short(new)})")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
