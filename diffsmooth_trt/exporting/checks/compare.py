"""A compiled engine against the engine that it stands for, on noisy images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import zoo
from ...engine import Engine, EngineFacts
from ...errors import EngineError
from ..writers.report import LEAST_AGREEMENT
from .inputs import HIGHEST, SIGMA, Inputs
from .noised import VERIFICATION, fitting_pixels, noised, noised_conditional

LEAST_BATCHES = 2


@dataclass(frozen=True)
class Comparison:
    """Over `rows` noisy images: largest and mean absolute difference of outputs, and the share of identical labels.

    `largest` is the reference's largest absolute output; `agreement` is None where there are no labels to compare.
    """

    rows: int
    maximum: float
    mean: float
    largest: float
    agreement: float | None

    def recorded(self) -> dict[str, Any]:
        """For an engine's facts, differences to two digits."""
        parts: dict[str, Any] = {"rows": self.rows, "max_difference": float(f"{self.maximum:.2g}")}
        parts["mean_difference"] = float(f"{self.mean:.2g}")
        return parts if self.agreement is None else {**parts, "same_labels": self.agreement}

    def warning(self) -> str | None:
        """What the user has to know of it; None where there is nothing."""
        if self.agreement is None or self.agreement >= LEAST_AGREEMENT:
            return None
        return (
            f"only {100 * self.agreement:.1f} % of {self.rows} labels are those of the source "
            f"(expected {100 * LEAST_AGREEMENT:.1f} %): this is another classifier; use a wider precision"
        )


def noisy_inputs(
    facts: EngineFacts, batch: int, data: Path | None = None, most: int = 2000
) -> Iterator[tuple[int, Inputs]]:
    """Full batches of what an engine of `facts` takes, with the rows of each that count; the same in every call.

    They are made of at most `most` images of `data`, once each; without it of two batches or more: for 32×32 of the
    zoo's images, with several noises each, else of random ones.
    """
    shape = facts.input_shape
    if data is not None:
        pixels = fitting_pixels(data, shape, most)
        count = len(pixels)
    else:
        random = np.random.Generator(np.random.Philox(key=VERIFICATION))
        zoos = shape == (3, 32, 32)
        pixels = fitting_pixels(zoo.IMAGES, shape, most) if zoos else random.integers(0, 256, (batch, *shape), np.uint8)
        count = max(len(pixels), LEAST_BATCHES * batch)
    if facts.role == "conditional":
        labels = int(facts.classes or 1) + (facts.null_class is not None)
        batches = noised_conditional(pixels, HIGHEST, labels, count, batch, VERIFICATION)
    else:
        batches = ((x,) for x in noised(pixels, facts.sigma or SIGMA, count, batch, VERIFICATION))
    for number, inputs in enumerate(batches):
        yield min(batch, count - number * batch), inputs


def _answer(engine: Engine, inputs: Inputs) -> NDArray[np.float32]:
    """The engine's output for rows that are as many as its batch or fewer; the rest of the batch repeats them."""
    rows = len(inputs[0])
    inputs = tuple(np.resize(each, (engine.batch, *each.shape[1:])) for each in inputs)
    y = engine.denoise(*inputs) if engine.facts.role == "conditional" else engine.run_on_host(*inputs)
    if not np.isfinite(y).all():
        raise EngineError(f"{engine.path.name} returns NaN or infinity on noisy images: use a wider precision")
    return np.asarray(y[:rows], dtype=np.float32)


def compare_engines(
    engine: Engine, reference: Engine, classifier: Engine | None = None, data: Path | None = None, most: int = 2000
) -> Comparison:
    """`engine` against `reference`, of its batch size or a smaller one, on the images of `noisy_inputs`, as many at a time as the
    reference takes.

    Labels are compared for classifiers, and for one-shot denoisers where `classifier` labels their output. Raises
    EngineError for NaN and infinite values, InputError for images that do not fit.
    """
    maximum, total, count, largest, rows, same = 0.0, 0.0, 0, 0.0, 0, 0
    labelled = engine.facts.role == "classifier" or (classifier is not None and engine.facts.role == "denoiser")
    for real, inputs in noisy_inputs(reference.facts, reference.batch, data, most):
        got, want = _answer(engine, inputs), _answer(reference, inputs)
        difference = np.abs(got - want)[:real]
        maximum, largest = max(maximum, float(difference.max())), max(largest, float(np.abs(want[:real]).max()))
        total, count, rows = total + float(difference.sum(dtype=np.float64)), count + difference.size, rows + real
        if labelled:
            logits = (got, want) if classifier is None else (_answer(classifier, (y,)) for y in (got, want))
            first, second = (values[:real].argmax(axis=1) for values in logits)
            same += int((first == second).sum())
    return Comparison(rows, maximum, total / max(count, 1), largest, same / rows if labelled and rows else None)
