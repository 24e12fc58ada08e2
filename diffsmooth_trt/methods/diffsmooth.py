"""DiffSmooth (Zhang et al. 2023): denoise, add m small noises, average the classifier's softmaxes."""

from __future__ import annotations

import numpy as np
import scipy
from scipy.special import softmax

from ..engine import Engine
from ..errors import InputError
from ..noise import LOCAL, grid_law
from ..noise.cpu import add_noise, grid_noise
from .base import Denoised, Floats, Labels, Rows, Words, winners

PHASE_BITS = 56


def fresh_words(rows: Rows, copies: int, copy: int) -> Words:
    """Sample words of fresh local noise: (phase + 1)·2^56 + sample·copies + copy, so that no two draws share one."""
    shift = np.uint64(PHASE_BITS)
    return ((rows.phases + np.uint64(1)) << shift) + rows.samples * np.uint64(copies) + np.uint64(copy)


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
            "softmax": f"numpy {np.__version__}, scipy {scipy.__version__}",  # a near tie may fall by their last digit
        }
        shape = denoiser.facts.denoised_shape  # the noise comes after the denoiser's resize, where it has one
        size = int(np.prod(shape))
        words = np.arange(copies, dtype=np.uint64)
        steps = grid_noise(self.law, seed, LOCAL, np.zeros_like(words), words, size)
        self.fixed: Floats = (steps.astype(np.float32) / np.float32(255)).reshape(copies, 1, *shape)

    def labels(self, noisy: Floats, rows: Rows) -> Labels:
        denoised = self.denoiser.run(noisy)
        total = np.zeros((self.batch, self.classes), dtype=np.float32)
        for copy in range(self.copies):
            total += softmax(self.classifier.run(self._with_noise(denoised, rows, copy)), axis=1)
        return winners(total)

    def _with_noise(self, denoised: Floats, rows: Rows, copy: int) -> Floats:
        if not self.fresh:
            noised: Floats = denoised + self.fixed[copy]
            return noised
        out = np.empty_like(denoised)
        add_noise(self.law, self.seed, LOCAL, rows.images, fresh_words(rows, self.copies, copy), denoised, out)
        return out
