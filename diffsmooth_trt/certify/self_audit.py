"""The run's audit of itself: rows chosen at random are evaluated again among other mates, and their labels compared.

A certificate rests on votes that are one function of a row's noisy image. Where that is not proved of what runs, it is tested
here. Each row is chosen with probability `SHARE`, by random numbers of the operating system that are drawn after its label is
there, so nothing in the batch can know of them; at least `LEAST` rows of a run are, or all of a smaller one. Their draws and
labels wait, on disk too, until they fill a batch with rows of many images and other batches, at other places, and strangers (the
image inverted, black, white, random pixels; under noise). Rows of one image look alike, and the majority of many of them is that
of all: so as few of an image are in a batch as waiting for other images allows. One batch in eight, and one of every run, is nearly
all strangers of one kind, with one row of an image.

**What it finds.** If a share s of a run's votes is other than those rows get among an audit's mates, N audited rows miss all of
it with probability at most (1 − s)^N ≤ e^(−sN): N = 256 find s = 1.8 % with probability 0.99, N = 10,000 find 0.05 %. A
difference voids the run. What stays: code that remembers rows, and repeats what it answered; and where a run has few images,
rows that ask only those of their own image, of which an audit's batches hold too many: the fewer images, the less is found of that.
Where last bits depend on a row's place in the batch, places.py says what is compared.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AuditError
from .audit_rows import Pixels, Pool, Row, Seat, WaitingRows
from .batch import Span
from .blocks import Block
from .places import SLACK, STAYING, rare

REMEDY = "run again with another --backend, --precision or --batch and a new --out"
SHARE, LEAST, FLOOR = 0.0101, 256, 100  # chosen: this share, so many rows, and one row in so many, whichever is most
SPARE = 64  # rows kept in reserve beyond those that would be missing now
SHORT = 16  # rows chosen of a batch that was padded: what depends on how many rows there are shows there
STRANGE = 8  # one batch in so many is nearly all strangers; as a part of the others, strangers are one row in so many
SOON = (
    4  # one row in so many is evaluated as soon as it fills a batch with others; the rest waits for other images, until
)
IMAGES = (32, 256)  # there are half as many as a batch has rows, within these limits,
POOL = 16_384  # or until so many rows wait
KINDS = 4
BUDGET = 0.014  # of the rows: at its end, a run makes more batches of strangers than one within it
KEPT = 100  # differences that a store keeps


class SelfAudit:
    """Chooses rows of a run, fills batches of `batch` rows with them, and compares labels.

    At least `least` rows are chosen, and a `share` of all. `counts` is what an earlier part of the run found, `waiting` the
    rows that it left; their pixels come by `offer`.
    """

    def __init__(
        self,
        batch: int,
        *,
        share: float = SHARE,
        least: int = LEAST,
        place_dependent: bool = False,
        counts: Mapping[str, Any] | None = None,
        waiting: Iterable[Row] = (),
    ) -> None:
        self.batch, self.share, self.least, self.place_dependent = batch, share, least, place_dependent
        self.found: dict[str, Any] = {"rows": 0, "of": 0, "spent": 0, "strange": 0, **(counts or {})}
        if place_dependent:
            self.found = {"moved": 0, "moved_differ": 0, **self.found}
        self.few, self.most = max(1, batch // STRANGE), batch - batch // STRANGE
        self.images = min(max(batch // 2, IMAGES[0]), IMAGES[1])
        self.random = np.random.default_rng()  # seeded by the operating system
        self.pool = Pool(self.random)
        self.reserve: list[tuple[float, Row, Pixels]] = []  # by lot, the lowest of those not chosen
        self.flying: set[Row] = set()
        self.lost: dict[int, list[Row]] = {}  # whose pixels are not here yet, by image
        for row in waiting:
            self.lost.setdefault(row.image, []).append(row)
        self.missed = sum(row.lot < share for rows in self.lost.values() for row in rows)  # chosen ones of those
        self.held = WaitingRows(row for rows in self.lost.values() for row in rows)
        self._plan_next()

    # Rows

    def offer(self, image: int, pixels: Pixels) -> None:
        """The flat pixels of an image, for rows of it that an earlier part of the run left."""
        for row in self.lost.pop(image, ()):
            self.missed -= int(row.lot < self.share)
            self._take(row, pixels)

    def see(self, spans: Sequence[Span], labels: NDArray[np.int64], *, padded: bool) -> None:
        """Choose among rows, whose labels are there; `padded` says that they were in a batch with fewer rows than it takes."""
        self.found["of"] += len(labels)
        lots = np.frombuffer(os.urandom(8 * len(labels)), np.uint64) * 2.0**-64
        if padded and not self.place_dependent:
            some = np.argpartition(lots, min(SHORT, len(lots)) - 1)[:SHORT]
            lots[some] *= self.share  # chosen
        lows = [span.low for span in spans]
        for place in np.flatnonzero(lots < self._limit()).tolist():
            span = spans[bisect.bisect_right(lows, place) - 1]
            sample = span.start + place - span.low
            draw = (span.block.image, span.block.phase, sample, place, int(labels[place]))
            self._take(Row(*draw, float(lots[place])), span.pixels)

    def _take(self, row: Row, pixels: Pixels) -> None:
        if row.lot < self.share:
            self.pool.put(row, pixels)
            self.held.add(row)
        elif row.lot < self._limit():
            bisect.insort(self.reserve, (row.lot, row, pixels), key=lambda each: each[0])
            self.held.add(row)
        else:
            self.held.drop(row)
        self._trim(self._missing + SPARE)

    def _trim(self, most: int) -> None:
        """Leave the `most` lowest lots in reserve."""
        for _, row, _ in self.reserve[most:]:
            self.held.drop(row)
        del self.reserve[most:]

    @property
    def _taken(self) -> int:
        """How many rows were evaluated again, or are under way."""
        return int(self.found["rows"]) + len(self.flying)

    @property
    def _missing(self) -> int:
        """How many rows are still to be chosen for a run that ends now."""
        wanted = max(self.least, -(-int(self.found["of"]) // FLOOR))
        return max(0, wanted - self._taken - self.pool.count - self.missed) if self.least else 0

    def _limit(self) -> float:
        """The lot below which a row is chosen or kept in reserve."""
        if len(self.reserve) < self._missing:
            return 1.0
        return max(self.share, self.reserve[-1][0] if self.reserve else 0.0)

    # Batches

    def _plan_next(self) -> None:
        self.strange = self.batch > 1 and not self.random.integers(STRANGE)
        self.enough = self.few if self.strange else self.most

    def due(self) -> list[Seat] | None:
        """A batch to be evaluated, once rows of enough images wait, or too many; some are not kept waiting for that."""
        if self.pool.count < self.enough:
            return None
        mixed = len(self.pool.rows) >= self.images or self.pool.count >= POOL
        behind = SOON * self._taken < self._taken + self.pool.count
        return self._seats() if mixed or behind else None

    def rest(self) -> list[Seat] | None:
        """A batch of the rows that are left when a run ends, or None when none is."""
        missing = self._missing
        for _, row, pixels in self.reserve[:missing]:
            self.pool.put(row, pixels)
        del self.reserve[:missing]
        self._trim(0)
        if not self.pool.count:
            return None
        ahead = self.batch * (1 - (-self.pool.count // self.most)) + self.found["spent"]
        wanted = KINDS if ahead <= BUDGET * self.found["of"] else 1
        self.strange = self.batch > 1 and self.found["strange"] < wanted
        self.enough = self.few if self.strange else self.most
        return self._seats()

    def _seats(self) -> list[Seat]:
        """A full batch: up to `enough` of the rows that wait, and strangers; where those are most, a row of each image."""
        rows = self.pool.take(self.enough, one_each=self.strange)
        places = self._places([row for row, _ in rows])
        seats: list[Seat | None] = [None] * self.batch
        for (row, pixels), place in zip(rows, places, strict=True):
            block = Block(row.image, row.phase, row.sample, row.sample + 1)
            seats[place] = Seat(block, pixels, place, place + 1, row.sample, row, place != row.place)
        for number, place in enumerate(place for place, seat in enumerate(seats) if seat is None):
            row, pixels = rows[number % len(rows)]
            seats[place] = self._stranger(row, pixels, number, place)
        self.flying |= {row for row, _ in rows}
        self.found["spent"] += self.batch
        self.found["strange"] += int(self.strange)
        self._plan_next()
        return [seat for seat in seats if seat is not None]

    def _places(self, rows: Sequence[Row]) -> list[int]:
        """A place for each row; where places matter, a part of the rows has its own."""
        free = self.random.permutation(self.batch).tolist()
        own: dict[int, int] = {}  # place: which of the rows
        for number, row in enumerate(rows if self.place_dependent else ()):
            if self.random.random() < STAYING:
                own.setdefault(row.place, number)
        places = {number: place for place, number in own.items()}
        left = iter([place for place in free if place not in own])
        return [places[number] if number in places else next(left) for number in range(len(rows))]

    def _stranger(self, row: Row, pixels: Pixels, number: int, place: int) -> Seat:
        """A row of an image that the run need not have, under noise that no vote has: samples from 2^31 on."""
        kind = (self.found["strange"] if self.strange else number) % KINDS
        if kind == 0:
            pixels = 255 - pixels
        elif kind < 3:
            pixels = np.full_like(pixels, 0 if kind == 1 else 255)
        else:
            pixels = np.frombuffer(self.random.bytes(len(pixels)), np.uint8)
        sample = int(self.random.integers(2**31, 2**32))
        return Seat(Block(row.image, row.phase, sample, sample + 1), pixels, place, place + 1, sample, None, moved=True)

    # Comparison

    def compare(self, seats: Sequence[Span], labels: NDArray[np.int64]) -> None:
        """Take in the labels of a batch that was evaluated again; AuditError at a difference, which is in `found` then."""
        differing = []
        for seat, label in zip(seats, labels.tolist(), strict=True):
            if not isinstance(seat, Seat) or seat.row is None:
                continue
            self.flying.discard(seat.row)
            self.held.drop(seat.row)
            self.found["rows"] += 1
            counted = self.place_dependent and seat.moved
            if counted:
                self.found["moved"] += 1
                self.found["moved_differ"] += int(label != seat.row.label)
            elif label != seat.row.label:
                differing.append([seat.row.image, seat.row.phase, seat.row.sample, seat.row.label, label])
        if differing:
            image, phase, sample, before, again = differing[0]
            self.found["differences"] = differing[:KEPT]
            self._void(
                f"image {image}, phase {phase}, sample {sample}: label {before} in the run, {again} among other rows",
                "rows of the engine influence each other, or this machine does not compute the same function twice",
            )

    def finish(self) -> None:
        """At the end of a run whose last bits depend on places: AuditError unless labels differ as rarely as its bounds allow."""
        if not self.place_dependent or not self.found["of"]:
            return
        moved, differ = self.found["moved"], self.found["moved_differ"]
        if not rare(differ, moved):
            self._void(
                f"{differ} of {moved} rows have another label at another place of the batch",
                f"more than the {SLACK:.1%} that the bounds allow, or too few to tell (7,000 without a difference would do)",
            )

    def _void(self, said: str, meaning: str) -> None:
        self.found["void"] = said
        raise AuditError(f"{said}: {meaning}; no vote of this run counts, {REMEDY}")
