"""What the tests of the Adversarial Robustness Toolbox ask of smoothed classifiers and of estimators, asked of the predictor's.

Of its `tests/estimators/certification/test_randomized_smoothing.py`, `test_smooth_adv.py`, `test_macer.py`, `test_smooth_mix.py`
and `tests/estimators/classification/test_classifier.py`, `test_deeplearning_common.py` these do not apply: `certify` (there is no
certificate), `fit`, `fit_generator` and clones for refitting (engines are not trained), activations and layers, inputs of any size,
`save` (engines are files), losses that are chosen, functional models, devices of torch, and vectors in place of images.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.predictor import DiffSmoothPredictor

torch = pytest.importorskip("torch", reason="gradients are torch's")
pytest.importorskip("art", reason="the Adversarial Robustness Toolbox")

from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, SquareAttack  # noqa: E402
from art.defences.postprocessor import Rounded  # noqa: E402
from art.defences.preprocessor import FeatureSqueezing, JpegCompression, SpatialSmoothing  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402
from art.utils import random_targets  # noqa: E402

from diffsmooth_trt.predictor.art import ArtGradientPredictor, ArtPredictor  # noqa: E402

SHAPE, CLASSES = (3, 8, 8), 4
D = int(np.prod(SHAPE))
RNG = np.random.default_rng(19)
WEIGHTS, BIAS = 2 * RNG.normal(size=(CLASSES, D)) / np.sqrt(D), RNG.normal(size=CLASSES) / 10
HOW: dict[str, Any] = {"key": "5eed" * 16, "batch": 24, "backend": "onnxruntime", "precision": "fp32"}
X = np.random.default_rng(4).uniform(0.2, 0.8, (6, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(linear_classifier: Any) -> Path:
    found: Path = linear_classifier(WEIGHTS, BIAS, shape=SHAPE)
    return found


@pytest.fixture
def predictor(engine: Path) -> Any:
    with DiffSmoothPredictor(
        engine, denoising_sigma=0, local_sigma=0.06, num_samples=4, local_vote=4, **HOW
    ) as predictor:
        yield predictor


@pytest.fixture
def smoothed(predictor: DiffSmoothPredictor) -> ArtGradientPredictor:
    return ArtGradientPredictor(predictor)


@pytest.fixture(scope="module")
def base() -> PyTorchClassifier:
    """The classifier itself, without noise."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(D, CLASSES))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(WEIGHTS))
        model[1].bias.copy_(torch.from_numpy(BIAS))
    return PyTorchClassifier(
        model=model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=SHAPE,
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


# Of smoothed classifiers


def test_the_fast_gradient_method_finds_what_it_finds_without_smoothing(smoothed: Any, base: Any) -> None:
    """The toolbox asks for less than 0.75 apart anywhere; the classifier is linear, so that few signs may differ."""
    y = np.eye(CLASSES)[base.predict(X).argmax(axis=1)]
    targets = random_targets(y, CLASSES)
    plain, found = (
        FastGradientMethod(each, targeted=True, eps=0.3).generate(X, y=targets) for each in (base, smoothed)
    )
    assert plain.shape == found.shape and (np.abs(plain - found) < 0.75).all()
    assert (np.abs(plain - found) > 1e-6).mean() < 0.15
    assert (smoothed.predict(found).argmax(axis=1) == targets.argmax(axis=1)).mean() >= 0.5


def test_predictions_are_those_of_the_classifier(smoothed: Any, base: Any) -> None:
    found = smoothed.predict(x=X)
    assert found.shape == (len(X), CLASSES)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    sure = np.diff(np.sort(base.predict(X), axis=1)[:, -2:], axis=1)[:, 0] > 0.2
    assert sure.sum() >= 3
    np.testing.assert_array_equal(found.argmax(axis=1)[sure], base.predict(X).argmax(axis=1)[sure])


def test_gradients_take_the_toolboxs_words(smoothed: Any) -> None:
    y = np.eye(CLASSES)[smoothed.predict(X).argmax(axis=1)]
    assert smoothed.loss_gradient(x=X, y=y, sampling=True).shape == X.shape


def test_there_is_no_certificate_and_no_training(smoothed: Any) -> None:
    assert not hasattr(smoothed, "certify") and "no certificate" in repr(smoothed)
    with pytest.raises(InputError, match="cannot be trained"):
        smoothed.fit(x=X, y=np.zeros(len(X)))
    with pytest.raises(InputError, match="have no layers"):
        smoothed.get_activations(X, 0, batch_size=4)
    assert smoothed.layer_names is None


# Of classifiers and neural networks


def test_what_it_says_of_itself(smoothed: Any) -> None:
    said = repr(smoothed)
    assert said.startswith("ArtGradientPredictor(") and "channels_first=True" in said and "clip_values=[0. 1.]" in said
    assert "preprocessing=StandardisationMeanStd(mean=0.0, std=1.0, apply_fit=True, apply_predict=True)" in said
    assert smoothed.nb_classes == CLASSES and smoothed.input_shape == SHAPE and smoothed.channels_first
    assert {"clip_values", "nb_classes", "channels_first", "preprocessing_defences"} <= smoothed.get_params().keys()
    x = RNG.random((2, 3))
    np.testing.assert_array_almost_equal(smoothed._apply_preprocessing(x=x, y=None, fit=False)[0], x)


def test_shapes(smoothed: Any) -> None:
    assert smoothed.class_gradient(X[:3]).shape == (3, CLASSES, *SHAPE)
    assert smoothed.class_gradient(X[:3], label=2).shape == (3, 1, *SHAPE)
    labels = [0, 3, 1]
    each = smoothed.class_gradient(X[:3], label=np.array(labels, dtype=object))
    assert each.shape == (3, 1, *SHAPE)
    for row, label in enumerate(labels):
        np.testing.assert_allclose(each[row], smoothed.class_gradient(X[:3], label=label)[row], atol=1e-6)
    np.testing.assert_array_equal(each, smoothed.class_gradient(X[:3], label=labels))


def test_losses_are_reduced_as_asked(smoothed: Any) -> None:
    y = np.eye(CLASSES)[[0, 1, 2, 3]]
    losses = smoothed.compute_loss(x=X[:4], y=y)
    np.testing.assert_allclose(losses, -smoothed.predict(X[:4])[np.arange(4), np.arange(4)])
    assert float(smoothed.compute_loss(x=X[:4], y=y, reduction="sum")) == pytest.approx(losses.sum())
    assert float(smoothed.compute_loss(x=X[:4], y=y, reduction="mean")) == pytest.approx(losses.mean())
    for wrong in ({"reduction": "max"}, {"y": np.zeros((4, 1))}, {"y": np.full(4, 0.5)}, {"y": np.zeros((4, 3))}):
        with pytest.raises(InputError):
            smoothed.compute_loss(**{"x": X[:4], "y": y, **wrong})


@pytest.mark.parametrize(
    "defence",
    [
        FeatureSqueezing(clip_values=(0, 1), bit_depth=2),
        JpegCompression(clip_values=(0, 1), apply_predict=True, channels_first=True),
        SpatialSmoothing(channels_first=True),
    ],
    ids=["squeezing", "jpeg", "smoothing"],
)
def test_defences_are_applied(defence: Any, predictor: DiffSmoothPredictor, smoothed: Any) -> None:
    defended = ArtGradientPredictor(predictor, preprocessing_defences=[defence])
    assert len(defended.preprocessing_defences) == 1
    expected = smoothed.predict(defence(X)[0])
    np.testing.assert_allclose(defended.predict(X), expected, atol=1e-4)
    assert (np.abs(expected - smoothed.predict(X)) > 1e-4).any()
    y = np.zeros(len(X), np.int64)
    np.testing.assert_allclose(defended.compute_loss(X, y), -expected[:, 0], atol=1e-4)
    gradient = defence.estimate_gradient(X, smoothed.loss_gradient(defence(X)[0], y))
    np.testing.assert_allclose(defended.loss_gradient(X, y), gradient, atol=1e-6)
    later = ArtPredictor(predictor)
    later.set_params(preprocessing_defences=[defence])  # as the toolbox adds one to an estimator that is there
    np.testing.assert_array_equal(later.predict(X), defended.predict(X))


def test_answers_are_defended(predictor: DiffSmoothPredictor, smoothed: Any) -> None:
    defence = Rounded(decimals=1)
    found = ArtPredictor(predictor, postprocessing_defences=[defence]).predict(X)
    np.testing.assert_array_equal(found, defence(smoothed.predict(X)))


def test_it_is_pickled_and_opened_again(predictor: DiffSmoothPredictor, smoothed: Any) -> None:
    for estimator in (ArtPredictor(predictor), smoothed):
        loaded = pickle.loads(pickle.dumps(estimator))
        assert (loaded.clip_values == estimator.clip_values).all() and loaded.channels_first
        assert loaded.__dict__.keys() == estimator.__dict__.keys()
        np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))
        loaded.predictor.close()
    np.testing.assert_array_equal(
        loaded.loss_gradient(X, np.zeros(len(X))), smoothed.loss_gradient(X, np.zeros(len(X)))
    )


# Attacks that ask for more than the ones in test_gradients


def test_attacks_that_ask_for_a_neural_network_or_for_losses_run(predictor: DiffSmoothPredictor, smoothed: Any) -> None:
    x = X[:3]
    y = smoothed.predict(x).argmax(axis=1)
    before = smoothed.compute_loss(x, y)
    square = SquareAttack(ArtPredictor(predictor), norm=np.inf, eps=0.2, max_iter=5, verbose=False).generate(x, y)
    assert np.abs(square - x).max() <= 0.2 + 1e-6
    found = AutoProjectedGradientDescent(
        smoothed, norm=2, eps=0.6, eps_step=0.2, max_iter=3, nb_random_init=1, verbose=False
    ).generate(x, y)
    assert smoothed.compute_loss(found, y).mean() > before.mean()
    assert np.linalg.norm((found - x).reshape(3, -1), axis=1).max() <= 0.6 + 1e-4
