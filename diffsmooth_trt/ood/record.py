"""What an out-of-distribution run says of itself: the first line of its file, typed.

`to_meta` gives the line's JSON values, `from_meta` reads them: it is the one place where damage is found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ..datasets import Matching
from ..images import ImageChoice
from ..noise import Key
from ..noise.counters import KEY_BITS
from ..runs.record import ClassifierId

KIND = "diffsmooth-trt ood"
FORMAT = 1
# What decides a run's records besides the files and the choice of images, by kind.
EVERY = ("kind", "score", "temperature", "seed")
BY_KIND = {
    "clean": ("draws",),
    "guaranteed": ("draws", "epsilon"),
    "adversarial": ("draws", "epsilon", "budget"),
    "certified": ("n0", "n", "alpha", "family_wise", "tolerance", "radius", "gate"),
}


@dataclass(frozen=True, kw_only=True)
class OodAsked:
    """What decides a run's records, as `OodConfig` has it; what its kind does not use has its default."""

    kind: str
    score: str
    temperature: float
    seed: int
    choice: ImageChoice
    draws: int = 1
    epsilon: float = 0.0
    budget: str = ""
    n0: int = 0
    n: int = 0
    alpha: float = 1.0
    family_wise: bool = False
    tolerance: float = 0.0
    radius: float = 0.0
    gate: float = 0.0

    @property
    def certified(self) -> bool:
        """Whether confidences are bounded over ℓ2 balls by draws."""
        return self.kind == "certified"

    def recorded(self) -> dict[str, Any]:
        """The values as JSON."""
        names = (*EVERY, *BY_KIND[self.kind])
        return {**self.choice.recorded(), **{name: getattr(self, name) for name in names}}

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any]) -> Self:
        """What `recorded` gave."""
        of_images = {field.name for field in dataclasses.fields(ImageChoice)}
        choice = ImageChoice.of_record(recorded)
        rest = {name: value for name, value in recorded.items() if name not in of_images}
        if rest.get("budget") == "published":  # its name in earlier versions
            rest["budget"] = "large"
        if {*EVERY, *BY_KIND[rest["kind"]]} != set(rest):
            raise ValueError(f"config of kind {rest['kind']} with {', '.join(sorted(rest))}")
        return cls(choice=choice, **rest)


@dataclass(frozen=True)
class SetRecord:
    """One set: its name, what names its content (`Images.identity`), how many images of it were asked for, and why rows of
    these cannot be used.
    """

    name: str
    data: str
    images: int
    skipped: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What decides its records, as JSON values: of rows that cannot be used which ones, for libraries reword the reasons."""
        values: dict[str, Any] = {"name": self.name, "data": self.data, "images": self.images}
        return values | ({"skipped": sorted(self.skipped)} if self.skipped else {})

    @classmethod
    def of_meta(cls, recorded: Mapping[str, Any], reasons: Mapping[str, Any]) -> Self:
        """What `described` gave, with the reasons by row."""
        skipped = {int(row): str(reasons[str(row)]) for row in recorded.get("skipped", ())}
        return cls(str(recorded["name"]), str(recorded["data"]), int(recorded["images"]), skipped)


@dataclass(frozen=True, kw_only=True)
class OodRecord:
    """What a run says of itself; names that it shares with `RunRecord` mean the same. `joint`: there is a detector. `labels`
    are the in-distribution set's; None where it is not known which class they are.
    """

    asked: OodAsked
    classifier: ClassifierId
    classes: int
    law: str
    total_variation: float
    joint: bool
    sets: tuple[SetRecord, ...]
    key: Key
    key_drawn: bool
    versions: Mapping[str, Any]
    files: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    rows: Mapping[str, str] | None = None
    labels: Mapping[str, Any] | None = None

    @property
    def level(self) -> float:
        """α of one image."""
        asked = self.asked
        images = sum(each.images for each in self.sets)
        return float(np.nextafter(asked.alpha / images, 0)) if asked.family_wise else asked.alpha

    def described(self) -> dict[str, Any]:
        """What decides its records besides the key, as JSON values: what a resumed run must agree with."""
        return {
            "config": self.asked.recorded(),
            "classifier": dict(self.classifier.parts),
            "classes": self.classes,
            "law": self.law,
            "total_variation": self.total_variation,
            "joint": self.joint,
            "sets": [each.described() for each in self.sets],
        }

    def to_meta(self) -> dict[str, Any]:
        """The JSON values of the first line."""
        meta = {
            **self.described(),
            "file": KIND,
            "format": FORMAT,
            "key": self.key.hex,
            "key_source": "drawn" if self.key_drawn else "given",
            "versions": dict(self.versions),
            "files": dict(self.files),
            "notes": list(self.notes),
        }
        more: dict[str, Any] = {"shape": None if self.shape is None else list(self.shape), "rows": self.rows}
        more["labels"] = self.labels
        skipped = {str(number): each.skipped for number, each in enumerate(self.sets) if each.skipped}
        more["skipped"] = {
            number: {str(row): why for row, why in rows.items()} for number, rows in skipped.items()
        } or None
        return meta | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """The record that the values hold. Raises ValueError, TypeError or LookupError for what `to_meta` cannot have given."""
        for name, kind in (
            ("classifier", dict),
            ("versions", dict),
            ("files", dict),
            ("key", str),
            ("key_source", str),
        ):
            if not isinstance(meta[name], kind):
                raise TypeError(name)
        if not 0 <= int(meta["key"], 16) < 2**KEY_BITS:
            raise ValueError("key")
        reasons = meta.get("skipped", {})
        sets = tuple(SetRecord.of_meta(each, reasons.get(str(n), {})) for n, each in enumerate(meta["sets"]))
        rows = meta.get("rows")
        return cls(
            asked=OodAsked.of_record(meta["config"]),
            classifier=ClassifierId(meta["classifier"]),
            classes=int(meta["classes"]),
            law=str(meta["law"]),
            total_variation=float(meta["total_variation"]),
            joint=bool(meta["joint"]),
            sets=sets,
            key=Key(int(meta["key"], 16)),
            key_drawn=meta["key_source"] == "drawn",
            versions=meta["versions"],
            files=meta["files"],
            notes=tuple(map(str, meta["notes"])),
            shape=tuple(map(int, meta["shape"])) if "shape" in meta else None,
            rows=rows if isinstance(rows, dict) else None,
            labels=Matching.of_record(meta["labels"]).recorded() if "labels" in meta else None,
        )
