"""The DiffSmooth predictor against a restatement of its definition, and what it says of itself."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import EngineFacts
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.noise import LOCAL, PREDICTION, Key, grid_law, reference
from diffsmooth_trt.predictor import DiffSmoothPredictor, PredictorOptions, published_log_probabilities
from diffsmooth_trt.predictor.geometry import Fitting, bilinear

KEY = "5eed" * 16
RNG = np.random.default_rng(7)
EXACT: dict[str, Any] = {"backend": "onnxruntime", "precision": "fp32", "key": KEY}


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def restated(
    pixels: np.ndarray[Any, Any], number: int, denoiser: Path, classifier: Path, size: int, *, sigma: float, local: float,
    samples: int, votes: int,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """Mean probabilities of one image uint8 [H, W, C], draw by draw, by the slow reference sampler and torch's resize."""
    torch = pytest.importorskip("torch", reason="resizes independently")
    denoise, classify, key = session(denoiser), session(classifier), Key.parse(KEY)
    image = pixels.transpose(2, 0, 1).astype(np.float64) / 255
    total, count = np.zeros(0), 0
    for sample in range(samples):
        delta = reference.grid_noise(grid_law(sigma), key, PREDICTION, number, sample, image.size).reshape(image.shape)
        noisy = (image + delta / 255).astype(np.float32)
        (clean,) = denoise.run(None, {denoise.get_inputs()[0].name: noisy[None]})
        shaped = torch.nn.functional.interpolate(
            torch.from_numpy(clean), size=(size, size), mode="bilinear", align_corners=False
        ).numpy()[0]
        for vote in range(votes):
            word = (PREDICTION + 1) * 2**56 + sample * votes + vote
            eta = reference.grid_noise(grid_law(local), key, LOCAL, number, word, shaped.size).reshape(shaped.shape)
            given = np.clip(shaped + eta / 255, 0, 1).astype(np.float32)
            (logits,) = classify.run(None, {classify.get_inputs()[0].name: given[None]})
            powers = np.exp(logits[0].astype(np.float64) - logits.max())
            total = powers / powers.sum() + (total if count else 0)
            count += 1
    return total / count


def first(count: int) -> np.ndarray[Any, Any]:
    return np.stack([image.pixels for image in Images(zoo.IMAGES, limit=count)])


@pytest.fixture(scope="module")
def large_classifier(tmp_path_factory: pytest.TempPathFactory, write_graph: Any) -> Path:
    """A classifier of 224-pixel images with random weights."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[8, 8]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"]),
    ]
    weights = {
        "w": RNG.normal(size=(16, 3, 8, 8)).astype(np.float32) / 8,
        "v": RNG.normal(size=(16, 7)).astype(np.float32) * 4,
    }
    shape, path = (3, 224, 224), tmp_path_factory.mktemp("large") / "large.onnx"
    return Path(write_graph(path, nodes, weights, [7], EngineFacts("classifier", shape, classes=7), shape, "B"))


def test_it_is_the_definition_on_the_zoo() -> None:
    given: dict[str, Any] = {"sigma": 0.25, "local": 0.12, "samples": 5, "votes": 3}
    with DiffSmoothPredictor(
        zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, num_samples=5, local_vote=3, batch=4, **EXACT
    ) as predictor:
        assert predictor.sigma == 0.25
        found = predictor.predict_proba(first(2), np.array([0, 1]))
    for number, pixels in enumerate(first(2)):
        expected = restated(pixels, number, zoo.DENOISER, zoo.CLASSIFIER_DIFFSMOOTH, 32, **given)
        np.testing.assert_allclose(found[number], expected, rtol=0, atol=1e-6)


def test_it_is_the_definition_for_a_larger_classifier(large_classifier: Path) -> None:
    given: dict[str, Any] = {"sigma": 0.25, "local": 0.06, "samples": 2, "votes": 2}
    how = {"num_samples": 2, "local_vote": 2, "local_sigma": 0.06, "batch": 2}
    with DiffSmoothPredictor(large_classifier, zoo.DENOISER, **how, **EXACT) as predictor:
        found = predictor.predict_proba(first(1), np.array([3]))
    expected = restated(first(1)[0], 3, zoo.DENOISER, large_classifier, 224, **given)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "taken"), [((3, 7, 7), (3, 12, 12)), ((3, 9, 9), (3, 4, 4)), ((1, 10, 17), (1, 6, 6))]
)
def test_fitting_is_torchs_resize_and_torchvisions_centre(given: Any, taken: Any) -> None:
    torch = pytest.importorskip("torch", reason="the resize to compare with")
    images = RNG.random((2, *given)).astype(np.float32)
    scale = taken[1] / min(given[1:])
    size = tuple(round(length * scale) for length in given[1:])
    whole = torch.nn.functional.interpolate(torch.from_numpy(images), size=size, mode="bilinear", align_corners=False)
    top, left = (round((length - wanted) / 2.0) for length, wanted in zip(size, taken[1:], strict=True))
    expected = whole[:, :, top : top + taken[1], left : left + taken[2]].numpy()
    np.testing.assert_allclose(Fitting.between(given, taken)(images), expected, atol=1e-6)
    np.testing.assert_allclose(bilinear(given[1], 5).sum(axis=1), 1)


def test_answers_do_not_depend_on_what_else_is_asked() -> None:
    how: dict[str, Any] = {"num_samples": 3, "local_vote": 2, **EXACT}
    with DiffSmoothPredictor(zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, batch=4, **how) as predictor:
        together, alone = predictor.predict_log_proba(first(3)), predictor.predict_log_proba(first(3)[2:])
        np.testing.assert_array_equal(together[2], alone[0])
        np.testing.assert_array_equal(
            together, predictor.predict_log_proba(first(3).astype(np.float32) / np.float32(255))
        )
        assert (predictor.predict_log_proba(first(1), np.array([9])) != together[0]).any()  # noise of its own
    with DiffSmoothPredictor(zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, batch=5, **how) as other:
        np.testing.assert_allclose(other.predict_log_proba(first(3)), together, atol=1e-4)


def test_without_denoising_the_classifier_sees_the_image_with_local_noise(linear_classifier: Any) -> None:
    weights = RNG.normal(size=(5, 48)) / 4
    path, x = linear_classifier(weights, np.zeros(5)), RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    with DiffSmoothPredictor(
        path, denoising_sigma=0, num_samples=2, local_vote=2, local_sigma=0.25, **EXACT
    ) as predictor:
        found = predictor.predict_proba(x)
        assert "denoiser none" in repr(predictor) and "no certificate" in repr(predictor)
        assert "denoiser" not in predictor.identity
    for row, pixels in enumerate(x):
        image, mean = pixels.transpose(2, 0, 1).reshape(-1) / 255, np.zeros(5)
        for word in range(4):
            eta = reference.grid_noise(grid_law(0.25), Key.parse(KEY), LOCAL, 0, 3 * 2**56 + word, 48)
            powers = np.exp(weights @ np.clip(image + eta / 255, 0, 1))
            mean += powers / powers.sum() / 4
        np.testing.assert_allclose(found[row], mean, atol=1e-6)


def test_a_conditional_denoiser_serves_every_level(conditional_denoiser: Any, linear_classifier: Any) -> None:
    """The ideal denoiser of one normal law has a closed form at each level: (sd²·x + s²·μ)/(sd² + s²), s = 2σ."""
    mean, weights = np.full((2, 48), 0.2), RNG.normal(size=(5, 48)) / 4
    denoiser, path = conditional_denoiser(mean), linear_classifier(weights, np.zeros(5))
    x = RNG.integers(0, 256, (1, 4, 4, 3), np.uint8)
    for sigma in (0.12, 0.5):
        with DiffSmoothPredictor(
            path, denoiser, denoising_sigma=sigma, num_samples=1, local_vote=1, **EXACT
        ) as predictor:
            found = predictor.predict_proba(x)[0]
        delta = reference.grid_noise(grid_law(sigma), Key.parse(KEY), PREDICTION, 0, 0, 48) / 255
        noisy, s = 2 * (x[0].transpose(2, 0, 1).reshape(-1) / 255 + delta) - 1, 2 * sigma
        clean = (np.clip((noisy + s**2 * 0.2) / (1 + s**2), -1, 1) + 1) / 2
        eta = reference.grid_noise(grid_law(0.12), Key.parse(KEY), LOCAL, 0, 3 * 2**56, 48) / 255
        powers = np.exp(weights @ np.clip(clean + eta, 0, 1))
        np.testing.assert_allclose(found, powers / powers.sum(), atol=1e-6)


def test_published_log_probabilities_are_those_of_the_logit() -> None:
    """Against 60 digits, also where a probability is 1 but for 10^-30."""
    logs = np.array([[-0.5, -2.0, -1.3], [-1e-30, -70.0, -90.0], [np.log(0.5), np.log(0.5), -800.0], [-9, -1e-4, -9.5]])
    logs -= np.array([[float(mpmath.log(sum(mpmath.exp(v) for v in row)))] for row in logs])
    found = published_log_probabilities(logs)
    with mpmath.workdps(60):
        for row, given in zip(found, logs, strict=True):
            powers = [mpmath.exp(mpmath.mpf(v)) for v in given]
            ratio = [p / (sum(powers) - p) for p in powers]
            expected = [float(mpmath.log(r / sum(ratio))) for r in ratio]
            np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.argmax(axis=1), logs.argmax(axis=1))


def test_scikit_learns_scorers_take_it() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn")
    images = list(Images(zoo.IMAGES, limit=6))
    x, y = np.stack([image.pixels for image in images]), np.array([image.label for image in images])
    with DiffSmoothPredictor(
        zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, num_samples=1, local_vote=1, **EXACT
    ) as predictor:
        logs, accuracy = predictor.predict_log_proba(x), predictor.score(x, y)
        assert metrics.get_scorer("accuracy")(predictor, x, y) == accuracy == (predictor.predict(x) == y).mean()
        probabilities = predictor.predict_proba(x)
        loss = metrics.log_loss(y, probabilities, labels=predictor.classes_)
    assert loss == pytest.approx(-logs[np.arange(6), y].mean())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"denoising_sigma": 0.6},
            "--denoising-sigma must be 0 (no denoising) or lie in [0.01, 0.5] (image units), got 0.6",
        ),
        ({"denoising_sigma": -0.1}, "--denoising-sigma must be"),
        ({"denoising_sigma": float("nan")}, "--denoising-sigma must be"),
        ({"local_sigma": 0.13}, "--local-sigma must be one of 0.06, 0.12, 0.25"),
        ({"local_sigma": 0.0}, "--local-sigma must be one of"),
        ({"num_samples": 0}, "--num-samples must be an integer of 1 to"),
        ({"local_vote": 1.5}, "--local-vote must be an integer"),
    ],
)
def test_parameters_out_of_range_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        PredictorOptions(**given)
    assert said in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"denoiser": None}, "--engine is missing: give the denoiser, or --denoising-sigma 0"),
        ({"denoising_sigma": 0}, "--engine is not used with --denoising-sigma 0"),
        ({"denoising_sigma": 0.12}, "was exported for sigma 0.25, the run asks for 0.12"),
        ({"classifier": zoo.DENOISER}, "is a denoiser, expected a classifier"),
        ({"denoiser": zoo.CLASSIFIER_DDS}, "is a classifier, expected a denoiser"),
        ({"key": "ab"}, "--key takes 64 hexadecimal digits"),
        ({"batch": 0}, "--batch must be"),
    ],
)
def test_engines_that_do_not_fit_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        DiffSmoothPredictor(**{"classifier": zoo.CLASSIFIER_DIFFSMOOTH, "denoiser": zoo.DENOISER, **given})
    assert said in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((2, 4, 4, 3)) + 2, "values from 2 to 2"),
        (np.full((2, 4, 4, 3), np.nan), "values from nan"),
        (np.zeros((2, 3, 4, 4)), r"expected an array \[N, 4, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), np.int64), "x is int64"),
        ([[1]], "x is list"),
    ],
)
def test_images_that_do_not_fit_are_one_line(x: Any, said: str, linear_classifier: Any) -> None:
    with DiffSmoothPredictor(
        linear_classifier(np.zeros((5, 48)), np.zeros(5)), denoising_sigma=0, **EXACT
    ) as predictor:
        with pytest.raises(InputError, match=said):
            predictor.predict(x)


def test_it_is_pickled_as_its_files_and_opened_again_if_they_are_the_same(
    linear_classifier: Any, tmp_path: Path
) -> None:
    weights, x = RNG.normal(size=(5, 48)) / 4, RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    path = shutil.copy(linear_classifier(weights, np.zeros(5)), tmp_path / "classifier.onnx")
    with DiffSmoothPredictor(path, denoising_sigma=0, num_samples=2, local_vote=2, **EXACT) as predictor:
        kept, expected = pickle.dumps(predictor), predictor.predict_log_proba(x)
    with pickle.loads(kept) as again:
        np.testing.assert_array_equal(again.predict_log_proba(x), expected)
    shutil.copy(linear_classifier(2 * weights, np.zeros(5)), path)
    with pytest.raises(InputError, match="make it anew from its files"):
        pickle.loads(kept)


def test_a_denoiser_without_a_null_class_is_refused(conditional_denoiser: Any, linear_classifier: Any) -> None:
    classifier = linear_classifier(np.zeros((5, 48)), np.zeros(5))
    with pytest.raises(InputError, match="has no null class"):
        DiffSmoothPredictor(classifier, conditional_denoiser(np.zeros((2, 48)), null=False), **EXACT)


def test_command_writes_what_python_says_and_that_it_certifies_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tsv, out = tmp_path / "p.tsv", tmp_path / "p.json"
    command = ["soft-predict", "--engine", str(zoo.DENOISER), "--classifier", str(zoo.CLASSIFIER_DIFFSMOOTH)]
    command += ["--data", str(zoo.IMAGES), "--skip", "2", "--max", "3", "--num-samples", "2", "--local-vote", "2"]
    command += ["--backend", "onnxruntime", "--key", KEY]
    assert main([*command, "--tsv", str(tsv), "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "it certifies nothing" in said and "of 3 images" in said
    values = json.loads(out.read_text(encoding="utf-8"))
    assert values["certificate"] is None and "certifies nothing" in values["note"]
    assert [row["index"] for row in values["images"]] == [0, 2, 4]
    with DiffSmoothPredictor(
        zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, num_samples=2, local_vote=2, **EXACT
    ) as predictor:
        pixels = np.stack([image.pixels for image in Images(zoo.IMAGES, skip=2, limit=3)])
        expected = predictor.predict_log_proba(pixels, np.array([0, 2, 4]))
        assert values["predictor"]["id"] == predictor.identity["id"]
    found = np.array([row["log_probabilities"] for row in values["images"]])
    np.testing.assert_array_equal(found, expected)
    head, *lines = (line.split("\t") for line in tsv.read_text(encoding="utf-8").splitlines())
    assert head[:4] == ["idx", "label", "predict", "correct"] and head[4:] == [f"log_p_{c}" for c in range(10)]
    np.testing.assert_allclose(np.array([line[4:] for line in lines], float), expected, rtol=1e-8)
    assert [int(line[2]) for line in lines] == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--denoising-sigma", "0.7"], "--denoising-sigma must be 0"),
        (["--tsv", "no/p.tsv"], "--tsv no/p.tsv: the folder no does not exist"),
        (["--device", "tpu"], "--device 'tpu' is unknown"),
        (["--crop", "16"], "image 0 is (16, 16, 3), the engine takes (32, 32, 3)"),
        (["--threads", "0"], "--threads must be"),
    ],
)
def test_command_refuses_in_one_line(more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["soft-predict", "--engine", str(zoo.DENOISER), "--classifier", str(zoo.CLASSIFIER_DIFFSMOOTH)]
    assert main([*command, "--data", str(zoo.IMAGES), "--max", "1", "--num-samples", "1", *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_images_without_labels_have_no_accuracy(
    linear_classifier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "images.npz", images=RNG.integers(0, 256, (3, 4, 4, 3), np.uint8))
    command = ["soft-predict", "--classifier", str(linear_classifier(RNG.normal(size=(5, 48)), np.zeros(5)))]
    command += ["--denoising-sigma", "0", "--data", str(tmp_path / "images.npz"), "--backend", "onnxruntime"]
    assert main([*command, "--tsv", str(tmp_path / "p.tsv"), "--json", str(tmp_path / "p.json")]) == 0
    assert "3 images without labels, so there is no accuracy" in capsys.readouterr().out
    values = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert {(row["label"], row["correct"]) for row in values["images"]} == {(None, None)}
    lines = (tmp_path / "p.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert {tuple(line.split("\t")[at] for at in (1, 3)) for line in lines} == {("-1", "0")}


def test_the_graphs_of_this_test_are_whole(large_classifier: Path) -> None:
    onnx.checker.check_model(onnx.load(large_classifier))
