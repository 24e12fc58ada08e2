"""What is asked of each image: how many draws at most, at which level, when to stop, and for which certificate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import NO_NUMBER, InputError, shown
from ..ranges import check_types, flag, integer
from ..statistics.sequential import FIRST_LOOK, MAX_DRAWS
from .blocks import DrawPlan

COMMANDS = ("certify", "predict")
CERTIFICATES = ("smoothing", "lipschitz")
OF_CERTIFY = ("radius", "tolerance", "family_wise")
MOST = 10**12  # more samples than the statistics are verified for


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """How many draws an image takes, and what is said of it then.

    `n0` draws select the class and `n` fresh ones estimate (certify), or `n` are tested (predict), at level `alpha` in (0, 1).
    `radius` (ℓ2, image units; one number or several) and `tolerance` make `n` the most draws an image may take; with
    `family_wise`, alpha is for all images together. `certificate` "lipschitz" draws nothing: it rests on `lipschitz`, the
    constant of the logits in [-1, 1] units, or on the paper's formula where that is None. Raises InputError for values that
    cannot be.
    """

    command: str = "certify"
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    radius: tuple[float, ...] | None = None
    tolerance: float | None = None
    family_wise: bool = False
    certificate: str = "smoothing"
    lipschitz: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.command not in COMMANDS:
            raise InputError(f"command {self.command!r} is unknown: use one of {', '.join(COMMANDS)}")
        for name in ("n0", "n"):
            integer(name, getattr(self, name), 1, MOST)
        if not (math.isfinite(self.alpha) and 0 < self.alpha < 1):
            raise InputError(f"--alpha must lie between 0 and 1, got {self.alpha}")
        self._check_radii()
        self._check_early()
        self._check_certificate()

    def _check_radii(self) -> None:
        if self.radius is None:
            return
        try:
            radii = tuple(float(r) for r in (self.radius if isinstance(self.radius, Iterable) else (self.radius,)))
        except NO_NUMBER:
            raise InputError(
                f"--radius takes numbers, got {shown(self.radius)}: give ℓ2 radii in image units"
            ) from None
        wrong = [r for r in radii if not (math.isfinite(r) and r > 0)]
        if wrong or not radii:
            raise InputError(
                f"--radius must be above 0, got {wrong[0] if wrong else 'none'}: give ℓ2 radii in image units"
            )
        twice = [r for r in radii if radii.count(r) > 1]
        if twice:
            raise InputError(f"--radius has {twice[0]} more than once: give each radius once")
        object.__setattr__(self, "radius", tuple(sorted(radii)))

    def _check_early(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(
                f"--tolerance must lie between 0 and 1, got {self.tolerance}: 0.05 stops within 5 % of the radius"
            )
        if self.radius is not None and self.tolerance is not None:
            raise InputError("--tolerance and --radius are two rules for when to stop, got both: choose one")
        given = [flag(name) for name in OF_CERTIFY if getattr(self, name)]
        if given and self.command != "certify":
            raise InputError(f"{given[0]} is for certify, got {self.command}: leave it out")
        most = MAX_DRAWS if self.radius is not None else MOST
        if self.sequential and not FIRST_LOOK <= self.n <= most:
            raise InputError(
                f"--n must be {FIRST_LOOK} to {most} with {given[0]}, got {self.n}: it is the most draws an image"
            )

    def _check_certificate(self) -> None:
        if self.certificate not in CERTIFICATES:
            raise InputError(f"--certificate is {self.certificate!r}: use one of {', '.join(CERTIFICATES)}")
        if self.lipschitz is not None and not (math.isfinite(self.lipschitz) and self.lipschitz > 0):
            raise InputError(f"--lipschitz must be above 0, got {self.lipschitz}: leave it out for the paper's formula")
        if self.smoothing and self.lipschitz is not None:
            raise InputError("--lipschitz is for --certificate lipschitz: leave it out")

    @property
    def certifies(self) -> bool:
        """Whether radii are certified; else classes are predicted."""
        return self.command == "certify"

    @property
    def smoothing(self) -> bool:
        """Whether what is said follows from votes under noise."""
        return self.certificate == "smoothing"

    @property
    def sequential(self) -> bool:
        """Whether an image may take fewer than `n` draws."""
        return self.radius is not None or self.tolerance is not None

    @property
    def preset(self) -> tuple[float, ...]:
        """The radii that are decided, ascending; none where the radius is estimated."""
        return self.radius or ()

    @property
    def plan(self) -> DrawPlan:
        """The samples that are drawn, at most."""
        if not self.smoothing:
            return DrawPlan(())
        if not self.certifies:
            return DrawPlan.predict(self.n)
        return DrawPlan.certify(self.n0, self.n, sequential=self.sequential)

    def recorded(self) -> dict[str, Any]:
        """What decides the votes and what is said of them, as JSON values."""
        if not self.smoothing:
            names = ["command", "certificate", "lipschitz"]
        else:
            names = ["command", *(["n0"] if self.certifies else []), "n", "alpha"]
        names += [name for name in OF_CERTIFY if getattr(self, name)]
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any]) -> Self:
        """What `recorded` gave, which may hold other things besides."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: recorded[name] for name in names if name in recorded})
