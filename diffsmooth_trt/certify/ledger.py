"""What the loop asks of whoever keeps a run's votes: a file, memory, or another machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ..dtypes import Counts
from .audit_rows import Row
from .blocks import Block
from .rules import Margin, Outcome


class Ledger(Protocol):
    """Keeps images, votes and outcomes. What is added is kept whatever happens once `commit` returned.

    The loop hands every outcome over; who reads a run derives it from the votes again.
    """

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def audit(self) -> Mapping[str, Any] | None:
        """What the run's audit found so far (self_audit.py); None before there was one."""

    def known(self, image: int) -> tuple[int, str, float] | None:
        """Label, pixel hash and distance of an image, if it is here."""

    def add_image(self, image: int, label: int, sha256: str, distance: float) -> None:
        """Keep an image before its first block."""

    def has_result(self, image: int) -> bool:
        """Whether an image has an outcome."""

    def finished(self) -> int:
        """How many images have an outcome."""

    def drawn(self) -> int:
        """How many samples are here."""

    def held(self, block: Block) -> Counts | None:
        """The votes of a block, a new array, if they are here."""

    def partial(self, block: Block) -> Counts | None:
        """The votes of the first samples of a block, as many as there are votes, if some are here; a new array."""

    def add_block(self, block: Block, counts: Counts) -> None:
        """Keep a block's votes."""

    def add_partial(self, block: Block, counts: Counts) -> None:
        """Keep the votes so far of a block in work."""

    def add_margin(self, image: int, margin: Margin) -> None:
        """Keep what an image's certificate follows from where it has no votes."""

    def add_result(self, image: int, outcome: Outcome) -> None:
        """Keep what follows from an image's votes, all of which are here."""

    def add_seconds(self, image: int, seconds: float) -> None:
        """Add to an image's time."""

    def audit_rows(self) -> list[Row]:
        """The rows that wait to be evaluated again."""

    def change_audit(self, added: Iterable[Row], gone: Iterable[Row]) -> None:
        """Keep rows that wait now, and drop those that no longer do."""

    def add_audit(self, audit: Mapping[str, Any]) -> None:
        """Keep what the run's audit found so far, and all that was added before."""

    def commit(self) -> None:
        """Keep everything added so far, whatever happens."""
