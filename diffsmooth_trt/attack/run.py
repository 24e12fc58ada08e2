"""From a finished run to points near its images that the same classifier answers otherwise, judged by its own PREDICT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..certify.draws import labels
from ..certify.progress import NoProgress, Progress
from ..dtypes import Counts, Floats32
from ..engine.choice import MOST_THREADS
from ..errors import InputError
from ..files import check_outputs
from ..grid import Pixels
from ..images import Image, pixel_digest, together
from ..methods import Method
from ..noise import PREDICTION, Key
from ..noise.counters import ATTACK_SELECTION
from ..ranges import integer, number
from ..runs.identity import versions
from ..runs.part import begun, check_begun, part_of
from ..runs.record import check_noise_version
from ..runs.reopen import TOGETHER, finished_images, open_as_run, recorded_images
from ..runs.run import check_noise
from ..runs.store import Result, open_run
from ..statistics.bounds import ABSTAIN, prediction
from .file import AttackFile, Budget
from .gradients import MOST_DRAWS, SmoothedLoss, check_differentiable
from .kept import of_contradictions
from .pgd import ascend, on_grid_within
from .rule import Attacked, AttackRule, Point, squared
from .unfinished import Unfinished, points_beside

RADII = (0.25, 0.5)
SURE = 0.001  # the level at which selection draws that speak for another class end the restarts
MOST_STEPS, MOST_SELECT = 10_000, 10**6


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """`run` is a run of certify; `out` the file to make, `kept` an `.npz` for the points found.

    `radii`: ℓ2, image units. `max` attacks the first so many images. Each radius takes `restarts` × `steps` gradients over `draws`
    draws, `select` draws judge a point, `n` (default: twice the run's) draws answer where those speak for another class, at level
    `alpha` an image (default: the run's). `given` are the run's files, and `data`, where they are elsewhere now. `resume` goes on
    with what an attack that ended early keeps beside `out`.
    """

    run: Path
    out: Path
    kept: Path | None = None
    radii: tuple[float, ...] = RADII
    max: int | None = None
    steps: int = 10
    draws: int = 8
    restarts: int = 2
    select: int = 100
    n: int | None = None
    alpha: float | None = None
    key: Key | None = None
    threads: int | None = None
    given: Mapping[str, Path] = field(default_factory=dict)
    resume: bool = False

    def __post_init__(self) -> None:
        for radius in self.radii:
            number("radius", radius, 0, 10**4, "give ℓ2 radii in image units, 0.5 for example")
        if not self.radii:
            raise InputError("--radius is empty: give ℓ2 radii in image units, 0.5 for example")
        integer("steps", self.steps, 1, MOST_STEPS)
        integer("draws", self.draws, 1, MOST_DRAWS)
        integer("restarts", self.restarts, 1, MOST_STEPS)
        integer("select", self.select, 1, MOST_SELECT)
        for name, most in (("max", 10**9), ("n", 10**9), ("threads", MOST_THREADS)):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1, most)
        check_outputs({"--out": self.out}, {"RUN": self.run})
        outputs = {"--out": self.out, "--images": self.kept, "the evidence": self.evidence}
        beside = {"what is kept meanwhile": part_of(self.out), "its points": points_beside(self.out)}
        check_outputs({**outputs, **beside}, {"RUN": self.run})
        if self.kept is not None and self.kept.suffix != ".npz":
            raise InputError(f"--images {self.kept} has suffix {self.kept.suffix!r}: give a name that ends in .npz")
        check_begun(self.out, self.resume)
        going_on = begun(self.out, self.resume) is not None
        for option, path in outputs.items():
            if path is not None and path.exists() and not going_on:
                raise InputError(f"{option} {path} exists: give another name")

    @property
    def evidence(self) -> Path:
        """Where points that contradict a certificate are kept, in any case."""
        return of_contradictions(self.out)

    @property
    def budget(self) -> Budget:
        """What a radius takes."""
        return Budget(steps=self.steps, draws=self.draws, restarts=self.restarts, select=self.select)


@dataclass
class Target:
    """An image under attack; `best` is the point that it goes on from at the next radius, with
    its selection `votes`, `found` its point at each ε."""

    image: Image
    state: Attacked
    leaves: int
    best: Pixels
    votes: Counts | None = None
    found: list[Pixels] = field(default_factory=list)

    @property
    def centre(self) -> Pixels:
        return self.image.pixels

    def at(self, pixels: Pixels) -> Image:
        """A point of this image: it sees the image's noise."""
        return replace(self.image, pixels=pixels, distance=0.0)


def attack(config: AttackConfig, progress: Progress | None = None) -> AttackFile:
    """Attack the run's images and write what was found to `config.out`; meanwhile it is kept beside, after every `TOGETHER` images.

    Raises InputError for runs whose certificates are not of votes, methods and engines without gradients, and where this machine
    makes another classifier of the run's files.
    """
    with open_run(config.run) as store, ExitStack() as stack:
        record = store.record
        check_noise_version(store.path, record.classifier)
        radii = tuple(sorted(set(config.radii)))
        n = 2 * record.stopping.n if config.n is None else config.n
        rule = AttackRule(record, radii, n, record.stopping.alpha if config.alpha is None else config.alpha)
        check_differentiable(record.method)
        results = {result.image: result for result in store.results()}
        if not record.labelled:
            raise InputError(
                f"{store.path} is of images without labels, and an attack counts right answers: give another run"
            )
        if not results:
            raise InputError(f"{store.path} has no results yet: finish the run first")
        wanted = min(len(results), config.max or len(results))
        asked = AttackFile(
            path=config.out,
            run=str(store.path),
            record=record,
            radii=radii,
            budget=config.budget,
            n=n,
            alpha=rule.of_image,
            key=config.key or Key.draw(),
            key_drawn=config.key is None,
            versions={},
            seconds={},
            kept=None if config.kept is None else str(config.kept),
            images=[],
        )
        kept = Unfinished(asked, wanted, config.key, resume=config.resume)
        if kept.finished is not None:
            return kept.finished
        opened, method = open_as_run(store, dict(config.given), config.threads)
        stack.callback(method.close)
        check_noise(method, record.stopping)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if not kept.images:
            kept.file = replace(kept.file, versions={**versions(method.device), "torch": torch.__version__})
        work = Attack(method, kept.key, rule, radii, config.budget)
        images = islice(finished_images(recorded_images(record, opened.data), store), wanted)
        kept.skip(images)
        shown = progress or NoProgress()
        shown.start(wanted, len(kept.images), None, 0)
        for group in together(images, TOGETHER):
            for target in work.attacked(group, results):
                kept.add(target.state, target.found)
            if len(kept.images) < wanted:
                kept.keep()
            shown.update(0, len(group))
        return kept.finish()


class Attack:
    """Attacks images of `method`'s run under `key` within ascending `radii`, each from where the one before ended."""

    def __init__(self, method: Method, key: Key, rule: AttackRule, radii: tuple[float, ...], budget: Budget) -> None:
        self.method, self.key, self.rule, self.radii, self.budget = method, key, rule, radii, budget
        self.loss = SmoothedLoss(method, key)

    def attacked(self, group: Sequence[Image], results: Mapping[int, Result]) -> list[Target]:
        """The images with their points at each radius.

        An image is left alone once another answer than its label is known within a smaller radius, unless it is certified there.
        """
        targets = self._targets(group, results)
        for place, epsilon in enumerate(self.radii):
            due = [each for each in targets if self.rule.due(each.state, epsilon)]
            if not due:
                continue
            chosen = self._points(due, place, epsilon)
            asked = [
                i
                for i, (target, (_, votes)) in enumerate(zip(due, chosen, strict=True))
                if self.rule.speaks(target.state, sparse(votes))
            ]
            judged = self._votes([due[i].at(chosen[i][0]) for i in asked], PREDICTION, self.rule.n)
            answers = dict(zip(asked, judged, strict=True))
            for i, (target, (pixels, votes)) in enumerate(zip(due, chosen, strict=True)):
                point = Point(
                    epsilon=epsilon,
                    squared=squared(pixels, target.centre),
                    sha256=pixel_digest(target.at(pixels)),
                    selection=sparse(votes),
                    votes=sparse(answers[i]) if i in answers else None,
                )
                target.state = replace(target.state, points=(*target.state.points, point))
                target.best, target.votes = pixels, votes
                target.found.append(pixels)
        return targets

    def _targets(self, group: Sequence[Image], results: Mapping[int, Result]) -> list[Target]:
        """The images, with votes at themselves where the run abstained."""
        silent = [image for image in group if results[image.index].predict == ABSTAIN]
        votes = {
            image.index: counts
            for image, counts in zip(silent, self._votes(silent, PREDICTION, self.rule.n), strict=True)
        }
        targets = []
        for image in group:
            result = results[image.index]
            state = Attacked(
                index=image.index,
                label=image.label,
                sha256=pixel_digest(image),
                distance=image.distance,
                predict=result.predict,
                radius=float(result.radius or 0.0),
                clean=sparse(votes[image.index]) if image.index in votes else None,
                points=(),
            )
            targets.append(Target(image, state, self.rule.leaves(state), image.pixels))
        return targets

    def _points(self, due: Sequence[Target], place: int, epsilon: float) -> list[tuple[Pixels, Counts]]:
        """Of each image the point with its selection votes that speaks most for another class, over restarts and the last one."""
        chosen: list[tuple[Pixels, Counts] | None] = [
            None if each.votes is None else (each.best, each.votes) for each in due
        ]
        for restart in range(self.budget.restarts):
            left = [i for i, best in enumerate(chosen) if best is None or not _sure(best[1], due[i].leaves)]
            if not left:
                break
            points = self._ascended([due[i] for i in left], place * self.budget.restarts + restart, epsilon)
            for i, pixels, votes in zip(left, points, self._judged([due[i] for i in left], points), strict=True):
                best = chosen[i]
                if best is None or margin(votes, due[i].leaves) > margin(best[1], due[i].leaves):
                    chosen[i] = (pixels, votes)
        return [each for each in chosen if each is not None]

    def _ascended(self, due: Sequence[Target], number: int, epsilon: float) -> list[Pixels]:
        """Where one ascent leads from each image: at first from the best point so far, then from a random one on the sphere."""
        centres, images = tensor([each.centre for each in due]), np.array([each.image.index for each in due], np.uint64)
        if number % self.budget.restarts == 0:
            starts = tensor([each.best for each in due])
        else:
            starts = centres + epsilon * self.loss.starts(images, number, tuple(centres.shape[1:]))
        ends: Floats32 = ascend(
            self.loss,
            centres,
            starts,
            epsilon,
            images=images,
            classes=np.array([each.leaves for each in due], np.int64),
            steps=self.budget.steps,
            draws=self.budget.draws,
            first=number * self.budget.steps * self.budget.draws,
        )
        points = np.ascontiguousarray(ends.transpose(0, 2, 3, 1))
        return [on_grid_within(each.centre, point, epsilon) for each, point in zip(due, points, strict=True)]

    def _judged(self, due: Sequence[Target], points: Sequence[Pixels]) -> list[Counts]:
        images = [each.at(pixels) for each, pixels in zip(due, points, strict=True)]
        return self._votes(images, ATTACK_SELECTION, self.budget.select)

    def _votes(self, images: Sequence[Image], phase: int, draws: int) -> list[Counts]:
        """The engines' votes int64 `[bins]` for each image."""
        if not images:
            return []
        drawn = labels(self.method, self.key, phase, images, draws)
        return [np.bincount(each, minlength=self.method.bins).astype(np.int64) for each in drawn]


def margin(votes: Counts, leaves: int) -> int:
    """By how many votes another class is ahead of the one that the attack leaves."""
    return int(np.delete(votes, leaves).max() - votes[leaves])


def _sure(votes: Counts, leaves: int) -> bool:
    """Whether selection votes leave little doubt of another class."""
    return prediction(votes, SURE) not in (ABSTAIN, leaves)


def sparse(votes: Counts) -> dict[int, int]:
    """Votes by class, those with none left out."""
    return {int(label): int(votes[label]) for label in np.flatnonzero(votes)}


def tensor(images: Sequence[Pixels]) -> torch.Tensor:
    """8-bit images `[H, W, C]` as float32 `[N, C, H, W]` in [0, 1]."""
    stacked = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked.astype(np.float32) / np.float32(255))
