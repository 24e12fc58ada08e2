"""The noise in C++: rows filled by threads with the GIL released, bit for bit what `reference` gives.

Guarantee of every function here: the output is a pure function of (law, key, phase, image, sample,
coordinate). It does not depend on how rows are packed into calls, on their order, on `threads` or on
`variant`.
"""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..dtypes import Words
from ..errors import InputError
from .counters import NOISE_VERSION, check_integer, check_word, key_words
from .law import GridLaw

if _core.noise_version != NOISE_VERSION:
    raise ImportError(
        f"diffsmooth_trt._core has noise version {_core.noise_version}, expected {NOISE_VERSION}: rebuild it"
    )

MAX_THREADS = 4096


def instruction_set() -> str:
    """Return the name of the code path used where none is asked for; `variants()[0]`."""
    return variants()[0]


def variants() -> list[str]:
    """Return the code paths this processor can run, fastest first, such as ["avx512", "avx2", "portable"]."""
    return _core.variants()


def _stream(
    law: GridLaw, key: SupportsIndex, phase: SupportsIndex | Words, images: Words
) -> tuple[Words, int, int, list[int], Words]:
    """Return the leading arguments of the compiled functions, with one phase a row."""
    if not isinstance(phase, np.ndarray):
        phase = np.full(np.shape(images), check_word("phase", phase), np.uint64)
    return (law.table, law.column_bits, law.reach, key_words(key), phase)


def _threads(threads: SupportsIndex) -> int:
    return check_integer("threads", threads, 0, MAX_THREADS)


def grid_noise(
    law: GridLaw,
    key: SupportsIndex,
    phase: SupportsIndex | Words,
    images: Words,
    samples: Words,
    count: SupportsIndex,
    threads: SupportsIndex = 0,
    *,
    variant: str = "",
) -> NDArray[np.int32]:
    """Return noise in units of 1/255, int32 [R, count]: in row r, `reference.grid_noise` of that row.

    key: integer in [0, 2^256). phase: integer in [0, 2^64), or uint64 [R]. images, samples: uint64 [R].
    count: coordinates a row, at least 1. threads: most threads to use, 0 for one a processor. variant: one of
    `variants()`, empty for the fastest. Raises InputError or ValueError for values out of range or shapes
    that disagree, TypeError for other dtypes.
    """
    size = check_integer("count", count, 1, 2**40)
    stream = _stream(law, key, phase, images)
    return _core.grid_noise(*stream, images, samples, size, _threads(threads), variant)


def noisy_images(
    law: GridLaw,
    key: SupportsIndex,
    phase: SupportsIndex | Words,
    pixels: NDArray[np.uint8],
    images: Words,
    samples: Words,
    out: NDArray[np.float32],
    threads: SupportsIndex = 0,
    *,
    rows: NDArray[np.int64] | None = None,
    variant: str = "",
) -> None:
    """Fill out[r] with float32(pixels[rows[r]] + k) / float32(255), by IEEE division, k being row r's noise.

    Nothing is clipped. pixels: uint8 [N, …], each row in the order of the network's input, [C,H,W] or flat.
    out: float32 [R, …] with the same row shape, C-contiguous and writable. rows: int64 [R], the row of
    `pixels` that each output row starts from; left out, N = R and they map one to one. The other arguments
    and the errors are those of `grid_noise`.
    """
    stream = _stream(law, key, phase, images)
    _core.noisy_images(*stream, pixels, rows, images, samples, out, _threads(threads), variant)


def add_noise(
    law: GridLaw,
    key: SupportsIndex,
    phase: SupportsIndex | Words,
    images: Words,
    samples: Words,
    values: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: SupportsIndex = 0,
    *,
    rows: NDArray[np.int64] | None = None,
    variant: str = "",
) -> None:
    """Fill out[r] with values[rows[r]] + float32(k) / float32(255), in float32, k being row r's noise.

    Nothing is clipped. values: float32 [N, …] in image units. `out` may be `values` itself where `rows` is
    left out; it must not overlap it otherwise. The other arguments and the errors are those of
    `noisy_images`.
    """
    if out is not values and np.may_share_memory(out, values):
        raise InputError("out overlaps values, expected separate arrays or the same one: pass a fresh array")
    if out is values and rows is not None:
        raise InputError("out is values while rows is given, expected separate arrays: pass a fresh array")
    stream = _stream(law, key, phase, images)
    _core.add_noise(*stream, values, rows, images, samples, out, _threads(threads), variant)
