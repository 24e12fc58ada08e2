"""Methods against their formulas, computed apart with NumPy on small real engines."""

from __future__ import annotations

import numpy as np
import pytest

from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.methods import DenoisedSmoothing, DiffSmooth, Plain, Rows
from diffsmooth_trt.noise import FIXED_LOCAL, LOCAL, grid_law, seed_key
from diffsmooth_trt.noise.counters import check_fresh, fresh_words
from diffsmooth_trt.noise.reference import grid_noise

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(3, 48)), RNG.normal(size=3)
BATCH = 16


@pytest.fixture
def noisy():
    return RNG.normal(0.5, 0.5, (BATCH, 3, 4, 4)).astype(np.float32)


@pytest.fixture
def rows():
    words = RNG.integers(0, 2**40, (2, BATCH), dtype=np.uint64)
    return Rows(phases=np.arange(BATCH, dtype=np.uint64) % np.uint64(3), images=words[0], samples=words[1], key=77)


def logits(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64) @ W.T + B


def denoised(x: np.ndarray) -> np.ndarray:
    return np.clip(0.75 * x + 0.125, 0, 1)


@pytest.fixture
def engines(linear_classifier, shrinking_denoiser):
    options = {"batch": BATCH, "backend": "onnxruntime"}
    return open_engine(shrinking_denoiser(), **options), open_engine(linear_classifier(W, B), **options)


def test_rs_and_dds(engines, noisy, rows):
    denoiser, classifier = engines
    np.testing.assert_array_equal(Plain(classifier, 0.5).labels(noisy, rows), logits(noisy).argmax(1))
    method = DenoisedSmoothing(denoiser, classifier)
    assert method.sigma == 0.25
    np.testing.assert_array_equal(method.labels(noisy, rows), logits(denoised(noisy)).argmax(1))


@pytest.mark.parametrize("fresh", [False, True])
def test_diffsmooth_follows_its_formula(engines, noisy, rows, fresh):
    method = DiffSmooth(*engines, local_sigma=0.12, copies=3, seed=5, fresh=fresh)
    law = grid_law(0.12)
    total = np.zeros((BATCH, 3))
    for copy in range(3):
        eta = np.empty((BATCH, 48))
        for row in range(BATCH):
            image = int(rows.images[row]) if fresh else 0
            sample = (int(rows.phases[row]) + 1 << 56) + int(rows.samples[row]) * 3 + copy if fresh else copy
            where = (77, LOCAL) if fresh else (seed_key(5), FIXED_LOCAL)
            eta[row] = grid_noise(law, *where, image, sample, 48) / 255
        z = logits(denoised(noisy) + eta.reshape(noisy.shape))
        p = np.exp(z - z.max(1, keepdims=True))
        total += p / p.sum(1, keepdims=True)
    np.testing.assert_array_equal(method.labels(noisy, rows), total.argmax(1))
    assert method.identity["local_noise"] == ("fresh" if fresh else "fixed")
    assert method.identity.get("classifier_seed") == (None if fresh else 5)


def test_probabilities_instead_of_logits_are_warned_of(engines, linear_classifier):
    """By the method that takes softmax of them; those that only order them say nothing."""
    denoiser, classifier = engines
    rng = np.random.default_rng(1)
    made = linear_classifier(rng.normal(size=(4, 48)), np.zeros(4), softmax=True)
    with open_engine(made, role="classifier", batch=classifier.batch, backend="onnxruntime") as doubled:
        options = {"local_sigma": 0.12, "copies": 1, "seed": 0}
        assert "gives probabilities" in DiffSmooth(denoiser, doubled, **options).notes[0]
        assert not DiffSmooth(denoiser, classifier, **options).notes
        assert not DenoisedSmoothing(denoiser, doubled).notes


def test_fresh_words_never_meet(rows):
    phases, samples = np.meshgrid(np.arange(3, dtype=np.uint64), np.arange(50, dtype=np.uint64))
    drawn = np.stack([phases.ravel(), np.zeros(150, np.uint64), samples.ravel()])
    words = np.concatenate([fresh_words(drawn, 4, copy) for copy in range(4)])
    assert len(set(words.tolist())) == 600


def test_fresh_words_of_the_last_draw_stay_below_the_next_phase():
    check_fresh(2**40, 2**16)
    last = np.array([[1], [0], [2**40 - 1]], np.uint64)
    assert fresh_words(last, 2**16, 2**16 - 1).tolist() == [3 * 2**56 - 1]
    with pytest.raises(InputError, match="expected at most 2\\^56"):
        check_fresh(2**40 + 1, 2**16)


def test_bad_options(engines, linear_classifier, shrinking_denoiser):
    denoiser, classifier = engines
    with pytest.raises(InputError, match="m must lie in"):
        DiffSmooth(denoiser, classifier, local_sigma=0.12, copies=0, seed=0)
    with pytest.raises(InputError, match="sigma"):
        DiffSmooth(denoiser, classifier, local_sigma=-1, copies=1, seed=0)
    wide = open_engine(shrinking_denoiser(shape=(3, 8, 8)), batch=BATCH)
    with pytest.raises(InputError, match="returns images"):
        DenoisedSmoothing(wide, classifier)
