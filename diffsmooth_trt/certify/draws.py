"""Labels of a fixed number of draws of some images, without a ledger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dtypes import Labels
from ..images import Image, flat_pixels
from ..methods import Method
from ..noise import Key, grid_law
from .batch import packed
from .blocks import Block
from .step import Step


def labels(method: Method, key: Key, phase: int, images: Sequence[Image], draws: int) -> list[Labels]:
    """Labels int64 `[draws]` of each image: of draw j the noise of (key, phase, `Image.index`, j), whatever the batch size.

    Images of one index see the same noise. Raises EngineError where an output is not finite.
    """
    step = Step(method, grid_law(method.sigma), key)
    blocks = [Block(image.index, phase, 0, draws) for image in images]
    drawn = {id(block): np.empty(draws, np.int64) for block in blocks}
    work = zip(blocks, map(flat_pixels, images), strict=True)

    def collect() -> None:
        done = step.collect()
        for span in done.spans:
            drawn[id(span.block)][span.start : span.start + span.high - span.low] = done.labels[span.low : span.high]

    for spans in packed(work, method.batch):
        if step.full:
            collect()
        step.launch(spans)
    while step.flying:
        collect()
    return [drawn[id(block)] for block in blocks]
