"""The names of a classifier's classes, in the forms in which others write them: a list, {number: name} or {name: number}."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping

from ..files import parsed_json

# Under which ONNX files have them: Ultralytics ("names"), QGIS Deepness ("class_names"), Hugging Face ("id2label"), and others.
KEYS = (
    "names",
    "class_names",
    "classes",
    "labels",
    "label_names",
    "id2label",
    "label2id",
    "class_to_idx",
    "idx_to_class",
)
LONGEST = 1 << 20  # characters of a text that is read


def names_by_number(said: object, classes: int) -> list[str] | None:
    """The names of classes 0 to `classes` − 1, LABEL_n for one that is left out; None where `said` is no such names.

    A list has to name all of them. Several names of one class are joined by commas.
    """
    if isinstance(said, Mapping):
        pairs = [(_number(key), value) for key, value in said.items()]
        if any(number is None for number, _ in pairs):
            pairs = [(_number(value), key) for key, value in said.items()]
    elif isinstance(said, list | tuple) and len(said) == classes:
        pairs = list(enumerate(said))
    else:
        return None
    names = {number: name for number, value in pairs if number is not None and (name := _name(value)) is not None}
    if not names or len(names) < len(pairs) or not 0 <= min(names) <= max(names) < classes:
        return None
    return [names.get(number, f"LABEL_{number}") for number in range(classes)]


def names_in_metadata(metadata: Mapping[str, str], classes: int) -> list[str] | None:
    """`names_by_number` of the first of `KEYS` under which an ONNX file's metadata have such names; None where none has."""
    by_key = {key.lower(): text for key, text in metadata.items()}
    said = (names_by_number(_parsed(by_key[key]), classes) for key in KEYS if key in by_key)
    return next((names for names in said if names is not None), None)


def _number(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _name(value: object) -> str | None:
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else None


def _parsed(text: str) -> object:
    """What a text holds: JSON, or a literal of Python's, of which nothing runs; else names a line, or between commas."""
    if len(text) > LONGEST:
        return None
    for read in (parsed_json, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in literals
                value: object = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(value, list | tuple | dict):
            return value
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) != 1 else [part.strip() for part in lines[0].split(",")]
