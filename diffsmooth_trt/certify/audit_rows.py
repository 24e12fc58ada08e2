"""Rows that wait to be evaluated again, by image, and which of them a store still has to learn of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .batch import Span

Pixels = NDArray[np.uint8]


class Row(NamedTuple):
    """A drawn row: its draw, place in the batch and label, and the number in [0, 1) by which it was chosen."""

    image: int
    phase: int
    sample: int
    place: int
    label: int
    lot: float


@dataclass(frozen=True)
class Seat(Span):
    """One row of an audit's batch: `row` again, `moved` to a place that it did not have, or a stranger."""

    row: Row | None
    moved: bool


class Pool:
    """Rows by image, each with its image's flat pixels."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.rows: dict[int, list[tuple[Row, Pixels]]] = {}
        self.count = 0

    def put(self, row: Row, pixels: Pixels) -> None:
        """Add a row."""
        self.rows.setdefault(row.image, []).append((row, pixels))
        self.count += 1

    def take(self, most: int, *, one_each: bool) -> list[tuple[Row, Pixels]]:
        """Up to `most` rows, as many images as there are in turn, and at random among an image's; with `one_each` one of each."""
        taken: list[tuple[Row, Pixels]] = []
        images = self.random.permutation(list(self.rows)).tolist()
        while images and len(taken) < most:
            for image in images[: most - len(taken)]:
                rows = self.rows[image]
                at = int(self.random.integers(len(rows)))
                rows[at], rows[-1] = rows[-1], rows[at]
                taken.append(rows.pop())
                if not rows:
                    del self.rows[image]
            images = [] if one_each else [image for image in images if image in self.rows]
        self.count -= len(taken)
        return taken


class WaitingRows:
    """The rows that a run holds, and how they differ from what its store was told last."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = set(rows)
        self.new: set[Row] = set()
        self.gone: set[Row] = set()

    def add(self, row: Row) -> None:
        """Hold a row, if it is not held yet."""
        if row not in self.rows:
            self.rows.add(row)
            (self.gone.discard if row in self.gone else self.new.add)(row)

    def drop(self, row: Row) -> None:
        """Hold a row no longer."""
        self.rows.discard(row)
        (self.new.discard if row in self.new else self.gone.add)(row)

    def changes(self) -> tuple[list[Row], list[Row]]:
        """Rows that came and that went since the last call."""
        changed = list(self.new), list(self.gone)
        self.new, self.gone = set(), set()
        return changed
