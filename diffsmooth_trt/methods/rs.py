"""Plain randomized smoothing (Cohen et al. 2019): the classifier looks at the noisy image itself."""

from __future__ import annotations

from ..device import Array
from ..engine import Engine
from .base import Method, Rows


class Plain(Method):
    """f(x + δ) = argmax F(x + δ)."""

    name = "rs"

    def __init__(self, classifier: Engine, sigma: float) -> None:
        super().__init__(classifier, classifier.facts.input_shape, sigma)

    def labels(self, noisy: Array, rows: Rows) -> Array:
        return self.device.winners(self.classifier.run(noisy, nhwc=self.noisy_nhwc))
