"""What the turns of one subject gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .result import Row, Spread

FEWEST = 1  # steps of a turn


@dataclass
class Timings:
    """What the turns of one subject gave: samples a second, and seconds of steps that ran alone."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def alone(self, step: Callable[[], float], batch: int, seconds: float) -> float:
        """Run steps of `batch` rows one after the other for about `seconds`; returns samples a second."""
        taken: list[float] = []
        while len(taken) < FEWEST or sum(taken) < seconds:
            taken.append(step())
        self.latencies += taken
        return batch * len(taken) / sum(taken)

    def row(self, subject: str, batch: int, *, auto: bool = False, **more: Any) -> Row:
        """The turns in short."""
        milliseconds = [1000 * each for each in self.latencies]
        return Row(
            subject=subject,
            batch=batch,
            auto=auto,
            rate=Spread.of(self.rates),
            latency=Spread.of(milliseconds),
            latency_p95=float(np.quantile(milliseconds, 0.95, method="higher")),
            **more,
        )
