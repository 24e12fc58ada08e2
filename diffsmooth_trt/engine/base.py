"""The one interface of every backend: a file that runs fixed-size batches on a device."""

from __future__ import annotations

import hashlib
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..device import CPU, Array, Device
from ..dtypes import Floats32
from ..errors import EngineError, InputError
from ..files import file_sha256
from .facts import EngineFacts
from .place import only_place_matters

Inputs = tuple[Array, ...]
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "avx_vnni")


@cache
def instruction_set() -> str:
    """The CPU features that decide which kernels a backend takes, as one string; the architecture's name elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return "+".join([platform.machine(), *(flag for flag in CPU_FLAGS if flag in flags)])


class Engine(ABC):
    """One network on one device. `run` takes float32 `[batch, C, H, W]` and returns float32 `[batch, …]`, arrays of the
    device (NumPy's, or CuPy's on a GPU); engines of role "conditional" have `denoise` instead.

    `identity` is the engine's part of the classifier id: votes of engines with different identities never mix. It holds
    the file's hash, backend and version, effective precision, instruction set or GPU and batch size, and the hash of its
    output on a fixed batch, which covers what no setting shows. The thread count is not in it: no backend's arithmetic
    depends on it (tests/engine checks that).

    On a GPU, `run` only enqueues and its result is overwritten by the next `run`; `input` is an array that it takes without
    a copy, of `input_dtype` (float32, float16, or bfloat16 as uint16) and stored `[batch, H, W, C]` where `input_nhwc`.
    """

    backend: str
    input_dtype: Any = np.dtype(np.float32)
    input_nhwc = False
    output_nhwc = False
    capturable = True  # whether a run can be part of a CUDA graph
    place_dependent = False  # whether last bits of a row depend on its place in the batch; never on the CPU
    rows = "assumed"  # "proved" where the graph, or that which it was compiled from, was proved to keep rows apart (engine/rows)
    uncoupled = (
        "export it without that, or try another --backend, --precision or --batch"  # what helps where rows are coupled
    )
    caveat = ""  # what reports say of an engine that was not compared with the graph it was compiled from, or differs from it
    warning = ""  # of a classifier whose outputs are not logits; for methods that use more of them than their order

    def __init__(
        self, path: Path, facts: EngineFacts, batch: int, device: Device = CPU, sha256: str | None = None
    ) -> None:
        """`sha256` is that of the file where the caller has hashed it already; the file is read for it otherwise."""
        self.path = path
        self.facts = facts
        self.batch = batch
        self.device = device
        self.identity: dict[str, Any] = {
            "sha256": file_sha256(path) if sha256 is None else sha256,
            "backend": self.backend,
            **(device.identity or {"instruction_set": instruction_set()}),
            "batch": batch,
        }

    @classmethod
    def graph_rows(cls, batch: int) -> set[int]:
        """The numbers of rows that the graph itself is run with in batches of `batch`."""
        return {batch}

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.path.name

    @property
    def may_depend_on_place(self) -> bool:
        """Whether last bits of a row may depend on its place: then the bounds allow for it (place.py)."""
        return not self.device.synchronous

    @cached_property
    def input(self) -> Array:
        """An array for `run`'s input, in the network's own type and layout."""
        return self.device.empty(self._images_shape(self.input_nhwc), self.input_dtype)

    def _stored(self, shape: tuple[int, int, int], nhwc: bool) -> tuple[int, ...]:
        channels, height, width = shape
        return (self.batch, height, width, channels) if nhwc else (self.batch, channels, height, width)

    def _images_shape(self, nhwc: bool) -> tuple[int, ...]:
        return self._stored(self.facts.input_shape, nhwc)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what `run` and `denoise` return: images, logits `[batch, classes]`, or d `[batch, 1]`."""
        if self.facts.role == "classifier":
            return (self.batch, int(self.facts.classes or 0))
        if self.facts.role == "detector":
            return (self.batch, 1)
        return self._stored(self.facts.denoised_shape, self.output_nhwc)

    @property
    def null_class(self) -> int | None:
        """The label that stands for "no class" in `denoise`; None where the network has none."""
        return self.facts.null_class

    def run(self, x: Array, *, nhwc: bool = False) -> Array:
        """The network's output for one full batch; raises EngineError for NaN or infinite values.

        On a GPU that error comes with `device.raise_faults()`, at the latest when votes are read. `nhwc` says that x is
        `[batch, H, W, C]`; x may be of another type than the network's input there, and is then converted.
        """
        if self.facts.role == "conditional":
            raise InputError(f"{self.name} is a conditional denoiser: call denoise(x, s, labels) instead of run(x)")
        y = self._checked(x, nhwc=nhwc)
        with self.device.errors():
            self.device.check_finite(y, self.name)
        return y

    def denoise(self, x: Floats32, s: Floats32, labels: NDArray[np.int64]) -> Floats32:
        """D(x; s, y) of a conditional denoiser, float32 `[batch, C, H, W]`, not clamped, for one full batch.

        `x` float32 `[batch, C, H, W]` are images in [-1, 1] plus noise, `s` float32 `[batch]` the noise levels in the same
        units, finite and above 0, `labels` int64 `[batch]` lie in 0…classes−1 or are the null class; all of them are NumPy
        arrays on every device. NaN and infinite values are returned as they are. Raises InputError for anything else and for
        engines of another role.
        """
        name, classes = self.name, int(self.facts.classes or 0)
        if self.facts.role != "conditional":
            raise InputError(
                f"{name} is a {self.facts.role}, denoise needs a conditional denoiser: call run(x) instead"
            )
        for what, given, dtype in (("s", s, np.float32), ("labels", labels, np.int64)):
            if given.shape != (self.batch,) or given.dtype != dtype:
                raise InputError(
                    f"{name} takes {what} as {np.dtype(dtype)} ({self.batch},), got {given.dtype} {given.shape}"
                )
        wrong = ~(np.isfinite(s) & (s > 0))
        if wrong.any():
            raise InputError(f"{name} takes noise levels s that are finite and above 0, got {s[wrong][0]}")
        wrong = ~((labels >= 0) & (labels < classes) | (labels == (-1 if self.null_class is None else self.null_class)))
        if wrong.any():
            null = "it has no null class" if self.null_class is None else f"or the null class {self.null_class}"
            raise InputError(f"{name} takes labels 0…{classes - 1}, got {labels[wrong][0]} ({null})")
        with self.device.errors():
            x, *more = (self.device.asarray(each) for each in (x, s, labels))
            return self.device.asnumpy(self._checked(x, *more))

    def _checked(self, x: Array, *more: Array, nhwc: bool = False) -> Array:
        """The output, with the shapes of images and output checked."""
        device, expected = self.device, self._images_shape(nhwc)
        ours = isinstance(x, device.xp.ndarray)
        if not ours or x.shape != expected or (x.dtype != np.float32 and device.synchronous):
            kind = f"{x.dtype} {x.shape}" if ours else f"{type(x).__module__}.{type(x).__name__}"
            array = "" if ours else f" as {device.xp.__name__} array on {device.name}"
            raise InputError(f"{self.name} takes float32 {expected}{array}, got {kind}")
        with device.errors():
            device.stage(self.name)
            if (x.dtype, nhwc) != (self.input_dtype, self.input_nhwc):
                device.converted(x, self.input, size=self.facts.input_shape, nhwc=nhwc, out_nhwc=self.input_nhwc)
                x = self.input
            y = self._run(tuple(device.xp.ascontiguousarray(given) for given in (x, *more)))
        if y.shape != self.output_shape:
            raise EngineError(f"{self.name} returned {y.shape}, expected {self.output_shape}: export it again")
        return y

    def _probe_inputs(self) -> Inputs:
        """One fixed batch of everything that the engine takes."""
        size = int(np.prod(self.facts.input_shape)) * self.batch
        pixels = (np.random.Philox(key=0).random_raw(size) >> np.uint64(56)).astype(np.float32) / np.float32(255)
        x = pixels.reshape(self.batch, *self.facts.input_shape)
        if self.facts.role != "conditional":
            return (x,)
        rows = np.arange(self.batch)
        s = (3 * (rows + 1) / self.batch).astype(np.float32)
        labels = rows % (int(self.facts.classes or 0) + (self.null_class is not None))
        return (2 * x - 1) * (1 + s[:, None, None, None]), s, labels

    def _loud_inputs(self) -> Inputs:
        """A batch whose rows are as noisy as they come, each in another range: far outside of images' own, and within it."""
        generator = np.random.Generator(np.random.Philox(key=1))
        rows, shape = np.arange(self.batch), (self.batch, *self.facts.input_shape)
        scales = np.array([0.25, 32, 1, 4], np.float32)[rows % 4]
        noise = generator.standard_normal(shape, np.float32) * scales[:, None, None, None]
        if self.facts.role != "conditional":
            return (noise + np.float32(0.5),)
        labels = rows[::-1] % (int(self.facts.classes or 0) + (self.null_class is not None))
        return noise, scales, labels

    def _probed(self, inputs: Inputs) -> Floats32:
        """The output of any batch, be it finite or not."""
        with self.device.errors():
            return self.device.asnumpy(self._checked(*(self.device.asarray(given) for given in inputs)))

    def probe(self) -> str:
        """SHA-256 of the output on a fixed batch: two engines with one hash compute alike, whatever their settings.

        Three more batches hold those rows against noisy ones: rows of unequal range by themselves, quiet and noisy ones
        in turn, in reverse order, and a single noisy one among quiet ones. Whatever a row's output depends on besides the
        row would make votes depend on packing: InputError. Where a GPU's last bits depend on a row's place alone
        (place.py), it sets `place_dependent` instead.
        """
        call: Callable[..., Floats32] = self.denoise if self.facts.role == "conditional" else self.run_on_host
        quiet, loud = self._probe_inputs(), self._loud_inputs()
        y = call(*quiet)
        noisy, back, forth = self._probed(loud), np.arange(self.batch)[::-1], np.roll(np.arange(self.batch), 1)
        for order, from_loud in ((back, back % 2 == 1), (forth, forth == self.batch // 2)):
            rows = [
                np.where(from_loud.reshape(-1, *[1] * (b.ndim - 1)), a[order], b[order])
                for a, b in zip((*loud, noisy), (*quiet, y), strict=True)
            ]
            *given, expected = rows
            output = self._probed(tuple(given))
            if np.array_equal(output, expected, equal_nan=True):
                continue
            self.place_dependent = self.may_depend_on_place and only_place_matters(
                lambda *some: self._probed(some), given, output, expected
            )
            if not self.place_dependent:
                raise InputError(
                    f"{self.name} gives a row other values at another place of the batch ({self.backend}): its rows are "
                    f"coupled or it is random; {self.uncoupled}"
                )
        if self.facts.role == "classifier" and (y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=0.01):
            self.warning = f"{self.name} gives probabilities, of which softmax is taken again: cut its last Softmax off"
        return hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()

    def run_on_host(self, x: Floats32) -> Floats32:
        """`run` for NumPy arrays in and out on every device; NaN and infinite values are found at once."""
        with self.device.errors():
            y = self.device.asnumpy(self.run(self.device.asarray(x)))
        self.device.raise_faults()
        return y

    @abstractmethod
    def _run(self, inputs: Inputs) -> Array:
        """The output for contiguous arrays in the order of the graph's inputs, each with `batch` rows."""

    def close(self) -> None:  # noqa: B027  (backends that hold nothing need not override it)
        """Release what the backend holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
