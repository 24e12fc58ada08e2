"""Launching csrc/kernels.cu: typed arguments for each kernel, on whatever runs them (CUDA, or a processor in the tests).

Arrays are NumPy's or CuPy's, contiguous; floats are float32, float16, or bfloat16 held as uint16. All calls only enqueue.
The noise is bit for bit that of `reference` and `cpu`; every output is the same bits on every device.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NoiseError
from ..noise.counters import NOISE_VERSION, Key, key_words
from ..noise.law import GridLaw

Array = Any  # numpy.ndarray or cupy.ndarray
CODES = {"float32": 0, "float16": 1, "uint16": 2}  # enum in kernels.cu
SOURCES = ("xchacha20.h", "grid_gaussian.h", "kernels.cu")
# The kernels' own text asks for single roundings; the flags say it once more.
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true")
NOTHING = np.uint64(0)  # a null pointer


def source_folder() -> Path:
    """The folder of the kernels' source: in the installed package, else the checkout's csrc."""
    inside = Path(__file__).resolve().parents[1] / "csrc"
    return inside if (inside / SOURCES[-1]).is_file() else inside.parents[1] / "csrc"


@cache
def kernel_source() -> str:
    """kernels.cu with the headers it includes put in place: one text, so that a compiler's cache sees all of it."""
    folder = source_folder()
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in SOURCES}
    version = re.search(r"#define DS_NOISE_VERSION (\d+)", texts["grid_gaussian.h"])
    if version is None or int(version[1]) != NOISE_VERSION:
        raise NoiseError(f"{folder} has kernels of another noise version, expected {NOISE_VERSION}: reinstall")
    whole = texts["kernels.cu"].replace('#include "grid_gaussian.h"', texts["grid_gaussian.h"])
    return whole.replace('#include "xchacha20.h"', texts["xchacha20.h"])


def code_of(array: Array) -> np.int32:
    """The kernels' number for an array's floats; TypeError for other types."""
    code = CODES.get(str(array.dtype))
    if code is None:
        raise TypeError(f"the kernels take {', '.join(CODES)}, got {array.dtype}")
    return np.int32(code)


def _sizes(channels_and_area: tuple[int, int]) -> tuple[np.int32, np.int32]:
    return np.int32(channels_and_area[0]), np.int32(channels_and_area[1])


class Kernels(ABC):
    """The kernels of one device. `size` arguments are (channels, pixels a channel); `words` uint64 [3, rows] are phases,
    images and samples; `nhwc` arguments say that an array's rows are in [H, W, C] order instead of [C, H, W]."""

    def __init__(self) -> None:
        self._tables: dict[str, Array] = {}
        self._keys: dict[Key, Array] = {}
        self._subkeys: dict[int, Array] = {}

    @abstractmethod
    def launch(self, name: str, count: int, arguments: tuple[Any, ...]) -> None:
        """Enqueue kernel `name` for `count` units of work; arguments are arrays and NumPy scalars of the exact types."""

    @abstractmethod
    def upload(self, array: np.ndarray[Any, Any]) -> Array:
        """A copy of a NumPy array where the kernels can read it."""

    def _law(self, law: GridLaw) -> tuple[Any, ...]:
        table = self._tables.get(law.digest)
        if table is None:
            table = self._tables[law.digest] = self.upload(law.table)
        return table, np.int32(law.column_bits), np.int32(law.reach)

    def _stream(self, law: GridLaw, key: Key, words: Array, phase: int | None = None) -> tuple[Any, ...]:
        """What the kernels of noise begin with: the law, the rows' subkeys, made here (of `phase`, where given), and words.

        The subkeys of so many rows have one place, which the next call takes again: all of it is on one stream.
        """
        rows = words.shape[1]
        if key not in self._keys:
            self._keys[key] = self.upload(np.array(key_words(key), np.uint32))
        if rows not in self._subkeys:
            self._subkeys[rows] = self.upload(np.empty((rows, 8), np.uint32))
        subkeys, chosen = self._subkeys[rows], (np.int32(phase is not None), np.uint64(phase or 0))
        self.launch("ds_subkeys", rows, (self._keys[key], words, np.uint64(rows), *chosen, subkeys))
        return *self._law(law), subkeys, words

    def grid_noise(self, law: GridLaw, key: Key, words: Array, out: Array) -> None:
        """Fill out int32 [rows, count] with the noise in units of 1/255."""
        rows, count = out.shape
        arguments = (*self._stream(law, key, words), np.uint64(rows), np.uint64(count), out)
        self.launch("ds_grid_noise", rows * ((count + 7) // 8), arguments)

    def noisy_images(
        self,
        law: GridLaw,
        key: Key,
        words: Array,
        pixels: Array,
        source: Array,
        out: Array,
        *,
        size: tuple[int, int],
        nhwc: bool = False,
    ) -> None:
        """Fill out [rows, …] with (pixels[source[r]] + noise) / 255; pixels uint8 [N, C·H·W] in [C, H, W] order."""
        rows, octets = len(out), (size[0] * size[1] + 7) // 8
        given = (pixels, source, np.uint64(rows), *_sizes(size), out, code_of(out), np.int32(nhwc))
        self.launch("ds_noisy_images", rows * octets, (*self._stream(law, key, words), *given))

    def add_fixed_noise(
        self,
        values: Array,
        noise: Array | None,
        out: Array,
        size: tuple[int, int],
        *,
        nhwc: bool = False,
        out_nhwc: bool = False,
    ) -> None:
        """Fill out [copies·rows, …] with values[r] + noise[copy]; noise float32 [copies, C·H·W], or None to convert."""
        rows, copies = len(values), 1 if noise is None else len(noise)
        arguments = (
            *(values, code_of(values), np.int32(nhwc), NOTHING if noise is None else noise),
            *(np.uint64(copies), np.uint64(rows), *_sizes(size), out, code_of(out), np.int32(out_nhwc)),
        )
        self.launch("ds_add_fixed_noise", copies * rows * size[0] * size[1], arguments)

    def add_fresh_noise(
        self,
        law: GridLaw,
        key: Key,
        phase: int,
        words: Array,
        values: Array,
        out: Array,
        *,
        of: int,
        first: int,
        size: tuple[int, int],
        nhwc: bool = False,
        out_nhwc: bool = False,
    ) -> None:
        """Fill out [copies·rows, …] with values[r] plus the noise of copies first, first + 1, … of the row's `of` copies.

        `words` are those of the rows' own draws; `counters.fresh_words` says which words a copy has, in `phase`.
        """
        rows, octets = len(values), (size[0] * size[1] + 7) // 8
        copies = len(out) // rows
        arguments = (
            *(*self._stream(law, key, words, phase), np.uint64(of), np.uint64(first)),
            *(values, code_of(values), np.int32(nhwc), np.uint64(copies), np.uint64(rows), *_sizes(size)),
            *(out, code_of(out), np.int32(out_nhwc)),
        )
        self.launch("ds_add_fresh_noise", copies * rows * octets, arguments)

    def winners(self, scores: Array, labels: Array) -> None:
        """Fill labels int64 [rows] with the highest of scores [rows, classes], ties to the lowest class."""
        rows, classes = scores.shape
        self.launch("ds_winners", rows, (scores, code_of(scores), np.uint64(rows), np.int32(classes), labels))

    def soft_votes(self, logits: Array, total: Array, labels: Array | None, *, carry: bool) -> None:
        """Add softmax(logits [copies, rows, classes]) over classes, copy by copy, to total float32 [rows, classes].

        Without `carry` the total starts at zero. labels int64 [rows], where given, become the total's winners.
        """
        copies, rows, classes = logits.shape
        arguments = (
            *(logits, code_of(logits), np.uint64(copies), np.uint64(rows), np.int32(classes), np.int32(carry)),
            *(total, NOTHING if labels is None else labels),
        )
        self.launch("ds_soft_votes", rows, arguments)

    def count_votes(self, labels: Array, slots: Array, counts: Array) -> None:
        """counts int64 [slots, bins] += 1 at (slots[r], labels[r]) for each row; slots int32 [rows], below 0 no vote."""
        rows, bins = len(labels), counts.shape[1]
        self.launch("ds_count_votes", rows, (labels, slots, np.uint64(rows), np.int32(bins), counts))

    def find_nonfinite(self, values: Array, bit: int, flags: Array) -> None:
        """Set bit `bit` of flags int64 [1] where a value is NaN or infinite."""
        arguments = (values, code_of(values), np.uint64(values.size), np.int32(bit), flags)
        self.launch("ds_find_nonfinite", min(int(values.size), 1 << 20), arguments)

    def mark(self, place: np.uint64, stage: int) -> None:
        """Write `stage` to the int32 at address `place`, in host memory that the device can write."""
        self.launch("ds_mark", 1, (place, np.int32(stage)))
