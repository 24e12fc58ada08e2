"""What fills a batch: rows of several images, phases and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data import Image
from .plan import Block


@dataclass(frozen=True)
class Span:
    """Rows `low` … `high` − 1 of a batch belong to `block`, from sample `start` on; `pixels` is its image, flat."""

    block: Block
    pixels: NDArray[np.uint8]
    low: int
    high: int
    start: int


def flat_pixels(image: Image) -> NDArray[np.uint8]:
    """An image's pixels in the order of the network's input, [C, H, W], flat."""
    return np.ascontiguousarray(image.pixels.transpose(2, 0, 1)).reshape(-1)


def packed(work: Iterable[tuple[Block, NDArray[np.uint8]]], batch: int) -> Iterator[list[Span]]:
    """Every sample of the blocks, in order, as full batches; the last one may be short."""
    spans: list[Span] = []
    filled = 0
    for block, pixels in work:
        start = block.start
        while start < block.stop:
            take = min(batch - filled, block.stop - start)
            spans.append(Span(block, pixels, filled, filled + take, start))
            start, filled = start + take, filled + take
            if filled == batch:
                yield spans
                spans, filled = [], 0
    if spans:
        yield spans
