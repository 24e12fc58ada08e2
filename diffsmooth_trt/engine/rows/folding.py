"""Values of shape arithmetic: what a graph computes from constants and shapes alone, before any image is there.

Only operators whose results are exact, or correctly rounded by IEEE 754, are computed, and only where every library says
the same of them: integers stay below 2³¹ (some libraries compute in 32 bits), are not divided below zero, and float values
become integers only where these can hold them. NaN and infinity are not computed with, nor are numbers below the normal
ones, which some processors take for 0; numbers that lie so close together that a half keeps no difference are not compared.
Halves, which some libraries compute in float32, are only converted, and
only where nothing is rounded. Anything else is a value that is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .values import Data, Refused

HIGHEST = 2**31
KINDS = {np.dtype(kind) for kind in ("bool", "int32", "int64", "float16", "float32", "float64", "uint8", "int8")}


def usable(data: Data) -> bool:
    """Whether a tensor's elements may be computed with."""
    return data.dtype in KINDS


def _largest(data: Data) -> int:
    return max(abs(int(each)) for each in data.reshape(-1).tolist())


def _in_range(*given: Data) -> bool:
    return all(data.dtype.kind != "i" or not data.size or _largest(data) < HIGHEST for data in given)


def _arithmetic(compute: Callable[[Any, Any], Any]) -> Callable[..., Data | None]:
    def fold(a: Data, b: Data) -> Data | None:
        if a.dtype != b.dtype or a.dtype.kind not in "if" or not _in_range(a, b) or a.dtype == np.float16:
            return None
        if a.dtype.kind == "f":
            return np.asarray(compute(a, b), a.dtype)
        wide = np.asarray(compute(a.astype(np.int64), b.astype(np.int64)), np.int64)
        return wide.astype(a.dtype) if _in_range(wide) else None

    return fold


def _divide(a: Data, b: Data) -> Data | None:
    if a.dtype != b.dtype or (b == 0).any() or not _in_range(a, b) or a.dtype == np.float16:
        return None
    if a.dtype.kind == "f":
        return np.asarray(a / b, a.dtype)
    return None if (a < 0).any() or (b < 0).any() else np.asarray(a // b, a.dtype)


def _remainder(a: Data, b: Data) -> Data | None:
    whole = a.dtype == b.dtype and a.dtype.kind == "i" and _in_range(a, b)
    return np.asarray(a % b, a.dtype) if whole and (a >= 0).all() and (b > 0).all() else None


def cast(data: Data, to: Any) -> Data | None:
    """`data` as another type; None where libraries may differ about it."""
    kind = np.dtype(to)
    if kind not in KINDS or not _plain(data):
        return None
    if kind == np.bool_ and not np.isin(data, (0, 1)).all():
        return None
    if data.dtype.kind == "f" and kind.kind in "iu":
        low, high = max(np.iinfo(kind).min, -HIGHEST + 1), min(np.iinfo(kind).max, HIGHEST - 1)
        if not (np.isfinite(data).all() and (data >= low).all() and (data <= high).all()):
            return None
    if data.dtype.kind in "iu" and kind.kind in "iu" and data.size:
        limits = np.iinfo(kind)
        if int(data.min()) < limits.min or int(data.max()) > limits.max:
            return None
    if data.dtype.kind == "i" and kind.kind == "f" and data.size and _largest(data) > 2**24:
        return None
    with np.errstate(all="ignore"):
        made = np.asarray(data.astype(kind))
        exact = kind.kind != "f" or np.array_equal(made.astype(data.dtype), data)  # libraries leave roundings out
    return made if exact else None


def _root(a: Data, b: Data) -> Data | None:
    """The square root of square numbers, as a power: the one power whose result is exact."""
    root = np.rint(np.sqrt(np.abs(a)))
    exact = (
        a.dtype == b.dtype
        and a.dtype.kind == "f"
        and a.dtype != np.float16
        and (b == 0.5).all()
        and (root * root == a).all()
    )
    return np.asarray(root, a.dtype) if exact and (root < 1 << 10).all() else None


def _plain(*given: Data) -> bool:
    """Whether floating-point numbers are finite, and zero or normal: every library computes alike with them."""
    floats = [np.abs(data) for data in given if data.dtype.kind == "f"]
    return all(bool((np.isfinite(x) & ((x == 0) | (x >= np.finfo(x.dtype).tiny))).all()) for x in floats)


def _apart(a: Data, b: Data) -> bool:
    """Whether numbers that differ still do so with 8 bits each, as bf16 has."""
    if a.dtype.kind != "f":
        return True
    x, y = a.astype(np.float64), b.astype(np.float64)
    return bool(((x == y) | (np.abs(x - y) > 2.0**-6 * np.maximum(np.abs(x), np.abs(y)))).all())


def _compare(compute: Callable[[Any, Any], Any]) -> Callable[..., Data | None]:
    def fold(a: Data, b: Data) -> Data | None:
        return np.asarray(compute(a, b)) if a.dtype == b.dtype and _in_range(a, b) and _apart(a, b) else None

    return fold


def _logic(compute: Callable[..., Any]) -> Callable[..., Data | None]:
    return lambda *given: np.asarray(compute(*given)) if all(x.dtype == np.bool_ for x in given) else None


def _where(mask: Data, a: Data, b: Data) -> Data | None:
    return np.asarray(np.where(mask, a, b), a.dtype) if mask.dtype == np.bool_ and a.dtype == b.dtype else None


def _several(compute: Callable[[Any, Any], Any]) -> Callable[..., Data | None]:
    def fold(first: Data, *others: Data) -> Data | None:
        for other in others:
            if other.dtype != first.dtype or not _in_range(first, other):
                return None
            first = np.asarray(compute(first, other), first.dtype)
        return first

    return fold


def _float(compute: Callable[[Any], Any]) -> Callable[..., Data | None]:
    return lambda x: np.asarray(compute(x), x.dtype) if x.dtype.kind == "f" else None


# element by element, on the values of all inputs
FOLDS: dict[str, Callable[..., Data | None]] = {
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _divide,
    "Mod": _remainder,
    "Pow": _root,
    "Neg": lambda x: np.asarray(-x) if x.dtype.kind in "if" and _in_range(x) else None,
    "Abs": lambda x: np.asarray(np.abs(x)) if x.dtype.kind in "if" and _in_range(x) else None,
    "Sign": lambda x: np.asarray(np.sign(x), x.dtype) if x.dtype.kind in "if" else None,
    "Floor": _float(np.floor),
    "Ceil": _float(np.ceil),
    "Round": _float(np.rint),
    "Sqrt": lambda x: (
        np.asarray(np.sqrt(x)) if x.dtype.kind == "f" and x.dtype != np.float16 and (x >= 0).all() else None
    ),
    "Equal": _compare(np.equal),
    "Less": _compare(np.less),
    "Greater": _compare(np.greater),
    "LessOrEqual": _compare(np.less_equal),
    "GreaterOrEqual": _compare(np.greater_equal),
    "Not": _logic(np.logical_not),
    "And": _logic(np.logical_and),
    "Or": _logic(np.logical_or),
    "Xor": _logic(np.logical_xor),
    "Where": _where,
    "Min": _several(np.minimum),
    "Max": _several(np.maximum),
    "Identity": lambda x: x,
}


MOVING = {"Where", "Identity"}  # these only move elements


def fold(op: str, given: list[Data]) -> Data | None:
    """What `op` makes of known elements, None where that is not known."""
    compute = FOLDS.get(op)
    halves = any(data.dtype == np.float16 for data in given)  # which some compute in single precision
    if compute is None or (op not in MOVING and (halves or not _plain(*given))):
        return None
    try:
        with np.errstate(all="ignore"):
            made = compute(*given)
        return made if made is None or op in MOVING or _plain(made) else None
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(f"cannot be computed ({str(error)[:80]})") from None
