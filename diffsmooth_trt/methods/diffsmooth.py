"""DiffSmooth (Zhang et al. 2023): denoise, add m small noises, average the classifier's softmaxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ..device import Array
from ..engine import Engine
from ..errors import InputError
from ..noise import FIXED_LOCAL, LOCAL, GridLaw, check_noise_level, grid_law, seed_key
from ..noise.sampler import grid_noise
from ..ranges import integer
from .base import Denoised, Rows, option
from .own_noise import OwnNoise


@dataclass(frozen=True, kw_only=True)
class LocalNoise(OwnNoise):
    """Options of DiffSmooth: `m` local noises of standard deviation `local_sigma`, in image units, a sample."""

    local_sigma: float = option(0.12, "DiffSmooth: local noise in image units (default: 0.12)", metavar="S")
    m: int = option(5, "DiffSmooth: local noises a sample (default: 5)")

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("m", self.m, 1, 2**16 - 1)
        check_noise_level("local-sigma", self.local_sigma)

    @property
    def noises(self) -> int:
        return self.m


class DiffSmooth(Denoised):
    """f(x + δ) = argmax mean_j softmax F(D(x + δ) + η_j), η_j ~ N(0, σ'²I) on the grid 1/255·ℤ, j = 1…m.

    Fixed η_j (the default) are part of f: the same for every image and sample (phase 32, image word 0, sample word = copy),
    under the key made of the classifier's public `seed`, never under a run's; f is deterministic. `fresh` ones are drawn for
    every row and make f random, so that its votes are independent only if nobody knew them when f was made: under the run's
    key (phase 16, image word = image, sample word by `noise.counters.fresh_words`).
    """

    name = "diffsmooth"
    Options = LocalNoise

    @classmethod
    def of(cls, engines: Mapping[str, Engine], sigma: float | None, options: LocalNoise) -> Self:
        return cls(
            engines["engine"],
            engines["classifier"],
            local_sigma=options.local_sigma,
            copies=options.m,
            seed=options.classifier_seed,
            fresh=options.fresh,
        )

    def __init__(
        self, denoiser: Engine, classifier: Engine, *, local_sigma: float, copies: int, seed: int, fresh: bool = False
    ) -> None:
        super().__init__(denoiser, classifier)
        if not 1 <= copies < 2**16:
            raise InputError(f"--m must lie in 1…65535, got {copies}")
        self.law = grid_law(local_sigma)
        self.copies, self.seed, self.fresh = copies, seed, fresh
        self.identity |= {
            "local_sigma": local_sigma,
            "m": copies,
            "local_noise": "fresh" if fresh else "fixed",
            **({} if fresh else {"classifier_seed": seed}),
            "softmax": self.device.softmax,
        }
        self.notes = [classifier.warning] if classifier.warning else []
        shape = denoiser.facts.denoised_shape  # the noise comes after the denoiser's resize, where it has one
        size = int(np.prod(shape))
        words = np.arange(copies, dtype=np.uint64)
        steps = grid_noise(self.law, seed_key(seed), FIXED_LOCAL, np.zeros_like(words), words, size)
        with self.device.errors():
            self.fixed = self.device.asarray(steps.astype(np.float32) / np.float32(255))
            self.total = self.device.empty((self.batch, self.classes))

    def own_laws(self) -> list[GridLaw]:
        return [self.law]

    def labels(self, noisy: Array, rows: Rows) -> Array:
        denoised = self.denoiser.run(noisy, nhwc=self.noisy_nhwc)
        for copy in range(self.copies):
            self.device.stage("local noise")
            noised = self._with_noise(denoised, rows, copy)
            scores = self.classifier.run(noised, nhwc=self.classifier.input_nhwc)
            self.device.add_softmax(scores, self.total, carry=copy > 0)
        return self.device.winners(self.total)

    def _with_noise(self, denoised: Array, rows: Rows, copy: int) -> Array:
        classifier = self.classifier
        how: dict[str, Any] = {
            "size": self.denoiser.facts.denoised_shape,
            "nhwc": self.denoiser.output_nhwc,
            "out_nhwc": classifier.input_nhwc,
        }
        if not self.fresh:
            return self.device.with_fixed_noise(denoised, self.fixed[copy], classifier.input, **how)
        where = (self.law, rows.key, LOCAL, rows.words)
        how |= {"copies": self.copies, "copy": copy}
        return self.device.with_fresh_noise(*where, denoised, classifier.input, **how)
