"""Draws that two methods see: one noise, two labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..certify.batch import packed
from ..certify.blocks import Block
from ..certify.step import Step
from ..dtypes import Labels
from ..images import Image, flat_pixels
from ..methods import Method
from ..noise import Key, grid_law
from ..noise.counters import TRANSFER


@dataclass(frozen=True)
class Pairs:
    """Counts of an image's paired draws by whether f and whether g answers the class c: they add up to all draws."""

    both: int
    f_alone: int
    g_alone: int
    neither: int

    @classmethod
    def of(cls, f: Labels, g: Labels, chosen: int) -> Pairs:
        """The counts of labels int64 `[N]` of f and of g."""
        yes, also = f == chosen, g == chosen
        counts = (yes & also, yes & ~also, ~yes & also, ~yes & ~also)
        return cls(*(int(each.sum()) for each in counts))

    @property
    def total(self) -> int:
        """All draws."""
        return self.both + self.f_alone + self.g_alone + self.neither

    @property
    def agree(self) -> int:
        """Draws of which both say the class, or both do not."""
        return self.both + self.neither


def labels(method: Method, key: Key, images: Sequence[Image], draws: int) -> list[Labels]:
    """Labels int64 `[draws]` of each image: of draw j the noise of (key, TRANSFER, image, j), whatever the method's batch size.

    Raises EngineError where an output is not finite.
    """
    step = Step(method, grid_law(method.sigma), key)
    found = {image.index: np.empty(draws, np.int64) for image in images}
    work = ((Block(image.index, TRANSFER, 0, draws), flat_pixels(image)) for image in images)

    def collect() -> None:
        done = step.collect()
        for span in done.spans:
            found[span.block.image][span.start : span.start + span.high - span.low] = done.labels[span.low : span.high]

    for spans in packed(work, method.batch):
        if step.full:
            collect()
        step.launch(spans)
    while step.flying:
        collect()
    return [found[image.index] for image in images]
