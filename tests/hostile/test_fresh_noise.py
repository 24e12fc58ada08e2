"""Networks that were made with all that is public of a run at hand: fresh local noise has to be none of it."""

from __future__ import annotations

from operator import index

import numpy as np
import pytest
from scipy import stats

import diffsmooth_trt as dst
from diffsmooth_trt.methods.diffsmooth import DiffSmooth
from diffsmooth_trt.noise import FIXED_LOCAL, LOCAL, PREDICTION, grid_law, sampler, seed_key
from diffsmooth_trt.noise.counters import fresh_words

SHAPE, N = (3, 16, 16), 600
D = int(np.prod(SHAPE))
LOCAL_SIGMA, THRESHOLD = 0.12, 0.8


def fitted(key: int, phase: int) -> np.ndarray:
    """A linear rule w with w·η = 1 on the fresh noises that a run of image 0 would have in `phase` under `key`, m = 1."""
    draws = np.stack([np.full(N, PREDICTION), np.zeros(N), np.arange(N)]).astype(np.uint64)
    noise = sampler.grid_noise(grid_law(LOCAL_SIGMA), key, phase, draws[1], fresh_words(draws, 1, 0), D) / 255
    return noise.T @ np.linalg.solve(noise @ noise.T, np.ones(N))


@pytest.fixture
def black(write_graph, tmp_path):
    """A denoiser that answers black images, so that the local noise is all that the classifier sees."""
    from onnx import helper

    from diffsmooth_trt.engine import EngineFacts

    nodes = [helper.make_node("Mul", ["x", "zero"], ["y"])]
    facts = EngineFacts("denoiser", SHAPE, sigma=0.25)
    return write_graph(tmp_path / "d.onnx", nodes, {"zero": np.zeros(1, np.float32)}, list(SHAPE), facts, SHAPE, "B")


KEY = int("2" * 64, 16)


@pytest.mark.parametrize(
    ("key", "phase"), [(0, LOCAL), (seed_key(0), LOCAL), (seed_key(0), FIXED_LOCAL), (KEY ^ 1, LOCAL), (KEY, LOCAL)]
)
def test_a_classifier_fitted_to_public_noise_gains_nothing(black, linear_classifier, tmp_path, key, phase):
    """It answers 0 on every noise that it was made for, so always where it knew the key; else as rarely as chance, within
    six deviations."""
    w = fitted(key, phase)
    share = stats.norm.sf(THRESHOLD / (np.linalg.norm(w) * LOCAL_SIGMA))
    assert share < 0.4  # what it truly answers
    classifier = linear_classifier(np.stack([w, -w]), np.array([-THRESHOLD, THRESHOLD]), shape=SHAPE)
    np.savez(tmp_path / "one.npz", images=np.full((1, *SHAPE[1:], 3), 127, np.uint8), labels=np.zeros(1, np.int64))
    with dst.predict(
        engine=black, classifier=classifier, data=tmp_path / "one.npz", out=tmp_path / "r.sqlite", method="diffsmooth",
        m=1, local_sigma=LOCAL_SIGMA, local_noise="fresh", n=N, key="2" * 64, backend="onnxruntime", batch=50,
    ) as store:  # fmt: skip
        (votes,) = store.counts(0).values()
    if key == KEY:
        assert votes[0] == N
        return
    assert abs(votes[0] - N * share) < 6 * np.sqrt(N * share * (1 - share))


def test_no_two_noises_of_a_run_share_a_nonce(shrinking_denoiser, linear_classifier, images_npz, tmp_path, monkeypatch):
    """Of certify and predict with three fresh noises a draw, and of a classifier's fixed ones: all streams differ."""
    seen: list[tuple[int, int, int, int]] = []

    def spied(name):
        true = getattr(sampler, name)

        def call(law, key, phase, *rest, **how):
            images, samples = rest[-3:-1] if name != "noisy_images" else rest[1:3]
            if name == "add_noise":
                images, samples = rest[:2]
            phases = np.broadcast_to(phase, images.shape)
            seen.extend(
                zip([index(key)] * len(images), phases.tolist(), images.tolist(), samples.tolist(), strict=True)
            )
            return true(law, key, phase, *rest, **how)

        return call

    made = linear_classifier(np.random.default_rng(0).normal(size=(3, 48)), np.zeros(3))
    given = {"engine": shrinking_denoiser(0.25), "classifier": made, "data": images_npz(count=2, classes=3)}
    given |= {"method": "diffsmooth", "m": 3, "local_noise": "fresh", "key": "7" * 64, "batch": 16}
    for name in ("noisy_images", "add_noise"):
        monkeypatch.setattr(sampler, name, spied(name))
    dst.certify(**given, n0=16, n=48, out=tmp_path / "c.sqlite", backend="onnxruntime").close()
    dst.predict(**given, n=48, out=tmp_path / "p.sqlite", backend="onnxruntime").close()
    # the run's audit draws rows again, and strangers from sample 2^31 on: what counts is how many different ones there are
    own = {row for row in seen if row[0] == int("7" * 64, 16) and row[3] % 2**56 < 2**31}
    assert len(own) == 4 * 2 * (16 + 48 + 48)
    assert {phase for _, phase, _, _ in own} == {0, 1, 2, LOCAL}


def test_fixed_noise_is_the_seeds_alone(shrinking_denoiser, linear_classifier):
    """The same under every run's key, other for every seed: f is deterministic and its name says which it is."""
    from diffsmooth_trt.engine import open_engine

    engines = [
        open_engine(path, batch=4, backend="onnxruntime")
        for path in (shrinking_denoiser(0.25), linear_classifier(np.eye(3, 48), np.zeros(3)))
    ]
    first, second = (DiffSmooth(*engines, local_sigma=0.12, copies=2, seed=seed) for seed in (0, 1))
    expected = sampler.grid_noise(
        grid_law(0.12), seed_key(0), FIXED_LOCAL, np.zeros(2, np.uint64), np.arange(2, dtype=np.uint64), 48
    )
    np.testing.assert_array_equal(first.fixed, expected.astype(np.float32) / np.float32(255))
    assert not np.array_equal(first.fixed, second.fixed)
    assert first.identity != second.identity
