"""What names one stream of noise: the run's key, and a counter of (phase, image, sample)."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from ..errors import InputError

# Changes when any bit of the noise does; csrc/grid_gaussian.h holds the same number, and cpu.py compares
# them.
NOISE_VERSION = 1

# Streams under the run's secret key …
SELECTION = 0
ESTIMATION = 1
PREDICTION = 2
# … of runs over several data sets, which number their rows alike: set i takes the phases OOD + 4i (selection), OOD + 4i + 1
# (estimation) and OOD + 4i + 2 (noise that a score is averaged over) …
OOD = 64
# … and streams that are part of the classifier, under its own public seed.
LOCAL = 16
DIFFUSION_CLASSIFIER = 17

WORD_BITS = 64
KEY_BITS = 128


def check_integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return `value` as an int in [low, high]; InputError, naming the argument, where it is anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}, expected an integer: pass a Python int") from None
    if not low <= number <= high:
        raise InputError(f"{name} is {number}, expected {low} to {high}: choose one in that range")
    return number


def check_word(name: str, value: SupportsIndex) -> int:
    """Return one word of the counter as an int; InputError unless it is an integer in [0, 2^64)."""
    return check_integer(name, value, 0, 2**WORD_BITS - 1)


def split_key(key: SupportsIndex) -> tuple[int, int]:
    """Return the (low, high) 64-bit words of a key in [0, 2^128); InputError on anything else.

    The message does not repeat the key: a run's key is secret until the run is published.
    """
    try:
        number = operator.index(key)
    except TypeError:
        raise InputError(f"key is of type {type(key).__name__}, expected int: pass int(text, 16)") from None
    if not 0 <= number < 2**KEY_BITS:
        raise InputError("key is outside [0, 2^128): pass an integer of at most 32 hexadecimal digits")
    return number % 2**WORD_BITS, number >> WORD_BITS
