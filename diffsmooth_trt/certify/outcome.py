"""From an image's votes to what is said about it: a pure function of the run's configuration and the counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..noise import ESTIMATION, PREDICTION, SELECTION
from .bounds import certificate, prediction

CLOSE = 1e-9


@dataclass(frozen=True)
class Outcome:
    """`predict` −1 is an abstention; `radius` (ℓ2, image units) and `p_lower` are None for predict runs.

    `hits` of `trials` votes went to the class: to the selected one (certify), to the most frequent one (predict).
    """

    predict: int
    radius: float | None
    p_lower: float | None
    hits: int
    trials: int

    def agrees(self, other: Outcome) -> bool:
        """Whether both say the same, but for the last digits, which a bound may owe to the libraries it was guessed with."""
        exact = (self.predict, self.hits, self.trials) == (other.predict, other.hits, other.trials)
        pairs = ((self.radius, other.radius), (self.p_lower, other.p_lower))
        return exact and all(
            a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE))
            for a, b in pairs
        )


def derive(meta: Mapping[str, Any], counts: Mapping[int, Sequence[int]]) -> Outcome:
    """What `counts` (votes a class by phase) say in the run described by `meta`: see `bounds` for the guarantees."""
    alpha, total_variation = float(meta["config"]["alpha"]), float(meta["total_variation"])
    if meta["config"]["command"] == "certify":
        sigma = float(meta["classifier"]["sigma"])
        c = certificate(counts[SELECTION], counts[ESTIMATION], alpha, sigma, total_variation)
        return Outcome(c.predict, c.radius, c.p_lower, c.hits, c.trials)
    votes = counts[PREDICTION]
    return Outcome(prediction(votes, alpha, total_variation), None, None, max(votes), sum(votes))
