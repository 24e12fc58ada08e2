"""Diffusion denoised smoothing (Carlini et al. 2023): one denoising step, then the classifier."""

from __future__ import annotations

from ..device import Array
from .base import Denoised, Rows


class DenoisedSmoothing(Denoised):
    """f(x + δ) = argmax F(D(x + δ))."""

    name = "dds"

    def labels(self, noisy: Array, rows: Rows) -> Array:
        denoised = self.denoiser.run(noisy, nhwc=self.noisy_nhwc)
        return self.device.winners(self.classifier.run(denoised, nhwc=self.denoiser.output_nhwc))
