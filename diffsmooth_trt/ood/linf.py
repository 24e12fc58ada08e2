"""The clean, guaranteed and adversarial kinds: scores of the images as they are, and of the worst within an ℓ∞ ball."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..certify.progress import Progress
from ..dtypes import Floats32, Floats64, Words
from ..engine import instruction_set
from ..errors import EngineError, InputError
from ..images import Image, pixel_digest, together
from ..noise import Key
from .budget import BUDGETS
from .config import OodConfig
from .counted import phase_of
from .interval import DOUBLE, SINGLE, IntervalGraph, linf_box
from .model import Model
from .scores import upper_from_detector, upper_from_logits
from .sets import DataSet
from .store import OodStore, Record

if TYPE_CHECKING:
    from .attacks import Objective


def scaled(images: Sequence[Image]) -> Floats32:
    """Images float32 `[N, C, H, W]` in [0, 1]."""
    pixels = np.stack([image.pixels for image in images]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(255)


def bounding_graph(model: Model, config: OodConfig) -> IntervalGraph | None:
    """The graph that bounds scores over a ball: the detector's, without one the classifier's own; None behind a denoiser alone.

    Raises InputError for a classifier that interval bounds do not cover, where the kind needs them.
    """
    if config.detector is not None:
        return IntervalGraph(config.detector)
    if config.kind != "guaranteed":
        return None
    if model.denoiser is not None:
        raise InputError(
            "--kind guaranteed behind --engine needs --detector: interval bounds do not go through a denoiser"
        )
    return IntervalGraph(config.classifier)


def upper_bounds(
    model: Model, graph: IntervalGraph, images: Floats32, epsilon: float, roundoff: float = SINGLE
) -> Floats64:
    """The highest score `[N]` within ℓ∞ distance `epsilon` of each image, rounded up, whatever the rest of a joint model does."""
    low, high = graph.bounds(*linf_box(images, epsilon), roundoff=max(roundoff, DOUBLE))
    if model.detector is not None:
        return upper_from_detector(high.reshape(-1), model.classes)
    return upper_from_logits(model.score, low, high)


class BallRunner:
    """Scores images in batches and records them. Raises InputError on construction for models that the kind cannot do."""

    def __init__(self, model: Model, config: OodConfig, *, attacks: bool = True) -> None:
        self.model, self.config = model, config
        self.graph = None if config.kind == "clean" else bounding_graph(model, config)
        self.attack = _Attack(model, config) if attacks and config.kind == "adversarial" else None

    def run(self, sets: Sequence[DataSet], store: OodStore, progress: Progress) -> None:
        """Finish every image of every set."""
        self.store, self.progress, self.key = store, progress, store.record.key
        self.progress.start(sum(map(len, sets)), len(self.store.records), sum(map(len, sets)), len(self.store.records))
        for number, data in enumerate(sets):
            waiting = (image for image in data.images if store.lacks(number, image.index))
            for images in together(waiting, self.model.batch):
                for record in self._records(number, images):
                    self.store.add(record)
                self.progress.update(len(images), len(images))

    def _records(self, number: int, images: list[Image]) -> list[Record]:
        x, phase = scaled(images), phase_of(number, 2)
        words = np.array([image.index for image in images], np.uint64)
        columns: dict[str, Any] = {"score": self.model.scores(x, self.key, phase, words)}
        digests = [pixel_digest(image) for image in images]
        if number and self.graph is not None:
            columns["bound"] = upper_bounds(self.model, self.graph, x, self.config.epsilon)
        if number and self.attack is not None:
            columns["attacked"], columns["by"] = self.attack.best(x, columns["score"], self.key, phase, words, digests)
        self._check(columns)
        return [
            {
                "set": number,
                "row": image.index,
                "label": image.label,
                "sha256": digest,
                **({"distance": image.distance} if self.config.quantise else {}),
                **{name: values[i] if name == "by" else float(values[i]) for name, values in columns.items()},
            }
            for i, (image, digest) in enumerate(zip(images, digests, strict=True))
        ]

    def _check(self, columns: dict[str, Any]) -> None:
        """EngineError where the score of a point in the ball exceeds the bound over it: then one of them is wrong."""
        for name in ("score", "attacked"):
            if name in columns and "bound" in columns and (columns[name] > columns["bound"]).any():
                worst = int(np.argmax(columns[name] - columns["bound"]))
                raise EngineError(
                    f"{name} {columns[name][worst]:.9g} is above its guaranteed bound {columns['bound'][worst]:.9g}: the engine "
                    "does not compute what its graph says; try --backend onnxruntime"
                )


class _Attack:
    """The attacks of a run's budget on its model, by gradients of the engines' graphs, scored by the engines."""

    def __init__(self, model: Model, config: OodConfig) -> None:
        if importlib.util.find_spec("torch") is None:
            raise InputError('--kind adversarial needs torch for gradients: pip install "diffsmooth-trt[cpu,export]"')
        from .torch_graph import TorchGraph

        self.model, self.config, self.budget = model, config, BUDGETS[config.budget]
        self.graphs = {role: TorchGraph(engine.path) for role, engine in model.opened.items()}
        self.fast = "avx512_bf16" in instruction_set()  # of gradients it is the sign that counts

    def best(
        self, x: Floats32, clean: Floats64, key: Key, phase: int, words: Words, digests: list[str]
    ) -> tuple[Floats64, list[str]]:
        """The highest score found `[N]`, that of the image itself included, and the name of what found it."""
        from .attacks import attacked

        seeds = [(int(digest[:32], 16) + self.config.seed) % 2**128 for digest in digests]
        highest, by = clean.copy(), np.full(len(x), "none", dtype=object)
        for name, points in attacked(self._objective(x, key, phase, words), x, self.config.epsilon, seeds, self.budget):
            scores = self.model.scores(points, key, phase, words)
            better = scores > highest
            highest[better], by[better] = scores[better], name
        return highest, [str(name) for name in by]

    def _objective(self, x: Floats32, key: Key, phase: int, words: Words) -> Objective:
        """What the attacks raise: the logarithm of the score's parts, which has gradients where the score itself is flat."""
        import torch
        from torch import Tensor

        noises = [self._noise(x, key, phase, words, draw) for draw in range(self.model.draws)] or [None]
        kind, temperature = self.model.score.kind, self.model.score.temperature

        def value(logits: Tensor) -> Tensor:
            if kind == "energy":
                return temperature * torch.logsumexp(logits / temperature, 1)
            log_p = torch.log_softmax(logits, 1)
            return -log_p[:, -1] if kind == "reject" else log_p.amax(1)

        def objective(images: Tensor) -> Tensor:
            parts = []
            for noise in noises:
                seen = images if noise is None else images + noise
                with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
                    if "denoiser" in self.graphs:
                        seen = self.graphs["denoiser"](seen)
                    logits = self.graphs["classifier"](seen).float()
                parts.append(value(logits))
            total = torch.stack(parts).mean(0)
            if "detector" in self.graphs:
                total = total + torch.nn.functional.logsigmoid(self.graphs["detector"](images)[:, 0])
            return total

        return objective

    def _noise(self, x: Floats32, key: Key, phase: int, words: Words, draw: int) -> Any:
        import torch

        return torch.from_numpy(self.model.with_noise(np.zeros_like(x), key, phase, words, draw))
