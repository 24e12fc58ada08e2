"""Gradients of the soft vote: against differences of what the engines say, and the estimators of the toolbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt import zoo
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.predictor import DiffSmoothPredictor, published_log_probabilities

torch = pytest.importorskip("torch", reason="gradients are torch's")
KEY = "5eed" * 16
RNG = np.random.default_rng(11)
EXACT: dict[str, Any] = {"backend": "onnxruntime", "precision": "fp32", "key": KEY, "batch": 4}


@pytest.fixture
def small(linear_classifier: Any, shrinking_denoiser: Any) -> Any:
    classifier = linear_classifier(RNG.normal(size=(4, 48)), RNG.normal(size=4))
    with DiffSmoothPredictor(classifier, shrinking_denoiser(0.25), num_samples=5, local_vote=2, **EXACT) as predictor:
        yield predictor


def images(count: int) -> Any:
    return RNG.uniform(0.2, 0.8, (count, 3, 4, 4)).astype(np.float32)


def test_torch_says_what_the_engines_say() -> None:
    from diffsmooth_trt.predictor.gradients import Gradients

    with DiffSmoothPredictor(
        zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, num_samples=3, local_vote=2, **EXACT
    ) as predictor:
        (image,) = Images(zoo.IMAGES, limit=1)
        values = (image.pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))[None]
        numbers = np.array([5], np.uint64)
        found = Gradients(predictor).log_mean(values, numbers)
        np.testing.assert_allclose(np.exp(found), np.exp(predictor.log_mean(values, numbers)), atol=1e-4)


def test_published_in_torch_is_published_in_numpy() -> None:
    from diffsmooth_trt.predictor.gradients import published

    logs = np.log(RNG.dirichlet(np.full(6, 0.1), 50) + 1e-300)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    given = torch.from_numpy(logs).requires_grad_(True)
    found = published(given)
    np.testing.assert_allclose(found.detach().numpy(), published_log_probabilities(logs), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert torch.isfinite(gradient).all()


def test_gradients_are_the_differences_of_the_answers(small: DiffSmoothPredictor) -> None:
    """Central differences of the engines' own float32 answers, along 6 directions; 1 % of the largest."""
    from diffsmooth_trt.predictor.gradients import Gradients

    gradients, x, numbers, step = Gradients(small), images(2), np.zeros(2, np.uint64), 1e-2
    of_loss = gradients.of_loss(x, numbers, np.array([1, 3]))
    of_classes = gradients.of_classes(x, numbers, [[0, 1, 2, 3], [0, 1, 2, 3]])
    np.testing.assert_allclose(of_loss[0], -of_classes[0, 1], atol=1e-6)
    np.testing.assert_allclose(of_loss[1], -of_classes[1, 3], atol=1e-6)
    for direction in RNG.normal(size=(6, 3, 4, 4)).astype(np.float32):
        direction /= np.linalg.norm(direction)
        up, down = (
            published_log_probabilities(small.log_mean(x + sign * step * direction, numbers)) for sign in (1, -1)
        )
        expected = (up - down) / (2 * step)
        found = (of_classes * direction).sum(axis=(2, 3, 4))
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(of_classes).sum(axis=(2, 3, 4)).max())


def test_gradients_are_refused_of_engines_without_them(conditional_denoiser: Any, linear_classifier: Any) -> None:
    from diffsmooth_trt.predictor.gradients import Gradients

    classifier = linear_classifier(np.zeros((4, 48)), np.zeros(4))
    with DiffSmoothPredictor(classifier, conditional_denoiser(np.zeros((2, 48))), **EXACT) as predictor:
        with pytest.raises(InputError, match="conditional denoiser, through which there are no gradients"):
            Gradients(predictor)


class TestToolbox:
    """As the toolbox's own tests of smoothed classifiers ask: predictions, both gradients, and attacks that run on it."""

    @pytest.fixture
    def estimator(self, small: DiffSmoothPredictor) -> Any:
        pytest.importorskip("art", reason="the Adversarial Robustness Toolbox")
        from diffsmooth_trt.predictor.art import ArtGradientPredictor

        return ArtGradientPredictor(small)

    def test_predictions(self, estimator: Any, small: DiffSmoothPredictor) -> None:
        x = images(7)
        found = estimator.predict(x)
        assert found.shape == (7, 4) and estimator.nb_classes == 4 and estimator.input_shape == (3, 4, 4)
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
        np.testing.assert_array_equal(found.argmax(axis=1), small.predict(x.transpose(0, 2, 3, 1)))
        np.testing.assert_array_equal(found, estimator.predict(x))  # the same noise at each call

    def test_gradients(self, estimator: Any) -> None:
        x = images(3)
        y = np.eye(4)[[0, 1, 2]]
        assert estimator.loss_gradient(x, y).shape == x.shape
        np.testing.assert_array_equal(estimator.loss_gradient(x, y), estimator.loss_gradient(x, np.array([0, 1, 2])))
        assert estimator.class_gradient(x).shape == (3, 4, 3, 4, 4)
        assert estimator.class_gradient(x, 2).shape == (3, 1, 3, 4, 4)
        np.testing.assert_allclose(
            estimator.class_gradient(x, np.array([0, 1, 2]))[:, 0], -estimator.loss_gradient(x, y), atol=1e-6
        )

    def test_white_box_attack_lowers_the_accuracy(self, estimator: Any) -> None:
        from art.attacks.evasion import ProjectedGradientDescentNumpy

        x = images(6)
        y = estimator.predict(x).argmax(axis=1)
        attack = ProjectedGradientDescentNumpy(estimator, norm=2, eps=1.5, eps_step=0.3, max_iter=8, verbose=False)
        adversarial = attack.generate(x, y)
        assert (estimator.compute_loss(adversarial, y) > estimator.compute_loss(x, y)).all()
        assert (estimator.predict(adversarial).argmax(axis=1) != y).mean() >= 0.5
        assert np.linalg.norm((adversarial - x).reshape(6, -1), axis=1).max() <= 1.5 + 1e-4

    def test_black_box_attack_runs_without_gradients(self, estimator: Any, small: DiffSmoothPredictor) -> None:
        from art.attacks.evasion import HopSkipJump

        from diffsmooth_trt.predictor.art import ArtPredictor

        x = images(1)
        attack = HopSkipJump(ArtPredictor(small), max_iter=1, max_eval=40, init_eval=10, verbose=False)
        found = attack.generate(x)
        assert found.shape == x.shape and (found >= 0).all() and (found <= 1).all()

    def test_bad_input(self, estimator: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be trained"):
            estimator.fit(images(1), np.array([0]))
        with pytest.raises(InputError, match="expected labels of 0 to 3"):
            estimator.loss_gradient(images(2), np.array([0, 4]))
        with pytest.raises(InputError, match=r"expected \[N, 3, 4, 4\]"):
            estimator.predict(np.zeros((1, 4, 4, 3), np.float32))
        with pytest.raises(InputError, match="values from"):
            estimator.predict(images(1) + 2)
