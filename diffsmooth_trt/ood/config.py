"""The configuration of an out-of-distribution run: frozen, validated at the edge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files import check_outputs
from ..images import REFUSE, ImageChoice
from ..noise import Key, check_noise_level
from ..ranges import flag, integer, number
from ..report.figures import check_suffix
from ..runs.config import Cluster
from ..statistics.sequential import FIRST_LOOK
from .bounds import MAX_DRAWS
from .budget import BUDGETS
from .generated import KINDS as GENERATED
from .generated import PREFIX
from .record import BY_KIND, EVERY, OodAsked
from .scores import Score

KINDS = ("clean", "guaranteed", "certified", "adversarial")
RADII = tuple(0.25 * step for step in range(9))
GATE = 1 / 256


@dataclass(frozen=True)
class OodConfig:
    """Everything that an out-of-distribution run is asked for; names are the command line's.

    `classifier` is an engine file; `engine`, where given, the denoiser in front of it, and `detector` that of a joint model.
    `out_data` are data sets or `generated:KIND`. `epsilon` is ℓ∞, `radii` and `radius` ℓ2, all in image units. Raises InputError
    on construction for values that cannot be.
    """

    classifier: Path
    in_data: Path
    out_data: tuple[str, ...]
    out: Path
    engine: Path | None = None
    detector: Path | None = None
    kind: str = "clean"
    score: str = "softmax"
    temperature: float = 1.0
    sigma: float | None = None
    epsilon: float = 0.01
    budget: str = "small"
    draws: int = 1
    n0: int = 100
    n: int = 10_000
    alpha: float | None = None  # 0.001, for distro-l2 0.01 as in its code
    family_wise: bool = False
    tolerance: float = 0.05
    radius: float = 0.25
    gate: float = GATE
    radii: tuple[float, ...] = RADII
    accuracy: tuple[float, ...] = ()
    seed: int = 0
    skip: int = 1
    max: int | None = None
    resize: int | None = None
    crop: int | None = None
    quantise: bool = False
    channels: int | None = None
    class_map: Path | None = None
    bad_images: str = REFUSE
    batch: int = 64
    backend: str | None = None
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    ray: str | None = None
    workers: int | None = None
    key: Key | None = None  # or its 64 hexadecimal digits
    resume: bool = False
    json: Path | None = None
    figure: Path | None = None

    def __post_init__(self) -> None:
        for name in ("classifier", "in_data", "out", "engine", "detector", "json", "figure", "class_map"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        given = (self.out_data,) if isinstance(self.out_data, str | Path) else self.out_data
        object.__setattr__(self, "out_data", tuple(str(name) for name in given))
        if self.kind not in KINDS:
            raise InputError(f"--kind {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if self.budget not in BUDGETS:
            raise InputError(f"--budget {self.budget!r} is unknown: use one of {', '.join(BUDGETS)}")
        self._check_kind()
        if self.alpha is None and self.kind == "certified":
            object.__setattr__(self, "alpha", 0.01 if self.score == "distro-l2" else 0.001)
        self._check_score()
        self._check_numbers()
        self._check_sets()
        self._check_cluster()
        dataclasses.replace(self.choice)  # checks itself
        if self.key is not None and not isinstance(self.key, Key):
            object.__setattr__(self, "key", Key.parse(str(self.key)))
        if self.figure is not None:
            check_suffix(self.figure)
        inputs: dict[str, Path | None] = {"--classifier": self.classifier, "--engine": self.engine}
        inputs |= {"--detector": self.detector, "--in-data": self.in_data, "--class-map": self.class_map}
        inputs |= {f"--out-data {name}": Path(name) for name in self.out_data if not name.startswith(PREFIX)}
        check_outputs({"--out": self.out, "--json": self.json, "--figure": self.figure}, inputs)

    @property
    def scored(self) -> Score:
        """The score."""
        return Score(self.score, self.temperature)

    def _check_kind(self) -> None:
        """InputError for options of other kinds, which would do nothing."""
        for field in dataclasses.fields(self):
            kinds = [kind for kind, names in BY_KIND.items() if field.name in names]
            if kinds and self.kind not in kinds and getattr(self, field.name) != field.default:
                option = flag(field.name)
                raise InputError(f"{option} is for --kind {', '.join(kinds)}, got {self.kind}: leave it out")

    def _check_score(self) -> None:
        score = self.scored
        if score.kind == "distro-l2" and self.kind != "certified":
            raise InputError(f"--score distro-l2 is for --kind certified, got {self.kind}: use softmax")
        if score.kind == "energy" and self.kind == "certified":
            raise InputError("--score energy is unbounded, --kind certified needs one in [0, 1]: use softmax or reject")
        if self.detector is not None and score.kind in ("energy", "reject"):
            raise InputError(f"--score {score.kind} is a classifier's own, --detector makes a joint model: use softmax")
        if score.kind == "distro-l2" and self.tolerance:
            object.__setattr__(self, "tolerance", 0.0)  # its radius is for a number of draws chosen beforehand
        if self.kind == "certified" and self.engine is None and self.sigma is None:
            raise InputError(
                "--sigma is needed by --kind certified without --engine: a classifier does not say its own"
            )

    def _check_numbers(self) -> None:
        for name, high in (("skip", 2**62), ("max", 2**62), ("batch", 2**16), ("threads", 4096)):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1, high)
        integer("draws", self.draws, 0, 10**6)
        integer("n0", self.n0, 1, MAX_DRAWS)
        integer("n", self.n, FIRST_LOOK, MAX_DRAWS)
        integer("seed", self.seed, 0, 2**128 - 1)
        if self.alpha is not None:
            number("alpha", self.alpha, 0, 1, "0.001 is usual")
        number("epsilon", self.epsilon, 0, 1, "ℓ∞ distance in [0, 1] image units, 0.01 is usual")
        number("radius", self.radius, 0, math.inf, "give an ℓ2 radius in image units")
        if self.sigma is not None:
            check_noise_level("sigma", self.sigma)
        for name, low in (("tolerance", 0), ("gate", 0)):
            if getattr(self, name) != low:
                number(name, getattr(self, name), 0, 1, "0 turns it off")
        radii = tuple(float(r) for r in (self.radii if isinstance(self.radii, Iterable) else (self.radii,)))
        wrong = [r for r in radii if not (math.isfinite(r) and r >= 0)]
        if wrong or not radii:
            raise InputError(f"--radii must be 0 or more, got {wrong[0] if wrong else 'none'}: ℓ2 radii in image units")
        object.__setattr__(self, "radii", tuple(sorted(set(radii))))
        object.__setattr__(self, "accuracy", tuple(self.accuracy))
        for epsilon in self.accuracy:
            number("accuracy", epsilon, 0, 1, "ℓ∞ distances in [0, 1] image units, 2/255,8/255 is usual")

    @property
    def cluster(self) -> Cluster:
        """Who draws."""
        return Cluster(ray=self.ray, workers=self.workers, device=self.device)

    def _check_cluster(self) -> None:
        """InputError where workers are asked for what they do not do."""
        if self.cluster.address is None:
            return
        asked = "--ray" if self.ray is not None else f"--device {self.device}"
        if self.kind != "certified":
            raise InputError(f"{asked} is for --kind certified, got {self.kind}, which one process does: leave it out")
        if self.score == "distro-l2":
            raise InputError(f"{asked} is not for --score distro-l2, whose further pass one process does: leave it out")
        if self.accuracy:
            raise InputError(f"{asked} is not for --accuracy, which one process attacks for: leave one out")

    def _check_sets(self) -> None:
        if not self.out_data:
            raise InputError("--out-data is empty: give at least one out-of-distribution set")
        for name in self.out_data:
            if self.out_data.count(name) > 1:
                raise InputError(f"--out-data has {name} more than once: give each set once")
            if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in GENERATED:
                raise InputError(f"--out-data {name} is unknown: use one of {', '.join(PREFIX + k for k in GENERATED)}")

    @property
    def choice(self) -> ImageChoice:
        """Which images of each set, and what becomes of their pixels."""
        return ImageChoice(
            skip=self.skip,
            max=self.max,
            resize=self.resize,
            crop=self.crop,
            quantise=self.quantise,
            channels=self.channels,
            bad_images=self.bad_images,
        )

    @property
    def asked(self) -> OodAsked:
        """The part that decides the records: what a resumed run must agree with."""
        names = (*EVERY, *BY_KIND[self.kind])
        return OodAsked(choice=self.choice, **{name: getattr(self, name) for name in names})


def ood_field_names() -> list[str]:
    """The names of OodConfig's fields."""
    return [field.name for field in dataclasses.fields(OodConfig)]
