"""The file of an attack: one JSON object with the run's record, what was asked, and each image's votes at the points found.

It is written whole or not at all. Answers, accuracies and contradictions are derived from the votes whenever it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..files import write_atomically
from ..noise import Key
from ..runs.evidence import is_of, key_of, recorded_key, values_of
from ..runs.record import RunRecord, naming_damage
from .rule import Attacked, AttackRule, Point, reach

KIND, FORMAT = "diffsmooth-trt attack", 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attack spends a radius: `restarts` × `steps` gradients over `draws` draws each; `select` draws judge each point."""

    steps: int
    draws: int
    restarts: int
    select: int


@dataclass(frozen=True, kw_only=True)
class AttackFile:
    """An attack on the images of a `run` within `radii` (ℓ2, image units, ascending), under a key of its own.

    `n` and `alpha` are those of `AttackRule`; `versions` software and machine, `seconds` of wall-clock and of the process's CPUs;
    `kept` is where its points were kept, if they were.
    """

    path: Path
    run: str
    record: RunRecord
    radii: tuple[float, ...]
    budget: Budget
    n: int
    alpha: float
    key: Key
    key_drawn: bool
    versions: Mapping[str, Any]
    seconds: Mapping[str, float]
    kept: str | None
    images: Sequence[Attacked]

    @cached_property
    def rule(self) -> AttackRule:
        """What its votes say."""
        return AttackRule(self.record, self.radii, self.n, self.alpha)

    @cached_property
    def contradicted(self) -> list[tuple[Attacked, Point]]:
        """The certificates that are contradicted, with the nearest point that does so."""
        against = ((image, self.rule.contradictions(image)) for image in self.images)
        return [(image, min(points, key=lambda point: point.squared)) for image, points in against if points]

    @property
    def tried(self) -> int:
        """How many certified images were attacked within their radius."""
        return sum(any(image.inside(point) for point in image.points) for image in self.images)

    def write(self) -> None:
        """Write it. Raises StoreError where that fails."""
        values: dict[str, Any] = {
            "file": KIND,
            "format": FORMAT,
            "run": self.run,
            "record": self.record.to_meta(),
            "radii": self.radii,
            **asdict(self.budget),
            "n": self.n,
            "alpha": self.alpha,
            **recorded_key(self.key, self.key_drawn),
            "versions": dict(self.versions),
            "seconds": dict(self.seconds),
            "kept": self.kept,
            "images": [asdict(image) for image in self.images],
        }
        write_atomically(self.path, json.dumps(values) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The attack at `path`. InputError for other files; StoreError for one that is cut off."""
        values = values_of(path, KIND, FORMAT)
        with naming_damage(f"{path} holds values"):
            attack = cls(
                path=path,
                run=str(values["run"]),
                record=RunRecord.from_meta(values["record"]),
                radii=tuple(float(radius) for radius in values["radii"]),
                budget=Budget(**{name: int(values[name]) for name in Budget.__dataclass_fields__}),
                n=int(values["n"]),
                alpha=float(values["alpha"]),
                **key_of(values),
                versions=dict(values["versions"]),
                seconds={str(name): float(spent) for name, spent in dict(values["seconds"]).items()},
                kept=None if values.get("kept") is None else str(values["kept"]),
                images=[_image(line) for line in values["images"]],
            )
            attack._check()
        return attack

    def _check(self) -> None:
        """ValueError or TypeError for what no attack writes."""
        numbers = [image.index for image in self.images]
        if not numbers or numbers != sorted(set(numbers)) or any(each not in self.record.asked for each in numbers):
            raise ValueError("images are not some of the run's, each once")
        if list(self.radii) != sorted(set(self.radii)) or not all(0 < each < math.inf for each in self.radii):
            raise ValueError(f"radii {self.radii}")
        for image in self.images:
            self._check_image(image)

    def _check_image(self, image: Attacked) -> None:
        """That its certificate can be, and its points are those that follow from one another."""
        if not -1 <= image.predict < self.record.classes or image.certified != (image.radius > 0):
            raise ValueError(f"image {image.index} has class {image.predict} and radius {image.radius}")
        if not (0 <= image.radius < math.inf and 0 <= image.distance < math.inf):
            raise ValueError(f"image {image.index} has radius {image.radius} and distance {image.distance}")
        if image.certified != (image.clean is None):
            raise ValueError(f"image {image.index} has votes at itself and a certificate, or neither")
        self.rule.clean(image)
        state = replace(image, points=())
        for epsilon in self.radii:
            here = [point for point in image.points if point.epsilon == epsilon]
            if len(here) != self.rule.due(state, epsilon):
                raise ValueError(f"image {image.index} has {len(here)} points at {epsilon}")
            for point in here:
                self._check_point(image, point)
            state = replace(state, points=(*state.points, *here))
        if state.points != image.points:
            raise ValueError(f"image {image.index} has points at other radii")

    def _check_point(self, image: Attacked, point: Point) -> None:
        """That it lies in its ball, was judged by as many draws as were asked for, and answered where those ask for it."""
        if type(point.squared) is not int or not 0 <= point.squared <= reach(point.epsilon):
            raise ValueError(f"image {image.index} has a point outside its ball")
        hits = point.selection
        if sum(hits.values()) != self.budget.select or min(hits.values()) < 0:
            raise ValueError(f"image {image.index} has {sum(hits.values())} votes of {self.budget.select}")
        if not all(0 <= label < self.record.classes for label in hits):
            raise ValueError(f"image {image.index} has votes for other classes")
        if self.rule.speaks(image, hits) != (point.votes is not None):
            raise ValueError(f"image {image.index} has an answer that nothing asked for, or lacks one")
        if point.votes is not None:
            self.rule.answer(point.votes)


def is_attack_file(path: Path) -> bool:
    """Whether the file is one of `diffsmooth-trt attack`."""
    return is_of(path, KIND)


def _votes(given: Mapping[str, Any] | None) -> dict[int, int] | None:
    """Votes by class; JSON has names where we have numbers."""
    if given is None:
        return None
    if any(type(hits) is not int for hits in given.values()):
        raise TypeError(f"votes {given}")
    return {int(label): hits for label, hits in given.items()}


def _image(line: Mapping[str, Any]) -> Attacked:
    values = dict(line)
    for name in ("index", "label", "predict"):
        if type(values[name]) is not int:
            raise TypeError(f"{name} {values[name]!r}")
    for name in ("radius", "distance"):
        values[name] = float(values[name])
    points = tuple(
        Point(**{**point, "selection": _votes(point["selection"]), "votes": _votes(point["votes"])})
        for point in values.pop("points")
    )
    return Attacked(**{**values, "clean": _votes(values["clean"]), "points": points})
