"""The CPU: NumPy arrays, the C++ sampler, SciPy's softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from scipy.special import softmax

from ..errors import EngineError
from ..noise import GridLaw, Key, sampler
from ..noise.counters import fresh_words
from .base import Array, Device, DeviceWords, Host, Size


def _nothing() -> None:
    pass


class Cpu(Device):
    """Everything is done when a call returns."""

    name = "cpu"
    xp = np
    synchronous = True
    depth = 1

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        self.softmax = f"numpy {np.__version__}, scipy {scipy.__version__}"  # a near tie may fall by their last digit

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        return np.empty(shape, dtype)

    def asarray(self, array: Host) -> Array:
        return array

    def asnumpy(self, array: Array) -> Host:
        return np.asarray(array)

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Host:
        return np.empty(shape, dtype)

    def mirror(self, staged: Host) -> Array:
        return staged

    def upload(self, staged: Host, mirror: Array) -> None:
        pass

    def download(self, array: Array, staged: Host) -> None:
        staged[...] = array

    def event(self) -> Callable[[], None]:
        return _nothing

    def memory(self) -> tuple[int, int] | None:
        return None

    def check_finite(self, values: Array, name: str) -> None:
        if not np.isfinite(values).all():
            bad = np.count_nonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            raise EngineError(
                f"{name} returned NaN or infinity for {bad} of {len(values)} rows: "
                "run it in a wider precision (--precision fp32)"
            )

    def clear(self, array: Array) -> None:
        array[...] = 0

    def noisy_images(
        self,
        law: GridLaw,
        key: Key,
        words: DeviceWords,
        pixels: Array,
        source: Array,
        out: Array,
        *,
        size: Size,
        nhwc: bool,
    ) -> None:
        flat = out.reshape(len(out), -1)
        sampler.noisy_images(law, key, words[0], pixels, words[1], words[2], flat, rows=source)

    def converted(self, values: Array, out: Array, *, size: Size, nhwc: bool, out_nhwc: bool) -> None:
        out[...] = values

    def with_fixed_noise(
        self, values: Array, noise: Array, out: Array | None, *, size: Size, nhwc: bool, out_nhwc: bool
    ) -> Array:
        return np.add(values, noise.reshape(size), out=out)

    def with_fresh_noise(
        self,
        law: GridLaw,
        key: Key,
        phase: int,
        words: DeviceWords,
        values: Array,
        out: Array | None,
        *,
        copies: int,
        copy: int,
        size: Size,
        nhwc: bool,
        out_nhwc: bool,
    ) -> Array:
        out = np.empty_like(values) if out is None else out
        sampler.add_noise(law, key, phase, words[1], fresh_words(words, copies, copy), values, out)
        return out

    def winners(self, scores: Array) -> Array:
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)

    def add_softmax(self, scores: Array, total: Array, *, carry: bool) -> None:
        if not carry:
            total[...] = 0
        total += softmax(scores, axis=1)

    def count_votes(self, labels: Array, slots: Array, counts: Array) -> None:
        used = slots >= 0
        np.add.at(counts, (slots[used], labels[used]), 1)


CPU = Cpu()
