"""Diffusion denoised smoothing (Carlini et al. 2023): one denoising step, then the classifier."""

from __future__ import annotations

from .base import Denoised, Floats, Labels, Rows, winners


class DenoisedSmoothing(Denoised):
    """f(x + δ) = argmax F(D(x + δ))."""

    name = "dds"

    def labels(self, noisy: Floats, rows: Rows) -> Labels:
        return winners(self.classifier.run(self.denoiser.run(noisy)))
