"""The comparison of a network with the one it stands for: of an ONNX file, a package or a plan with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import zoo
from ...dtypes import Floats32, Labels
from ...engine import Engine, EngineFacts
from ...engine.backends.tensorrt_check import LEAST_AGREEMENT
from ...errors import EngineError, InputError
from .inputs import HIGHEST, SIGMA, Inputs
from .noised import VERIFICATION, fitting_pixels, noised, noised_conditional

LEAST_BATCHES = 2


@dataclass(frozen=True)
class Expected:
    """One batch of a comparison: what both networks are given, and what the source makes of its first rows, which count.

    `want` is float32 `[rows, …]`, of fewer rows than `inputs` where these were filled up; `labels` int64 `[rows]` are those of
    `want`, None where labels are not compared.
    """

    inputs: Inputs
    want: Floats32
    labels: Labels | None = None


@dataclass(frozen=True)
class Comparison:
    """Over `rows` noisy images: largest and mean absolute difference of outputs, and the share of identical labels.

    `largest` and `magnitude` are the largest and the mean absolute output of the source; `agreement` is None where there are
    no labels to compare.
    """

    rows: int
    maximum: float
    mean: float
    largest: float
    agreement: float | None = None
    magnitude: float = 0.0

    @property
    def differences(self) -> dict[str, float]:
        """As facts record them, to two digits."""
        return {"max_difference": float(f"{self.maximum:.2g}"), "mean_difference": float(f"{self.mean:.2g}")}

    def recorded(self) -> dict[str, Any]:
        """For a plan's facts."""
        parts: dict[str, Any] = {"rows": self.rows, **self.differences}
        return parts if self.agreement is None else {**parts, "same_labels": self.agreement}

    def warning(self) -> str | None:
        """What the user has to know of it; None where there is nothing."""
        if self.agreement is None or self.agreement >= LEAST_AGREEMENT:
            return None
        return (
            f"only {100 * self.agreement:.1f} % of {self.rows} labels are those of the source "
            f"(expected {100 * LEAST_AGREEMENT:.1f} %): this is another classifier; use a wider precision"
        )


def compare(
    expected: Iterable[Expected],
    run: Callable[..., Floats32],
    *,
    name: str,
    failure: Exception,
    label: Callable[[Floats32], Labels] | None = None,
) -> Comparison:
    """What `run` makes of the inputs of every batch, against what the source made of them.

    `run` takes a batch's inputs and returns float32 `[at least rows, …]`; `label` gives the labels of outputs `[rows, …]`, for
    batches that come with the source's. Raises `failure` for NaN and infinite values, and InputError, which calls the network
    `name`, for outputs of another shape than the source's.
    """
    maximum = largest = total = magnitude = 0.0
    rows = values = same = 0
    for batch in expected:
        want = batch.want
        got = run(*batch.inputs)[: len(want)]
        if got.shape != want.shape:
            raise InputError(f"{name} returns {got.shape} where the network returns {want.shape}")
        if not np.isfinite(got).all():
            raise failure
        difference, size = np.abs(got - want), np.abs(want)
        maximum, largest = max(maximum, float(difference.max())), max(largest, float(size.max()))
        total += float(difference.sum(dtype=np.float64))
        magnitude += float(size.sum(dtype=np.float64))
        rows, values = rows + len(want), values + want.size
        if label is not None:
            same += int((label(got) == batch.labels).sum())
    agreement = same / rows if label is not None and rows else None
    return Comparison(rows, maximum, total / max(values, 1), largest, agreement, magnitude / max(values, 1))


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


def _not_finite(engine: Engine) -> EngineError:
    return EngineError(f"{engine.path.name} returns NaN or infinity on noisy images: use a wider precision")


def _answer(engine: Engine, inputs: Inputs) -> Floats32:
    """The engine's output for rows that are as many as its batch or fewer; the rest of the batch repeats them."""
    rows = len(inputs[0])
    inputs = tuple(np.resize(each, (engine.batch, *each.shape[1:])) for each in inputs)
    y = engine.denoise(*inputs) if engine.facts.role == "conditional" else engine.run_on_host(*inputs)
    if not np.isfinite(y).all():
        raise _not_finite(engine)
    return np.asarray(y[:rows], dtype=np.float32)


def compare_engines(
    engine: Engine, reference: Engine, classifier: Engine | None = None, data: Path | None = None, most: int = 2000
) -> Comparison:
    """`engine` against `reference`, of its batch size or a smaller one, on the images of `noisy_inputs`, as many at a time as the
    reference takes.

    Labels are compared for classifiers, and for one-shot denoisers where `classifier` labels their output. Raises
    EngineError for NaN and infinite values, InputError for images that do not fit.
    """

    def label(outputs: Floats32) -> Labels:
        logits = outputs if classifier is None else _answer(classifier, (outputs,))
        return np.asarray(logits.argmax(axis=1), np.int64)

    labelled = engine.facts.role == "classifier" or (classifier is not None and engine.facts.role == "denoiser")

    def expected() -> Iterator[Expected]:
        for rows, inputs in noisy_inputs(reference.facts, reference.batch, data, most):
            want = _answer(reference, inputs)[:rows]
            yield Expected(inputs, want, label(want) if labelled else None)

    return compare(
        expected(),
        lambda *inputs: _answer(engine, inputs),
        name=engine.path.name,
        failure=_not_finite(engine),
        label=label if labelled else None,
    )
