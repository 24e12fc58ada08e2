"""The predictor as an estimator of the Adversarial Robustness Toolbox (extra `art`), as DiffSmooth is served there.

Images are float `[N, C, H, W]` in [0, 1]; `predict` returns the published log-probabilities. The key stays the same for the life
of the predictor, so that an attack meets one function, of which the gradients are exact; to attack it as a user meets it, who does
not know the noise, evaluate what was found under a fresh key.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from numpy.typing import NDArray

from ..dtypes import Floats32, Floats64, Labels, Words
from ..errors import InputError
from .images import checked
from .soft_vote import DiffSmoothPredictor, published_log_probabilities


class ArtPredictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A predictor without gradients, for black-box attacks, whatever its engines are."""

    estimator_params: ClassVar[list[str]] = [*BaseEstimator.estimator_params, "nb_classes"]

    def __init__(self, predictor: DiffSmoothPredictor) -> None:
        super().__init__(model=None, clip_values=(0.0, 1.0))
        self.predictor = predictor
        self.nb_classes = predictor.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.predictor.input_shape

    def predict(self, x: NDArray[Any], **_: Any) -> Floats64:
        """The published log-probabilities float64 `[N, K]` of images `[N, C, H, W]`; InputError for other images."""
        values, numbers = self._given(x)
        return published_log_probabilities(self.predictor.log_mean(values, numbers))

    def fit(self, x: Any, y: Any, **_: Any) -> None:
        """Raises InputError: engines are not trained."""
        raise InputError("the predictor's engines cannot be trained: train a checkpoint and export it")

    def _given(self, x: NDArray[Any]) -> tuple[Floats32, Words]:
        values = np.asarray(x)
        if values.shape[1:] != self.input_shape:
            raise InputError(
                f"x is {values.shape}, expected [N, {', '.join(map(str, self.input_shape))}]: give such images"
            )
        return checked(values, "x"), np.zeros(len(values), np.uint64)


class ArtGradientPredictor(ClassGradientsMixin, LossGradientsMixin, ArtPredictor):  # type: ignore[misc]
    """A predictor with gradients, of `.onnx` engines; needs torch. Raises InputError where an engine has none."""

    def __init__(self, predictor: DiffSmoothPredictor) -> None:
        super().__init__(predictor)
        try:
            from .gradients import Gradients
        except ImportError as error:
            raise InputError(f"gradients need torch ({error}): pip install torch, or use ArtPredictor") from error
        self.gradients = Gradients(predictor)

    def class_gradient(self, x: NDArray[Any], label: Any = None, **_: Any) -> Floats32:
        """Gradients of the published log-probabilities `[N, M, C, H, W]`: of all classes, of one, or of one for each image."""
        values, numbers = self._given(x)
        if label is None:
            chosen = [list(range(self.predictor.classes))] * len(values)
        else:
            each = np.broadcast_to(np.asarray(label), (len(values),))
            chosen = [[int(one)] for one in self._labels(each, len(values))]
        return self.gradients.of_classes(values, numbers, chosen)

    def loss_gradient(self, x: NDArray[Any], y: NDArray[Any], **_: Any) -> Floats32:
        """The gradient of the cross-entropy with labels `[N]`, or one-hot `[N, K]`; float32 `[N, C, H, W]`."""
        values, numbers = self._given(x)
        return self.gradients.of_loss(values, numbers, self._labels(y, len(values)))

    def compute_loss(self, x: NDArray[Any], y: NDArray[Any], **_: Any) -> Floats64:
        """The cross-entropy of each image, float64 `[N]`; labels as for `loss_gradient`."""
        labels = self._labels(y, len(x))
        losses: Floats64 = -self.predict(x)[np.arange(len(labels)), labels]
        return losses

    def _labels(self, y: NDArray[Any], count: int) -> Labels:
        labels = np.asarray(y)
        if labels.ndim == 2:
            labels = labels.argmax(axis=1)
        if labels.shape != (count,) or not ((labels >= 0) & (labels < self.predictor.classes)).all():
            raise InputError(
                f"y is {np.asarray(y).shape}, expected labels of 0 to {self.predictor.classes - 1} [{count}], or one-hot: give such"
            )
        return labels.astype(np.int64)
