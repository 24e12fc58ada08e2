"""Hugging Face processors are followed in whatever they do to a pixel, in every `resample`; what a graph cannot do is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
transformers = pytest.importorskip("transformers", reason="has the processors")

from PIL import Image  # noqa: E402

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import ClassifierWithPreprocessing  # noqa: E402
from diffsmooth_trt.exporting.sources.transformers import _as_it_does, preprocessing_of  # noqa: E402

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
SIZE = {"size": {"height": 24, "width": 24}}


def read(processor: Any) -> Any:
    return _as_it_does(processor, preprocessing_of(processor.to_dict(), 24))


def assert_follows(processor: Any, sides: tuple[int, ...] = (14, 40)) -> Any:
    """On pictures that are not those of the package's own check."""
    own = read(processor)
    for side in sides:
        pixels = np.random.default_rng(side).integers(60, 196, (side, side, 3), dtype=np.uint8)
        want = np.asarray(processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"][0])
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        got = ClassifierWithPreprocessing(torch.nn.Identity(), own, side)(x)[0].numpy()
        assert want.shape == got.shape
        assert np.abs(want - got).max() <= 3 / 255 / min(own.std)
    return own


@pytest.mark.parametrize(
    ("resample", "mode"), list(enumerate(("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")))
)
def test_every_resample(resample: int, mode: str) -> None:
    """transformers#42956: 0 is a value, and a smooth picture tells no filter from another."""
    own = assert_follows(transformers.ViTImageProcessor(resample=resample, **SIZE, **HALF))
    assert (own.mode, own.mean, own.std) == (mode, tuple(HALF["image_mean"]), tuple(HALF["image_std"]))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}),
        ("EfficientNetImageProcessor", {**SIZE, "rescale_offset": True, "rescale_factor": 1 / 127.5, **HALF}),
        ("EfficientNetImageProcessor", {**SIZE, "include_top": True, **HALF}),
        ("ViTImageProcessor", {**SIZE, "rescale_factor": 1 / 127.5, **HALF}),
        ("ViTImageProcessor", {**SIZE, "do_rescale": False, **HALF}),
        ("ViTImageProcessor", {**SIZE, "do_normalize": False}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 24}, "crop_pct": 0.8}),
        ("BeitImageProcessor", {"size": 27, "do_center_crop": True, "crop_size": 24, **HALF}),
        ("BitImageProcessor", {"size": {"shortest_edge": 27}, "crop_size": 24}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 25}, "crop_size": 24}),
    ],
    ids=str,
)
def test_what_else_they_do_is_followed(kind: str, options: dict[str, Any]) -> None:
    """Blue first, offsets, a second normalisation, other factors, crops whose margin is odd."""
    own = assert_follows(getattr(transformers, kind)(**options))
    assert own.bgr == (kind == "MobileViTImageProcessor")


def test_padding_is_refused() -> None:
    """It puts pixels around the image that are no image, and the remedy does not lead back to the file."""
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 20}, crop_size=24)
    with pytest.raises(InputError, match=r"crops 24 of 20 pixels: give input_size, mean, std and resize_mode"):
        read(processor)
