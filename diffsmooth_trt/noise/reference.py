"""The noise in plain NumPy: slow, and short enough to audit. All others equal it bit for bit.

XChaCha20 (Bernstein 2008; Arciszewski 2020) under the run's 256-bit key, with the 24-byte nonce (phase, image, sample), three
little-endian words of 64 bits, and blocks counted from 0.
"""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .counters import check_integer, check_word, key_words
from .law import GridLaw

Words32 = NDArray[np.uint32]

CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")


def _rotated(x: Words32, bits: int) -> Words32:
    return x << np.uint32(bits) | x >> np.uint32(32 - bits)


def _quarter_rounds(x: Words32) -> None:
    """One quarter round down each of the four columns of x uint32 [4, 4, blocks], in place."""
    a, b, c, d = x
    for up, left in ((16, 12), (8, 7)):
        a += b
        d[...] = _rotated(d ^ a, up)
        c += d
        b[...] = _rotated(b ^ c, left)


def _rounds(state: Words32) -> Words32:
    """The 20 rounds of uint32 [16, blocks]: columns and diagonals in turn."""
    x = state.reshape(4, 4, -1).copy()
    for _ in range(10):
        _quarter_rounds(x)
        for turn in (1, -1):  # row i by i places to the left: the diagonals become columns, and back
            for i in (1, 2, 3):
                x[i] = np.roll(x[i], -turn * i, axis=0)
            if turn == 1:
                _quarter_rounds(x)
    return x.reshape(16, -1)


def _halves(*values: NDArray[np.uint64]) -> Words32:
    """The low and high halves of 64-bit words, uint32 [2·values, …]."""
    return np.stack([half for v in values for half in (v.astype(np.uint32), (v >> np.uint64(32)).astype(np.uint32))])


def hchacha20(key: Words32, phase: int, image: int) -> Words32:
    """Return the subkey, uint32 [8], of a key uint32 [8] and the first 16 bytes of the nonce."""
    nonce = _halves(np.array([phase], np.uint64), np.array([image], np.uint64))[:, 0]
    x = _rounds(np.concatenate([CONSTANTS, key, nonce])[:, None])[:, 0]
    return np.concatenate([x[:4], x[12:]])


def chacha20(subkey: Words32, sample: int, blocks: int) -> Words32:
    """Return the blocks 0 … blocks − 1 of the keystream, uint32 [blocks, 16], of a subkey and the nonce's last 8 bytes."""
    state = np.empty((16, blocks), np.uint32)
    state[:12] = np.concatenate([CONSTANTS, subkey])[:, None]
    state[12:] = _halves(np.arange(blocks, dtype=np.uint64), np.full(blocks, sample, np.uint64))
    return np.ascontiguousarray((_rounds(state) + state).T)


def words(
    key: SupportsIndex,
    phase: SupportsIndex,
    image: SupportsIndex,
    sample: SupportsIndex,
    count: SupportsIndex,
) -> NDArray[np.uint64]:
    """Return the first `count` random words of one (key, phase, image, sample), uint64 [count].

    A pure function of its arguments: the keystream's 64-bit little-endian words in order, eight a block. key: integer in
    [0, 2^256), its 32 bytes most significant first; phase, image, sample: integers in [0, 2^64); count: at least 1.
    Raises InputError.
    """
    size = check_integer("count", count, 1, 2**40)
    nonce = [check_word(name, word) for name, word in (("phase", phase), ("image", image), ("sample", sample))]
    subkey = hchacha20(np.array(key_words(key), np.uint32), *nonce[:2])
    return chacha20(subkey, nonce[2], -(-size // 8)).astype("<u4").view("<u8").ravel()[:size].astype(np.uint64)


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
