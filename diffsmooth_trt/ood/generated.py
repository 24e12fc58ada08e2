"""Out-of-distribution sets that need no file: noise of four kinds, a pure function of (kind, seed, image number).

Random words are Philox4x64-10's, taken as integers, so that no library's sampling algorithm decides what an image is.

- `uniform`: every value uniform on 0…255.
- `smooth`: uniform noise under a Gaussian filter of width uniform on [1, 2.5] pixels, then stretched to [0, 1] (Hein et al.
  2019; Bitterwolf et al. 2020; Meinke et al. 2022).
- `lowfreq`: a sum of the 24 lowest plane waves with random amplitudes and phases, each channel its own, stretched to [0, 1].
- `permuted`: the pixels of an in-distribution image in random order, colours kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..dtypes import Floats64
from ..errors import InputError
from ..grid import Pixels
from ..images import Image, Images

PREFIX = "generated:"
KINDS = ("uniform", "smooth", "lowfreq", "permuted")
VERSION = 1  # changes when any pixel does
WAVES = 24


def _words(kind: str, seed: int, number: int, count: int) -> NDArray[np.uint64]:
    """`count` 64-bit words of one image's stream."""
    counter = np.array([0, VERSION, number, KINDS.index(kind)], np.uint64)
    return np.random.Philox(counter=counter, key=np.array([seed % 2**64, seed >> 64], np.uint64)).random_raw(count)


def _unit(words: NDArray[np.uint64]) -> Floats64:
    """Numbers in [0, 1) from the top 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _stretched(values: Floats64) -> Pixels:
    """`values` on 0…255, least to greatest; constant ones become grey."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
    return np.rint(255 * share).astype(np.uint8)


def _smooth(shape: tuple[int, int, int], words: NDArray[np.uint64]) -> Pixels:
    numbers = _unit(words)
    width = 1 + 1.5 * float(numbers[0])
    noise = numbers[1:].reshape(shape)
    return _stretched(ndimage.gaussian_filter(noise, (width, width, 0), mode="nearest", truncate=4.0))


def _waves(height: int, width: int) -> Floats64:
    """Frequencies (row, column) in cycles an image of the lowest plane waves, one of each pair ±k."""
    waves = [(r, c) for r in range(-8, 9) for c in range(9) if (c, r) > (0, 0)]
    waves.sort(key=lambda k: (k[0] ** 2 + k[1] ** 2, k))
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * np.pi * (r * rows / height + c * columns / width) for r, c in waves[:WAVES]])


def _lowfreq(shape: tuple[int, int, int], words: NDArray[np.uint64]) -> Pixels:
    height, width, channels = shape
    amplitude, phase = _unit(words).reshape(2, WAVES, 1, 1, channels)
    angles = _waves(height, width)[..., None] + 2 * np.pi * phase
    return _stretched((amplitude * np.cos(angles)).sum(axis=0))


def generate(kind: str, shape: tuple[int, int, int], seed: int, number: int, source: Pixels | None = None) -> Pixels:
    """Image `number` of a set, uint8 `[H, W, C]`.

    kind: one of KINDS. shape: (H, W, C). seed: in [0, 2^128). source: uint8 of that shape, for `permuted` only. The same
    arguments give the same pixels; different seeds, numbers or kinds independent ones. Raises InputError.
    """
    if kind not in KINDS:
        raise InputError(f"generated set {kind!r} is unknown: use one of {', '.join(KINDS)}")
    height, width, channels = shape
    size = height * width * channels
    if kind == "uniform":
        return (_words(kind, seed, number, size) >> np.uint64(56)).astype(np.uint8).reshape(shape)
    if kind == "smooth":
        return _smooth(shape, _words(kind, seed, number, size + 1))
    if kind == "lowfreq":
        return _lowfreq(shape, _words(kind, seed, number, 2 * WAVES * channels))
    if source is None or source.shape != shape:
        raise InputError(
            f"permuted pixels need an image {shape} to permute, got {None if source is None else source.shape}"
        )
    order = np.argsort(_words(kind, seed, number, height * width), kind="stable")
    return source.reshape(-1, channels)[order].reshape(shape)


class GeneratedImages:
    """A generated set in the form of `data.Images`: `count` images of `shape` (H, W, C), labels −1.

    `source` is the in-distribution set whose images `permuted` permutes, in their order, again from the first where
    `count` is larger.
    """

    def __init__(self, kind: str, count: int, shape: tuple[int, int, int], seed: int, source: Images) -> None:
        if kind not in KINDS:
            raise InputError(f"generated set {kind!r} is unknown: use one of {', '.join(PREFIX + k for k in KINDS)}")
        self.kind, self.shape, self.seed, self.source = kind, shape, seed, source
        self.rows = range(count)

    def __len__(self) -> int:
        return len(self.rows)

    def _sources(self) -> Iterator[Pixels | None]:
        while True:
            if self.kind != "permuted":
                yield None
                continue
            for image in self.source:
                yield image.pixels

    def __iter__(self) -> Iterator[Image]:
        for row, source in zip(self.rows, self._sources(), strict=False):
            yield Image(row, -1, generate(self.kind, self.shape, self.seed, row, source))

    @property
    def identity(self) -> str:
        """SHA-256, in hex, of what makes the set."""
        parts = [f"generated/{VERSION}", self.kind, str(self.shape), str(self.seed)]
        if self.kind == "permuted":
            parts += [self.source.identity, str(self.source.rows), str(self.source.resize), str(self.source.crop)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
