"""What to draw: fixed blocks of consecutive samples of one image and phase, each of which can be replayed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..noise import ESTIMATION, PREDICTION, SELECTION
from ..statistics.sequential import looks

BLOCK = 1000


@dataclass(frozen=True)
class Block:
    """Samples `start` … `stop` − 1 of one phase of the image at data-set row `image`."""

    image: int
    phase: int
    start: int
    stop: int


@dataclass(frozen=True)
class DrawPlan:
    """How many samples each phase takes at most, and whether the last phase's blocks end at looks that may stop it."""

    phases: tuple[tuple[int, int], ...]
    sequential: bool = False

    @classmethod
    def certify(cls, n0: int, n: int, *, sequential: bool = False) -> DrawPlan:
        """Selection and estimation draws, which never mix (Cohen et al. 2019, CERTIFY); up to n of them if `sequential`."""
        return cls(((SELECTION, n0), (ESTIMATION, looks(n)[-1] if sequential else n)), sequential)

    @classmethod
    def predict(cls, n: int) -> DrawPlan:
        """Prediction draws (Cohen et al. 2019, PREDICT)."""
        return cls(((PREDICTION, n),))

    @property
    def samples(self) -> int:
        """Samples an image, at most."""
        return sum(count for _, count in self.phases)

    @property
    def last_phase(self) -> int:
        """The phase whose votes carry the statement."""
        return self.phases[-1][0]

    def ends(self, block: Block) -> bool:
        """Whether an image's blocks end with this one."""
        return (block.phase, block.stop) == self.phases[-1]

    def blocks(self, image: int) -> Iterator[Block]:
        """The image's blocks in order; together they hold every sample once."""
        for phase, count in self.phases:
            start = 0
            ends = looks(count) if self.sequential and phase == self.last_phase else range(BLOCK, count, BLOCK)
            for stop in ends:
                yield Block(image, phase, start, stop)
                start = stop
            if start < count:
                yield Block(image, phase, start, count)
