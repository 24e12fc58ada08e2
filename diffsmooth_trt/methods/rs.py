"""Plain randomized smoothing (Cohen et al. 2019): the classifier looks at the noisy image itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from ..device import Array
from ..engine import Engine
from .base import Method, MethodOptions, Rows, Slot


class Plain(Method):
    """f(x + δ) = argmax F(x + δ)."""

    name = "rs"
    slots: ClassVar[Mapping[str, Slot]] = {"engine": Slot("classifier", "classifier")}

    @classmethod
    def of(cls, engines: Mapping[str, Engine], sigma: float | None, options: MethodOptions) -> Self:
        return cls(engines["engine"], float(sigma or 0.0))

    def __init__(self, classifier: Engine, sigma: float) -> None:
        super().__init__(classifier, classifier.facts.input_shape, sigma)

    def labels(self, noisy: Array, rows: Rows) -> Array:
        return self.device.winners(self.classifier.run(noisy, nhwc=self.noisy_nhwc))
