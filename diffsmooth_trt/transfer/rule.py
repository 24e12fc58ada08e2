"""What a run's votes for f and paired draws of f and g prove about g: incremental randomized smoothing (Ugare et al. 2024).

Let c be the class that the run's selection draws chose, and Q the event f = c ≠ g of one draw. Then P(g = c) ≥ P(f = c) − P(Q):
wherever f answers c and Q does not happen, g answers c. P(f = c) is bounded from below by the run's estimation votes at level α_f,
P(Q) from above by the paired draws at level α_q, and α_f + α_q ≤ α. By the union bound both are right with probability 1 − α, be
the draws dependent or not. The rest is Cohen's theorem for g.

N pairs of which none differ still allow P(Q) = ln(1/α_q)/N. So where f's votes are nearly unanimous, pairs prove less of g than g's
own labels do: N pairs are 2N labels, and 2N labels of g alone bound P(g = c) by themselves, at level α_q too. Which of the two an
image gets follows from the run's votes, before any of its draws. Given the votes, the draws mislead with probability at most α_q
either way; the votes' bound, where it is used, is wrong with probability at most α_f over all votes. Together that is at most α.
(Draws alone at level α would not be sound: the votes that mislead could be the ones that choose pairs.)
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
    the image (`Image.distance`). Of an image whose draws g saw alone, `alone` is in how many of them it answered c."""

    chosen: int
    hits: tuple[int, ...]
    trials: int
    differ: int
    distance: float = 0.0
    alone: int | None = None


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
        self.sequential, self.n, self.preset = stopping.sequential, stopping.n, stopping.preset
        self.variation = Decimal(record.total_variation) + Decimal(record.slack)
        with localcontext(context(rounding=ROUND_FLOOR)):
            images = record.images if stopping.family_wise else 1
            self.of_run = down(Decimal(stopping.alpha) / images)
            level = Decimal(alpha) / images
            self.of_votes = down(level * pairs / (pairs + stopping.n))
            self.of_pairs = down(level - Decimal(self.of_votes))
        if not (self.of_votes > 0 and self.of_pairs > 0):
            raise InputError(f"--alpha {alpha} leaves nothing for each of {record.images} images: give a greater one")

    def draws(self, hits: tuple[int, ...], trials: int) -> tuple[bool, int]:
        """Whether g sees an image's draws alone, and how many they are: 2N, or N pairs. ValueError as for `outcome`.

        Alone where that bound is the higher one if g answers as f did: in the run's share of 2N draws, and never otherwise in N.
        """
        alike = (
            binomial_lower(2 * self.pairs * hits[-1] // trials, 2 * self.pairs, self.of_pairs)
            if hits and trials
            else 0.0
        )
        alone = alike > self._votes(hits, trials) - binomial_upper(0, self.pairs, self.of_pairs)
        return alone, 2 * self.pairs if alone else self.pairs

    def _votes(self, hits: tuple[int, ...], trials: int) -> float:
        """The votes' bound on P(f = c)."""
        if self.sequential:
            ends = looks(self.n)[: len(hits)]
            if not hits or len(ends) < len(hits) or ends[-1] != trials or not _possible(hits, ends):
                raise ValueError(f"{len(hits)} looks at {trials} draws")
        elif len(hits) != 1 or trials != self.n or not 0 <= hits[0] <= trials:
            raise ValueError(f"{hits} hits of {trials} draws")
        return self._bound(hits, trials, self.of_votes)

    def _bound(self, hits: tuple[int, ...], trials: int, alpha: float) -> float:
        """The bound that possible votes give at a level."""
        if self.sequential:
            return anytime_lower(np.array(hits), alpha)
        return binomial_lower(hits[0], trials, alpha)

    def run_radius(self, evidence: Evidence) -> float | None:
        """The run's own radius for f, by its votes at its own level; None of a run of preset radii, which says more than that."""
        if self.preset:
            return None
        votes = self._bound(evidence.hits, evidence.trials, self.of_run)
        with localcontext(context(rounding=ROUND_FLOOR)):
            p = max(0.0, down(Decimal(votes) - self.variation))
        if p <= 0.5 or evidence.chosen == self.void:
            return 0.0
        return less_distance(radius_lower(p, self.sigma), evidence.distance)

    def outcome(self, evidence: Evidence) -> Outcome:
        """What the evidence says of g; ValueError where no run and no draws give such."""
        e = evidence
        votes = Decimal(self._votes(e.hits, e.trials))
        with localcontext(context(rounding=ROUND_FLOOR)):
            if e.alone is not None:
                if not 0 <= e.alone <= 2 * self.pairs:
                    raise ValueError(f"{e.alone} hits of {2 * self.pairs} draws")
                bound = Decimal(binomial_lower(e.alone, 2 * self.pairs, self.of_pairs))
            else:
                if not 0 <= e.differ <= self.pairs:
                    raise ValueError(f"{e.differ} of {self.pairs} pairs differ")
                bound = votes - Decimal(binomial_upper(e.differ, self.pairs, self.of_pairs))
            p = max(0.0, down(bound - self.variation))
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
