"""What a run's votes for f and paired draws of f and g prove about g: incremental randomized smoothing (Ugare et al. 2024).

Let c be the class that the run's selection draws chose, and Q the event f = c ≠ g of one draw. Then P(g = c) ≥ P(f = c) − P(Q):
wherever f answers c and Q does not happen, g answers c. P(f = c) is bounded from below by the run's estimation votes at level α_f,
P(Q) from above by the paired draws at level α_q, and α_f + α_q ≤ α. By the union bound both are right with probability 1 − α, be
the draws dependent or not. The rest is Cohen's theorem for g.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext

import numpy as np

from ..certify.rules import Outcome
from ..errors import InputError
from ..ranges import integer
from ..runs.record import RunRecord
from ..statistics.bounds import ABSTAIN, binomial_lower, binomial_upper, less_distance, radius_lower
from ..statistics.exact import context, down
from ..statistics.sequential import anytime_lower, looks

MOST_PAIRS = 10**9


@dataclass(frozen=True)
class Evidence:
    """What is known of one image: the `chosen` class, its `hits` among the run's `trials` estimation draws (of a run that may stop
    early, at each look), in how many of the paired draws f and g `differ` in the sense that f = c ≠ g, and how far rounding moved
    the image (`Image.distance`)."""

    chosen: int
    hits: tuple[int, ...]
    trials: int
    differ: int
    distance: float = 0.0


class TransferRule:
    """Certificates of a classifier g from a run of f and `pairs` paired draws an image, at level `alpha`.

    alpha is an image's, or all images' together where the run is family-wise. f's share of it is N : n, for N pairs and n draws
    of the run at most: shares in proportion to the draws make the two bounds' losses smallest together where both classifiers
    nearly always agree.

    Guarantee: for N chosen beforehand and draws under a key that nobody knew when f and g were made, with probability at least
    1 − alpha the result abstains or is true of g. The run may have stopped at any look: its bound is right at all of them at once
    (`anytime_lower`). Raises InputError for runs whose certificates are not of votes, and for values that cannot be.
    """

    def __init__(self, record: RunRecord, pairs: int, alpha: float) -> None:
        stopping = record.stopping
        if not stopping.certifies or not stopping.smoothing:
            what = "predict" if not stopping.certifies else "--certificate lipschitz"
            raise InputError(
                f"transfer needs a run of certify with votes, this one is of {what}: certify with n draws first"
            )
        integer("n", pairs, 1, MOST_PAIRS)
        if not 0 < alpha < 1:
            raise InputError(f"--alpha must lie between 0 and 1, got {alpha}")
        self.pairs, self.sigma, self.void = pairs, record.conditions.sigma, record.void
        self.sequential, self.n = stopping.sequential, stopping.n
        self.variation = Decimal(record.total_variation) + Decimal(record.slack)
        with localcontext(context(rounding=ROUND_FLOOR)):
            level = Decimal(alpha) / (record.images if stopping.family_wise else 1)
            self.of_votes = down(level * pairs / (pairs + stopping.n))
            self.of_pairs = down(level - Decimal(self.of_votes))
        if not (self.of_votes > 0 and self.of_pairs > 0):
            raise InputError(f"--alpha {alpha} leaves nothing for each of {record.images} images: give a greater one")

    def outcome(self, evidence: Evidence) -> Outcome:
        """What the evidence says of g; ValueError where no run and no paired draws give such."""
        e = evidence
        if not 0 <= e.differ <= self.pairs:
            raise ValueError(f"{e.differ} of {self.pairs} pairs differ")
        if self.sequential:
            ends = looks(self.n)[: len(e.hits)]
            if not e.hits or len(ends) < len(e.hits) or ends[-1] != e.trials or not _possible(e.hits, ends):
                raise ValueError(f"{len(e.hits)} looks at {e.trials} draws")
            votes = anytime_lower(np.array(e.hits), self.of_votes)
        else:
            if len(e.hits) != 1 or e.trials != self.n or not 0 <= e.hits[0] <= e.trials:
                raise ValueError(f"{e.hits} hits of {e.trials} draws")
            votes = binomial_lower(e.hits[0], e.trials, self.of_votes)
        with localcontext(context(rounding=ROUND_FLOOR)):
            lost = Decimal(binomial_upper(e.differ, self.pairs, self.of_pairs))
            p = max(0.0, down(Decimal(votes) - lost - self.variation))
        radius = less_distance(radius_lower(p, self.sigma), e.distance) if p > 0.5 and e.chosen != self.void else 0.0
        return Outcome(e.chosen if radius > 0 else ABSTAIN, radius, p, e.hits[-1], e.trials)


def _possible(hits: tuple[int, ...], ends: tuple[int, ...]) -> bool:
    """Whether there can be so many hits at each look."""
    before, drawn = 0, 0
    for hit, end in zip(hits, ends, strict=True):
        if not before <= hit <= before + end - drawn:
            return False
        before, drawn = hit, end
    return True
