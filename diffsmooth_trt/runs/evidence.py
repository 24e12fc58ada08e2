"""Files that other commands make of a run (attack, transfer): JSON objects that begin with their kind and hold its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import parsed_json
from ..noise import Key
from ..noise.counters import KEY_BITS


def loaded(path: Path, kind: str) -> dict[str, Any] | None:
    """The object in a file of `kind`; None for other files."""
    try:
        with path.open("rb") as file:
            if not file.read(64).startswith(b'{"file": "' + kind.encode() + b'"'):
                return None
        values = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def values_of(path: Path, kind: str, version: int) -> dict[str, Any]:
    """The object in a file of `kind` and format `version`. Raises InputError for another one."""
    values = loaded(path, kind)
    if values is None:
        raise InputError(f"{path} is no file of `{kind}`: give its --out")
    if values.get("format") != version:
        raise InputError(
            f"{path} is of format {values.get('format')}, this version reads {version}: use the one that wrote it"
        )
    return values


def recorded_key(key: Key, drawn: bool) -> dict[str, str]:
    """A key as these files have it, and whether it was drawn."""
    return {"key": key.hex, "key_source": "drawn" if drawn else "given"}


def key_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `recorded_key` recorded, as the arguments `key` and `key_drawn`. Raises ValueError for no key."""
    number = int(values["key"], 16)
    if not 0 <= number < 2**KEY_BITS:
        raise ValueError("key")
    return {"key": Key(number), "key_drawn": values["key_source"] == "drawn"}
