"""The file of a transfer: one JSON object with the run's record, the other classifier, and each image's evidence and certificate.

It is written whole or not at all. Certificates are derived from the evidence again whenever it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..certify.rules import Outcome
from ..errors import StoreError
from ..files import write_atomically
from ..noise import Key
from ..runs.evidence import is_of, key_of, recorded_key, values_of
from ..runs.record import ClassifierId, RunRecord, naming_damage
from .pairs import Alone, Drawn, Pairs
from .rule import Evidence, TransferRule

KIND, FORMAT = "diffsmooth-trt transfer", 1


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """One image: its row in the data set, label and pixels, the run's `hits` for its `chosen` class among `trials`, the `pairs`
    or what the other classifier said alone, and the `outcome` for it."""

    index: int
    label: int
    sha256: str
    distance: float
    chosen: int
    hits: tuple[int, ...]
    trials: int
    pairs: Drawn
    outcome: Outcome

    @property
    def evidence(self) -> Evidence:
        """What the certificate follows from."""
        drawn, known = self.pairs, (self.chosen, self.hits, self.trials)
        if isinstance(drawn, Alone):
            return Evidence(*known, 0, self.distance, drawn.hits)
        return Evidence(*known, drawn.f_alone, self.distance)

    @property
    def correct(self) -> bool:
        """Whether the class is the label; where there is none, nothing is."""
        return 0 <= self.label == self.outcome.predict


@dataclass(frozen=True, kw_only=True)
class TransferFile:
    """A transfer: from the `run` at a path to `classifier`, by `pairs` draws an image at `alpha`, under a key of its own.

    `files` are the other classifier's and the data's paths by option, `versions` software and machine.
    """

    path: Path
    run: str
    record: RunRecord
    classifier: ClassifierId
    pairs: int
    alpha: float
    key: Key
    key_drawn: bool
    files: Mapping[str, str]
    versions: Mapping[str, Any]
    rows: Mapping[str, str]
    images: Sequence[Transferred]

    @cached_property
    def rule(self) -> TransferRule:
        """What its evidence says."""
        return TransferRule(self.record, self.pairs, self.alpha)

    @property
    def counted(self) -> int:
        """How many images shares are of: those with a result, and those that the run skipped."""
        return len(self.images) + len(self.record.skipped)

    def write(self) -> None:
        """Write it. Raises StoreError where that fails."""
        values: dict[str, Any] = {
            "file": KIND,
            "format": FORMAT,
            "run": self.run,
            "record": self.record.to_meta(),
            "classifier": dict(self.classifier.parts),
            "pairs": self.pairs,
            "alpha": self.alpha,
            "alpha_of_votes": self.rule.of_votes,
            "alpha_of_pairs": self.rule.of_pairs,
            **recorded_key(self.key, self.key_drawn),
            "files": dict(self.files),
            "versions": dict(self.versions),
            "rows": dict(self.rows),
            "images": [_line(image) for image in self.images],
        }
        write_atomically(self.path, json.dumps(values) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The transfer at `path`. InputError for other files; StoreError where a certificate does not follow from its evidence."""
        values = values_of(path, KIND, FORMAT)
        with naming_damage(f"{path} holds values"):
            transfer = cls(
                path=path,
                run=str(values["run"]),
                record=RunRecord.from_meta(values["record"]),
                classifier=ClassifierId(dict(values["classifier"])),
                pairs=values["pairs"],
                alpha=float(values["alpha"]),
                **key_of(values),
                files=dict(values["files"]),
                versions=dict(values["versions"]),
                rows=dict(values["rows"]),
                images=[_image(line) for line in values["images"]],
            )
            transfer._check(values)
        return transfer

    def _check(self, values: Mapping[str, Any]) -> None:
        """Raise for what does not follow from the evidence."""
        if (values["alpha_of_votes"], values["alpha_of_pairs"]) != (self.rule.of_votes, self.rule.of_pairs):
            raise StoreError(
                f"{self.path}: the shares of alpha do not follow from pairs and draws: restore it from a copy"
            )
        numbers = [image.index for image in self.images]
        if not numbers or numbers != sorted(set(numbers)) or any(number not in self.record.asked for number in numbers):
            raise StoreError(f"{self.path}: its images are not those of the run, each once: restore it from a copy")
        for image in self.images:
            if not 0 <= image.distance < math.inf:
                raise StoreError(
                    f"{self.path}: image {image.index} has distance {image.distance}: restore it from a copy"
                )
            drawn = isinstance(image.pairs, Alone), image.pairs.total
            if drawn != self.rule.draws(image.hits, image.trials) or min(vars(image.pairs).values()) < 0:
                raise StoreError(
                    f"{self.path}: image {image.index} does not have the draws that follow from its votes: restore it from a copy"
                )
            if not self.rule.outcome(image.evidence).agrees(image.outcome, image.distance):
                raise StoreError(
                    f"{self.path}: the certificate of image {image.index} does not follow from its evidence"
                )


def is_transfer_file(path: Path) -> bool:
    """Whether the file is one of `diffsmooth-trt transfer`."""
    return is_of(path, KIND)


def _line(image: Transferred) -> dict[str, Any]:
    values = asdict(image)
    outcome = values.pop("outcome")
    return {**values, **{name: outcome[name] for name in ("predict", "radius", "p_lower")}}


def _image(line: Mapping[str, Any]) -> Transferred:
    outcome = Outcome(line["predict"], line["radius"], line["p_lower"], line["hits"][-1], line["trials"])
    more = {name: line[name] for name in ("index", "label", "chosen", "trials")}
    more |= {"sha256": str(line["sha256"]), "distance": float(line["distance"])}
    for value in (
        *line["hits"],
        *line["pairs"].values(),
        line["index"],
        line["label"],
        line["chosen"],
        line["trials"],
        line["predict"],
    ):
        if type(value) is not int:
            raise TypeError(f"{value!r} where an integer belongs")
    drawn: Drawn = Alone(**line["pairs"]) if "others" in line["pairs"] else Pairs(**line["pairs"])
    return Transferred(**more, hits=tuple(line["hits"]), pairs=drawn, outcome=outcome)
