"""What a run says of itself: the table `meta` of its store, typed.

`to_meta` gives the table's JSON values, `from_meta` reads them: it is the one place where damage is found.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..certify.rules import Conditions, Rule, rule_of
from ..certify.stopping import Stopping
from ..datasets import Matching
from ..errors import MALFORMED, InputError
from ..images import ImageChoice
from ..noise import Key
from ..noise.counters import DRAWN_BY, KEY_BITS, NOISE_VERSION
from .shard import Shard

FORMAT = 4
MOST_CLASSES = 10**6
# Format 1 has no table `decisions`, nor runs that need it; 1 and 2 have no distances; up to 3 votes are lists (counts.py).
READABLE = (1, 2, 3, FORMAT)
REQUIRED = (
    "config",
    "classifier",
    "classes",
    "total_variation",
    "key",
    "key_source",
    "law",
    "data",
    "images",
    "versions",
)


@contextmanager
def naming_damage(values: str) -> Iterator[None]:
    """Turn what odd values raise into an InputError that begins with where they are."""
    try:
        yield
    except InputError:
        raise
    except MALFORMED as error:
        raise InputError(
            f"{values} that this version cannot use ({error}): use the version that wrote it, or restore it from a copy"
        ) from error


@dataclass(frozen=True)
class ClassifierId:
    """Everything that decides a vote besides key and image: `parts`, JSON values, with the hash that names them as `id`."""

    parts: Mapping[str, Any]

    def check(self) -> None:
        """Raise LookupError, TypeError or ValueError where a part is missing that every classifier has."""
        named = isinstance(self.parts["method"], str) and 0 <= self.sigma < math.inf
        engines = self.engines.values()
        sound = all(isinstance(part[name], str) for part in engines for name in ("backend", "precision"))
        hashed = all("callable" in part or isinstance(part["sha256"], str) for part in engines)
        if not (named and sound and hashed):
            raise ValueError("classifier")

    @property
    def id(self) -> str:
        """The classifier's name, 16 hexadecimal digits."""
        return str(self.parts.get("id"))

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.parts["method"])

    @property
    def sigma(self) -> float:
        """The noise level in image units; 0.0 where there is none."""
        return float(self.parts["sigma"] or 0.0)

    @property
    def noise_version(self) -> object:
        """The version of the noise that its votes were drawn under."""
        return self.parts.get("noise_version")

    @property
    def fresh(self) -> bool:
        """Whether it adds noise of its own that is new for every draw."""
        return bool(self.parts.get("local_noise") == "fresh")

    @property
    def steps(self) -> object:
        """The noise levels of a diffusion classifier."""
        return self.parts.get("steps")

    @property
    def engines(self) -> dict[str, dict[str, Any]]:
        """What it records of each engine, by its part of the method."""
        return {part: values for part, values in self.parts.items() if isinstance(values, dict)}


def check_noise_version(run: Path, classifier: ClassifierId) -> None:
    """InputError for a run whose noise an earlier release draws: it can be reported, not verified or resumed."""
    drawn = classifier.noise_version
    if isinstance(drawn, int) and drawn in DRAWN_BY:
        raise InputError(
            f"{run} has noise of version {drawn}, this release draws version {NOISE_VERSION}: use release {DRAWN_BY[drawn]} "
            "to verify or resume it; `report` reads it as it is"
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run says of itself. What decides its results:

    `method` (its name), `choice` of images and `stopping` are what was asked; `classifier` is what votes, `classes` how many
    labels are counted (with `void`, the one that stands for abstentions); `law` is the digest of the noise's law and
    `total_variation` its bound; `data` names the data set's content, of which `images` images were asked for; `slack` is what
    bounds allow for the place in a batch; `lipschitz_constant` is that of runs without noise, `thresholds` those of preset radii,
    by `repr` of the radius. `key` is the noise's, which was given by the user or drawn.

    And what it keeps besides: `versions` of software and machine, `shape` of the images, whether `rows` of each engine are
    "proved" or "assumed" independent, how the batch was chosen, the name of its `source` and its `files`, `notes` on the votes,
    network `evaluations` of how many votes, the n that it was `extended_from`, what its `audit` found, which `shard` of
    the images it draws (`images` are those of all shards), how `labels` of the data set are classes (`Matching`) and what the
    classifier calls these (`class_names`), which images were `skipped` as they cannot be used, with label and reason by row, and
    what `data` was before (`data_before`), where images that were not drawn yet changed. None: an older version made it.
    """

    method: str
    choice: ImageChoice
    stopping: Stopping
    classifier: ClassifierId
    classes: int
    law: str
    total_variation: float
    data: str
    images: int
    key: Key
    key_drawn: bool
    versions: Mapping[str, Any]
    void: int | None = None
    slack: float = 0.0
    lipschitz_constant: float | None = None
    thresholds: Mapping[str, Any] | None = None
    shape: tuple[int, ...] | None = None
    rows: Mapping[str, str] | None = None
    batch_choice: Mapping[str, Any] | None = None
    source: str | None = None
    files: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evaluations: tuple[int, int] = (0, 0)
    extended_from: tuple[int, ...] = ()
    audit: Mapping[str, Any] | None = None
    shard: Shard | None = None
    labels: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    skipped: Mapping[int, tuple[int, str]] = dataclasses.field(default_factory=dict)
    data_before: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def conditions(self) -> Conditions:
        """What its votes were drawn under."""
        return Conditions(
            sigma=self.classifier.sigma,
            total_variation=self.total_variation,
            slack=self.slack,
            void=self.void,
            images=self.images,
            lipschitz_constant=self.lipschitz_constant,
        )

    @property
    def rule(self) -> Rule:
        """What its votes say, and when they suffice. Made anew at each call. Raises ValueError for values that no run has."""
        return rule_of(self.stopping, self.conditions)

    @property
    def asked(self) -> range:
        """The rows of the images that it was asked for: all of the data set, or with `skip`, `max` and as a shard some."""
        rows = range(0, self.images * self.choice.skip, self.choice.skip)
        return rows if self.shard is None else self.shard.rows(rows)

    @property
    def matching(self) -> Matching | None:
        """How labels became classes."""
        return None if self.labels is None else Matching.of_record(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether its images have labels."""
        return self.matching is None or self.matching.by != "none"

    @property
    def has_distances(self) -> bool:
        """Whether it says how far rounding moved each image: with `quantise` not before format 3, else it is 0."""
        return self.format > 2 or not self.choice.quantise

    @property
    def conditional(self) -> bool:
        """Whether its certificates rest on an assumption about the network (Lipschitz)."""
        return self.lipschitz_constant is not None

    def described(self) -> dict[str, Any]:
        """What decides its results besides the key, as JSON values: what a resumed run must agree with."""
        values: dict[str, Any] = {
            "config": {"method": self.method, **self.choice.recorded(), **self.stopping.recorded()},
            "classifier": dict(self.classifier.parts),
            "classes": self.classes,
            "law": self.law,
            "total_variation": self.total_variation,
            "data": self.data,
            "images": self.images,
        }
        more = {name: getattr(self, name) for name in ("lipschitz_constant", "void", "thresholds", "labels")}
        values |= {name: value for name, value in more.items() if value is not None}
        return values | ({"slack": self.slack} if self.slack else {})

    def to_meta(self) -> dict[str, Any]:
        """The JSON values of the table `meta`; what the run does not have is left out."""
        meta = {
            **self.described(),
            "key": self.key.hex,
            "key_source": "drawn" if self.key_drawn else "given",
            "versions": dict(self.versions),
            "format": self.format,
            "files": dict(self.files),
        }
        more: dict[str, Any] = {name: getattr(self, name) for name in ("rows", "batch_choice", "source", "audit")}
        more["shape"] = None if self.shape is None else list(self.shape)
        more["class_names"] = None if self.class_names is None else list(self.class_names)
        more["notes"] = list(self.notes) or None
        more["evaluations"] = list(self.evaluations) if any(self.evaluations) else None
        more["shard"] = None if self.shard is None else str(self.shard)
        more["extended_from"] = list(self.extended_from) or None
        more["skipped"] = {str(row): list(why) for row, why in self.skipped.items()} or None
        more["data_before"] = list(self.data_before) or None
        return meta | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """The record that `meta` holds. Raises ValueError, TypeError or LookupError for what `to_meta` cannot have given."""
        config, classifier = _mapping(meta, "config"), ClassifierId(_mapping(meta, "classifier"))
        classifier.check()
        key, evaluations = meta["key"], meta.get("evaluations", [0, 0])
        if not isinstance(key, str) or not 0 <= int(key, 16) < 2**KEY_BITS:
            raise ValueError("key")
        images, skip = meta["images"], config.get("skip", 1)
        if not (type(images) is type(skip) is int and images > 0 and skip > 0 and images * skip < 2**62):
            raise ValueError(f"images {images} and skip {skip}, which are no numbers from 1 on")
        if not (isinstance(evaluations, list) and len(evaluations) == 2 and all(type(n) is int for n in evaluations)):
            raise ValueError("evaluations")
        if not (type(meta["classes"]) is int and 0 < meta["classes"] <= MOST_CLASSES):
            raise ValueError(f"classes {meta['classes']}")
        try:
            stopping, choice = Stopping.of_record(config), ImageChoice.of_record(config)
            shard = Shard.parse(str(meta["shard"])) if "shard" in meta else None
        except InputError as error:
            raise ValueError(error.message) from None
        return cls(
            method=str(config["method"]),
            choice=choice,
            stopping=stopping,
            classifier=classifier,
            classes=meta["classes"],
            law=str(meta["law"]),
            total_variation=float(meta["total_variation"]),
            data=str(meta["data"]),
            images=images,
            key=Key(int(key, 16)),
            key_drawn=meta["key_source"] == "drawn",
            versions=_mapping(meta, "versions"),
            void=_number(meta, "void"),
            slack=float(meta.get("slack", 0.0)),
            lipschitz_constant=float(meta["lipschitz_constant"]) if "lipschitz_constant" in meta else None,
            thresholds=_mapping(meta, "thresholds") if "thresholds" in meta else None,
            shape=tuple(map(int, meta["shape"])) if "shape" in meta else None,
            rows=_mapping(meta, "rows") if "rows" in meta else None,
            batch_choice=_mapping(meta, "batch_choice") if "batch_choice" in meta else None,
            source=meta.get("source"),
            files=_mapping(meta, "files") if "files" in meta else {},
            notes=tuple(map(str, meta.get("notes", ()))),
            evaluations=(evaluations[0], evaluations[1]),
            extended_from=tuple(map(int, meta.get("extended_from", ()))),
            audit=meta.get("audit"),
            shard=shard,
            labels=Matching.of_record(_mapping(meta, "labels")).recorded() if "labels" in meta else None,
            class_names=tuple(map(str, meta["class_names"])) if "class_names" in meta else None,
            skipped={int(row): (int(n), str(why)) for row, (n, why) in meta.get("skipped", {}).items()},
            data_before=tuple(map(str, meta.get("data_before", ()))),
            format=int(meta["format"]),
        )


def _mapping(meta: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = meta[name]
    if not isinstance(value, dict):
        raise TypeError(name)
    return value


def _number(meta: Mapping[str, Any], name: str) -> int | None:
    value = meta.get(name)
    return None if value is None else int(value)
