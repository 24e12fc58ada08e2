"""What both training recipes share: CIFAR-10 from any source, and batches mixed from several of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffsmooth_trt.images import Images


def load(path: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """All images uint8 `[N, 3, H, W]` and labels int64 `[N]` of a data set."""
    images = list(Images(path))[rows]
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor([image.label for image in images])


@dataclass
class Mixture:
    """Lossless images, and further ones of any quality."""

    clean: tuple[Tensor, Tensor]
    more: tuple[Tensor, Tensor] | None

    @classmethod
    def open(cls, clean: str, more: str | None) -> Mixture:
        """Both sources by path."""
        return cls(load(clean), load(more) if more else None)

    def draw(self, count: int, share: float) -> tuple[Tensor, Tensor]:
        """`count` random images as floats in [0, 1] and labels, `share` of them lossless."""
        first = round(count * min(1.0, share)) if self.more else count
        parts = [(self.clean, first)] + ([(self.more, count - first)] if self.more else [])
        xs, ys = [], []
        for (pixels, labels), n in parts:
            i = torch.randint(len(pixels), (n,))
            xs.append(pixels[i])
            ys.append(labels[i])
        return torch.cat(xs).float() / 255, torch.cat(ys)
