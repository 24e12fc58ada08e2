"""Verifying an attack: certificates compared with the run, points that were kept measured, votes at them drawn again.

Without its gradients: how a point was found proves nothing, and nothing rests on it. A set of votes is an image's own (where the
run abstained), those that chose a point, or those that answered at it. Those of points need their pixels, which `attack --images`
keeps; points that contradict a certificate are always kept, and their votes are drawn again whatever the fraction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..certify.draws import labels
from ..certify.progress import NoProgress, Progress
from ..certify.rules import CLOSE, TINY
from ..errors import InputError
from ..files import is_there
from ..grid import Pixels
from ..images import Image, pixel_digest
from ..methods import Method
from ..noise import PREDICTION
from ..noise.counters import ATTACK_SELECTION
from ..runs.engines import build_method, device_of
from ..runs.evidence import run_of
from ..runs.identity import classifier_id, versions
from ..runs.record import check_noise_version
from ..runs.reopen import TOGETHER, check_weights, finished_images, recorded_config, recorded_images
from ..runs.store import RunStore, open_run
from ..runs.verify import (
    Verification,
    check_fraction,
    check_identity,
    choice,
    compare_votes,
    note_key,
    note_rows,
    note_versions,
    to_draw,
)
from .file import AttackFile
from .kept import kept_points, of_contradictions
from .rule import squared

Place = tuple[int, float]  # the image's row, and the radius of its point; 0 for the image itself


class AttackVerification(Verification):
    """What a verification found; its blocks are sets of votes."""

    @property
    def drawn_again(self) -> str:
        return (
            f"{self.blocks} of {self.recorded} sets of votes ({self.samples} draws) drawn again, {self.results} certificates "
            "compared with the run's; choice of sets"
        )


@dataclass(frozen=True)
class VoteSet:
    """Votes by class at an image (`epsilon` 0) or at its point at `epsilon`, of `draws` draws in `phase`."""

    image: int
    epsilon: float
    phase: int
    draws: int
    votes: Mapping[int, int]

    @property
    def place(self) -> Place:
        """Where they were drawn."""
        return self.image, self.epsilon

    def __str__(self) -> str:
        which = "choice" if self.phase == ATTACK_SELECTION else "answer"
        return f"{_name(self.place)}, {which}"


def _name(place: Place) -> str:
    image, epsilon = place
    return f"image {image}, point at radius {epsilon:g}" if epsilon else f"image {image}, at itself"


def verify(
    path: Path,
    *,
    given: Mapping[str, Path | None],
    kept: Path | None = None,
    fraction: float = 0.01,
    device: str | None = None,
    threads: int | None = None,
    seed: int,
    progress: Progress | None = None,
) -> AttackVerification:
    """Draw a `fraction` of the sets of votes again, those that `seed` chooses, and compare all certificates and kept points.

    `given` are the run's files by option, and `kept` the points, where they are elsewhere now. The run has to be where it is
    recorded, or beside the file. Raises InputError for files that are missing.
    """
    check_fraction(fraction)
    attack = AttackFile.read(path)
    done = AttackVerification(path, seed)
    points = _points(path, attack, kept, done)
    with open_run(run_of(path, attack.run)) as store:
        check_noise_version(store.path, attack.record.classifier)
        _check_run(store, attack, done)
        config = recorded_config(store, given, threads, device)
        opened = device_of(config)
        method = build_method(config, device=opened)
        try:
            check_weights(attack.record.classifier, method.engines)
            attacked = {image.index for image in attack.images}
            every = finished_images(recorded_images(attack.record, config.data), store)
            images = {image.index: image for image in every if image.index in attacked}
            there = _measured(attack, images, points, done)
            chosen = _chosen(attack, there, fraction, done)
            _replay(attack, method, there, chosen, done, progress or NoProgress())
            note_rows(attack.record.rows, method.engines, done)
            check_identity(attack.record.classifier, classifier_id(method), done)
        finally:
            method.close()
        recorded = {
            name: value for name, value in attack.versions.items() if name != "torch"
        }  # which has no part in votes
        note_versions(recorded, versions(opened), done)
    note_key(attack.key_drawn, done)
    if attack.contradicted:
        indices = ", ".join(str(image.index) for image, _ in attack.contradicted)
        done.notes.append(
            f"certificates are contradicted, of images {indices}: `report` says how likely chance does that"
        )
    return done


def _check_run(store: RunStore, attack: AttackFile, done: Verification) -> None:
    """Add where certificates, labels or pixels are not the run's."""
    if (attack.record.described(), attack.record.key) != (store.record.described(), store.record.key):
        raise InputError(f"{store.path} is not the run that {attack.path} was made from: put that one there")
    results, held = {result.image: result for result in store.results()}, {*store.images_with_results()}
    for image in attack.images:
        if image.index not in held:
            done.mismatches.append(f"image {image.index}: the run has no result of it")
            continue
        done.results += 1
        result, least = results[image.index], max(TINY, CLOSE * image.distance)
        near = math.isclose(image.radius, result.radius or 0.0, rel_tol=CLOSE, abs_tol=least)
        if image.predict != result.predict or not near:
            done.mismatches.append(
                f"image {image.index}: recorded class {image.predict} and radius {image.radius}, the run's are "
                f"{result.predict} and {result.radius}"
            )
        if store.known(image.index) != (image.label, image.sha256, image.distance):
            done.mismatches.append(f"image {image.index}: label, pixels or distance are not the run's")
    if len(attack.images) < len(held):
        done.notes.append(f"{len(attack.images)} of the run's {len(held)} images with a result were attacked")


def _points(path: Path, attack: AttackFile, given: Path | None, done: Verification) -> dict[Place, Pixels]:
    """The pixels of points that are there, those `given` or where the attack kept them; a mismatch for others."""
    known = {(image.index, point.epsilon) for image in attack.images for point in image.points}
    files = [of_contradictions(path)]
    if given is not None:
        files.append(given)
    elif attack.kept is not None:
        files += [Path(attack.kept), path.parent / attack.kept]
    kept: dict[Place, Pixels] = {}
    for file in files:
        kept |= kept_points(file) if is_there(file) or file == given else {}
    if foreign := sorted({*kept} - known):
        done.mismatches.append(f"{_name(foreign[0])}: it was kept, but the file has no such point")
    return {place: pixels for place, pixels in kept.items() if place in known}


def _measured(
    attack: AttackFile, images: Mapping[int, Image], points: Mapping[Place, Pixels], done: Verification
) -> dict[Place, Image]:
    """The images, and the kept points that are the recorded ones, exactly as far away as is recorded; a mismatch for the
    others, and where one is missing that contradicts a certificate."""
    there: dict[Place, Image] = {(index, 0.0): image for index, image in images.items()}
    missing, attacked = 0, [image for image in attack.images if image.index in images]
    every = [(image, point) for image in attacked for point in image.points]
    for image, point in every:
        place = image.index, point.epsilon
        if place not in points:
            missing += 1
            if point in attack.rule.contradictions(image):
                where = of_contradictions(attack.path)
                done.mismatches.append(
                    f"{_name(place)}: it contradicts a certificate, and is not kept in {where}: put it there"
                )
            continue
        at = replace(images[image.index], pixels=points[place], distance=0.0)
        if at.pixels.shape != images[image.index].pixels.shape or pixel_digest(at) != point.sha256:
            done.mismatches.append(f"{_name(place)}: the pixels that were kept are not the recorded ones")
        elif (away := squared(at.pixels, images[image.index].pixels)) != point.squared:
            done.mismatches.append(f"{_name(place)}: recorded at √{point.squared}/255, it is at √{away}/255")
        else:
            there[place] = at
    if missing:
        done.notes.append(
            f"the pixels of {missing} of {len(every)} points were not kept: their votes cannot be drawn again"
        )
    return there


def _votes(attack: AttackFile) -> Iterator[VoteSet]:
    """All sets of votes."""
    for image in attack.images:
        if image.clean is not None:
            yield VoteSet(image.index, 0.0, PREDICTION, attack.n, image.clean)
        for point in image.points:
            yield VoteSet(image.index, point.epsilon, ATTACK_SELECTION, attack.budget.select, point.selection)
            if point.votes is not None:
                yield VoteSet(image.index, point.epsilon, PREDICTION, attack.n, point.votes)


def _chosen(attack: AttackFile, there: Mapping[Place, Image], fraction: float, done: Verification) -> list[VoteSet]:
    """The sets of votes to be drawn again, in the order of their images: those of contradictions, and those that the seed
    chooses."""
    every = list(_votes(attack))
    done.recorded = len(every)
    drawable = [each for each in every if each.place in there]
    radius = {epsilon: number for number, epsilon in enumerate((0.0, *attack.radii))}
    order = sorted(drawable, key=lambda each: choice(done.seed, each.image, radius[each.epsilon], each.phase))
    first = {id(each) for each in order[: to_draw(fraction, len(order))]}
    against = {(image.index, point.epsilon) for image in attack.images for point in attack.rule.contradictions(image)}
    return [each for each in drawable if id(each) in first or each.place in against]


def _replay(
    attack: AttackFile,
    method: Method,
    there: Mapping[Place, Image],
    chosen: Sequence[VoteSet],
    done: Verification,
    progress: Progress,
) -> None:
    """Draw the `chosen` sets of votes again, and compare them."""
    progress.start(len(chosen), 0, sum(each.draws for each in chosen), 0)
    for phase in (ATTACK_SELECTION, PREDICTION):
        of_phase = [each for each in chosen if each.phase == phase]
        for low in range(0, len(of_phase), TOGETHER):
            group = of_phase[low : low + TOGETHER]
            at = [there[each.place] for each in group]
            for each, drawn in zip(group, labels(method, attack.key, phase, at, group[0].draws), strict=True):
                votes = np.bincount(drawn, minlength=attack.record.classes)
                recorded = np.array([each.votes.get(label, 0) for label in range(attack.record.classes)])
                compare_votes(str(each), recorded, votes, attack.record.slack, done)
                done.blocks, done.samples = done.blocks + 1, done.samples + each.draws
            progress.update(sum(each.draws for each in group), len(group))
