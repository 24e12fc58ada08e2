"""The noise in plain NumPy: slow, and short enough to audit. All others equal it bit for bit."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .counters import check_integer, check_word, split_key
from .law import GridLaw


def words(
    key: SupportsIndex,
    phase: SupportsIndex,
    image: SupportsIndex,
    sample: SupportsIndex,
    count: SupportsIndex,
) -> NDArray[np.uint64]:
    """Return the first `count` random words of one (key, phase, image, sample), uint64 [count].

    A pure function of its arguments: Philox4x64-10 of counters (b, sample, image, phase), b = 1, 2, …, four
    words each. key: integer in [0, 2^128); phase, image, sample: integers in [0, 2^64); count: at least 1.
    Raises InputError.
    """
    size = check_integer("count", count, 1, 2**40)
    counter = [0, check_word("sample", sample), check_word("image", image), check_word("phase", phase)]
    # NumPy counts up before it generates, so its first block is b = 1.
    stream = np.random.Philox(counter=np.array(counter, np.uint64), key=np.array(split_key(key), np.uint64))
    return stream.random_raw(size).astype(np.uint64, copy=False)


def grid_noise(
    law: GridLaw,
    key: SupportsIndex,
    phase: SupportsIndex,
    image: SupportsIndex,
    sample: SupportsIndex,
    count: SupportsIndex,
) -> NDArray[np.int32]:
    """Return the noise of one row in units of 1/255, int32 [count].

    Word i makes coordinate i, in C order of [C,H,W]. Each coordinate is distributed as `law.weights`/2^64
    exactly, given ideal random bits. A pure function of its arguments, which are those of `words`. Raises
    InputError.
    """
    raw = words(key, phase, image, sample, count)
    rest = np.uint64(64 - law.column_bits)
    column = (raw >> rest).astype(np.intp)
    low = raw & ((np.uint64(1) << rest) - np.uint64(1))
    return np.where(low < law.thresholds[column], law.primary[column], law.alias[column]).astype(np.int32)
