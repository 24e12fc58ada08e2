"""Types of the compiled module; `diffsmooth_trt.noise.sampler` is its only caller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

noise_version: int

def variants() -> list[str]: ...
def hchacha20(key: Sequence[int], first: int, second: int) -> list[int]: ...
def chacha20(key: Sequence[int], block: int, nonce: int) -> list[int]: ...
def grid_noise(
    table: NDArray[np.uint64],
    column_bits: int,
    reach: int,
    key: Sequence[int],
    phases: NDArray[np.uint64],
    images: NDArray[np.uint64],
    samples: NDArray[np.uint64],
    count: int,
    threads: int,
    variant: str,
) -> NDArray[np.int32]: ...
def noisy_images(
    table: NDArray[np.uint64],
    column_bits: int,
    reach: int,
    key: Sequence[int],
    phases: NDArray[np.uint64],
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64] | None,
    images: NDArray[np.uint64],
    samples: NDArray[np.uint64],
    out: NDArray[np.float32],
    threads: int,
    variant: str,
) -> None: ...
def add_noise(
    table: NDArray[np.uint64],
    column_bits: int,
    reach: int,
    key: Sequence[int],
    phases: NDArray[np.uint64],
    values: NDArray[np.float32],
    rows: NDArray[np.int64] | None,
    images: NDArray[np.uint64],
    samples: NDArray[np.uint64],
    out: NDArray[np.float32],
    threads: int,
    variant: str,
) -> None: ...
