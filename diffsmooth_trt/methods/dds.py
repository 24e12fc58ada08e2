"""Diffusion denoised smoothing (Carlini et al. 2023): one denoising step, then the classifier."""

from __future__ import annotations

from .base import Denoised, Floats, Labels, Rows


class DenoisedSmoothing(Denoised):
    """f(x + δ) = argmax F(D(x + δ))."""

    name = "dds"

    def labels(self, noisy: Floats, rows: Rows) -> Labels:
        return self.classifier.run(self.denoiser.run(noisy)).argmax(axis=1)
