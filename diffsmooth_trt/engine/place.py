"""Whether a row's output depends on its place in the batch by rounding alone, and on nothing else of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the largest output: some roundings of bfloat16, which networks compute in, or of sums in float32 and TF32 where they do not.
# It tells rounding from wrong; which labels may change by it is counted in every run (certify/places.py).
TOLERANCE = 2.0**-5

Floats = NDArray[np.float32]


def only_place_matters(
    call: Callable[..., Floats], inputs: Sequence[NDArray[Any]], y: Floats, placed: Floats, order: NDArray[np.int64]
) -> bool:
    """Whether rows keep every bit at their own place among other mates, and all but rounding at others.

    y: `call(*inputs)`, float32 [batch, …]; placed: that of the rows in `order`. Each row stays in its place in one of two more
    calls while the mates at its side are replaced, and in a third while nothing is.
    """
    batch = len(y)
    rows = np.arange(batch)
    for kept in (rows % 2 == 0, rows % 2 == 1, rows >= 0):
        other = np.where(kept, rows, rows[::-1])
        found = call(*(given[other] for given in inputs))
        if not np.array_equal(found[kept], y[kept], equal_nan=True):
            return False
    if not (np.isfinite(y).all() and np.isfinite(placed).all()):
        return False
    return bool(np.abs(placed - y[order]).max() <= TOLERANCE * np.abs(y).max())
