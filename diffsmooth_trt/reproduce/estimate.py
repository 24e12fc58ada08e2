"""How long a published table takes on this machine, said before anything is drawn; what is done already is not taken off."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..certify.batch_size import throughput
from ..images import Images
from ..ood.budget import BUDGETS
from ..ood.config import OodConfig
from ..ood.counted import counts_classes
from ..ood.generated import PREFIX
from ..ood.model import Model
from ..runs.config import RunConfig
from ..runs.engines import build_method

SECONDS = 1.0
GRADIENT = 3  # evaluations that a gradient takes, about


@dataclass(frozen=True)
class Estimate:
    """So many votes, of `ood` evaluations, and how long they take; `most` says that the run may stop before."""

    count: int
    seconds: float
    most: bool = False


def of_run(config: RunConfig) -> Estimate:
    """A certified row, by a second of whole steps."""
    method = build_method(config)
    try:
        rate = throughput(method)
    finally:
        method.close()
    votes = len(Images.chosen(config.data, config.choice)) * (config.stopping.n0 + config.stopping.n)
    return Estimate(votes, votes / rate)


def of_ood(config: OodConfig) -> Estimate:
    """A row of `ood`, by a second of the classifier behind what stands in front of it; certified ones may stop before."""
    inside = len(Images.chosen(config.in_data, config.choice))
    sizes = [inside if name.startswith(PREFIX) else len(Images.chosen(name, config.choice)) for name in config.out_data]
    images = inside + sum(sizes)
    certified, selected = config.kind == "certified", config.n0 if counts_classes(config.score) else 0
    evaluations = images * (selected + config.n if certified else max(config.draws, 1))
    if config.kind == "adversarial":
        evaluations += GRADIENT * sum(sizes) * BUDGETS[config.budget].gradients
    model = Model(config)
    try:
        seconds = evaluations / _rate(model)
    finally:
        model.close()
    return Estimate(evaluations, seconds, most=certified and bool(config.tolerance))


def _rate(model: Model) -> float:
    """Evaluations a second."""
    x = np.zeros((model.batch, *model.input_shape), np.float32)
    model.logits(x)
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + SECONDS:
        model.logits(x)
        done += model.batch
    return done / (time.perf_counter() - start)


def sentence(name: str, rows: Sequence[Estimate], what: str) -> str:
    """What is said of a table's rows together; `what` is counted."""
    about = "at most" if any(row.most for row in rows) else "about"
    count, seconds = sum(row.count for row in rows), sum(row.seconds for row in rows)
    return f"{name}: {len(rows)} rows, {count} {what}, {about} {_spent(seconds)} here"


def _spent(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
