"""The run store: a run's file, and what follows from it. Results are derived from the votes again whenever they are read."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from ..certify.blocks import DrawPlan
from ..certify.rules import UNDECIDED, LipschitzRule, Outcome, RadiusRule, Rule, Votes
from ..errors import StoreError
from ..statistics.bounds import ABSTAIN
from .file import RunFile, guarded


@dataclass(frozen=True, kw_only=True)
class Result(Outcome):
    """One image's outcome with its label and the seconds that it took."""

    image: int
    label: int
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label; an abstention never is."""
        return self.predict == self.label and self.predict != ABSTAIN


class RunStore(RunFile):
    """An open run store: `record` says what the run is, `results` what it found.

    `create` makes one whole or not at all, `open` takes an existing one.
    """

    @cached_property
    def rule(self) -> Rule:
        """What the run's votes say, and when they suffice; StoreError where it is not the one that was recorded."""
        with guarded(self.path):
            rule = self.record.rule
            if isinstance(rule, RadiusRule) and rule.recorded != self.record.thresholds:
                raise ValueError("the thresholds do not follow from its radii and alpha")
        return rule

    @property
    def plan(self) -> DrawPlan:
        """The samples that the run asks for, at most."""
        return self.rule.plan

    def extend(self, n: int) -> None:
        """Let a run that may stop early go up to `n` draws; what is no longer finished loses its result. Committed at once."""
        stopping = replace(self.record.stopping, n=n)
        longer = replace(self.record, stopping=stopping)
        rule = longer.rule
        changed: dict[str, object] = {"config": longer.described()["config"]}
        changed["extended_from"] = [*self.record.extended_from, self.record.stopping.n]
        if isinstance(rule, RadiusRule):
            changed["thresholds"] = rule.recorded
        images = self.images_with_results()
        unfinished = [image for image in images if not self._complete(rule, self.votes(image))]
        with guarded(self.path):
            for table in ("decisions", "results"):
                self.connection.executemany(f"DELETE FROM {table} WHERE image = ?", [(i,) for i in unfinished])
        self._put(**changed)
        self.__dict__.pop("rule", None)

    @staticmethod
    def _complete(rule: Rule, votes: Votes) -> bool:
        return rule.stops(votes) or votes.trials >= rule.plan.phases[-1][1]

    def counts(self, image: int) -> dict[int, list[int]]:
        """Votes a class by phase; raises StoreError unless the image's blocks are those that its run asks for."""
        return {phase: total.tolist() for phase, total in self.votes(image).totals.items()}

    def votes(self, image: int) -> Votes:
        """An image's votes; raises StoreError unless its blocks are those that its run asks for, each complete.

        Where the moment of stopping owes its last digit to a library, and the image has a result, any look may be the last.
        """
        known = self.known(image)
        votes = Votes(self.plan, self.record.classes, known[2] if known else 0.0)
        any_look = not self.rule.stops_exactly and self.has_result(image)
        with guarded(self.path):
            rows = self.connection.execute(
                "SELECT phase, start, stop, counts FROM blocks WHERE image = ? ORDER BY phase, start", (image,)
            ).fetchall()
            ended = False
            for block, row in zip_longest(self.plan.blocks(image), rows):
                if row is None and (ended or (any_look and votes.at_look)):
                    break
                if row is None or (ended and not any_look) or row[:3] != (block.phase, block.start, block.stop):
                    raise ValueError(f"image {image} does not have the blocks that its run asks for")
                votes.add(block, self._votes(image, *row[1:]))
                ended = votes.at_look and self.rule.stops(votes)
            if isinstance(self.rule, LipschitzRule):
                query = "SELECT predict, margin FROM margins WHERE image = ?"
                votes.margin = self.connection.execute(query, (image,)).fetchone()
                if votes.margin is None:
                    raise ValueError(f"image {image} has no margin")
        return votes

    def results(self) -> Iterator[Result]:
        """Outcomes by ascending image, derived from the votes; StoreError where the recorded one says otherwise.

        An image that was skipped, as it cannot be used, is an abstention.

        A family-wise run with preset radii adds what Holm's procedure gives for the images finished so far. StoreError, too,
        for a result of an image that the run was not asked for.
        """
        images, asked, skipped = self.images_with_results(), self.record.asked, self.record.skipped
        foreign = [image for image in (*images, *skipped) if image not in asked]
        if foreign:
            raise StoreError(f"run store {self.path} has image {foreign[0]}, which its run was not asked for")
        twice = skipped.keys() & {*images}
        if twice:
            raise StoreError(f"run store {self.path} has a result of image {min(twice)}, which it says it skipped")
        return heapq.merge(self._drawn(images), map(self._skipped, sorted(skipped)), key=lambda result: result.image)

    def _skipped(self, image: int) -> Result:
        """The abstention that a skipped image is."""
        radius, decisions = (0.0 if self.record.stopping.certifies else None), self.record.stopping.preset
        said = (UNDECIDED,) * len(decisions)
        label = self.record.skipped[image][0]
        return Result(ABSTAIN, radius, radius, 0, 0, said, image=image, label=label, seconds=0.0)

    def _drawn(self, images: list[int]) -> Iterator[Result]:
        rule = self.rule
        if not isinstance(rule, RadiusRule) or rule.images == 1:
            yield from map(self.result, images)
            return
        votes = {image: self.votes(image) for image in images}
        alone = [self._checked(image, each) for image, each in votes.items()]
        for result, outcome in zip(alone, rule.family(list(votes.values())), strict=True):
            yield replace(result, **vars(outcome))

    def result(self, image: int) -> Result:
        """One image's outcome, derived from its votes alone; StoreError unless it is the recorded one."""
        return self._checked(image, self.votes(image))

    def _checked(self, image: int, votes: Votes) -> Result:
        outcome = self.rule.outcome(votes)
        with guarded(self.path):
            row = self.connection.execute(
                "SELECT i.label, COALESCE(t.seconds, 0), r.predict, r.radius, r.p_lower, r.hits, r.trials "
                "FROM results r JOIN images i USING (image) LEFT JOIN timing t USING (image) WHERE r.image = ?",
                (image,),
            ).fetchone()
            if row is None:
                raise ValueError(f"image {image} lacks its result or its row in the table images")
            label, seconds, predict, radius, p_lower, hits, trials = row
            if type(label) is not int or not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
                raise ValueError(f"image {image} has label {label} and took {seconds} seconds")
            recorded = Outcome(predict, radius, p_lower, hits, trials, self._decisions(image))
            if not outcome.agrees(recorded, votes.distance):
                raise StoreError(f"run store {self.path}: the result of image {image} does not follow from its votes")
        return Result(**vars(outcome), image=image, label=label, seconds=seconds)

    def _decisions(self, image: int) -> tuple[str, ...]:
        if not isinstance(self.rule, RadiusRule):
            return ()
        query = "SELECT radius, decision FROM decisions WHERE image = ? ORDER BY radius"
        rows = self.connection.execute(query, (image,)).fetchall()
        fits = tuple(radius for radius, _ in rows) == self.rule.radii
        return tuple(said for _, said in rows) if fits else ()


def open_run(path: str | Path) -> RunStore:
    """A run store for reading: `record` and `results()`."""
    return RunStore.open(Path(path))
