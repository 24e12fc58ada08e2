"""Resizing as matrices: against torch and Pillow, enlarging and shrinking, every mode."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
import torch.nn.functional as F  # noqa: E402

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import ClassifierWithPreprocessing, Overrides, Preprocessing  # noqa: E402
from diffsmooth_trt.exporting.graph.resize import BOTH, MODES, Resize, SourceResize, resize_matrix  # noqa: E402


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 224), (32, 32, 32), (40, 24, 17), (256, 200, 64), (5, 3, 8)]
)
def test_resize_is_torchs(height: int, width: int, size: int, mode: str, antialias: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, height, width)
    if mode == "nearest" and antialias:
        pytest.skip("is Pillow's, to the last bit of where a pixel begins")
    how = {"mode": "nearest-exact"} if mode == "nearest" else {"mode": mode, "antialias": antialias}
    want = F.interpolate(x, (size, size), **how)
    got = Resize((height, width), size, mode=mode, antialias=antialias)(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_resize_matches_pillow(mode: str) -> None:
    image = pytest.importorskip("PIL.Image", reason="compares with Pillow")
    pixels = np.random.default_rng(0).uniform(0, 1, (20, 20)).astype(np.float32)
    for size in (7, 20, 50):
        want = np.asarray(image.fromarray(pixels).resize((size, size), image.Resampling[mode.upper()]))
        matrix = resize_matrix(20, size, mode)
        np.testing.assert_allclose(matrix @ pixels @ matrix.T, want, atol=1e-5)
        source = SourceResize(size, size, 0, mode, True)(torch.from_numpy(pixels)[None, None])
        np.testing.assert_allclose(source[0, 0], want, atol=1e-5)


@pytest.mark.parametrize(("mode", "antialias"), [*((mode, True) for mode in MODES), *((mode, False) for mode in BOTH)])
def test_resize_rows_sum_to_one(mode: str, antialias: bool) -> None:
    for source, target in ((32, 224), (224, 32), (1, 9), (9, 1)):
        np.testing.assert_allclose(resize_matrix(source, target, mode, antialias).sum(1), 1, atol=1e-14)


def test_bilinear_enlarging_is_one_map() -> None:
    np.testing.assert_allclose(
        resize_matrix(32, 224, "bilinear", True), resize_matrix(32, 224, "bilinear", False), atol=1e-15
    )


def test_crop_is_cut_out_of_the_resized_image() -> None:
    x = torch.rand(1, 3, 20, 20)
    whole = F.interpolate(x, (30, 30), mode="bilinear", antialias=True)
    torch.testing.assert_close(Resize((20, 20), 30, 24, 3, "bilinear")(x), whole[:, :, 3:27, 3:27], rtol=0, atol=1e-5)
    torch.testing.assert_close(SourceResize(30, 24, 3, "bilinear", True)(x), whole[:, :, 3:27, 3:27])


def test_unknown_modes() -> None:
    with pytest.raises(
        InputError, match="resize_mode 'area' is unknown: use one of bicubic, bilinear, nearest, lanczos"
    ):
        resize_matrix(4, 8, "area")
    with pytest.raises(InputError, match="no_antialias is how torch resizes, which has no lanczos: use one of bicubic"):
        resize_matrix(4, 8, "lanczos", antialias=False)


def test_classifier_preprocessing() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    x = torch.rand(2, 3, 8, 8)
    resized = F.interpolate(x, (12, 12), mode="bicubic", antialias=True)
    want = (resized - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)
    for source in (True, False):
        model = ClassifierWithPreprocessing(torch.nn.Flatten(), Preprocessing(mean, std, 12, 12), 8, source)
        torch.testing.assert_close(model(x), want.flatten(1), rtol=0, atol=5e-5)


OWN = Preprocessing((0.5,) * 3, (0.5,) * 3, 224, 248, "bilinear", True, 12)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, (224, 248, 12, "bilinear", True)),
        ({"input_size": 224}, (224, 224, 0, "bilinear", True)),
        ({"resize_to": 256}, (224, 256, 16, "bilinear", True)),
        ({"input_size": 96, "resize_to": 101, "resize_mode": "bicubic"}, (96, 101, 2, "bicubic", True)),
        ({"antialias": False}, (224, 248, 12, "bilinear", False)),
    ],
)
def test_flags_go_over_the_models_own(given: dict[str, object], want: tuple[object, ...]) -> None:
    got = Overrides(**given).over(OWN)  # type: ignore[arg-type]
    assert (got.input_size, got.resize_to, got.crop_at, got.mode, got.antialias) == want
    assert (got.mean, got.std) == (OWN.mean, OWN.std)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resize_to": 100}, "resize_to 100 is smaller than the 224 pixels that are cropped"),
        ({"resize_mode": "area"}, "resize_mode 'area' is unknown"),
        ({"resize_mode": "box", "antialias": False}, "which has no box"),
        ({"image_size": 3}, "image_size must lie between 4 and 4096 pixels, got 3"),
        ({"mean": (0.1, float("nan"), 0.2)}, "mean must be three numbers"),
    ],
)
def test_flags_that_cannot_be(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Overrides(**given).over(OWN)  # type: ignore[arg-type]
