"""What names one stream of noise: a 256-bit key, and a nonce of (phase, image, sample)."""

from __future__ import annotations

import hashlib
import operator
import secrets
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from ..errors import InputError

# Changes when any bit of the noise does; csrc/grid_gaussian.h holds the same number, and cpu.py compares
# them. Version 1 was Philox4x64-10 under a 128-bit key.
NOISE_VERSION = 2
DRAWN_BY = {1: "0.3"}  # the release that draws an earlier version's noise

# Streams under the run's secret key: what the theorem is about …
SELECTION = 0
ESTIMATION = 1
PREDICTION = 2
TRANSFER = 3  # of draws that two classifiers see, under a key of their own
# Of an attack, under a key of its own: gradients and starts, and the choice among points; its answers are drawn as PREDICTION.
ATTACK = 4
ATTACK_SELECTION = 5
# … and noise that a random f adds of its own, fresh for every draw (methods/), which must be unknown when f is made, too.
LOCAL = 16
DIFFUSION_CLASSIFIER = 17
# Streams that are part of a deterministic f, under a key made of its public seed (`seed_key`).
FIXED_LOCAL = 32
FIXED_DIFFUSION_CLASSIFIER = 33
# Of runs over several data sets, which number their rows alike, under the run's key: set i takes the phases OOD + 4i
# (selection), OOD + 4i + 1 (estimation) and OOD + 4i + 2 (noise that a score is averaged over).
OOD = 64

WORD_BITS = 64
KEY_BITS = 256
KEY_DIGITS = KEY_BITS // 4
SEED_BITS = 128

# The sample word of fresh noise is (phase of the draw + 1)·2^FRESH_BITS + sample·copies + copy: `fresh_words`.
FRESH_BITS = 56


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


def check_key(key: SupportsIndex) -> int:
    """Return a key as an int in [0, 2^256); InputError on anything else.

    The message does not repeat the key: a run's key is secret until the run is published.
    """
    try:
        number = operator.index(key)
    except TypeError:
        raise InputError(f"key is of type {type(key).__name__}, expected int: pass int(text, 16)") from None
    if not 0 <= number < 2**KEY_BITS:
        raise InputError(
            f"key is outside [0, 2^{KEY_BITS}): pass an integer of at most {KEY_DIGITS} hexadecimal digits"
        )
    return number


def key_words(key: SupportsIndex) -> list[int]:
    """Return the eight little-endian 32-bit words of a key's 32 bytes, which are those of its hexadecimal digits in order."""
    data = check_key(key).to_bytes(KEY_BITS // 8, "big")
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


@dataclass(frozen=True, repr=False)
class Key:
    """A 256-bit key of XChaCha20, `number` in [0, 2^256). Its `repr` hides it: a run's key is secret until the run is published.

    Every function of the noise takes a Key or the integer itself. Raises InputError for any other number.
    """

    number: int

    def __post_init__(self) -> None:
        check_key(self.number)

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key of 64 hexadecimal digits, which are the 32 bytes of XChaCha20's key in order; InputError for other text."""
        digits = text.removeprefix("0x")
        if len(digits) != KEY_DIGITS or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise InputError(
                f"--key takes {KEY_DIGITS} hexadecimal digits, got {len(digits)} characters: leave it out to draw one, or copy "
                "all of it"
            )
        return cls(int(digits, 16))

    @classmethod
    def draw(cls) -> Key:
        """A fresh key from the operating system."""
        return cls(secrets.randbits(KEY_BITS))

    @property
    def hex(self) -> str:
        """The key as its 64 hexadecimal digits, for a run's record."""
        return f"{self.number:0{KEY_DIGITS}x}"

    def __index__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return "Key(…)"


def seed_key(seed: SupportsIndex) -> Key:
    """Return the key of the streams that belong to a classifier of public seed `seed`, an integer in [0, 2^128).

    SHA-256 of "diffsmooth-trt classifier seed" and the seed's 16 bytes, little-endian: no run's key, but by a collision.
    """
    number = check_integer("classifier_seed", seed, 0, 2**SEED_BITS - 1)
    text = b"diffsmooth-trt classifier seed" + number.to_bytes(SEED_BITS // 8, "little")
    return Key(int.from_bytes(hashlib.sha256(text).digest(), "big"))


def check_fresh(samples: int, copies: int) -> None:
    """Raise InputError unless `samples` draws with `copies` fresh noises each have sample words that are all different."""
    if samples * copies > 2**FRESH_BITS:
        raise InputError(
            f"{samples} draws of {copies} fresh local noises each are {samples * copies}, expected at most 2^{FRESH_BITS}: "
            "lower --n, or use --local-noise fixed"
        )


def fresh_words(words: Any, copies: int, copy: int) -> Any:
    """Sample words of fresh local noise, uint64 [rows]: (phase + 1)·2^56 + sample·copies + copy; no two draws share one.

    words: uint64 [3, rows], phases (below 255), images and samples of the draws; `check_fresh` bounds samples·copies.
    """
    return ((words[0] + np.uint64(1)) << np.uint64(FRESH_BITS)) + words[2] * np.uint64(copies) + np.uint64(copy)
