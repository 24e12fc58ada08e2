"""Whether a row's output depends on its place in the batch by rounding alone, and on nothing else of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Floats32

# Of a row's largest output, or the usual row's where that is larger: some roundings of bfloat16, which networks compute in, or of
# sums in float32 and TF32 where they do not. It tells rounding from wrong; which labels may change by it is counted in every run
# (certify/places.py).
TOLERANCE = 2.0**-5


def only_place_matters(
    call: Callable[..., Floats32], inputs: Sequence[NDArray[Any]], y: Floats32, expected: Floats32
) -> bool:
    """Whether rows keep every bit at their own place among other mates, and all but rounding at others.

    y: `call(*inputs)`, float32 [batch, …]; expected: what the same rows gave at other places. Each row stays in its place in one
    of two more calls while the mates at its side are replaced, and in a third while nothing is.
    """
    rows = np.arange(len(y))
    for kept in (rows % 2 == 0, rows % 2 == 1, rows >= 0):
        other = np.where(kept, rows, rows[::-1])
        output = call(*(given[other] for given in inputs))
        if not np.array_equal(output[kept], y[kept], equal_nan=True):
            return False
    here, there = (each.reshape(len(y), -1) for each in (y, expected))
    finite = np.isfinite(here).all(axis=1) & np.isfinite(there).all(axis=1)
    if not np.array_equal(here[~finite], there[~finite], equal_nan=True):
        return False
    if not finite.any():
        return True
    off, size = np.abs(here[finite] - there[finite]).max(axis=1), np.abs(there[finite]).max(axis=1)
    return bool((off <= TOLERANCE * np.maximum(size, np.median(size))).all())
