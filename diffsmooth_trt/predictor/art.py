"""The predictor as an estimator of the Adversarial Robustness Toolbox (extra `art`), as DiffSmooth is served there.

Images are float `[N, C, H, W]` in [0, 1]; `predict` returns the published log-probabilities. The key stays the same for the life
of the predictor, so that an attack meets one function, of which the gradients are exact; to attack it as a user meets it, who does
not know the noise, evaluate what was found under a fresh key.

The toolbox's defences are applied as its own estimators apply them: to images before the predictor sees them, to what it answers,
and, by each defence's own estimate, to gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
from numpy.typing import NDArray

from ..dtypes import Floats32, Floats64, Labels, Words
from ..errors import InputError
from .images import checked
from .soft_vote import DiffSmoothPredictor, published_log_probabilities

REDUCTIONS: dict[str, Callable[[Floats64], Any]] = {"none": lambda losses: losses, "mean": np.mean, "sum": np.sum}


class ArtPredictor(ClassifierMixin, NeuralNetworkMixin, BaseEstimator):  # type: ignore[misc]
    """A predictor without gradients, for black-box attacks, whatever its engines are. Defences are lists of the toolbox's."""

    estimator_params: ClassVar[list[str]] = [*BaseEstimator.estimator_params, "nb_classes", "channels_first"]

    def __init__(
        self, predictor: DiffSmoothPredictor, *, preprocessing_defences: Any = None, postprocessing_defences: Any = None
    ) -> None:
        super().__init__(
            model=None,
            clip_values=(0.0, 1.0),
            channels_first=True,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
        )
        self.predictor = predictor
        self.nb_classes = predictor.classes
        self._layer_names = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.predictor.input_shape

    def predict(self, x: NDArray[Any], batch_size: int = 128, **_: Any) -> Floats64:
        """The published log-probabilities float64 `[N, K]` of images `[N, C, H, W]`; InputError for other images.

        The rows of an engine call are the predictor's, whatever `batch_size` is.
        """
        answers: Floats64 = self._apply_postprocessing(self._log_probabilities(x), fit=False)
        return answers

    def fit(self, x: Any, y: Any, batch_size: int = 128, nb_epochs: int = 20, **_: Any) -> None:
        """Raises InputError: engines are not trained."""
        raise InputError("the predictor's engines cannot be trained: train a checkpoint and export it")

    def get_activations(self, x: Any, layer: Any, batch_size: int = 128, framework: bool = False) -> Any:
        """Raises InputError: engines show their outputs alone."""
        raise InputError("the predictor's engines have no layers to look into: use the checkpoint's torch module")

    def _log_probabilities(self, x: NDArray[Any]) -> Floats64:
        values, numbers = self._given(x)
        return published_log_probabilities(self.predictor.log_mean(values, numbers))

    def _given(self, x: NDArray[Any]) -> tuple[Floats32, Words]:
        """Images as the predictor gets them, after the defences, and their numbers."""
        defended, _ = self._apply_preprocessing(self._images(x), None, fit=False)
        values = self._images(defended)
        return values, np.zeros(len(values), np.uint64)

    def _images(self, x: NDArray[Any]) -> Floats32:
        values = np.asarray(x)
        if values.shape[1:] != self.input_shape:
            raise InputError(
                f"x is {values.shape}, expected [N, {', '.join(map(str, self.input_shape))}]: give such images"
            )
        return checked(values, "x")


class ArtGradientPredictor(ClassGradientsMixin, LossGradientsMixin, ArtPredictor):  # type: ignore[misc]
    """A predictor with gradients, of `.onnx` engines; needs torch. Raises InputError where an engine has none."""

    def __init__(self, predictor: DiffSmoothPredictor, **defences: Any) -> None:
        super().__init__(predictor, **defences)
        self.gradients = _gradients(predictor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "gradients"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.gradients = _gradients(self.predictor)

    def class_gradient(self, x: NDArray[Any], label: Any = None, **_: Any) -> Floats32:
        """Gradients of the published log-probabilities `[N, M, C, H, W]`: of all classes, of one, or of one for each image."""
        values, numbers = self._given(x)
        if label is None:
            chosen = [list(range(self.predictor.classes))] * len(values)
        else:
            each = np.broadcast_to(np.asarray(label), (len(values),))
            chosen = [[int(one)] for one in self._labels(each, len(values))]
        return self._of_images(x, self.gradients.of_classes(values, numbers, chosen))

    def loss_gradient(self, x: NDArray[Any], y: NDArray[Any], **_: Any) -> Floats32:
        """The gradient of the cross-entropy with labels `[N]`, or one-hot `[N, K]`; float32 `[N, C, H, W]`."""
        values, numbers = self._given(x)
        return self._of_images(x, self.gradients.of_loss(values, numbers, self._labels(y, len(values))))

    def compute_loss(self, x: NDArray[Any], y: NDArray[Any], reduction: str = "none", **_: Any) -> Any:
        """The cross-entropy of each image, float64 `[N]`, or their "mean" or "sum"; labels as for `loss_gradient`."""
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction is {reduction!r}: use one of {', '.join(REDUCTIONS)}")
        logs = self._log_probabilities(x)
        return REDUCTIONS[reduction](-logs[np.arange(len(logs)), self._labels(y, len(logs))])

    def _of_images(self, x: NDArray[Any], gradients: Floats32) -> Floats32:
        """Gradients in the images as given, by each defence's own estimate."""
        passed: Floats32 = self._apply_preprocessing_gradient(self._images(x), gradients)
        return passed

    def _labels(self, y: NDArray[Any], count: int) -> Labels:
        given, classes = np.asarray(y), self.predictor.classes
        labels = given.argmax(axis=1) if given.shape == (count, classes) else given
        if labels.shape != (count,) or not all(0 <= each < classes and int(each) == each for each in labels):
            raise InputError(
                f"y is {given.shape}, expected labels of 0 to {classes - 1} [{count}], or one-hot: give such"
            )
        return labels.astype(np.int64)


def _gradients(predictor: DiffSmoothPredictor) -> Any:
    """The predictor's gradients; InputError where there are none."""
    try:
        from .gradients import Gradients
    except ImportError as error:
        raise InputError(f"gradients need torch ({error}): pip install torch, or use ArtPredictor") from error
    return Gradients(predictor)
