"""What fills a batch: rows of several images, phases and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..methods import Rows
from ..noise import GridLaw, Key
from ..noise.sampler import noisy_images
from .blocks import Block


@dataclass(frozen=True)
class Span:
    """Rows `low` … `high` − 1 of a batch belong to `block`, from sample `start` on; `pixels` is its image, flat."""

    block: Block
    pixels: NDArray[np.uint8]
    low: int
    high: int
    start: int

    def plain(self) -> Span:
        """What of it has to be known to draw its rows."""
        return Span(self.block, self.pixels, self.low, self.high, self.start)


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


def lay_out(spans: Sequence[Span], words: NDArray[np.uint64], sources: NDArray[np.int64]) -> int:
    """Put down each row's draw, `words` [3, batch], and span, `sources` [batch]; returns how many rows are used.

    Rows past the last span repeat its last draw, and do not count.
    """
    lengths = [span.high - span.low for span in spans]
    places = np.array([(s.block.phase, s.block.image, s.start - s.low) for s in spans], dtype=np.int64).T
    rows = slice(spans[-1].high)
    words[:, rows] = np.repeat(places, lengths, axis=1)
    words[2, rows] += np.arange(spans[-1].high, dtype=np.uint64)  # a start below its low wraps around and back
    sources[rows] = np.repeat(np.arange(len(spans)), lengths)
    used = spans[-1].high
    words[:, used:], sources[used:] = words[:, used - 1 : used], sources[used - 1]
    return used


def fill(law: GridLaw, key: Key, spans: Sequence[Span], noisy: NDArray[np.float32]) -> Rows:
    """Noisy images into `noisy` `[batch, C, H, W]` on the CPU, the rows being those that `lay_out` puts down."""
    batch = len(noisy)
    words, sources = np.empty((3, batch), dtype=np.uint64), np.empty(batch, dtype=np.int64)
    lay_out(spans, words, sources)
    pixels = np.stack([span.pixels for span in spans])
    noisy_images(law, key, words[0], pixels, words[1], words[2], noisy.reshape(batch, -1), rows=sources)
    return Rows(words[0], words[1], words[2], key)
