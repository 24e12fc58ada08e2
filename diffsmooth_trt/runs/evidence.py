"""Files that other commands make of a run (attack, transfer): JSON objects that begin with their kind and hold its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, StoreError
from ..files import is_there, parsed_json
from ..noise import Key
from ..noise.counters import KEY_BITS


def is_of(path: Path, kind: str) -> bool:
    """Whether the file begins as one of `kind` does; it is not read further."""
    try:
        with path.open("rb") as file:
            return file.read(64).startswith(b'{"file": "' + kind.encode() + b'"')
    except OSError:
        return False


def values_of(path: Path, kind: str, version: int) -> dict[str, Any]:
    """The object in a file of `kind` and format `version`. Raises InputError for another one, StoreError for a part."""
    if not is_of(path, kind):
        raise InputError(f"{path} is no file of `{kind}`: give its --out")
    try:
        values: dict[str, Any] = parsed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is no whole file of `{kind}` ({error}): restore it from a copy") from None
    if values.get("format") != version:
        raise InputError(
            f"{path} is of format {values.get('format')}, this version reads {version}: use the one that wrote it"
        )
    return values


def recorded_key(key: Key, drawn: bool) -> dict[str, str]:
    """A key as these files have it, and whether it was drawn."""
    return {"key": key.hex, "key_source": "drawn" if drawn else "given"}


def given_keys(drawn: Mapping[str, bool]) -> list[str]:
    """What a key that was not drawn means, a line for each; `drawn` by whose it is."""
    said = "was given, not drawn: whoever gave it could have tried many and kept one"
    return [f"the key of {whose} {said}" for whose, was in drawn.items() if not was]


def key_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `recorded_key` recorded, as the arguments `key` and `key_drawn`. Raises ValueError for no key."""
    number = int(values["key"], 16)
    if not 0 <= number < 2**KEY_BITS:
        raise ValueError("key")
    return {"key": Key(number), "key_drawn": values["key_source"] == "drawn"}


def run_of(path: Path, recorded: str) -> Path:
    """The run that the file at `path` was made from: where it was, or beside the file. InputError where it is not there."""
    for place in (Path(recorded), path.parent / recorded, path.parent / Path(recorded).name):
        if is_there(place):
            return place
    raise InputError(f"{recorded}, the run that {path} was made from, is not here: put it beside {path}")
