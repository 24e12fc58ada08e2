"""A compiled engine against the engine that it stands for, on noisy images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import open_images
from ..engine import Engine, EngineFacts
from ..errors import EngineError, InputError
from ..noise import ESTIMATION, grid_law
from ..noise.cpu import noisy_images

Inputs = tuple[NDArray[Any], ...]
SIGMA = 0.25  # in image units: of the noise on classifiers, and on denoisers that do not say theirs
LEVELS = (1e-4, 3.0)  # noise levels of conditional denoisers, in [-1, 1] units (Chen et al. 2024)
KEY = 20  # fixed: two exports are compared on the same noise
RANDOM_BATCHES = 2
LEAST_AGREEMENT = 0.995


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


def _pixels(facts: EngineFacts, batch: int, data: Path | None, most: int) -> Iterator[NDArray[np.uint8]]:
    """Full batches of flat 8-bit images: of `data`, at most `most` (the last batch repeats its last), else random ones."""
    channels, height, width = facts.input_shape
    if data is None:
        generator = np.random.Generator(np.random.Philox(key=KEY))
        for _ in range(RANDOM_BATCHES):
            yield generator.integers(0, 256, (batch, channels * height * width), dtype=np.uint8)
        return
    rows: list[NDArray[np.uint8]] = []
    for image in open_images(data, limit=most):
        if image.pixels.shape != (height, width, channels):
            raise InputError(
                f"--verify-data has images {image.pixels.shape}, the engine takes {(height, width, channels)}: give others"
            )
        rows.append(image.pixels.transpose(2, 0, 1).reshape(-1))
        if len(rows) == batch:
            yield np.stack(rows)
            rows = []
    if rows:
        yield np.stack([*rows, *[rows[-1]] * (batch - len(rows))])


def noisy_inputs(facts: EngineFacts, batch: int, data: Path | None = None, most: int = 2000) -> Iterator[Inputs]:
    """Batches of what an engine of `facts` takes, from images of `data` or random ones, the same in every call."""
    generator = np.random.Generator(np.random.Philox(key=KEY + 1))
    law = grid_law(facts.sigma or SIGMA)
    for number, pixels in enumerate(_pixels(facts, batch, data, most)):
        x = np.empty((batch, *facts.input_shape), dtype=np.float32)
        if facts.role != "conditional":
            words = np.arange(number * batch, (number + 1) * batch, dtype=np.uint64)
            flat = x.reshape(batch, -1)
            noisy_images(law, KEY, ESTIMATION, pixels, words, np.zeros_like(words), flat)
            yield (x,)
            continue
        low, high = np.log(LEVELS)
        s = np.exp(low + (high - low) * generator.random(batch)).astype(np.float32)
        noise = s[:, None, None, None] * generator.standard_normal(x.shape, dtype=np.float32)
        x[:] = pixels.reshape(x.shape).astype(np.float32) / np.float32(127.5) - 1 + noise
        yield x, s, generator.integers(0, int(facts.classes or 1), batch)


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
    """`engine` against `reference`, of its batch size or a smaller one, on at most `most` noisy images of `data` (else random
    ones), as many at a time as the reference takes.

    Labels are compared for classifiers, and for one-shot denoisers where `classifier` labels their output. Raises
    EngineError for NaN and infinite values, InputError for images that do not fit.
    """
    maximum, total, count, largest, rows, same = 0.0, 0.0, 0, 0.0, 0, 0
    labelled = engine.facts.role == "classifier" or (classifier is not None and engine.facts.role == "denoiser")
    for inputs in noisy_inputs(reference.facts, reference.batch, data, most):
        got, want = _answer(engine, inputs), _answer(reference, inputs)
        difference = np.abs(got - want)
        maximum, largest = max(maximum, float(difference.max())), max(largest, float(np.abs(want).max()))
        total, count, rows = total + float(difference.sum(dtype=np.float64)), count + difference.size, rows + len(got)
        if labelled:
            logits = (got, want) if classifier is None else (_answer(classifier, (y,)) for y in (got, want))
            first, second = (values.argmax(axis=1) for values in logits)
            same += int((first == second).sum())
    return Comparison(rows, maximum, total / max(count, 1), largest, same / rows if labelled and rows else None)
