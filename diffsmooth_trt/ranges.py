"""Checks of what a user gives as arguments: one line with the option's name, what came and what was expected."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, shown

PLAIN: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("an integer", (int,)),
    "float": ("a number", (int, float)),
    "str": ("a text", (str,)),
    "bool": ("True or False", (bool,)),
    "Path": ("a path", (str, os.PathLike)),
    "None": ("None", (type(None),)),
}

LARGEST = 1000  # bits of an integer, which a float holds


def check_types(options: Any) -> None:
    """Make NumPy's numbers among the fields of the dataclass `options` Python's, and its paths `Path`s.

    Raises InputError, naming the option, for a value that is none of its field's types; fields of other types than `PLAIN` has
    are left to their owner.
    """
    for field in dataclasses.fields(options):
        kinds = str(field.type).split(" | ")
        if not PLAIN.keys() >= set(kinds):
            continue
        value = plain(getattr(options, field.name))
        if isinstance(value, int) and value.bit_length() > LARGEST:
            raise InputError(
                f"{field.name} has more than 300 digits, expected a smaller number: {field.default!r} is the default"
            )
        fits = any(isinstance(value, PLAIN[kind][1]) for kind in kinds)
        if not fits or (isinstance(value, bool) and "bool" not in kinds):
            expected = " or ".join(PLAIN[kind][0] for kind in kinds)
            raise InputError(f"{field.name} is {value!r}, expected {expected}: {field.default!r} is the default")
        object.__setattr__(options, field.name, Path(value) if "Path" in kinds and value is not None else value)


def plain(value: Any) -> Any:
    """A NumPy number as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def path(name: str, value: Any) -> Path:
    """`value` as a Path. InputError, naming the option `name`, unless it is one or a text."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{flag(name)} is {value!r}, expected a path: give its name as text")
    return Path(value)


def integer(name: str, value: object, low: int, high: int) -> None:
    """InputError, naming the option `name` (an argument's name), unless `value` is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{flag(name)} must be an integer of {low} to {high}, got {shown(value)}")


def number(name: str, value: float, low: float, high: float, remedy: str) -> None:
    """InputError unless `value` is a finite number above `low` and below `high`; `remedy` ends the line."""
    if not (is_finite(value) and low < value < high):
        raise InputError(f"{flag(name)} must lie between {low:g} and {high:g}, got {shown(value)}: {remedy}")


def is_finite(value: object) -> bool:
    """Whether `value` is a finite number, and neither True nor False."""
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    )


def flag(name: str) -> str:
    """An argument's name as the command line has it."""
    return f"--{name.replace('_', '-')}"
