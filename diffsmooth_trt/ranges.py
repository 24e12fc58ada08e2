"""Checks of numbers that a user gives: one line with the option's name, what came and what was expected."""

from __future__ import annotations

import math

from .errors import InputError


def integer(name: str, value: object, low: int, high: int) -> None:
    """InputError, naming the option `name` (an argument's name), unless `value` is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"--{name.replace('_', '-')} must be an integer of {low} to {high}, got {value}")


def number(name: str, value: float, low: float, high: float, remedy: str) -> None:
    """InputError unless `value` is a finite number above `low` and below `high`; `remedy` ends the line."""
    if not (math.isfinite(value) and low < value < high):
        raise InputError(f"--{name.replace('_', '-')} must lie between {low:g} and {high:g}, got {value}: {remedy}")
