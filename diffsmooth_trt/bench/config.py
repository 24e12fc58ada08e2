"""What is timed, and how long; checked before anything is opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..engine.choice import AUTO, MOST_ROWS, EngineChoice
from ..errors import InputError
from ..methods import METHODS, Method, MethodOptions
from ..noise import check_noise_level
from ..ranges import flag, integer, number
from ..runs.config import check_files, check_sigma, method_options, slots

# Rows an engine call unless told otherwise, where engine files take any number.
BATCHES: tuple[int | str, ...] = (1, 8, 64, 256, AUTO)
EAGER_METHODS = ("rs", "dds")


@dataclass(frozen=True, kw_only=True)
class EagerChoice:
    """The checkpoints that the engines were made from, by which eager PyTorch is timed beside them: those of `export`."""

    checkpoint: Path | None = None
    family: str | None = None
    config: str | None = None
    classifier_checkpoint: Path | None = None
    arch: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return any(value is not None for value in vars(self).values())

    def check(self, method: type[Method]) -> None:
        """InputError unless there is what eager PyTorch needs to do as the method does."""
        if not self.given:
            return
        if method.name not in EAGER_METHODS:
            raise InputError(
                f"eager PyTorch is timed for --method {' and '.join(EAGER_METHODS)}, got {method.name}: leave out --checkpoint, "
                "--classifier-checkpoint, --family, --config and --arch"
            )
        needed = {"classifier_checkpoint": "the classifier's .pt", "arch": "its --arch as for export"}
        if method.states_sigma():
            needed |= {"checkpoint": "the denoiser's .pt", "family": "its --family as for export"}
        for name, what in needed.items():
            if getattr(self, name) is None:
                raise InputError(f"{flag(name)} is needed to time eager PyTorch: give {what}")
        foreign = [name for name, value in vars(self).items() if value is not None and name not in (*needed, "config")]
        if foreign:
            raise InputError(f"--{foreign[0]} is of a denoiser, --method {method.name} has none: leave it out")
        for path in (self.checkpoint, self.classifier_checkpoint):
            if path is not None and not path.exists():
                raise InputError(f"{path} does not exist: give the checkpoint that the engine was exported from")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A `method` over engine `files`, timed at each of `batches` (rows, or "auto") in `rounds` of `seconds` each.

    `given` builds one from arguments under the command line's names. Raises InputError for what cannot be.
    """

    method: type[Method]
    files: Mapping[str, Path]
    sigma: float | None
    options: MethodOptions
    engines: EngineChoice
    batches: tuple[int | str, ...] | None = None
    rounds: int = 13
    seconds: float = 0.3
    eager: EagerChoice = EagerChoice()

    def __post_init__(self) -> None:
        if self.batches is not None and not self.batches:
            raise InputError("--batches is empty: give rows an engine call, like 1,64,auto")
        for batch in self.batches or ():
            if batch != AUTO:
                integer("batches", batch, 1, MOST_ROWS)
        if self.batches is not None and len(set(self.batches)) != len(self.batches):
            raise InputError(f"--batches names a size twice ({','.join(map(str, self.batches))}): name each once")
        integer("rounds", self.rounds, 1, 10_000)
        number("seconds", self.seconds, 0, 3600, "seconds of each round at each batch size, like 0.3")
        if self.sigma is not None:
            check_noise_level("sigma", self.sigma)
        check_files(self.method, self.files)
        check_sigma(self.method, self.sigma)
        self.options.check_run(sigma=self.sigma, draws=1, smoothing=True)
        self.eager.check(self.method)

    @classmethod
    def given(cls, *, method: str = "dds", sigma: float | None = None, **given: Any) -> Self:
        """The configuration of arguments as users give them: the engines' files, the method's options, and its fields."""
        if method not in METHODS:
            raise InputError(f"--method {method!r} is unknown: use one of {', '.join(METHODS)}")
        kind = METHODS[method]
        return cls(
            method=kind,
            files={slot: Path(given[slot]) for slot in slots() if given.get(slot) is not None},
            sigma=sigma,
            options=method_options(kind, given),
            engines=EngineChoice(**_of(EngineChoice, given)),
            eager=EagerChoice(**_of(EagerChoice, given)),
            **{name: given[name] for name in ("batches", "rounds", "seconds") if name in given},
        )


def _of(part: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in dataclasses.fields(part) if field.name in given}
