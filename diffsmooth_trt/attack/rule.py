"""What an attack shows: answers at the points that it found, and when one of them contradicts a certificate.

A certificate (class c, radius R) of an image at z says that the smoothed classifier g answers c wherever ‖x − z‖ + d < R, d being
how far rounding moved the image to z. A contradiction is a point there at which PREDICT (Cohen et al. 2019), at level α' and with
more draws than the run took, returns another class. Then the certificate is false, which has probability at most α, or the answer
is, which has at most α': a point is a function of draws in the phases ATTACK and ATTACK_SELECTION alone, and its answer is drawn in
the phase PREDICTION. An image's k radii and itself share the attack's alpha, each at alpha/(k + 1), so by the union bound chance
alone contradicts an image with probability at most α + alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction

import numpy as np
from scipy import stats

from ..certify.rules import PredictRule, Votes
from ..certify.stopping import Stopping
from ..errors import InputError
from ..grid import Pixels
from ..noise import PREDICTION
from ..runs.record import RunRecord
from ..statistics.bounds import ABSTAIN
from ..statistics.exact import context, down

SQUARE = 255**2


def reach(epsilon: float) -> int:
    """The greatest squared distance in units of 1/255² that is not above ε."""
    return int(Fraction(epsilon) ** 2 * SQUARE)


def squared(a: Pixels, b: Pixels) -> int:
    """The squared ℓ2 distance of two 8-bit images in units of 1/255², exact."""
    away = a.astype(np.int64) - b.astype(np.int64)
    return int((away * away).sum())


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point that an attack found: asked to lie within `epsilon` (ℓ2, image units), it lies at the root of `squared`/255².

    `selection` and `votes` are votes by class; `votes` is None where the selection draws did not speak for another class.
    """

    epsilon: float
    squared: int
    sha256: str
    selection: Mapping[int, int]
    votes: Mapping[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One image: what the run says of it, votes at the image itself where the run abstained, and points by ascending ε."""

    index: int
    label: int
    sha256: str
    distance: float
    predict: int
    radius: float
    clean: Mapping[int, int] | None
    points: tuple[Point, ...]

    @property
    def certified(self) -> bool:
        """Whether the run certifies it."""
        return self.predict != ABSTAIN

    def inside(self, point: Point) -> bool:
        """Whether the certificate holds at the point: exactly, ‖x − z‖ + d < R."""
        rest = Fraction(self.radius) - Fraction(self.distance)
        return self.certified and rest > 0 and Fraction(point.squared, SQUARE) < rest**2


class AttackRule:
    """Answers of PREDICT with `n` draws, each at level alpha/(k + 1) for k radii.

    Raises InputError for runs without certificates from votes, and unless n is above the run's.
    """

    def __init__(self, record: RunRecord, radii: tuple[float, ...], n: int, alpha: float) -> None:
        stopping = record.stopping
        if not stopping.certifies or not stopping.smoothing:
            what = "predict" if not stopping.certifies else "--certificate lipschitz"
            raise InputError(f"attack needs a run of certify with votes, this one is of {what}: certify with n draws")
        if n <= stopping.n:
            raise InputError(f"--n {n} is not above the run's {stopping.n} draws: an attack is judged by more of them")
        if not 0 < alpha < 1:
            raise InputError(f"--alpha must lie between 0 and 1, got {alpha}")
        with localcontext(context(rounding=ROUND_FLOOR)):
            self.alpha = down(Decimal(alpha) / (len(radii) + 1))
        self.record, self.n, self.of_image = record, n, alpha
        self.rule = PredictRule(Stopping(command="predict", n=n, alpha=self.alpha), record.conditions)

    def answer(self, votes: Mapping[int, int], distance: float = 0.0) -> int:
        """The class that n votes show, −1 where they abstain; ValueError for another number of votes."""
        counts = np.zeros(self.record.classes, np.int64)
        for label, hits in votes.items():
            if not 0 <= label < len(counts):
                raise ValueError(f"votes for class {label}")
            counts[label] = hits
        if counts.min() < 0 or int(counts.sum()) != self.n:
            raise ValueError(f"{counts.sum()} votes of {self.n}")
        given = Votes(self.rule.plan, len(counts), distance)
        given.totals[PREDICTION] += counts
        return self.rule.outcome(given).predict

    def clean(self, image: Attacked) -> int:
        """The smoothed classifier's answer at the image: the certificate's, else that of n draws."""
        return image.predict if image.clean is None else self.answer(image.clean, image.distance)

    def leaves(self, image: Attacked) -> int:
        """The class that an attack leads away from: the answer at the image, the label where there is none."""
        clean = self.clean(image)
        return image.label if clean == ABSTAIN else clean

    def speaks(self, image: Attacked, selection: Mapping[int, int]) -> bool:
        """Whether selection votes speak for another class as much as for the one that the attack leaves."""
        leaves = self.leaves(image)
        others = (hits for label, hits in selection.items() if label != leaves)
        return max(others, default=0) >= selection.get(leaves, 0)

    def due(self, image: Attacked, epsilon: float) -> bool:
        """Whether it is attacked at ε after the points that it has: not once it was shown wrong, unless it is certified at ε."""
        before = max((point.epsilon for point in image.points), default=0.0)
        return (image.certified and image.radius >= epsilon) or not self.broken(image, before)

    def broken(self, image: Attacked, epsilon: float) -> bool:
        """Whether the answer at the image, or at a point within ε, is another class than the label."""
        most = reach(epsilon)
        answers = [self.clean(image)]
        answers += [self.answer(point.votes) for point in image.points if point.votes and point.squared <= most]
        return any(answer not in (ABSTAIN, image.label) for answer in answers)

    def contradictions(self, image: Attacked) -> list[Point]:
        """The points that contradict the image's certificate."""
        return [
            point
            for point in image.points
            if point.votes and image.inside(point) and self.answer(point.votes) not in (ABSTAIN, image.predict)
        ]

    def chance(self, images: int, contradicted: int) -> float:
        """At most how likely chance alone contradicts `found` ≥ 1 or more of `images` certified images that were attacked.

        Images are drawn for independently of one another; of a family-wise run all certificates are right together.
        """
        alone = self.record.stopping.alpha
        if self.record.stopping.family_wise:
            return min(1.0, alone + float(stats.binom.sf(contradicted - 1, images, self.of_image)) * (1 + 1e-9))
        return min(1.0, float(stats.binom.sf(contradicted - 1, images, min(1.0, alone + self.of_image))) * (1 + 1e-9))
