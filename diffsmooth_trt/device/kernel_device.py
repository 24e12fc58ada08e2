"""What every device that runs csrc/kernels.cu has in common: which kernel does what, and what it found."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from ..errors import EngineError
from ..noise import GridLaw, Key
from .base import Array, Device, DeviceWords, Size
from .launch import Kernels

READY = "start"


class KernelDevice(Device):
    """Work enqueued in order on one stream; buffers of the work between engines are made once and used again."""

    synchronous = False
    depth = 2
    kernels: Kernels
    softmax = "diffsmooth 1"  # ds_exp and the order of sums in kernels.cu: the same bits on every device

    def prepare(self) -> None:
        """Make what the calls below need; the kernels are there."""
        self._buffers: dict[tuple[Any, ...], Array] = {}
        self.flags = self.empty((1,), np.int64)
        self.clear(self.flags)
        self.watched: list[str] = []
        self.stages = [READY]
        self.place = self.staging((1,), np.int32)
        self.place[0] = 0

    def buffer(self, use: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The one array for `use` of this shape: its values last until the next call for the same use."""
        key = (use, shape, np.dtype(dtype).str)
        if key not in self._buffers:
            self._buffers[key] = self.empty(shape, dtype)
        return self._buffers[key]

    def release(self) -> None:
        self._buffers.clear()

    # Failures

    def stage(self, name: str) -> None:
        super().stage(name)
        if name not in self.stages:
            self.stages.append(name)
        self.kernels.mark(np.uint64(self.place.ctypes.data), self.stages.index(name))

    @property
    def failing_stage(self) -> str:
        """The stage that was begun last, as the device itself has noted."""
        number = int(self.place[0])
        return self.stages[number] if 0 <= number < len(self.stages) else READY

    def check_finite(self, values: Array, name: str) -> None:
        if name not in self.watched:
            self.watched.append(name)
        self.kernels.find_nonfinite(values, self.watched.index(name) % 63, self.flags)

    def raise_faults(self) -> None:
        with self.errors():
            flags = int(self.asnumpy(self.flags)[0])
            self.clear(self.flags)
        self.raise_flags(flags)

    def raise_flags(self, flags: int) -> None:
        """EngineError for the engines whose bits are set in a copy of `flags`."""
        names = [name for bit, name in enumerate(self.watched) if flags >> bit % 63 & 1]
        if names:
            raise EngineError(
                f"{' and '.join(names)} returned NaN or infinity: run it in a wider precision (export it with "
                "--precision bf16 or fp32)"
            )

    # Work

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
        self.kernels.noisy_images(law, key, words, pixels, source, out, size=_planes(size), nhwc=nhwc)

    def converted(self, values: Array, out: Array, *, size: Size, nhwc: bool, out_nhwc: bool) -> None:
        self.kernels.add_fixed_noise(values, None, out, _planes(size), nhwc=nhwc, out_nhwc=out_nhwc)

    def with_fixed_noise(
        self, values: Array, noise: Array, out: Array | None, *, size: Size, nhwc: bool, out_nhwc: bool
    ) -> Array:
        out = self.buffer("local noise", values.shape, values.dtype) if out is None else out
        self.kernels.add_fixed_noise(values, noise[None], out, _planes(size), nhwc=nhwc, out_nhwc=out_nhwc)
        return out

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
        out = self.buffer("local noise", values.shape, values.dtype) if out is None else out
        how: dict[str, Any] = {"of": copies, "first": copy, "size": _planes(size), "nhwc": nhwc, "out_nhwc": out_nhwc}
        self.kernels.add_fresh_noise(law, key, phase, words, values, out, **how)
        return out

    def winners(self, scores: Array) -> Array:
        labels = self.buffer("labels", scores.shape[:1], np.int64)
        self.kernels.winners(scores, labels)
        return labels

    def add_softmax(self, scores: Array, total: Array, *, carry: bool) -> None:
        self.kernels.soft_votes(scores[None], total, None, carry=carry)

    def count_votes(self, labels: Array, slots: Array, counts: Array) -> None:
        self.kernels.count_votes(labels, slots, counts)

    @abstractmethod
    def synchronise(self) -> None:
        """Wait for everything enqueued."""


def _planes(size: Size) -> tuple[int, int]:
    return size[0], size[1] * size[2]
