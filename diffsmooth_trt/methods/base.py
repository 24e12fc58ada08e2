"""What a method is: a map from a full batch of noisy images to labels, row by row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..device import Array
from ..dtypes import Floats32, Words
from ..engine import Engine
from ..errors import InputError
from ..noise import GridLaw, Key
from ..ranges import check_types


@dataclass(frozen=True)
class Rows:
    """Which draw each row of a batch is: phase, image and sample, uint64 `[batch]` each, arrays of the device, under a key.

    The key is the run's, under which a method draws what fresh noise it adds.
    """

    phases: Words
    images: Words
    samples: Words
    key: Key

    @property
    def words(self) -> Any:
        """Phases, images and samples, to be indexed by 0, 1, 2."""
        return self.phases, self.images, self.samples

    def chosen(self, index: Any) -> Rows:
        """The rows that `index` takes of an array."""
        return Rows(self.phases[index], self.images[index], self.samples[index], self.key)


@dataclass(frozen=True)
class PackedRows(Rows):
    """The same as views of one array `[3, batch]`, which kernels take."""

    packed: Array

    @classmethod
    def of(cls, packed: Array, key: Key) -> PackedRows:
        """The rows that `packed` holds."""
        return cls(packed[0], packed[1], packed[2], key, packed)

    @property
    def words(self) -> Any:
        return self.packed


@dataclass(frozen=True)
class Slot:
    """One engine of a method: the `part` of the classifier id that it is, and the `role` of the files that fit.

    A method does without one that is `optional`.
    """

    part: str
    role: str
    optional: bool = False


def option(default: Any, help: str, **shown: Any) -> Any:
    """A field of a method's `Options`: its default, and what the command line says of it (`choices`, `metavar`, `type`)."""
    return field(default=default, metadata={"help": help, **shown})


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """A method's own options, each an `option`; the command line has a flag for each. Raises InputError for what cannot be.

    Methods may share an option: then they mean the same by it, and it has one default.
    """

    def __post_init__(self) -> None:
        check_types(self)

    def check_run(self, *, sigma: float | None, draws: int, smoothing: bool) -> None:
        """InputError where they do not go with noise level `sigma` and `draws` draws an image, or without `smoothing`."""

    @classmethod
    def names(cls) -> list[str]:
        """The names of the options."""
        return [each.name for each in fields(cls)]


class Method(ABC):
    """f of randomized smoothing. A row's label depends on that row's pixels and draw alone.

    A class says its `name`, which engines it takes (`slots`, by the option that names the file), its own `Options`, and which
    certificates exist for it; `METHODS` lists it. `of` makes one.

    `classes` is the number of labels, `input_shape` (C, H, W), `batch` the rows of every call, `sigma` the noise level
    in image units; `identity` the method's part of the classifier id, without the engines'. `device` is the engines';
    `noisy` is where `labels` takes its images from without a copy, rows in [H, W, C] order where `noisy_nhwc`. Where
    `capturable`, `labels` only enqueues and its work may be recorded as a CUDA graph.
    """

    name: ClassVar[str]
    slots: ClassVar[Mapping[str, Slot]]
    certificates: ClassVar[tuple[str, ...]] = ("smoothing",)
    Options: ClassVar[type[MethodOptions]] = MethodOptions

    void: int | None = None  # the label of a vote that is an abstention, where there can be such
    notes: Sequence[str] = ()  # what the user has to know about the votes

    def __init__(self, classifier: Engine, input_shape: tuple[int, int, int], sigma: float) -> None:
        self.classifier = classifier
        self.classes = int(classifier.facts.classes or 0)
        self.input_shape = input_shape
        self.batch = classifier.batch
        self.device = classifier.device
        self.sigma = sigma
        self.identity: dict[str, Any] = {"method": self.name}

    @classmethod
    def of(cls, engines: Mapping[str, Engine], sigma: float | None, options: Any) -> Self:
        """The method over open engines by their slots' options, for noise level `sigma`, None where an engine says it.

        A class whose constructor takes anything but its engines, in the order of its slots, has an `of` of its own.
        """
        made: Any = cls
        method: Self = made(*(engines[slot] for slot in cls.slots if slot in engines))
        return method

    @classmethod
    def states_sigma(cls) -> bool:
        """Whether one of the engines that it needs says the noise level: a denoiser is made for one."""
        return any(slot.role == "denoiser" and not slot.optional for slot in cls.slots.values())

    @property
    def bins(self) -> int:
        """How many labels votes are counted for: the classes, and abstentions where there can be some."""
        return self.classes if self.void is None else self.classes + 1

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines by role."""
        return {"classifier": self.classifier}

    @property
    def noisy(self) -> Array:
        """The array for the noisy images of a batch."""
        return self._first.input

    @property
    def noisy_nhwc(self) -> bool:
        """Whether the rows of `noisy` are in [H, W, C] order."""
        return self._first.input_nhwc

    @property
    def _first(self) -> Engine:
        return next(iter(self.engines.values()))

    @property
    def capturable(self) -> bool:
        """Whether `labels` enqueues only, all of it on the device's stream."""
        return all(engine.capturable for engine in self.engines.values())

    @property
    def place_dependent(self) -> bool:
        """Whether last bits of a row depend on its place in the batch (`Engine.place_dependent`)."""
        return any(engine.place_dependent for engine in self.engines.values())

    @property
    def spent(self) -> tuple[int, int]:
        """Votes so far, and evaluations of a network that they took; zeros where each vote takes the same."""
        return 0, 0

    @property
    def lipschitz_constant(self) -> float | None:
        """The published Lipschitz constant of the logits, in [-1, 1] units; None where there is none."""
        return None

    def own_laws(self) -> list[GridLaw]:
        """The laws of the noises that the method draws of its own."""
        return []

    def margins(self, clean: Floats32, images: NDArray[np.uint64]) -> list[tuple[int, float]]:
        """Of clean images `[R, C, H, W]` in [0, 1], R ≤ batch, the class and by how much the next one's logit is lower; class −1
        where a logit is no number. `images` are their rows in the data set. For methods with certificate "lipschitz"."""
        raise InputError(f"--method {self.name} has no logits without noise: use --certificate smoothing")

    @abstractmethod
    def labels(self, noisy: Array, rows: Rows) -> Array:
        """Labels int64 `[batch]` of float32 `[batch, C, H, W]` in [0, 1] units plus noise, or of `noisy` in its own type and
        layout; arrays of the device. Ties go to the lowest label."""

    def close(self) -> None:
        """Close the engines."""
        for engine in self.engines.values():
            engine.close()


class Denoised(Method):
    """A method that looks at images through a one-shot denoiser.

    The denoiser may return images of another size than it takes: that of the classifier.
    """

    slots: ClassVar[Mapping[str, Slot]] = {
        "engine": Slot("denoiser", "denoiser"),
        "classifier": Slot("classifier", "classifier"),
    }

    def __init__(self, denoiser: Engine, classifier: Engine) -> None:
        returned, taken = denoiser.facts.denoised_shape, classifier.facts.input_shape
        if returned != taken:
            raise InputError(
                f"{denoiser.name} returns images {returned}, {classifier.name} takes {taken}: "
                f"export the classifier with --image-size {returned[1]}, or the denoiser with --resize-to {taken[1]}"
            )
        if denoiser.device is not classifier.device:
            raise InputError(f"{denoiser.name} and {classifier.name} are on two devices: open both on one")
        super().__init__(classifier, denoiser.facts.input_shape, float(denoiser.facts.sigma or 0.0))
        self.denoiser = denoiser

    @property
    def engines(self) -> dict[str, Engine]:
        return {"denoiser": self.denoiser, **super().engines}
