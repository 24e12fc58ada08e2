"""What a method is: a map from a full batch of noisy images to labels, row by row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import InputError

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Which draw each row of a batch is: phase, image and sample, uint64 `[batch]` each."""

    phases: Words
    images: Words
    samples: Words


def winners(scores: Floats) -> Labels:
    """The highest-scoring class of each row int64 `[batch]`; ties go to the lowest class."""
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


class Method(ABC):
    """f of randomized smoothing. A row's label depends on that row's pixels and draw alone.

    `classes` is the number of labels, `input_shape` (C, H, W), `batch` the rows of every call, `sigma` the noise level
    in image units; `identity` the method's part of the classifier id, without the engines'.
    """

    name: str
    void: int | None = None  # the label of a vote that is an abstention, where there can be such
    notes: Sequence[str] = ()  # what the user has to know about the votes

    def __init__(self, classifier: Engine, input_shape: tuple[int, int, int], sigma: float) -> None:
        self.classifier = classifier
        self.classes = int(classifier.facts.classes or 0)
        self.input_shape = input_shape
        self.batch = classifier.batch
        self.sigma = sigma
        self.identity: dict[str, Any] = {"method": self.name}

    @property
    def bins(self) -> int:
        """How many labels votes are counted for: the classes, and abstentions where there can be some."""
        return self.classes if self.void is None else self.classes + 1

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines by role."""
        return {"classifier": self.classifier}

    @abstractmethod
    def labels(self, noisy: Floats, rows: Rows) -> Labels:
        """Labels int64 `[batch]` of float32 `[batch, C, H, W]` in [0, 1] units plus noise; ties go to the lowest label."""

    def close(self) -> None:
        """Close the engines."""
        for engine in self.engines.values():
            engine.close()


class Denoised(Method):
    """A method that looks at images through a one-shot denoiser.

    The denoiser may return images of another size than it takes: that of the classifier.
    """

    def __init__(self, denoiser: Engine, classifier: Engine) -> None:
        returned, taken = denoiser.facts.denoised_shape, classifier.facts.input_shape
        if returned != taken:
            raise InputError(
                f"{denoiser.path.name} returns images {returned}, {classifier.path.name} takes {taken}: "
                f"export the classifier with --image-size {returned[1]}, or the denoiser with --resize-to {taken[1]}"
            )
        super().__init__(classifier, denoiser.facts.input_shape, float(denoiser.facts.sigma or 0.0))
        self.denoiser = denoiser

    @property
    def engines(self) -> dict[str, Engine]:
        return {"denoiser": self.denoiser, **super().engines}
