"""What is scored: a classifier, plain or behind a denoiser, alone or with the detector of a joint model; engines at run time.

As in DISTRO's paper the denoiser stands in front of the classifier, not of the detector. (Its code feeds the detector the
denoised image while bounding it on the raw one; then the bound is not about that model.) Noise is added once, here, from the
keyed source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..device import open_device
from ..dtypes import Floats32, Floats64, Words
from ..engine import Engine, open_engine
from ..errors import InputError
from ..noise import NOISE_VERSION, GridLaw, Key, grid_law
from ..noise.sampler import add_noise
from ..runs.identity import independence, named, versions
from ..runs.record import ClassifierId
from .config import OodConfig
from .interval import ReadGraph
from .scores import Score


def check_detector(graph: ReadGraph) -> None:
    """InputError unless the effective weights of the detector's last layer are all non-positive."""
    worst = float(graph.last_weight.max())
    if not worst <= 0:
        raise InputError(
            f"detector {graph.path.name} has a weight {worst:.3g} above 0 in its last layer: the joint model's guarantee far from "
            "the data (Meinke et al. 2022, Theorem 1) needs non-positive ones; export it with `diffsmooth-trt export detector`"
        )


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a run has to know of its model, wherever that runs; names are those of `Model`. `versions` are its machine's."""

    classifier: ClassifierId
    classes: int
    sigma: float | None
    input_shape: tuple[int, int, int]
    batch: int
    joint: bool
    notes: tuple[str, ...]
    rows: Mapping[str, str]
    versions: Mapping[str, str]
    class_names: tuple[str, ...] | None = None

    @property
    def law(self) -> GridLaw | None:
        """The law of the noise, where there is a level."""
        return None if self.sigma is None else grid_law(self.sigma)


class Model:
    """The engines of a run and their score. `draws` noises, fixed for each image, are averaged over where nothing is smoothed."""

    def __init__(self, config: OodConfig) -> None:
        self.score: Score = config.scored
        self.draws = config.draws if config.engine is not None else 0
        self.opened: dict[str, Engine] = {}
        try:
            self._open(config)
        except BaseException:
            self.close()
            raise
        self.batch = config.batch
        self.classifier = self.opened["classifier"]
        self.denoiser, self.detector = self.opened.get("denoiser"), self.opened.get("detector")
        self.input_shape = (self.denoiser or self.classifier).facts.input_shape
        self.classes = int(self.classifier.facts.classes or 0)
        level = self.denoiser.facts.sigma if self.denoiser is not None else config.sigma
        self.sigma = None if level is None else float(level)
        self.law: GridLaw | None = None if self.sigma is None else grid_law(self.sigma)
        for engine in self.opened.values():
            if engine.place_dependent:
                self.close()
                raise InputError(
                    f"{engine.name}: its last bits depend on a row's place in the batch on this device, and so would "
                    "confidences: use --device cpu"
                )
            if engine.facts.input_shape != self.input_shape:
                self.close()
                raise InputError(
                    f"{engine.name} takes images {engine.facts.input_shape}, {self.classifier.name} "
                    f"{self.classifier.facts.input_shape}: export them for images of one size"
                )

    def _open(self, config: OodConfig) -> None:
        """Open the engines. Those that interval bounds are compared with run in float32 on the CPU, whatever --device says: the
        bounds hold for sums of products, and on a GPU convolutions may be Winograd's. Smoothing bounds the model as it runs.
        """
        options: dict[str, Any] = {name: getattr(config, name) for name in ("batch", "backend", "precision", "threads")}
        options["device"] = open_device(config.device)
        if config.engine is not None:
            self.opened["denoiser"] = open_engine(config.engine, role="denoiser", sigma=config.sigma, **options)
        exact = options if config.kind == "certified" else {**options, "precision": "fp32"}
        if config.kind in ("guaranteed", "adversarial"):
            exact["device"] = "cpu"
        plain = exact if config.kind == "guaranteed" and config.detector is None else options
        self.opened["classifier"] = open_engine(config.classifier, role="classifier", **plain)
        if config.detector is not None:
            self.opened["detector"] = open_engine(config.detector, role="detector", **exact)
            check_detector(ReadGraph(config.detector))

    @property
    def identity(self) -> ClassifierId:
        """Everything that decides a score besides key, image and the run's configuration, with the hash that names it."""
        parts: dict[str, Any] = {
            "method": "ood",
            "score": self.score.kind,
            "temperature": self.score.temperature,
            "noise_version": NOISE_VERSION,
            "sigma": self.sigma,
            **{role: engine.identity for role, engine in self.opened.items()},
        }
        return named(parts)

    @property
    def facts(self) -> ModelFacts:
        """What a run has to know of it."""
        said = [self.classifier.warning, *(engine.caveat for engine in self.opened.values())]
        return ModelFacts(
            classifier=self.identity,
            classes=self.classes,
            sigma=self.sigma,
            input_shape=self.input_shape,
            batch=self.batch,
            joint=self.detector is not None,
            notes=tuple(filter(None, said)),
            rows=independence(self.opened),
            versions=versions(),
            class_names=self.classifier.facts.class_names,
        )

    def logits(self, noisy: Floats32) -> Floats32:
        """The classifier's logits of a full batch, behind the denoiser where there is one."""
        return self.classifier.run_on_host(noisy if self.denoiser is None else self.denoiser.run_on_host(noisy))

    def distances(self, images: Floats32) -> Floats32 | None:
        """The detector's d `[batch]` of a full batch; None without a detector."""
        return None if self.detector is None else self.detector.run_on_host(images)[:, 0]

    def scores(self, images: Floats32, key: Key, phase: int, numbers: Words) -> Floats64:
        """Scores `[N]` of images float32 `[N, C, H, W]`, any N: the mean over `draws` noises of each image's own, or of none.

        Noise j of an image is that of (key, phase, its number, j), and is in front of the denoiser only.
        """
        parts = [
            self._batch_scores(images[at : at + self.batch], key, phase, numbers[at : at + self.batch])
            for at in range(0, len(images), self.batch)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _batch_scores(self, images: Floats32, key: Key, phase: int, numbers: Words) -> Floats64:
        count = len(images)
        order = np.minimum(np.arange(self.batch), count - 1)
        full, words = np.ascontiguousarray(images[order]), np.ascontiguousarray(numbers[order])
        d = self.distances(full)
        if not self.draws:
            return self.score.of(self.logits(full), d)[:count]
        total, highest = np.zeros(self.batch), np.full(self.batch, -np.inf)
        for draw in range(self.draws):
            scores = self.score.of(self.logits(self.with_noise(full, key, phase, words, draw)), d)
            total, highest = total + scores, np.maximum(highest, scores)
        # However its sum is rounded, a mean is not above all: an exact bound on each holds for it.
        return np.asarray(np.minimum(total / self.draws, highest)[:count])

    def with_noise(self, images: Floats32, key: Key, phase: int, numbers: Words, draw: int) -> Floats32:
        """`images` with noise `draw` of each image's own."""
        if self.law is None:
            raise InputError("--sigma is missing: noise needs a level in image units")
        out = np.empty_like(images)
        rows = len(images)
        samples = np.full(rows, draw, np.uint64)
        add_noise(self.law, key, phase, numbers, samples, images.reshape(rows, -1), out.reshape(rows, -1))
        return out

    def close(self) -> None:
        """Close the engines."""
        for engine in self.opened.values():
            engine.close()
