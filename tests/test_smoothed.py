"""SmoothedClassifier: the votes of the file run under the same key, no file, and errors that name the argument."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.errors import DiffsmoothError, EngineError, InputError

KEY = "5eed" * 16
SIGMA = 0.5
RNG = np.random.default_rng(3)
W = RNG.normal(size=(4, 48)).astype(np.float32)
X = RNG.integers(0, 256, (5, 4, 4, 3), np.uint8)
Numbers = tuple[Any, ...]


def logits(noisy: np.ndarray) -> np.ndarray:
    """A linear classifier, each row by itself."""
    return np.stack([W @ row for row in noisy.reshape(len(noisy), -1)])


def labels(noisy: np.ndarray) -> np.ndarray:
    return logits(noisy).argmax(axis=1)


def of_file(tmp_path: Path, x: np.ndarray = X, **options: Any) -> Numbers:
    """What the file run says of `x`."""
    np.savez(tmp_path / "x.npz", images=x, labels=np.zeros(len(x), np.int64))
    settings = {
        "n0": 40,
        "n": 1000,
        "alpha": 0.01,
        "key": KEY,
        "data": tmp_path / "x.npz",
        "out": tmp_path / "r.sqlite",
    }
    with dst.certify(**{**settings, **options}) as store:
        return tuple((r.predict, r.radius, r.p_lower, r.trials, r.decisions) for r in store.results())


def of_arrays(found: dst.Certificates, n0: int = 40) -> Numbers:
    drawn = (found.samples - n0).tolist()
    return tuple(
        zip(
            found.prediction.tolist(),
            found.radius.tolist(),
            found.p_lower.tolist(),
            drawn,
            found.decisions,
            strict=True,
        )
    )


@pytest.mark.parametrize("f", [logits, labels])
@pytest.mark.parametrize("how", [{}, {"radius": (0.1, 0.3)}, {"tolerance": 0.05}, {"family_wise": True}])
def test_a_function_has_the_votes_of_its_file(f: Any, how: Any, linear_classifier: Any, tmp_path: Path) -> None:
    """The engine's float sums are other ones, but no label hangs on a last digit: 5,200 draws, margins above 1e-5 in all."""
    engine = linear_classifier(W, np.zeros(4))
    expected = of_file(tmp_path, engine=engine, method="rs", sigma=SIGMA, backend="onnxruntime", **how)
    found = dst.SmoothedClassifier(f, classes=4, sigma=SIGMA).certify(X, n0=40, n=1000, alpha=0.01, key=KEY, **how)
    assert of_arrays(found) == expected


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
def test_batches_of_any_length(batch: int) -> None:
    whole = dst.SmoothedClassifier(logits, sigma=SIGMA, batch=64).certify(X, n0=40, n=500, key=KEY)
    part = dst.SmoothedClassifier(logits, sigma=SIGMA, batch=batch).certify(X[:3], n0=40, n=500, key=KEY)
    assert of_arrays(part) == of_arrays(whole)[:3]


def test_torch_modules_and_functions(linear_classifier: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(48, 4, bias=False)
    layer.weight.data = torch.from_numpy(W)
    module = torch.nn.Sequential(torch.nn.Flatten(), layer)
    engine = linear_classifier(W, np.zeros(4))
    expected = of_file(tmp_path, engine=engine, method="rs", sigma=SIGMA, backend="onnxruntime")
    with pytest.raises(InputError, match=r"^f is in training mode, expected .* eval mode: call f.eval\(\) first$"):
        dst.SmoothedClassifier(module, sigma=SIGMA).certify(X)
    module.eval()
    for f in (module, lambda x: layer(x.flatten(1)), lambda x: layer(torch.as_tensor(x).flatten(1)).argmax(1)):
        found = dst.SmoothedClassifier(f, classes=4, sigma=SIGMA).certify(X, n0=40, n=1000, alpha=0.01, key=KEY)
        assert of_arrays(found) == expected


def test_a_pair_of_files(tmp_path: Path) -> None:
    x = np.stack([image.pixels for image in dst.Images(zoo.IMAGES, limit=2)])
    expected = of_file(tmp_path, x, engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, n=80)
    before = set(os.listdir(tmp_path))
    with dst.SmoothedClassifier(zoo.DENOISER, classifier=str(zoo.CLASSIFIER_DDS)) as smoothed:
        found = smoothed.certify(x, n0=40, n=80, alpha=0.01, key=KEY)
        assert of_arrays(found) == expected
        assert smoothed.predict(x, n=80).shape == (2,)
        assert "denoiser-0.25.onnx" in repr(smoothed) and "no hash" not in repr(smoothed)
    assert found.record.rows == {"denoiser": "proved", "classifier": "proved"}
    assert set(os.listdir(tmp_path)) == before


def test_a_method_with_options(shrinking_denoiser: Any, linear_classifier: Any, tmp_path: Path) -> None:
    files = {"engine": shrinking_denoiser(SIGMA), "classifier": linear_classifier(W, np.zeros(4))}
    options = {"method": "diffsmooth", "m": 2, "local_sigma": 0.25, "local_noise": "fresh"}
    smoothed = dst.SmoothedClassifier(files["engine"], classifier=files["classifier"], backend="onnxruntime", **options)
    found = smoothed.certify(X, n0=40, n=500, alpha=0.01, key=KEY)
    assert of_arrays(found) == of_file(tmp_path, **files, n=500, backend="onnxruntime", **options)
    with pytest.raises(InputError, match="^m must be an integer of 1 to 65535, got 0"):
        dst.SmoothedClassifier(files["engine"], classifier=files["classifier"], **{**options, "m": 0})


def test_functions_as_a_pair(shrinking_denoiser: Any, linear_classifier: Any, tmp_path: Path) -> None:
    """A denoiser that halves the noise's distance from grey, and a classifier behind it."""
    files = {"engine": shrinking_denoiser(SIGMA), "classifier": linear_classifier(W, np.zeros(4))}
    with dst.open_engine(files["engine"], batch=64, backend="onnxruntime") as engine:
        smoothed = dst.SmoothedClassifier(engine.run, classifier=logits, sigma=SIGMA)
        found = smoothed.certify(X, n0=40, n=1000, alpha=0.01, key=KEY)
    assert of_arrays(found) == of_file(tmp_path, **files, backend="onnxruntime")


def test_nothing_is_written_and_keys_are_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    smoothed = dst.SmoothedClassifier(logits, sigma=SIGMA)
    first, second = (smoothed.certify(X, n0=10, n=100) for _ in range(2))
    assert first.record.key != second.record.key and first.record.key_drawn
    assert of_arrays(smoothed.certify(X, n0=10, n=100, key=first.record.key.hex), 10) == of_arrays(first, 10)
    assert not list(tmp_path.iterdir())
    with dst.certify(engine=zoo.CLASSIFIER_DDS, data=zoo.IMAGES, method="rs", sigma=0.25, max=1, n0=4, n=40) as store:
        assert len(list(store.results())) == 1
    assert not list(tmp_path.iterdir())


def test_it_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    smoothed = dst.SmoothedClassifier(labels, classes=4, sigma=SIGMA)
    said = repr(smoothed)
    assert "f=labels" in said and "sigma=0.5" in said and "f has no hash, nothing can be verified later" in said
    found = smoothed.certify(X, n0=40, n=200, progress=True)
    assert len(found) == 5 and found.prediction.dtype == np.int64 and found.radius.dtype == np.float64
    assert "Certificates of 5 images" in repr(found) and "n=200" in repr(found) and "no hash" in repr(found)
    assert "rows: assumed independent" in repr(found)
    assert capsys.readouterr().out == ""

    class Told:
        drawn = 0

        def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
            assert (images, samples) == (5, 5 * 240)

        def update(self, samples: int, images: int) -> None:
            self.drawn += samples

    told = Told()
    smoothed.certify(X, n0=40, n=200, progress=told)
    assert told.drawn == 5 * 240


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X / 255, r"^x is float64, expected uint8 of 0 to 255: .* np\.rint\(255 \* x\)"),
        (X.astype(np.int64), "^x is int64, expected uint8"),
        (X[0], r"^x has shape \(4, 4, 3\), expected \[N, H, W, C\]: .* x\[None\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"^x has shape .*: give x\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), "^x has shape .* with 1 or 3 channels"),
        (X[:0], r"^x has shape \(0, 4, 4, 3\), expected .* one image at least"),
        ([[1]], "^x is builtins.list, expected a NumPy array"),
    ],
)
def test_arrays_that_are_no_images(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dst.SmoothedClassifier(logits, sigma=SIGMA).certify(x)


def near_nan(noisy: np.ndarray) -> np.ndarray:
    return np.where(noisy.max(axis=(1, 2, 3)) < 1.5, 0.0, np.nan)[:, None] * np.ones((1, 4))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (
            lambda x: logits(x)[:, :3],
            r"^f returned float32 \(64, 3\) for 64 rows, expected logits \(64, 4\) or integer labels",
        ),
        (lambda x: logits(x)[:5], r"^f returned float32 \(5, 4\)"),
        (lambda x: labels(x)[:5], r"^f returned int64 \(5,\) for 64 rows"),
        (lambda x: labels(x) / 2, r"^f returned float64 \(64,\)"),
        (lambda x: labels(x) + 1, r"^f returned label 4, expected 0 to 3: give classes=5"),
        (lambda x: labels(x) - 1, r"^f returned label -1, expected 0 to 3"),
        (lambda x: logits(x) * np.nan, r"^f returned NaN or infinity for 64 of 64 rows"),
        (near_nan, r"^f returned NaN or infinity for \d+ of 64 rows"),
        (
            lambda x: logits(x) - logits(x).mean(axis=0),
            r"^f gives a row other values .*let what it returns for a row depend",
        ),
        (lambda x: np.random.default_rng().normal(size=(len(x), 4)), r"^f gives a row other values"),
        (lambda x: x.nonsense, r"^f raised AttributeError .* for a NumPy array float32 \(64, 3, 4, 4\)"),
    ],
)
def test_functions_that_are_no_classifiers(f: Any, message: str) -> None:
    with pytest.raises(DiffsmoothError, match=message) as error:
        dst.SmoothedClassifier(f, classes=4, sigma=SIGMA).certify(X, n0=64, n=640)
    assert isinstance(error.value, InputError | EngineError) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (logits, {}, "^sigma is missing: give the noise level"),
        (logits, {"sigma": 9.0}, r"^sigma must lie in \[0.01, 4.0\]"),
        (logits, {"sigma": 0.5, "classes": 1}, "^classes is 1, expected an integer of 2 or more"),
        (logits, {"sigma": 0.5, "batch": "auto"}, "^batch must be an integer of 1 to 65536, got 'auto'"),
        (logits, {"sigma": 0.5, "method": "median"}, "^method 'median' is unknown: use one of rs, dds"),
        (logits, {"sigma": 0.5, "method": "dds"}, "^classifier is needed by method 'dds': give the classifier"),
        (logits, {"sigma": 0.5, "method": "rs", "classifier": logits}, "^classifier is not used by method 'rs'"),
        (logits, {"sigma": 0.5, "steps": 9}, "^steps is for method dc, epndc, apndc, got rs: leave it out"),
        (logits, {"sigma": 0.5, "colour": 9}, "unexpected keyword argument 'colour'"),
        (logits, {"sigma": 0.5, "device": "cuda:0"}, "^device cuda:0 is for engine files, f is a function"),
        (7, {"sigma": 0.5}, "^f is int, expected a function, a torch module in eval mode or an engine file"),
    ],
)
def test_arguments_that_cannot_be(f: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dst.SmoothedClassifier(f, **options)


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (labels, {}, r"^f returned int64 \(64,\), which does not say how many classes there are: give classes"),
        (Path("no.onnx"), {}, "^engine no.onnx does not exist"),
        (
            zoo.CLASSIFIER_DDS,
            {},
            r"^x has images \(4, 4, 3\) \[H, W, C\], f takes \(32, 32, 3\): give images of that size",
        ),
        (logits, {"method": "dc"}, "^f is a function, the method takes a conditional engine: give an engine file"),
    ],
)
def test_what_shows_at_the_first_call(f: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dst.SmoothedClassifier(f, sigma=SIGMA, **options).certify(X)


def test_memory_is_no_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from diffsmooth_trt.cli import main

    monkeypatch.chdir(tmp_path)
    asked = {"engine": zoo.CLASSIFIER_DDS, "data": zoo.IMAGES, "method": "rs", "sigma": 0.25}
    with pytest.raises(
        InputError, match=r"^out :memory: is no file: give a file like run.sqlite; from Python out=None"
    ):
        dst.certify(**asked, out=":memory:")
    flags = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    assert main(["certify", *flags, "--out", ":memory:"]) == 2
    error = capsys.readouterr().err
    assert "--out :memory: is no file" in error and len(error.splitlines()) == 1
    for name in ("resume", "tsv"):
        with pytest.raises(InputError, match=f"^{name}.* needs out: give the run a file"):
            dst.certify(**asked, **{name: True if name == "resume" else "r.tsv"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": "100"}, "^n is '100', expected an integer: 100000 is the default$"),
        ({"n": True}, "^n is True, expected an integer"),
        ({"alpha": None}, "^alpha is None, expected a number: 0.001 is the default$"),
        ({"tolerance": "0.1"}, "^tolerance is '0.1', expected a number or None"),
        ({"alpha": 10**400}, "^alpha has more than 300 digits, expected a smaller number: 0.001 is the default$"),
        ({"family_wise": 1}, "^family_wise is 1, expected True or False"),
        ({"key": 3}, "^key takes 64 hexadecimal digits"),
    ],
)
def test_arguments_of_other_types_are_named(given, message):
    with pytest.raises(InputError, match=message):
        dst.SmoothedClassifier(logits, classes=4, sigma=0.25).certify(X, **given)


def test_numbers_of_numpy_are_numbers():
    """`y.max() + 1` is one, and so is what comes out of `np.linspace`."""
    made = dst.SmoothedClassifier(logits, classes=np.int64(4), sigma=np.float32(0.25), batch=np.int64(8))
    answered = made.certify(X, n=np.int64(100), n0=np.int32(10), alpha=np.float32(0.25), key="5a" * 32)
    plain = dst.SmoothedClassifier(logits, classes=4, sigma=0.25, batch=8)
    same = plain.certify(X, n=100, n0=10, alpha=0.25, key="5a" * 32)
    np.testing.assert_array_equal(answered.radius, same.radius)
    for sigma in ("0.25", [0.25], True):
        with pytest.raises(InputError, match=r"^sigma must lie in \[0.01, 4.0\]"):
            dst.SmoothedClassifier(logits, classes=4, sigma=sigma)
