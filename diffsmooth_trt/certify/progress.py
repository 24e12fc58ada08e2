"""What a run tells while it works, and to whom."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What the loop tells while it runs."""

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """`images` images and `samples` samples in all, of which the run already holds `finished` and `drawn`.

        `samples` is None where it depends on the votes.
        """

    def update(self, samples: int, images: int) -> None:
        """`samples` more samples were drawn, `images` more images finished."""


class NoProgress:
    """Progress that nobody looks at."""

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Ignore it."""

    def update(self, samples: int, images: int) -> None:
        """Ignore it."""
