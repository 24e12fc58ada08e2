"""DiffSmooth (Zhang et al. 2023): denoise, add m small noises, average the classifier's softmaxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..device import Array, cpu
from ..engine import Engine
from ..errors import InputError
from ..noise import LOCAL, grid_law
from ..noise.cpu import grid_noise
from .base import Denoised, Rows, Words


def fresh_words(rows: Rows, copies: int, copy: int) -> Words:
    """Sample words of fresh local noise: (phase + 1)·2^56 + sample·copies + copy, so that no two draws share one."""
    return np.asarray(cpu.fresh_words(rows.words, copies, copy))


class DiffSmooth(Denoised):
    """f(x + δ) = argmax mean_j softmax F(D(x + δ) + η_j), η_j ~ N(0, σ'²I) on the grid 1/255·ℤ, j = 1…m.

    The η_j belong to f: they come from the classifier's public `seed`, never from a run's key. Fixed (the default), they
    are the same for every image and sample (image word 0, sample word = copy) and f is deterministic; `fresh` ones are
    drawn for every row (`fresh_words`, image word = image).
    """

    name = "diffsmooth"

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
            "classifier_seed": seed,
            "softmax": self.device.softmax,
        }
        self.notes = [classifier.warning] if classifier.warning else []
        shape = denoiser.facts.denoised_shape  # the noise comes after the denoiser's resize, where it has one
        size = int(np.prod(shape))
        words = np.arange(copies, dtype=np.uint64)
        steps = grid_noise(self.law, seed, LOCAL, np.zeros_like(words), words, size)
        with self.device.errors():
            self.fixed = self.device.asarray(steps.astype(np.float32) / np.float32(255))
            self.total = self.device.empty((self.batch, self.classes))

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
        where = (self.law, self.seed, LOCAL, rows.words, self.copies, copy)
        return self.device.with_fresh_noise(*where, denoised, classifier.input, **how)
