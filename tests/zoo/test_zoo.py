"""The shipped engines do what they are shipped for."""

from __future__ import annotations

import numpy as np
import pytest

from diffsmooth_trt import zoo
from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.images import Images
from diffsmooth_trt.methods import DenoisedSmoothing, DiffSmooth, Rows
from diffsmooth_trt.noise import PREDICTION, grid_law
from diffsmooth_trt.noise.sampler import noisy_images
from diffsmooth_trt.ood.generated import generate
from diffsmooth_trt.ood.metrics import auroc

KEY = 5


@pytest.fixture(scope="module")
def batch():
    images = list(Images(zoo.IMAGES))
    pixels = np.ascontiguousarray(np.stack([image.pixels.transpose(2, 0, 1) for image in images]))
    index = np.array([image.index for image in images], dtype=np.uint64)
    rows = Rows(np.full(100, PREDICTION, np.uint64), index, np.zeros(100, np.uint64), KEY)
    noisy = np.empty(pixels.shape, dtype=np.float32)
    noisy_images(grid_law(0.25), KEY, PREDICTION, pixels, rows.images, rows.samples, noisy)
    return pixels, np.array([image.label for image in images]), noisy, rows


def test_denoiser_removes_noise(batch):
    pixels, _, noisy, _ = batch
    with open_engine(zoo.DENOISER, batch=100) as engine:
        assert engine.facts.sigma == 0.25
        error = np.mean((engine.run(noisy) - pixels / 255) ** 2)
    assert -10 * np.log10(error) > 23.0  # the noisy images themselves stand at 12.0 dB


@pytest.mark.parametrize("method", ["dds", "diffsmooth"])
def test_single_noisy_images_are_classified(batch, method):
    """One draw an image: at least 65 of 100, five standard deviations below what the zoo reaches on average."""
    _, labels, noisy, rows = batch
    denoiser = open_engine(zoo.DENOISER, batch=100)
    if method == "dds":
        f = DenoisedSmoothing(denoiser, open_engine(zoo.CLASSIFIER_DDS, batch=100))
    else:
        classifier = open_engine(zoo.CLASSIFIER_DIFFSMOOTH, batch=100)
        f = DiffSmooth(denoiser, classifier, local_sigma=0.12, copies=5, seed=0)
    assert (f.labels(noisy, rows) == labels).sum() >= 65
    f.close()


def test_detector_tells_images_from_noise(batch):
    """100 test images against 100 of each generated set far from them: AUROC of d above 0.98, as they are and with σ = 0.12."""
    pixels, _, _, rows = batch

    def noised(images):
        out = np.empty(images.shape, dtype=np.float32)
        noisy_images(grid_law(0.12), KEY, PREDICTION, images, rows.images, rows.samples, out)
        return out

    assert zoo.DETECTOR.stat().st_size <= 2_000_000
    with open_engine(zoo.DETECTOR, batch=100, role="detector") as engine:
        clean, noisy = (engine.run(x)[:, 0] for x in ((pixels / np.float32(255)).astype(np.float32), noised(pixels)))
        for kind in ("uniform", "smooth", "lowfreq"):
            made = np.ascontiguousarray([generate(kind, (32, 32, 3), 0, i).transpose(2, 0, 1) for i in range(100)])
            assert auroc(clean, engine.run((made / np.float32(255)).astype(np.float32))[:, 0]) > 0.98
            assert auroc(noisy, engine.run(noised(made))[:, 0]) > 0.98
