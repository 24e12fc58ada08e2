"""The self-test of the noise: a run draws nothing before the sampler, as built and on this machine, has passed it.

A certificate rests on its noise, and a wrong build, compiler or processor makes votes that look like any
others. So the compiled code is held against known answers, against NumPy bit for bit, and its draws against
the law, on every code path, under a key that is public and fixed. Never under a run's key: whoever refuses
runs by what their own noise looks like has changed its distribution. With key and counters fixed, a build
that passes for one σ passes for it always.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Words
from ..errors import NoiseError
from . import reference, sampler
from .goodness import draws_fault, law_fault
from .law import GridLaw, grid_law

# Of the known answers that the tests share, worked out in Python integers: one stream's first words, the
# noise they make at σ = 0.01, and the bits of (pixel + k)/255 in float32.
KEY = 0xF0E1D2C3B4A5968778695A4B3C2D1E0F00112233445566778899AABBCCDDEEFF
PHASE, IMAGE, SAMPLE = 1, 2**32 + 5, 2**33 + 7
WORDS = """
    2bf081ed3e46733a 25f2b61664bc4ac9 224754ec1473614d 2e366b9b6f757394 a92f27636af7683f 213b0907e75adb8d
    e7c0add9271f6cda 08971f9bd94a5a4f e081ff48e8418cee 79cd2a617543d7b9 a8f5d8dbfb3dbc7a 9e1a578d09d0bf66
    06c24264e24d6175 05e1c5cc07488377 02420685e882a85f f9871b1b025cd686 004c7191bf930429 c43982c351da7370
    96da5a5dca7a1e2a ca411026e8be7f23 7f69b25527f7eb25 71dd686e59ce0eb9 c609c4d720709db4 2c8494c53d21a09c
    e3d460841bd1f22e e095acbd78404999 6efa4c2b4bb8128e
"""
SIGMA = 0.01
NOISE = (-2, -2, -2, -2, 0, -2, 2, -4, 2, -1, 0, 0, -4, -4, -5, 4, -5, 1, 0, 1, -1, 5, 1, -2, 2, 2, 5)
PIXELS = (
    0,
    37,
    74,
    111,
    148,
    185,
    222,
    3,
    40,
    77,
    114,
    151,
    188,
    225,
    6,
    43,
    80,
    117,
    154,
    191,
    228,
    9,
    46,
    83,
    120,
    157,
    194,
)
SCALED = """
    bc008081 3e0c8c8d 3e909091 3edadadb 3f149495 3f37b7b8 3f60e0e1 bb808081 3e28a8a9 3e989899 3ee4e4e5 3f179798
    3f38b8b9 3f5dddde 3b808081 3e3cbcbd 3e969697 3eececed 3f1a9a9b 3f40c0c1 3f63e3e4 3d60e0e1 3e3cbcbd 3ea2a2a3
    3ef4f4f5 3f1f9fa0 3f47c7c8
"""

# The first is the known stream. Words on both sides of 2^32, and no two of one stream alike: none can change places.
PHASES, IMAGES, SAMPLES = np.array(
    [(PHASE, IMAGE, SAMPLE), (0, 9999, 99), (2, 2**63, 1), (16, 0, 2**40 + 3), (2**40 + 17, 2**64 - 2, 2**64 - 1)],
    np.uint64,
).T.copy()
# Past the compiled code's strip of 1024, and no multiple of 8, 32, 64 or 128: what is left over shows too.
SHORT = 1095
# Rows past a thread's unit of 16,384, and enough of them to be worth three threads.
LONG, LONG_ROWS = 17_011, 12
PROBE, PROBE_BITS = 199, 14  # past the 128 words that the widest path makes at once

REMEDY = "rebuild or reinstall diffsmooth-trt, and trust no earlier run of this build on this machine"


@lru_cache(maxsize=64)
def check_noise(law: GridLaw) -> None:
    """Raise NoiseError unless the compiled sampler draws `law` right on this machine; once a process and law.

    First the law with the normal of its σ, and its table with its weights, exactly. Then, on each code path of
    `cpu.variants()`, the known answers, the random words to their last bit, and short rows of this law with
    `reference`, all by `grid_noise`, `noisy_images` and `add_noise`; long rows the same way with the default
    path and threads. Then 200,000 draws with the law (`fit` says what that detects). Some ten milliseconds.
    A correct sampler fails only that last comparison, with probability 1e-9 at most for a σ never tried.
    """
    fault = law_fault(law) or _reference_fault() or _compiled_fault(law) or _long_fault(law)
    if fault is not None:
        raise NoiseError(f"the noise fails its self-test at sigma {law.sigma}: {fault}; {REMEDY}")


def _reference_fault() -> str | None:
    known = [int(word, 16) for word in WORDS.split()]
    made = reference.words(KEY, PHASE, IMAGE, SAMPLE, len(known)).tolist()
    return (
        None
        if made == known
        else f"NumPy's XChaCha20 begins with {made[0]:016x}, expected {known[0]:016x}: reinstall NumPy"
    )


def _compiled_fault(law: GridLaw) -> str | None:
    """Return how a code path departs from the known answers or, in short rows and on one thread, from `reference`."""
    words = np.stack([reference.words(KEY, *row, PROBE) for row in _rows(PHASES, IMAGES, SAMPLES)])
    probes = [_Rows.of(probe_law(words, above), PROBE, PHASES, IMAGES, SAMPLES) for above in (0, 1)]
    short = _Rows.of(law, SHORT, PHASES, IMAGES, SAMPLES)
    for path in sampler.variants():
        fault = _known_fault(path) or short.fault(path, 1)
        for probe in probes:
            fault = fault or probe.fault(path, 1)
        if fault is not None:
            return fault
    return None


def _long_fault(law: GridLaw) -> str | None:
    """Return how long rows, drawn as runs draw them, depart from `reference` or, as a whole, from the law."""
    images, samples = np.arange(2 * LONG_ROWS, dtype=np.uint64).reshape(2, -1)
    rows = _Rows.of(law, LONG, np.resize(PHASES, LONG_ROWS), images, samples)
    # The default code path, and a thread a processor: busy processors make these the slow calls, so only here.
    fault = rows.fault("", 0)
    return fault or draws_fault(law, sampler.grid_noise(law, KEY, rows.phases, images, samples, LONG, 1))


def _known_fault(path: str) -> str | None:
    law, where = grid_law(SIGMA), f"on code path {path} for the known stream"
    place = (IMAGES[:1], SAMPLES[:1])
    noise = sampler.grid_noise(law, KEY, PHASE, *place, len(NOISE), 1, variant=path)
    scaled = np.full(noise.shape, np.nan, np.float32)
    sampler.noisy_images(law, KEY, PHASE, np.array([PIXELS], np.uint8), *place, scaled, 1, variant=path)
    bits = np.array([[int(word, 16) for word in SCALED.split()]], np.uint32)
    return _difference(f"grid_noise {where}", noise, np.array([NOISE], np.int32)) or _difference(
        f"noisy_images {where}", scaled, bits.view(np.float32)
    )


def probe_law(words: Words, above: int) -> GridLaw:
    """Return a table, no law of any σ, that shows every bit of `words`: the drawn value tells which side they fall.

    A word chooses the column of its top bits, whose threshold is its other bits plus `above`: at 0 the word
    is not below it by one and gives the alias, at 1 it is and gives the column. To give both, it must be that
    word to the last bit. Where two words share a column, the last one sets its threshold.
    """
    rest, columns = np.uint64(64 - PROBE_BITS), np.arange(1 << PROBE_BITS)
    thresholds = np.zeros(columns.size, np.uint64)
    flat = words.ravel()
    thresholds[(flat >> rest).astype(np.intp)] = (flat & np.uint64((1 << 64 - PROBE_BITS) - 1)) + np.uint64(above)
    alias = np.roll(columns, -1)
    table = thresholds << np.uint64(PROBE_BITS) | alias.astype(np.uint64)
    halves = (columns.astype(np.int16), alias.astype(np.int16))
    # One weight stands for a reach of 0: the value is the column's number.
    return GridLaw(SIGMA, columns.astype(np.int32), (0,), PROBE_BITS, thresholds, *halves, table)


def _rows(phases: Words, images: Words, samples: Words) -> list[tuple[int, int, int]]:
    return list(zip(phases.tolist(), images.tolist(), samples.tolist(), strict=True))


@dataclass(frozen=True)
class _Rows:
    """Rows of one law under the test's key, and the noise that `reference` gives them, int32 [R, count]."""

    law: GridLaw
    phases: Words
    images: Words
    samples: Words
    noise: NDArray[np.int32]

    @classmethod
    def of(cls, law: GridLaw, count: int, phases: Words, images: Words, samples: Words) -> _Rows:
        noise = [reference.grid_noise(law, KEY, *row, count) for row in _rows(phases, images, samples)]
        return cls(law, phases, images, samples, np.stack(noise))

    def fault(self, path: str, threads: int) -> str | None:
        """Return how the functions that runs call depart from NumPy's integers and float32, or None."""
        shape, scale = self.noise.shape, np.float32(255)
        head, place = (self.law, KEY, self.phases), (self.images, self.samples)
        how: dict[str, Any] = {"threads": threads, "variant": path}
        where = f"on code path {path or sampler.instruction_set()} with {threads or 'all'} thread{'s' * (threads != 1)}"
        pixels = (np.arange(3 * shape[1]) * 37 % 256).astype(np.uint8).reshape(3, -1)
        source = np.arange(shape[0])[::-1] % 3
        values = pixels[source].astype(np.float32) / np.float32(251)
        scaled, shifted = np.full((2, *shape), np.nan, np.float32)
        noise = sampler.grid_noise(*head, *place, shape[1], **how)
        sampler.noisy_images(*head, pixels, *place, scaled, rows=source, **how)
        sampler.add_noise(*head, *place, values, shifted, **how)
        return (
            _difference(f"grid_noise {where}", noise, self.noise)
            or _difference(f"noisy_images {where}", scaled, (pixels[source] + self.noise).astype(np.float32) / scale)
            or _difference(f"add_noise {where}", shifted, values + self.noise.astype(np.float32) / scale)
        )


def _difference(name: str, made: NDArray[Any], expected: NDArray[Any]) -> str | None:
    """Return where two [R, count] arrays of 32-bit values first differ in a bit, or None."""
    wrong = np.flatnonzero(made.view(np.uint32) != expected.view(np.uint32))
    if not wrong.size:
        return None
    row, coordinate = divmod(int(wrong[0]), made.shape[1])
    place = f"row {row}, coordinate {coordinate}, {wrong.size} of {made.size} wrong"
    return f"{name} gives {made.flat[wrong[0]]}, expected {expected.flat[wrong[0]]} ({place})"
