"""The soft vote itself.

For one image x: `num_samples` draws x + δ, each denoised, resized and cropped to the classifier's size, repeated `local_vote`
times, each given noise η, clamped to [0, 1] and classified; the answer is the mean of all softmaxes.

Votes of `certify` are counts of labels, of which bounds exist. A mean of softmaxes has none here: nothing is certified.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from ..device import open_device
from ..dtypes import Floats32, Floats64, Labels, Words
from ..engine import Engine, open_engine
from ..engine.choice import MOST_ROWS
from ..errors import InputError
from ..noise import LOCAL, NOISE_VERSION, PREDICTION, GridLaw, Key, grid_law
from ..noise.counters import fresh_words
from ..noise.sampler import grid_noise
from ..ranges import integer
from ..runs.identity import fingerprint
from .geometry import Fitting
from .images import channels_first
from .options import DEFAULT_SIGMA, PredictorOptions

DENOISERS = ("denoiser", "conditional")
MOST_KEPT = 1 << 22  # log-probabilities of single votes that are held at once


def published_log_probabilities(log_mean: Floats64) -> Floats64:
    """What the published predictor returns of a mean p: log-softmax of its logits log p/(1 − p); float64 `[N, K]`.

    log_mean: log p, float64 `[N, K]`. Finite wherever log p is, as 1 − p of the likeliest class is summed from the others.
    """
    rows, top = np.arange(len(log_mean)), log_mean.argmax(axis=1)
    others = log_mean.copy()
    others[rows, top] = -np.inf
    complement = np.log1p(-np.exp(np.minimum(others, np.log(0.5))))  # no other class has more than half
    complement[rows, top] = logsumexp(others, axis=1)
    published: Floats64 = log_softmax(log_mean - complement, axis=1)
    return published


class DiffSmoothPredictor:
    """p(x) = the mean of softmax F(clamp(fit(D(x + δ_i)) + η_ij)) over draws i and local noises j (Zhang et al. 2023).

    classifier: an engine file. denoiser: one too, folded for one noise level, which `denoising_sigma` then is; or a conditional
    one with a null class (`export denoiser --conditional`), which serves every level; or None with `denoising_sigma=0`. The four
    parameters are those of `PredictorOptions`. key: 64 hexadecimal digits, by default fresh ones: all noise is a function of it,
    so that one predictor gives an image the same answer at each call. batch: rows of an engine call; backend, device, precision,
    threads and allow_host_code: see `open_engine`.

    It certifies nothing; `SmoothedClassifier(…, method="diffsmooth")` does. Raises InputError that names the argument.
    """

    certificate = None

    def __init__(
        self,
        classifier: str | Path,
        denoiser: str | Path | None = None,
        *,
        denoising_sigma: float | None = None,
        local_sigma: float = 0.12,
        num_samples: int = 20,
        local_vote: int = 5,
        key: str | Key | None = None,
        batch: int = 64,
        device: str = "cpu",
        **engine_options: Any,
    ) -> None:
        self.options = PredictorOptions(
            denoising_sigma=denoising_sigma, local_sigma=local_sigma, num_samples=num_samples, local_vote=local_vote
        )
        integer("batch", batch, 1, MOST_ROWS)
        if denoiser is None and denoising_sigma != 0:
            raise InputError("--engine is missing: give the denoiser, or --denoising-sigma 0 for no denoising")
        if denoiser is not None and denoising_sigma == 0:
            raise InputError(
                "--engine is not used with --denoising-sigma 0, which means no denoising: leave one of them out"
            )
        self.key = Key.draw() if key is None else key if isinstance(key, Key) else Key.parse(key)
        self._given = {
            "classifier": classifier,
            "denoiser": denoiser,
            "key": self.key,
            "batch": batch,
            "device": device,
        }
        self._given |= {**vars(self.options), **engine_options}
        how = {"batch": batch, "device": open_device(device), **engine_options}
        self.batch = batch
        self.denoiser: Engine | None = None
        self.classifier = open_engine(classifier, role="classifier", **how)
        try:
            if denoiser is not None:
                self.denoiser = _open_denoiser(Path(denoiser), denoising_sigma, how)
            self.sigma = self._level(denoising_sigma)
            self.fitting = Fitting.between(self._denoised_shape, self.classifier.facts.input_shape)
        except BaseException:
            self.close()
            raise
        self.classes = int(self.classifier.facts.classes or 0)
        self.local_law = grid_law(local_sigma)
        self.law: GridLaw | None = grid_law(self.sigma) if self.sigma else None

    def _level(self, asked: float | None) -> float:
        """The noise level in front of the denoiser."""
        denoiser = self.denoiser
        if denoiser is None:
            return 0.0
        if denoiser.facts.role == "conditional":
            if denoiser.null_class is None:
                raise InputError(
                    f"{denoiser.name} has no null class, so it denoises only given a class: give a denoiser that was exported with "
                    "--sigma"
                )
            return DEFAULT_SIGMA if asked is None else asked
        level = float(denoiser.facts.sigma or 0.0)
        return PredictorOptions(denoising_sigma=level).denoising_sigma or 0.0  # within the predictor's range

    @property
    def _denoised_shape(self) -> tuple[int, int, int]:
        return self.input_shape if self.denoiser is None else self.denoiser.facts.denoised_shape

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return (self.denoiser or self.classifier).facts.input_shape

    @property
    def classes_(self) -> Labels:
        """The labels int64 `[K]`, in the order of the columns of probabilities; scikit-learn's name."""
        return np.arange(self.classes, dtype=np.int64)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides an answer besides key and image, as JSON values, and its hash as `id`."""
        engines = {"classifier": self.classifier.identity}
        if self.denoiser is not None:
            engines["denoiser"] = self.denoiser.identity
        parts: dict[str, Any] = {
            "method": "diffsmooth-predictor",
            "certificate": None,
            "noise_version": NOISE_VERSION,
            "denoising_sigma": self.sigma,
            "local_sigma": self.options.local_sigma,
            "num_samples": self.options.num_samples,
            "local_vote": self.options.local_vote,
            **engines,
        }
        return {**parts, "id": fingerprint(parts)}

    # What scikit-learn calls

    def predict_log_proba(self, x: NDArray[Any], images: NDArray[np.integer[Any]] | None = None) -> Floats64:
        """Logarithms of the mean probabilities, float64 `[N, K]`, of images `[N, H, W, C]`: uint8, or floats in [0, 1].

        images: the number of each image, `[N]`, under which its noise is drawn; by default 0 for all, so that the answer for an
        image is a function of that image alone. Raises InputError for other images, EngineError where a network returns NaN.
        """
        values = channels_first(x, self.input_shape)
        return self.log_mean(values, _numbers(images, len(values)))

    def predict_proba(self, x: NDArray[Any], images: NDArray[np.integer[Any]] | None = None) -> Floats64:
        """The mean probabilities themselves; see `predict_log_proba`."""
        probabilities: Floats64 = np.exp(self.predict_log_proba(x, images))
        return probabilities

    def predict(self, x: NDArray[Any], images: NDArray[np.integer[Any]] | None = None) -> Labels:
        """The likeliest class of each image, int64 `[N]`, the lowest of equals; it never abstains, and certifies nothing."""
        return np.asarray(self.predict_log_proba(x, images).argmax(axis=1), np.int64)

    def score(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        """The share of images whose prediction is their label in `y`, int `[N]`."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's scorers ask of a classifier."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            requires_fit=False,
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )

    # The vote

    def log_mean(self, values: Floats32, images: Words) -> Floats64:
        """log p, float64 `[N, K]`, of images float32 `[N, C, H, W]` in [0, 1] with numbers uint64 `[N]`.

        An answer depends on the image, its number and the key alone, not on what else is asked.
        """
        votes = self.options.num_samples * self.options.local_vote
        group = max(1, MOST_KEPT // (votes * self.classes))
        log_means = [
            logsumexp(self._votes(values[at : at + group], images[at : at + group]), axis=1) - np.log(votes)
            for at in range(0, len(values), group)
        ]
        return np.concatenate(log_means) if log_means else np.empty((0, self.classes))

    def _votes(self, values: Floats32, images: Words) -> Floats64:
        """The logarithms of all softmaxes, float64 `[N, num_samples · local_vote, K]`."""
        options, rows = self.options, len(values) * self.options.num_samples
        votes = np.empty((rows, options.local_vote, self.classes))
        for start in range(0, rows, self.batch):
            place = np.minimum(
                np.arange(start, start + self.batch), rows - 1
            )  # rows past the last repeat it, and do not count
            of, count = place // options.num_samples, min(self.batch, rows - start)
            words = self.words(images[of], (place % options.num_samples).astype(np.uint64))
            fitted = self.fitting(self._denoised(values[of], words))
            for copy in range(options.local_vote):
                scores = self.classifier.run_on_host(self.with_local_noise(fitted, words, copy))
                votes[start : start + count, copy] = log_softmax(scores[:count].astype(np.float64), axis=1)
        return votes.reshape(len(values), options.num_samples * options.local_vote, self.classes)

    @staticmethod
    def words(images: Words, samples: Words) -> Words:
        """The draws of rows, uint64 `[3, B]`: phase, image and sample."""
        return np.stack([np.full(len(images), PREDICTION, np.uint64), images, samples])

    def with_noise(self, values: Floats32, words: Words) -> Floats32:
        """x + δ, δ on the grid 1/255·ℤ, not clipped; x itself where nothing is denoised."""
        if self.law is None:
            return np.ascontiguousarray(values)
        return values + self.noise(values.shape, words)

    def noise(self, shape: tuple[int, ...], words: Words) -> Floats32:
        """δ of each row, float32 of `shape` `[B, C, H, W]`; InputError where nothing is denoised."""
        if self.law is None:
            raise InputError("there is no noise in front of a denoiser: --denoising-sigma is 0")
        return _drawn(self.law, self.key, PREDICTION, words[1:], shape)

    def local_noise(self, shape: tuple[int, ...], words: Words, copy: int) -> Floats32:
        """Local noise number `copy` of each row, float32 of `shape` `[B, C, h, w]`."""
        fresh = np.stack([words[1], fresh_words(words, self.options.local_vote, copy)])
        return _drawn(self.local_law, self.key, LOCAL, fresh, shape)

    def with_local_noise(self, fitted: Floats32, words: Words, copy: int) -> Floats32:
        """The classifier's input: with local noise, clamped to [0, 1]."""
        noise = self.local_noise(fitted.shape, words, copy)
        return np.clip(np.add(noise, fitted, out=noise), 0, 1, out=noise)

    def _denoised(self, values: Floats32, words: Words) -> Floats32:
        """D(x + δ) in [0, 1], float32 `[batch, C, h, w]`."""
        noisy, denoiser = self.with_noise(values, words), self.denoiser
        if denoiser is None:
            return noisy
        if denoiser.facts.role != "conditional":
            denoised = denoiser.run_on_host(noisy)
            return np.ascontiguousarray(denoised.transpose(0, 3, 1, 2)) if denoiser.output_nhwc else denoised
        level = np.full(self.batch, 2 * self.sigma, np.float32)
        estimate = denoiser.denoise(2 * noisy - 1, level, np.full(self.batch, denoiser.null_class, np.int64))
        return (np.clip(estimate, -1, 1) + np.float32(1)) / np.float32(2)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its files' paths, its parameters and its key; opened again where it is loaded, if the files are the same."""
        return _reopened, (type(self), self._given, self.identity["id"])

    def close(self) -> None:
        """Close the engines."""
        self.classifier.close()
        if self.denoiser is not None:
            self.denoiser.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        o, denoiser = self.options, "none" if self.denoiser is None else self.denoiser.name
        return (
            f"DiffSmoothPredictor({self.classifier.name}, denoiser {denoiser}, denoising_sigma={self.sigma}, "
            f"local_sigma={o.local_sigma}, num_samples={o.num_samples}, local_vote={o.local_vote}): a soft vote, no certificate"
        )


def _reopened(kind: type[DiffSmoothPredictor], given: Mapping[str, Any], name: str) -> DiffSmoothPredictor:
    """The predictor that was pickled. Raises InputError where files, versions or machine make another one here."""
    predictor = kind(**given)
    if predictor.identity["id"] != name:
        predictor.close()
        raise InputError(
            f"a predictor {name} was pickled, here it is {predictor.identity['id']}: make it anew from its files"
        )
    return predictor


def _open_denoiser(path: Path, sigma: float | None, how: Mapping[str, Any]) -> Engine:
    """The denoiser at `path`, of whichever of the two kinds."""
    if _is_conditional(path):
        return open_engine(path, role="conditional", **how)
    return open_engine(path, role="denoiser", sigma=sigma, **how)


def _is_conditional(path: Path) -> bool:
    from ..engine.graph import read_graph

    try:
        return path.suffix == ".onnx" and read_graph(path, role="conditional", sigma=None).facts.role == "conditional"
    except InputError:
        return False


def _numbers(images: NDArray[Any] | None, count: int) -> Words:
    if images is None:
        return np.zeros(count, np.uint64)
    numbers = np.asarray(images)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise InputError(
            f"images is {numbers.dtype} {numbers.shape}, expected a number of 0 or more for each of {count} images"
        )
    return numbers.astype(np.uint64)


def _drawn(law: GridLaw, key: Key, phase: int, words: Words, shape: tuple[int, ...]) -> Floats32:
    """Noise float32 of `shape` [B, …] on the grid 1/255·ℤ, of the images and samples `words` [2, B]."""
    images, samples = (np.ascontiguousarray(each) for each in words)
    steps = grid_noise(law, key, phase, images, samples, int(np.prod(shape[1:])))
    noise: Floats32 = (steps.astype(np.float32) / np.float32(255)).reshape(shape)
    return noise
