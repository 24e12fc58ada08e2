"""The random inputs on which an exported file is compared with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

Inputs = tuple[NDArray[Any], ...]
SIGMA = 0.25  # in image units: of the noise on the images of classifiers, and of denoisers that do not say theirs
LOWEST, HIGHEST = 1e-4, 3.0  # noise levels in [-1, 1] units that diffusion classifiers use (Chen et al. 2024)


def noise_levels(spot: NDArray[np.float64], highest: float) -> NDArray[np.float32]:
    """Noise levels at the places `spot` (0 to 1) of the range up to `highest`, log-uniform and uniform in turn."""
    s = np.where(np.arange(len(spot)) % 2, highest * spot, LOWEST * (highest / LOWEST) ** spot)
    return np.maximum(s, LOWEST).astype(np.float32)


@dataclass(frozen=True)
class ImageCheck:
    """The source network, one image's shape (C, H, W), and the noise `sigma` on the random images it is compared on.

    `others` makes, by name, what a denoiser might be in place of what it is said to be (denoising.py).
    """

    source: nn.Module
    shape: tuple[int, int, int]
    sigma: float
    others: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict, kw_only=True)
    names: ClassVar[tuple[str, ...]] = ("images",)
    rows: ClassVar[int] = 2  # compared in each batch: the source may be slow
    count: ClassVar[int] = 2

    def batches(self, rows: int) -> Iterator[Inputs]:
        """`count` batches of noisy random 8-bit images `[rows, C, H, W]` float32, the same in every call."""
        generator = np.random.Generator(np.random.Philox(key=20))
        for _ in range(self.count):
            pixels = generator.integers(0, 256, (rows, *self.shape)) / 255
            yield ((pixels + self.sigma * generator.standard_normal(pixels.shape)).astype(np.float32),)


@dataclass(frozen=True)
class ConditionalCheck(ImageCheck):
    """The same for a conditional denoiser of `labels` labels; `sigma` is the largest noise level s, in [-1, 1] units."""

    labels: int
    names: ClassVar[tuple[str, ...]] = ("images", "s", "labels")
    count: ClassVar[int] = 4

    def batches(self, rows: int) -> Iterator[Inputs]:
        """Images at their noise levels, in turn log-uniform and uniform up to `sigma`, and labels, the last one first."""
        generator = np.random.Generator(np.random.Philox(key=21))
        label = self.labels
        for part in range(self.count):
            spot = (part + generator.random(rows)) / self.count  # one share of the range a batch
            s = noise_levels(spot, self.sigma)
            pixels = generator.integers(0, 256, (rows, *self.shape)) / 127.5 - 1
            noise = s[:, None, None, None] * generator.standard_normal(pixels.shape)
            labels = generator.integers(0, self.labels, rows)
            labels[0] = label = label - 1 if label else self.labels - 1
            yield (pixels + noise).astype(np.float32), s, labels
