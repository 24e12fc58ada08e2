"""What the harness makes inputs of: a format's sound files, and changes of bytes and of JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, -(2**31), 2**63, 2**64, 10**30, 10**400, 2000, 10**6, 10**8,
    0.0, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), "", "x", "0", "é", "0" * 64,
    "../../x", [], [[]], [0], {}, {"a": 1}, "A" * 5000, list(range(2000)), "²", "9" * 5000, "1_0", " 1", "\x00", "\ud800",
]  # fmt: skip
ODD_NAMES = ["", "x", "format", "n", "²", "٣", "1", "9" * 19, "9" * 5000, "a/b", "../x", "\x00", "A" * 5000]
OF_A_CELL = [  # what SQLite binds
    each
    for each in ODD
    if each != "\ud800"
    and (isinstance(each, float | str | None) or (isinstance(each, int) and -(2**63) <= each < 2**63))
]
DEEP = "[" * 100_000  # more than a reader of JSON goes into
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass
class Format:
    """Sound contents of a format's files, how they are changed besides byte by byte, and how the package reads one."""

    name: str
    suffix: str
    seeds: list[bytes]
    read: Callable[[Path], object]
    change: Callable[[random.Random, bytes], bytes] | None = None
    holds: Callable[[bytes], int] = len  # bytes that are in an input, once they are unpacked


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    """A content with some of its bytes changed, cut out, doubled or overwritten by odd integers."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not out:
            return bytes(rng.randbytes(rng.randrange(64)))
        kind, at = rng.randrange(6), rng.randrange(len(out))
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at : at + rng.choice((1, 2, 4, 64, 4096, len(out)))]
        elif kind == 3:
            length = rng.choice((1, 8, 64, 1024))
            out[at:at] = out[at : at + length]
        elif kind == 4:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTEGERS) & (1 << (8 * width)) - 1
            out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        else:
            other = rng.randrange(len(out))
            length = rng.choice((4, 32, 256))
            out[at : at + length] = out[other : other + length]
    return bytes(out)


def json_changed(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it replaced, left out, added or exchanged."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        kind = rng.randrange(9)
        if kind == 0:
            return {key: each for key, each in value.items() if key != name}
        if kind == 1:
            return {**value, rng.choice(ODD_NAMES): rng.choice(ODD)}
        if kind == 8:
            odd = rng.choice(ODD_NAMES)
            return {odd if key == name else key: each for key, each in value.items()}
        if kind == 2:
            return {**value, name: rng.choice(list(value.values()))}
        return {**value, name: json_changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at, kind = rng.randrange(len(value)), rng.randrange(4)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, value[at]]
        return [*value[:at], json_changed(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 2, value / 3 if value else 0.5))
    return rng.choice(ODD)


def text_changed(rng: random.Random, data: bytes) -> bytes:
    """JSON with its values changed, or nested deeply."""
    if rng.random() < 0.01:
        return DEEP.encode()
    return json.dumps(json_changed(rng, json.loads(data))).encode()
