"""The configuration of a run: frozen, validated at the edge, passed explicitly."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..device import device_number
from ..errors import InputError
from ..files import check_outputs
from ..methods import DIFFUSION_CLASSIFIERS, METHODS
from ..methods.diffusion_classifier import PUBLISHED_SIEVE, SIFTS, WEIGHTS, Settings
from ..noise import check_noise_level
from ..noise.counters import KEY_BITS, KEY_DIGITS, check_fresh
from ..statistics.sequential import FIRST_LOOK, MAX_DRAWS

COMMANDS = ("certify", "predict")
CERTIFICATES = ("smoothing", "lipschitz")
STOPPING = ("radius", "tolerance", "family_wise")
# Whose options they are; elsewhere they are refused, lest somebody take a certificate for what it is not.
OWNERS = {
    **dict.fromkeys(("local_sigma", "m"), ("diffsmooth",)),
    **dict.fromkeys(("local_noise", "classifier_seed"), ("diffsmooth", *DIFFUSION_CLASSIFIERS)),
    **dict.fromkeys(("steps", "s_max", "weights", "sift", "sift_margin", "classes"), DIFFUSION_CLASSIFIERS),
    "drop_steps": ("epndc",),
}


# More samples than the statistics are verified for, and sizes beyond any machine.
LIMITS = {"n0": 10**12, "n": 10**12, "m": 2**16 - 1, "batch": 2**16, "skip": 2**62, "max": 2**62, "threads": 4096}


def _positive(name: str, value: int) -> None:
    high = LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise InputError(f"--{name.replace('_', '-')} must be an integer of 1 to {high}, got {value}")


def parse_key(text: str) -> int:
    """A key as its 256-bit integer, from 64 hexadecimal digits: the 32 bytes of XChaCha20's key in order."""
    digits = text.removeprefix("0x")
    if len(digits) != KEY_DIGITS or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise InputError(
            f"--key takes {KEY_DIGITS} hexadecimal digits, got {len(digits)} characters: leave it out to draw one, or copy all "
            "of it"
        )
    return int(digits, 16)


def recorded_key(given: str | None) -> dict[str, str]:
    """What a new run records of its key: the digits of the one `given`, else of one that the operating system draws."""
    key = secrets.randbits(KEY_BITS) if given is None else parse_key(given)
    return {"key": f"{key:0{KEY_DIGITS}x}", "key_source": "drawn" if given is None else "given"}


@dataclass(frozen=True)
class RunConfig:
    """Everything that a certify or predict run is asked for; names are the command line's.

    `sigma` is in image units and may be None where the denoiser says its own; `n0` is for certify only; `key` is hex or
    None (drawn by the operating system). `radius` (ℓ2, image units; one number or several) and `tolerance` are for certify only,
    and make `n` the most draws an image may take; `quantise` rounds float images to the 8-bit grid, what is said stays about the
    images as given (see `Rule`); `batch` is a number of rows or "auto", `device` "cpu" or "cuda:N".
    Raises InputError on construction for values that cannot be.
    """

    command: str
    engine: Path
    data: Path
    out: Path
    classifier: Path | None = None
    method: str = "dds"
    sigma: float | None = None
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    radius: tuple[float, ...] | None = None
    tolerance: float | None = None
    family_wise: bool = False
    certificate: str = "smoothing"
    lipschitz: float | None = None
    local_sigma: float = 0.12
    m: int = 5
    local_noise: str = Settings.local_noise
    classifier_seed: int = Settings.classifier_seed
    steps: int = Settings.steps
    s_max: float = Settings.s_max
    weights: str = Settings.weights
    drop_steps: int | None = Settings.drop_steps
    sift: str = Settings.sift
    sift_margin: float = Settings.sift_margin
    classes: tuple[int, ...] | None = Settings.classes
    skip: int = 1
    max: int | None = None
    resize: int | None = None
    crop: int | None = None
    quantise: bool = False
    batch: int | str = 64
    backend: str | None = None
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    allow_host_code: bool = False
    key: str | None = None
    resume: bool = False
    tsv: Path | None = None

    def __post_init__(self) -> None:
        for name in ("engine", "data", "out", "classifier", "tsv"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        if self.command not in COMMANDS:
            raise InputError(f"command {self.command!r} is unknown: use one of {', '.join(COMMANDS)}")
        if self.method not in METHODS:
            raise InputError(f"--method {self.method!r} is unknown: use one of {', '.join(METHODS)}")
        for name in ("n0", "n", "m", "skip", *(("batch",) if self.batch != "auto" else ())):
            _positive(name, getattr(self, name))
        device_number(self.device)
        for name in ("max", "threads"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if self.sigma is not None:
            check_noise_level("sigma", self.sigma)
        check_noise_level("local-sigma", self.local_sigma)
        if not (math.isfinite(self.alpha) and 0 < self.alpha < 1):
            raise InputError(f"--alpha must lie between 0 and 1, got {self.alpha}")
        self._check_stopping()
        if self.local_noise not in ("fixed", "fresh"):
            raise InputError(f"--local-noise must be 'fixed' or 'fresh', got {self.local_noise!r}")
        if self.local_noise == "fresh" and self.classifier_seed != Settings.classifier_seed:
            raise InputError(
                "--classifier-seed is for --local-noise fixed, fresh noise is drawn under the run's key: leave it out"
            )
        self._check_certificate()
        if not 0 <= self.classifier_seed < 2**128:
            raise InputError(f"--classifier-seed must lie in [0, 2^128), got {self.classifier_seed}")
        if self.method == "rs" or self.method in DIFFUSION_CLASSIFIERS:
            if self.classifier is not None:
                raise InputError(
                    f"--classifier is not used by --method {self.method}: --engine is the classifier itself"
                )
            if self.sigma is None and self.certificate == "smoothing":
                raise InputError(
                    f"--sigma is needed by --method {self.method}: a classifier does not say its noise level"
                )
            if self.method in DIFFUSION_CLASSIFIERS:
                self._check_diffusion_classifier()
        elif self.classifier is None:
            raise InputError(f"--classifier is needed by --method {self.method}: pass the classifier's .onnx file")
        self._check_owners()
        if self.key is not None:
            parse_key(self.key)
        inputs = {"--engine": self.engine, "--classifier": self.classifier, "--data": self.data}
        check_outputs({"--out": self.out, "--tsv": self.tsv}, inputs)

    def _check_certificate(self) -> None:
        if self.certificate not in CERTIFICATES:
            raise InputError(f"--certificate is {self.certificate!r}: use one of {', '.join(CERTIFICATES)}")
        if self.lipschitz is not None and not (math.isfinite(self.lipschitz) and self.lipschitz > 0):
            raise InputError(
                f"--lipschitz must be above 0, got {self.lipschitz}: leave it out for the published formula"
            )
        if self.local_noise == "fresh":
            check_fresh(
                max(self.n0, self.n), self.m if self.method == "diffsmooth" else max(self.steps, PUBLISHED_SIEVE)
            )
        if self.certificate == "smoothing":
            if self.lipschitz is not None:
                raise InputError("--lipschitz is for --certificate lipschitz: leave it out")
            return
        if self.method != "dc" or self.command != "certify" or self.sift != "none":
            raise InputError(
                "--certificate lipschitz is for certify --method dc without --sift: nothing else has that bound"
            )
        if self.local_noise != "fixed":
            raise InputError(
                "--local-noise fresh makes no one function, which --certificate lipschitz needs: leave it out"
            )
        if self.sigma is not None or self.radius is not None or self.tolerance is not None or self.family_wise:
            raise InputError(
                "--certificate lipschitz draws no noise: leave out --sigma, --radius, --tolerance, --family-wise"
            )

    def _check_owners(self) -> None:
        for field in dataclasses.fields(self):
            owners = OWNERS.get(field.name)
            if owners is not None and self.method not in owners and getattr(self, field.name) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{option} is for --method {', '.join(owners)}, got {self.method}: leave it out")

    def _check_diffusion_classifier(self) -> None:
        for name, choices in (("weights", WEIGHTS), ("sift", SIFTS)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is {getattr(self, name)!r}: use one of {', '.join(choices)}")
        for name in ("steps", "drop_steps", "classes"):
            value = getattr(self, name)
            wrong = [v for v in (value if isinstance(value, Iterable) else (value,)) if type(v) is not int]
            if value is not None and wrong:
                raise InputError(f"--{name.replace('_', '-')} takes integers, got {value!r}")
        if not 2 <= self.steps <= 10**5:
            raise InputError(f"--steps must be 2 to 100000, got {self.steps}: 126 is the papers'")
        if self.drop_steps is not None and self.drop_steps < 1:
            raise InputError(f"--drop-steps must be at least 1, got {self.drop_steps}: the first pair has no posterior")
        if not (math.isfinite(self.s_max) and self.s_max > 2 * float(self.sigma or 0)):
            raise InputError(
                f"--s-max must be above 2·sigma = {2 * float(self.sigma or 0)}, got {self.s_max}: 3 is usual"
            )
        if not (math.isfinite(self.sift_margin) and self.sift_margin > 0):
            raise InputError(f"--sift-margin must be above 0, got {self.sift_margin}")
        if self.classes is not None:
            chosen = tuple(sorted(self.classes))
            if len(set(chosen)) < max(2, len(chosen)) or chosen[0] < 0:
                raise InputError(f"--classes needs two or more different ones from 0 on, got {list(self.classes)}")
            object.__setattr__(self, "classes", chosen)

    def _check_stopping(self) -> None:
        radii = self.radius
        if radii is not None:
            try:
                radii = tuple(float(r) for r in (radii if isinstance(radii, Iterable) else (radii,)))
            except (TypeError, ValueError):
                raise InputError(f"--radius takes numbers, got {self.radius!r}: give ℓ2 radii in image units") from None
            wrong = [r for r in radii if not (math.isfinite(r) and r > 0)]
            if wrong or not radii:
                raise InputError(
                    f"--radius must be above 0, got {wrong[0] if wrong else 'none'}: give ℓ2 radii in image units"
                )
            twice = [r for r in radii if radii.count(r) > 1]
            if twice:
                raise InputError(f"--radius has {twice[0]} more than once: give each radius once")
            object.__setattr__(self, "radius", tuple(sorted(radii)))
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(
                f"--tolerance must lie between 0 and 1, got {self.tolerance}: 0.05 stops within 5 % of the radius"
            )
        if radii is not None and self.tolerance is not None:
            raise InputError("--tolerance and --radius are two rules for when to stop, got both: choose one")
        given = [f"--{name.replace('_', '-')}" for name in STOPPING if getattr(self, name)]
        if given and self.command != "certify":
            raise InputError(f"{given[0]} is for certify, got {self.command}: leave it out")
        most = MAX_DRAWS if radii is not None else LIMITS["n"]
        if (radii is not None or self.tolerance is not None) and not FIRST_LOOK <= self.n <= most:
            raise InputError(
                f"--n must be {FIRST_LOOK} to {most} with {given[0]}, got {self.n}: it is the most draws an image"
            )

    def recorded(self) -> dict[str, Any]:
        """The part that decides the results, as JSON values: what a resumed run must agree with."""
        names = ["command", "method", "skip", "max", "resize", "crop", "quantise"]
        if self.certificate == "lipschitz":
            names += ["certificate", "lipschitz"]
        else:
            names += ["n0", "n", "alpha"] if self.command == "certify" else ["n", "alpha"]
        names += [name for name in STOPPING if getattr(self, name)]
        found = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def field_names() -> list[str]:
    """The names of RunConfig's fields."""
    return [field.name for field in dataclasses.fields(RunConfig)]
