"""Whether a device's kernels, as compiled there, draw the noise of the sampler that has passed its own self-test."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import NoiseError
from ..noise import GridLaw, Key, sampler
from ..noise.reference import words as random_words
from ..noise.selftest import IMAGES, KEY, PHASES, SAMPLES, SHORT, check_noise, probe_law
from .base import Device
from .kernel_device import KernelDevice

REMEDY = "do not use this device; reinstall CuPy, the driver or diffsmooth-trt, and trust no earlier run of this device"
PROBE = 199


def check_device_noise(law: GridLaw, device: Device) -> None:
    """`check_noise`, and on a GPU the same of its kernels: NoiseError unless they give the sampler's bits.

    Compares integers, and noisy images in each type of float, for rows of the self-test's phases, images and samples; and
    every bit of the random words.
    """
    check_noise(law)
    if isinstance(device, KernelDevice):
        with device.errors():
            _check_kernels(law, device)


@lru_cache(maxsize=64)
def _check_kernels(law: GridLaw, device: KernelDevice) -> None:
    words = np.stack([PHASES, IMAGES, SAMPLES])
    rows: list[tuple[int, int, int]] = list(zip(*words.tolist(), strict=True))
    bits = np.stack([random_words(KEY, *row, PROBE) for row in rows])
    for tried, count in ((law, SHORT), (probe_law(bits, 0), PROBE), (probe_law(bits, 1), PROBE)):
        expected = sampler.grid_noise(tried, Key(KEY), words[0], words[1], words[2], count)
        made = device.empty(expected.shape, np.int32)
        device.kernels.grid_noise(tried, Key(KEY), device.asarray(words), made)
        _compare(device, "grid_noise", device.asnumpy(made), expected)
    pixels = (np.arange(3 * SHORT) * 37 % 256).astype(np.uint8).reshape(3, -1)
    source = np.arange(len(rows))[::-1] % 3
    noisy = np.empty((len(rows), SHORT), np.float32)
    sampler.noisy_images(law, KEY, words[0], pixels, words[1], words[2], noisy, rows=np.ascontiguousarray(source))
    for dtype in (np.float32, np.float16):
        out = device.empty((len(rows), 1, 1, SHORT), dtype)
        where = (device.asarray(words), device.asarray(pixels), device.asarray(np.ascontiguousarray(source)), out)
        device.noisy_images(law, Key(KEY), *where, size=(1, 1, SHORT), nhwc=False)
        _compare(
            device, f"noisy_images in {np.dtype(dtype)}", device.asnumpy(out).reshape(noisy.shape), noisy.astype(dtype)
        )


def _compare(device: Device, what: str, made: Any, expected: Any) -> None:
    wrong = np.flatnonzero(made.view(np.uint8) != expected.view(np.uint8))
    if wrong.size:
        raise NoiseError(
            f"the noise of {device.name} fails its self-test: {what} departs from the sampler in {wrong.size} of "
            f"{expected.nbytes} bytes; {REMEDY}"
        )
