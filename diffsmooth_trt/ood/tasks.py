"""Images in work: what their draws have counted so far, and what a kill leaves of it.

A run's file has a line for each finished image. What unfinished ones have counted lies beside it, in a file that is put in place
anew about every second and taken away when the run is done; a run that goes on takes the counts up and draws what they lack.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..certify.blocks import Block
from ..dtypes import Counts
from ..errors import MALFORMED, InputError
from ..files import parsed_json, write_atomically
from ..images import Image, flat_pixels, pixel_digest
from .bounds import BINS

KIND = "diffsmooth-trt ood draws"
Range = tuple[int, int]
State = dict[str, Any]


@dataclass
class Task:
    """One image in work. Its block in work starts at draw `drawn` and ends at `stop`; `left` is what of it a round has to draw, and
    the draws before `filled` are in a batch already.

    `counts` int64 [BINS] are of the bins that confidences fall in; `votes` of classes in selection and estimation, where a score
    counts them; `selected` says that selection is over.
    """

    image: Image
    pixels: NDArray[np.uint8] = field(init=False)
    digest: str = field(init=False)
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    votes: tuple[Counts, Counts] | None = None
    selected: bool = True
    drawn: int = 0
    stop: int = 0
    left: list[Range] = field(default_factory=list)
    filled: int = 0

    def __post_init__(self) -> None:
        self.pixels, self.digest = flat_pixels(self.image), pixel_digest(self.image)

    @property
    def begun(self) -> bool:
        """Whether a block is in work."""
        return self.stop > self.drawn

    def begin(self, stop: int) -> None:
        """Start the block that ends at `stop`."""
        self.stop, self.left, self.filled = stop, [(self.drawn, stop)], 0

    def end(self) -> None:
        """Everything of the block is counted."""
        self.left, self.filled = [], 0
        if self.selected:
            self.drawn = self.stop
        self.selected, self.stop = True, self.drawn

    def blocks(self, phase: int) -> list[Block]:
        """What is to be drawn of the block in work."""
        return [Block(self.image.index, phase, start, stop) for start, stop in self.left]

    def state(self, number: int, waiting: Iterable[Range]) -> State:
        """What is counted, as JSON values: of the block in work, what was filled into batches but for the `waiting` draws."""
        used = np.flatnonzero(self.counts)
        ahead = [(max(start, self.filled), stop) for start, stop in self.left if stop > self.filled]
        state: State = {
            "set": number,
            "row": self.image.index,
            "sha256": self.digest,
            "selected": self.selected,
            "drawn": self.drawn,
            "stop": self.stop,
            "left": sorted([*waiting, *ahead]),
            "bins": used.tolist(),
            "counts": self.counts[used].tolist(),
        }
        return state if self.votes is None else {**state, "votes": [votes.tolist() for votes in self.votes]}

    @classmethod
    def of_state(cls, image: Image, state: State) -> Self:
        """The task that `state` was made of. Raises ValueError, KeyError or TypeError where its numbers cannot be a task's."""
        task = cls(image, selected=state["selected"] is True, drawn=state["drawn"], stop=state["stop"])
        task.left = [(start, stop) for start, stop in state["left"]]
        bins, counts = np.array(state["bins"], np.int64), np.array(state["counts"], np.int64)
        task.counts[bins] = counts
        if "votes" in state:
            selection, estimation = (np.array(votes, np.int64) for votes in state["votes"])
            task.votes = selection, estimation
        edges = [task.drawn, *(edge for each in task.left for edge in each), task.stop]
        counted = task.stop - sum(stop - start for start, stop in task.left)
        sums = [task.counts.sum(), *(votes.sum() for votes in task.votes or ())]
        wanted = [counted] if task.votes is None else [counted, sums[1], counted] if task.selected else [0, counted, 0]
        least = min((each.min() for each in (task.counts, *(task.votes or ()))), default=0)
        if bins.shape != counts.shape or len(set(state["bins"])) != len(bins) or least < 0:
            raise ValueError
        if edges != sorted(edges) or not 0 <= task.drawn < task.stop or [int(each) for each in sums] != wanted:
            raise ValueError
        return task


class DrawsFile:
    """The file beside the run at `run`; `first` is that run's first line, to which it belongs."""

    def __init__(self, run: Path, first: bytes) -> None:
        self.path = run.with_name(f"{run.name}.draws")
        self.digest = hashlib.sha256(first.strip()).hexdigest()

    def write(self, states: Iterable[State]) -> None:
        """Put the states in the place of those that were there. Raises StoreError where that fails."""
        content = {"file": KIND, "run": self.digest, "images": list(states)}
        write_atomically(self.path, json.dumps(content, sort_keys=True) + "\n")

    def read(self) -> dict[tuple[int, int], State]:
        """The states by (set, row); none without a file. Raises InputError for a file that is not this run's."""
        try:
            content = parsed_json(self.path.read_bytes())
            whole = content["file"] == KIND and content["run"] == self.digest
            states = {(state["set"], state["row"]): state for state in content["images"]}
            whole = whole and all(isinstance(sum(state["counts"]), int) for state in states.values())
        except FileNotFoundError:
            return {}
        except (OSError, *MALFORMED):
            whole = False
        if not whole:
            raise InputError(
                f"{self.path} does not hold what unfinished images of this run have drawn: remove it, and they are drawn anew"
            )
        return states

    def remove(self) -> None:
        """Take the file away, if it is there."""
        self.path.unlink(missing_ok=True)
