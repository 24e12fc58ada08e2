"""From an image's votes to what is said about it: pure functions of the run's configuration and the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..noise import ESTIMATION, PREDICTION, SELECTION
from ..statistics.bounds import (
    ABSTAIN,
    certificate,
    less_distance,
    normal_cdf_lower,
    prediction,
    prediction_at,
    radius_lower,
)
from ..statistics.exact import context, down, up
from ..statistics.sequential import (
    anytime_lower,
    certifying,
    certifying_if_any,
    looks,
    out_of_sight,
    projected_lower,
    refuting,
)
from .blocks import Block, DrawPlan
from .places import SLACK, most_moved
from .stopping import Stopping

CLOSE, TINY = 1e-9, 1e-15
CERTIFIED, REFUTED, UNDECIDED = "certified", "refuted", "undecided"
BOUND_SHARE = (
    16  # with preset radii, one part in so many of α is for the bound that is shown, the rest for the decisions
)
DISTANCE_STEPS = (
    1024  # preset radii are decided for distances rounded up to so many parts of σ: images share thresholds
)


@dataclass(frozen=True)
class Outcome:
    """`predict` −1 is an abstention; `radius` (ℓ2, image units) and `p_lower` are None for predict runs.

    `predict`, `radius` and `decisions` are about the image as given, `p_lower` and the votes about its 8-bit pixels.
    `hits` of `trials` votes went to the class: to the selected one (certify), to the most frequent one (predict).
    `decisions` has "certified", "refuted" or "undecided" for each preset radius, ascending.
    """

    predict: int
    radius: float | None
    p_lower: float | None
    hits: int
    trials: int
    decisions: tuple[str, ...] = ()

    def agrees(self, other: Outcome, distance: float = 0.0) -> bool:
        """Whether both say the same, but for the last digits, which a bound may owe to the libraries it was guessed with.

        `distance` is what was taken off the radii: the digits are those before.
        """
        least = max(TINY, CLOSE * distance)
        mine = (self.predict, self.hits, self.trials, self.decisions)
        exact = mine == (other.predict, other.hits, other.trials, other.decisions)
        pairs = ((self.radius, other.radius), (self.p_lower, other.p_lower))
        return exact and all(
            a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=CLOSE, abs_tol=least))
            for a, b in pairs
        )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a run's votes were drawn under.

    `sigma`: noise level in image units. `total_variation`: a bound on how far the noise as drawn is from the normal (law.py).
    `slack` (places.py): as much again that the probability as drawn may be off, where last bits depend on a row's place. `void`:
    the class that stands for abstentions, if there is one. `images`: how many the run was asked for. `lipschitz_constant`: of
    the logits in [-1, 1] units, of runs without noise.
    """

    sigma: float
    total_variation: float = 0.0
    slack: float = 0.0
    void: int | None = None
    images: int = 1
    lipschitz_constant: float | None = None


Margin = tuple[int, float]  # the class with the least loss (−1 where one is no number), how far the next one is behind


class Votes:
    """One image's votes by phase, added block by block in the plan's order; `distance` is `Image.distance`."""

    def __init__(self, plan: DrawPlan, classes: int, distance: float = 0.0) -> None:
        self.distance = distance
        self.totals = {phase: np.zeros(classes, dtype=np.int64) for phase, _ in plan.phases}
        self.sequential = plan.sequential
        self.margin: Margin | None = None  # of a run without votes
        self.hits: list[int] = []  # at each look, of the class that the selection chose

    def add(self, block: Block, counts: Sequence[int] | NDArray[np.int64]) -> None:
        """Add a whole block."""
        self.totals[block.phase] += np.asarray(counts, dtype=np.int64)
        if self.sequential and block.phase == ESTIMATION:
            self.hits.append(int(self.totals[ESTIMATION][self.selected]))

    @property
    def at_look(self) -> bool:
        """Whether the last block ended at a look."""
        return bool(self.hits)

    @property
    def selected(self) -> int:
        """The class with most selection votes, the lowest of equals."""
        return int(self.totals[SELECTION].argmax())

    @property
    def trials(self) -> int:
        """Estimation votes."""
        return int(self.totals[ESTIMATION].sum())


class Rule:
    """What a certify run of a fixed number of draws says: `bounds.certificate`. Others say when to stop, too.

    alpha is an image's: with `family_wise`, the run's divided by its number of images (Bonferroni), rounded down, so that what
    is said of each image is right for all together with probability 1 − α.

    The votes are those of an image's 8-bit pixels z. What is said is about the image as given, x: every x' with ‖x' − z‖ < R has
    the class, so all within R − ‖x − z‖ of x have. Where nothing is left, it abstains: the class at x may be another one.
    """

    stops_exactly = True  # `stops` is the same on every machine

    def __init__(self, stopping: Stopping, conditions: Conditions) -> None:
        self.plan = stopping.plan
        self.void = conditions.void  # never an answer
        self.slack, self.drawn_variation = conditions.slack, conditions.total_variation
        if self.slack not in (0.0, SLACK) or not 0 <= self.drawn_variation < 1:
            raise ValueError(f"slack {self.slack} and total_variation {self.drawn_variation}, which no run has")
        with localcontext(context(rounding=ROUND_CEILING)):
            self.total_variation = up(Decimal(self.drawn_variation) + Decimal(self.slack))
        self.sigma = conditions.sigma
        self.alpha = float(stopping.alpha)
        if stopping.family_wise:
            with localcontext(context(rounding=ROUND_FLOOR)):
                self.alpha = down(Decimal(self.alpha) / conditions.images)

    def stops(self, votes: Votes) -> bool:
        """Whether the votes at a look suffice."""
        return False

    def outcome(self, votes: Votes) -> Outcome:
        """What the votes say."""
        totals = votes.totals
        c = certificate(totals[SELECTION], totals[ESTIMATION], self.alpha, self.sigma, self.total_variation)
        if votes.selected == self.void:
            return Outcome(ABSTAIN, 0.0, 0.0, c.hits, c.trials)
        return _about_given(Outcome(c.predict, c.radius, c.p_lower, c.hits, c.trials), votes.distance)


def _about_given(outcome: Outcome, distance: float) -> Outcome:
    """An outcome about 8-bit pixels as one about the image that they were rounded from."""
    if not distance or outcome.radius is None:
        return outcome
    radius = less_distance(outcome.radius, distance)
    return replace(outcome, radius=radius, predict=outcome.predict if radius > 0 else ABSTAIN)


class PredictRule(Rule):
    """What a predict run says: `bounds.prediction`; of an image that was rounded `bounds.prediction_at`.

    With `slack`, more than d of n votes would differ at other places with probability at most half of alpha. The other half is
    for the test, of counts with d votes moved from the first class to the second: as strict as that of the votes at other places,
    or stricter, since its p-value falls with the first count and rises with the second.
    """

    def outcome(self, votes: Votes) -> Outcome:
        counts = votes.totals[PREDICTION]
        predict = self._answer(*self._moved(counts), votes.distance)
        predict = ABSTAIN if predict == self.void else predict
        return Outcome(predict, None, None, int(counts.max()), int(counts.sum()))

    def _answer(self, counts: NDArray[np.int64], alpha: float, distance: float) -> int:
        if distance:
            return prediction_at(counts, alpha, self.sigma, distance, self.drawn_variation)
        return prediction(counts, alpha, self.drawn_variation)

    def _moved(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        """The counts to be tested, and the level; counts of which no class is ahead where too many may have moved."""
        if not self.slack:
            return counts, self.alpha
        n, half = int(counts.sum()), _part(self.alpha, Decimal("0.5"))
        best, moved = int(counts.argmax()), counts.copy()
        second = int(np.where(np.arange(len(counts)) == best, -1, counts).argmax())
        d = min(most_moved(n, self.slack, half), -(-int(counts[best] - counts[second]) // 2))
        moved[best], moved[second] = counts[best] - d, counts[second] + d
        return moved, half


class LipschitzRule(Rule):
    """What the margin of a diffusion classifier says if its logits are L-Lipschitz (Chen et al. 2024): a conditional radius.

    It is margin/(2L) in model units, half of that in image units, rounded down. No probability is involved.
    """

    def __init__(self, stopping: Stopping, conditions: Conditions) -> None:
        super().__init__(stopping, conditions)
        if conditions.lipschitz_constant is None:
            raise ValueError("no Lipschitz constant")
        self.constant = conditions.lipschitz_constant

    def outcome(self, votes: Votes) -> Outcome:
        predict, margin = votes.margin or (ABSTAIN, 0.0)
        with localcontext(context(rounding=ROUND_FLOOR)):
            radius = down(Decimal(margin) / (4 * Decimal(self.constant)))
        outcome = Outcome(predict if radius > 0 else ABSTAIN, max(radius, 0.0), None, 0, 0)
        return _about_given(outcome, votes.distance)


class SequentialRule(Rule):
    """A rule that may stop at a look; `draws` are the looks' numbers of draws, n the last of them."""

    def __init__(self, stopping: Stopping, conditions: Conditions) -> None:
        super().__init__(stopping, conditions)
        self.n = self.plan.phases[-1][1]
        self.draws = np.array(looks(self.n), dtype=np.int64)

    def with_bound(
        self, votes: Votes, bound: float, certified: float = 0.0, decisions: tuple[str, ...] = ()
    ) -> Outcome:
        """The outcome with the larger of two radii: `certified`, and what `bound` on the probability as drawn leaves."""
        with localcontext(context(rounding=ROUND_FLOOR)):
            p_lower = max(0.0, down(Decimal(bound) - Decimal(self.total_variation)))
            if certified:
                p_lower = max(p_lower, normal_cdf_lower(down(Decimal(certified) / Decimal(self.sigma))))
        if votes.selected == self.void:
            certified = p_lower = 0.0
            decisions = tuple(REFUTED if said == CERTIFIED else said for said in decisions)
        radius = max(certified, less_distance(radius_lower(p_lower, self.sigma), votes.distance))
        return Outcome(
            votes.selected if radius > 0 else ABSTAIN, radius, p_lower, votes.hits[-1], votes.trials, decisions
        )


class ToleranceRule(SequentialRule):
    """Stop when more draws, up to n, should no longer raise the radius by more than a share of it (`projected_lower`).

    When to stop is a guess: all n = 10^4 draws would have raised 8–15 % of radii by more (benchmarks/bench_error_rate.py).
    Guarantee: with probability at least 1 − alpha, the radius is right, whenever the draws stop (`anytime_lower`).
    """

    stops_exactly = False

    def __init__(self, stopping: Stopping, conditions: Conditions) -> None:
        super().__init__(stopping, conditions)
        self.tolerance = float(stopping.tolerance or 0.0)

    def stops(self, votes: Votes) -> bool:
        now, later = projected_lower(np.array(votes.hits), self.alpha, self.n)
        least = votes.distance
        return self._radius(later, least) <= (1 + self.tolerance) * self._radius(now, least)

    def outcome(self, votes: Votes) -> Outcome:
        return self.with_bound(votes, anytime_lower(np.array(votes.hits), self.alpha))

    def _radius(self, p: float, distance: float = 0.0) -> float:
        return max(0.0, self.sigma * float(special.ndtri(p - self.total_variation)) - distance) if p > 0.5 else 0.0


Limits = tuple[NDArray[np.int64], NDArray[np.int64]]  # at each look, the least hits that certify, the most that refute
Steps = list[list[Limits]]  # by level and radius


class RadiusRule(SequentialRule):
    """Stop when each preset radius is certified, refuted (`sequential.thresholds`) or not to be decided by n (`out_of_sight`).

    Guarantee: with probability at least 1 − alpha, all that is said of an image is right: decisions and radius. One part in 16
    of alpha is for the bound behind the radius. The rest is for the decisions; where there are several radii, half of it for
    each kind, as then both kinds can err. A radius is certified only with all smaller ones, and refuted only with all larger
    ones: for an answer to be false, that on the radius next to the truth must be, so one share serves all of a kind
    (fixed-sequence testing).

    With `family_wise`, Holm's procedure: the images of which all radii are certified leave their share to the others. Its
    levels are α/N·2^(i/4). It rests on a greater level's certifying whatever a lesser one does: so each level's least hits are
    raised to those of the greater levels where they were below, and all refute at the first level alone. That is needed for
    refutations anyway: the images that are certified are those which a refutation would be wrong of. All certifications are
    right together with probability 1 − alpha, and so are all refutations.

    Of an image that was rounded, r plus the distance is decided, rounded up to a multiple of σ/1024: the hypotheses are each
    image's own, which nothing above minds. Such an r is refuted where the class is too rare for that.
    """

    def __init__(self, stopping: Stopping, conditions: Conditions) -> None:
        super().__init__(stopping, conditions)
        self.radii = stopping.preset
        self.images = conditions.images if stopping.family_wise else 1
        part = Decimal((1 - 1 / BOUND_SHARE) / (1 if len(self.radii) == 1 else 2))  # exact
        self.levels = [_part(self.alpha, part)]
        while _holm_step(len(self.levels), self.images, 1):
            self.levels.append(_part(self.levels[0], Decimal(2 ** (len(self.levels) / 4) * (1 - 1e-12))))
        for radius in self.radii:
            certifying(radius, self.sigma, self.total_variation, self.levels[0], self.n)  # InputError beyond n's reach
        self.steps = self._thresholds(self.radii)  # of images on the grid, by level and radius
        self._moved: dict[int, Steps] = {}
        self.recorded = {
            repr(radius): np.stack([self.draws, *pair], axis=1).tolist()
            for radius, pair in zip(self.radii, self.steps[0], strict=True)
        }

    def steps_at(self, distance: float) -> Steps:
        """`steps` for images moved by `distance`, rounded up."""
        if not distance:
            return self.steps
        with localcontext(context(rounding=ROUND_CEILING)):
            parts = math.ceil(Decimal(distance) * DISTANCE_STEPS / Decimal(self.sigma))
        if parts not in self._moved:
            with localcontext(context(rounding=ROUND_CEILING)):
                further = parts * Decimal(self.sigma) / DISTANCE_STEPS
                radii = [up(Decimal(radius) + further) for radius in self.radii]
            self._moved[parts] = self._thresholds(radii)
        return self._moved[parts]

    def _thresholds(self, radii: Sequence[float]) -> Steps:
        given = (self.sigma, self.total_variation)
        steps = [[certifying_if_any(r, *given, level, self.n).copy() for r in radii] for level in self.levels]
        for lesser, greater in zip(steps[-2::-1], steps[:0:-1], strict=True):
            for certify, least in zip(lesser, greater, strict=True):
                np.maximum(certify, least, out=certify)
        refute = [refuting(radius, *given, self.levels[0], self.n) for radius in radii]
        return [list(zip(certify, refute, strict=True)) for certify in steps]

    def stops(self, votes: Votes) -> bool:
        last, look = np.array(votes.hits[-1]), len(votes.hits) - 1
        steps = self.steps_at(votes.distance)
        limits = zip(self._reached(votes.hits, steps[0]), steps[0], steps[-1], strict=True)
        return all(
            said != UNDECIDED or bool(out_of_sight(last, look, certify, refute, self.draws))
            for said, (_, refute), (certify, _) in limits
        )

    def outcome(self, votes: Votes, step: int = 0) -> Outcome:
        decisions = self.decide(votes.hits, step, votes.distance)
        certified = max((r for r, said in zip(self.radii, decisions, strict=True) if said == CERTIFIED), default=0.0)
        bound = anytime_lower(np.array(votes.hits), self.alpha / BOUND_SHARE)
        return self.with_bound(votes, bound, certified, decisions)

    def decide(self, hits: Sequence[int], step: int = 0, distance: float = 0.0) -> tuple[str, ...]:
        """The decision on each radius after the looks at which there were `hits`."""
        decisions = self._reached(hits, self.steps_at(distance)[step])
        first = next((i for i, said in enumerate(decisions) if said != CERTIFIED), len(decisions))
        last = next((i for i in reversed(range(len(decisions))) if decisions[i] != REFUTED), -1)
        return (CERTIFIED,) * first + (UNDECIDED,) * (last + 1 - first) + (REFUTED,) * (len(decisions) - last - 1)

    @staticmethod
    def _reached(hits: Sequence[int], limits: Sequence[Limits]) -> list[str]:
        """Which of its thresholds each radius reached first; what is reached later does not count."""
        seen = np.array(hits)
        decisions = []
        for certify, refute in limits:
            yes, no = seen >= certify[: len(seen)], seen <= refute[: len(seen)]
            either = yes | no
            decisions.append((CERTIFIED if yes[either.argmax()] else REFUTED) if either.any() else UNDECIDED)
        return decisions

    def family(self, votes: Sequence[Votes]) -> list[Outcome]:
        """The outcomes of the family's images by Holm's procedure; those not in `votes` count as not certified."""
        step = 0
        while True:
            outcomes = [self.outcome(each, step) for each in votes]
            complete = sum(set(outcome.decisions) == {CERTIFIED} for outcome in outcomes)
            left = max(1, self.images - complete)
            further = max(i for i in range(len(self.levels)) if _holm_step(i, self.images, left))
            if further == step:
                return outcomes
            step = further


def _holm_step(step: int, images: int, left: int) -> bool:
    """Whether 2^(step/4)/images is at most 1/left."""
    return bool(2**step * left**4 <= images**4)


def _part(alpha: float, share: Decimal) -> float:
    """alpha·share, rounded down."""
    with localcontext(context(rounding=ROUND_FLOOR)):
        return down(Decimal(alpha) * share)


def rule_of(stopping: Stopping, conditions: Conditions) -> Rule:
    """The rule of a run that is asked for `stopping` under `conditions`."""
    kind: type[Rule] = Rule
    if not stopping.smoothing:
        kind = LipschitzRule
    elif not stopping.certifies:
        kind = PredictRule
    elif stopping.radius is not None:
        kind = RadiusRule
    elif stopping.tolerance is not None:
        kind = ToleranceRule
    return kind(stopping, conditions)
