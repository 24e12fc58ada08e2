"""Generated sets: pure functions of kind, seed and number."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.ood.generated import KINDS, GeneratedImages, generate

SHAPE = (32, 32, 3)
SOURCE = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
# SHA-256 of image 3 at seed 5, first 16 digits: a change of any pixel needs a new VERSION.
KNOWN = {"uniform": "d0c81d20dd3a810e", "permuted": "8568f27460c89328"}


def made(kind, seed=5, number=3, shape=SHAPE):
    return generate(kind, shape, seed, number, SOURCE if kind == "permuted" else None)


@pytest.mark.parametrize("kind", KINDS)
def test_images_depend_on_kind_seed_and_number_alone(kind):
    image = made(kind)
    assert image.dtype == np.uint8 and image.shape == SHAPE
    assert (image == made(kind)).all()
    assert (image != made(kind, number=4)).any() and (image != made(kind, seed=6)).any()
    assert (image != made(kind, seed=5 + 2**64)).any()
    if kind in KNOWN:
        assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == KNOWN[kind]


def test_kinds_are_what_they_say():
    """Uniform: 3·32² values whose chi-square over 16 bins is below the 1 − 1e-6 quantile for this fixed seed."""
    uniform = made("uniform")
    counts = np.bincount(uniform.ravel() >> 4, minlength=16)
    assert ((counts - 192) ** 2 / 192).sum() < 58
    for kind in ("smooth", "lowfreq"):
        image = made(kind)
        assert image.min() == 0 and image.max() == 255
        step = np.abs(np.diff(image.astype(int), axis=0)).mean()
        assert step < np.abs(np.diff(uniform.astype(int), axis=0)).mean() / 3
    permuted = made("permuted")
    assert (np.sort(permuted.reshape(-1, 3), axis=0) == np.sort(SOURCE.reshape(-1, 3), axis=0)).all()
    assert {tuple(p) for p in permuted.reshape(-1, 3)} == {tuple(p) for p in SOURCE.reshape(-1, 3)}


def test_smooth_noise_is_the_published_one():
    """Uniform noise, a Gaussian filter of one width, then stretched: undone by knowing the words."""
    words = np.random.Philox(counter=[0, 1, 3, 1], key=[5, 0]).random_raw(1 + 3072)
    numbers = (words >> np.uint64(11)).astype(float) / 2**53
    blurred = np.stack(
        [
            ndimage.gaussian_filter(numbers[1:].reshape(SHAPE)[:, :, c], 1 + 1.5 * numbers[0], mode="nearest")
            for c in range(3)
        ],
        -1,
    )
    assert (made("smooth") == np.rint(255 * (blurred - blurred.min()) / np.ptp(blurred))).all()


def test_sets_have_the_form_of_images(image_set):
    source = Images(image_set("inside", 5))
    data = GeneratedImages("permuted", 12, (4, 4, 3), 9, source)
    images = list(data)
    assert [image.index for image in images] == list(range(12)) == list(data.rows)
    assert {image.label for image in images} == {-1}
    assert (
        images[7].pixels == generate("permuted", (4, 4, 3), 9, 7, next(iter(source.read(range(2, 3)))).pixels)
    ).all()
    assert data.identity != GeneratedImages("permuted", 12, (4, 4, 3), 8, source).identity


def test_bad_input(image_set):
    with pytest.raises(InputError, match="unknown"):
        generate("gaussian", SHAPE, 0, 0)
    with pytest.raises(InputError, match="unknown"):
        GeneratedImages("gaussian", 1, SHAPE, 0, Images(image_set("inside")))
    with pytest.raises(InputError, match="to permute"):
        generate("permuted", SHAPE, 0, 0, SOURCE[:4])
