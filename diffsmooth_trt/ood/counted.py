"""What is counted of each row of a batch as one number, its code: a function of the model, the key and the row's draw alone.

The code is the bin of the row's sided confidence (certified.py) and, where the score counts classes, `BINS` times its class. A
batch of plain spans of a gated model gets the detector alone; the codes of rows that the gate lets through are −1, and they come
again as spans `Through`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..certify.batch import Span, fill
from ..certify.step import Collected
from ..dtypes import Floats32, Floats64, Labels
from ..errors import InputError
from ..noise import OOD, Key
from .bounds import BINS, bin_values
from .model import Model

UNSETTLED = -1


@dataclass(frozen=True)
class Through(Span):
    """A row that is evaluated whole, as the gate let it through."""

    def plain(self) -> Through:
        """The same: the gate is not asked again."""
        return self


def phase_of(number: int, part: int) -> int:
    """The phase word of set `number`: part 0 selects a class, 1 estimates, 2 is for noise that a score is averaged over."""
    return OOD + 4 * number + part


def set_of(phase: int) -> int:
    """The set whose phase word this is."""
    return (phase - OOD) // 4


def gate_of(model: Model, gate: float) -> float:
    """The detector's probability up to which the classifier is not run; 0 where there is none, or classes are counted."""
    return 0.0 if model.detector is None or counts_classes(model.score.kind) else gate


def counts_classes(score: str) -> bool:
    """Whether classes are counted besides confidences."""
    return score == "distro-l2"


class Counting:
    """The codes of rows that `model` draws under a key; `gate` is the run's. Raises InputError without a noise level."""

    def __init__(self, model: Model, gate: float) -> None:
        if model.law is None:
            raise InputError("--sigma is missing: smoothing needs a noise level in image units")
        self.model, self.law, self.gate = model, model.law, gate_of(model, gate)
        self.voting = counts_classes(model.score.kind)
        self.noisy = np.empty((model.batch, *model.input_shape), np.float32)

    def codes(self, key: Key, spans: Sequence[Span]) -> Labels:
        """Codes int64 [rows used] of a batch, `UNSETTLED` where plain spans' rows are through the gate."""
        fill(self.law, key, spans, self.noisy)
        used, number = spans[-1].high, set_of(spans[0].block.phase)
        d = self.model.distances(self.noisy)
        if self.gate and d is not None:
            settled, counted = self._gated(d, number)
            if type(spans[0]) is Span:
                bins = bin_values(self._sided(counted, number)).astype(np.int64)
                return np.where(settled, bins, UNSETTLED)[:used]
        logits = self.model.logits(self.noisy)
        values = self.model.score.confidence(logits, d)
        if self.gate and d is not None:
            values = np.where(settled, counted, values)
        bins = bin_values(self._sided(values, number)).astype(np.int64)
        return np.asarray(bins + BINS * logits.argmax(axis=1) if self.voting else bins)[:used]

    def _sided(self, confidence: Floats64, number: int) -> Floats64:
        """What is counted: the confidence, or for the in-distribution set 1 minus it, rounded up."""
        return confidence if number else np.minimum(np.nextafter(1 - confidence, 2.0), 1.0)

    def _gated(self, d: Floats32, number: int) -> tuple[NDArray[np.bool_], Floats64]:
        """Which rows the gate settles, and what stands for their confidence."""
        inside = expit(d.astype(np.float64))
        # 1 − u is at most 1 where u ≥ 0 is all that is known; p_in is raised by more than computing u may round.
        counted = np.minimum(inside + 2.0**-40, 1.0) if number else np.zeros(len(d))
        return inside <= self.gate, counted


class LocalSteps:
    """Steps by this process, one at a time, under `key`."""

    synchronous: ClassVar[bool] = True
    idle: ClassVar[bool] = False

    def __init__(self, counting: Counting, key: Key) -> None:
        self.counting, self.key = counting, key
        self.seconds = {"noise": 0.0, "method": 0.0, "count": 0.0}
        self.flying: deque[Any] = deque()

    @property
    def full(self) -> bool:
        """Whether a step has to be collected before another can be launched."""
        return bool(self.flying)

    def launch(self, spans: Sequence[Span]) -> None:
        """Do a step: `spans` are the rows of its batch, in order."""
        start = time.perf_counter()
        codes = self.counting.codes(self.key, spans)
        spent = time.perf_counter() - start
        self.seconds["method"] += spent
        self.flying.append(Collected(spans, NOTHING, spent, codes))

    def collect(self) -> Collected:
        """What the step gave, its labels being the codes."""
        done: Collected = self.flying.popleft()
        return done


NOTHING = np.empty((0, 0), np.int64)  # votes of spans, which codes stand for
