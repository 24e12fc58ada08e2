"""What to draw: fixed blocks of consecutive samples of one image and phase, each of which can be replayed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..noise import ESTIMATION, PREDICTION, SELECTION

BLOCK = 1000


@dataclass(frozen=True)
class Block:
    """Samples `start` … `stop` − 1 of one phase of the image at data-set row `image`."""

    image: int
    phase: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """How many samples each phase takes: n0 of selection and n of estimation, or n of prediction."""

    phases: tuple[tuple[int, int], ...]

    @classmethod
    def certify(cls, n0: int, n: int) -> Plan:
        """Selection and estimation draws, which never mix (Cohen et al. 2019, CERTIFY)."""
        return cls(((SELECTION, n0), (ESTIMATION, n)))

    @classmethod
    def predict(cls, n: int) -> Plan:
        """Prediction draws (Cohen et al. 2019, PREDICT)."""
        return cls(((PREDICTION, n),))

    @property
    def samples(self) -> int:
        """Samples an image."""
        return sum(count for _, count in self.phases)

    def blocks(self, image: int) -> Iterator[Block]:
        """The image's blocks in order; together they hold every sample once."""
        for phase, count in self.phases:
            for start in range(0, count, BLOCK):
                yield Block(image, phase, start, min(start + BLOCK, count))
