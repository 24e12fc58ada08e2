"""Denoisers that return images of the classifier's size: exported files, their facts, and DiffSmooth's noise after the resize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")
import torch.nn.functional as F  # noqa: E402
from scipy.special import softmax  # noqa: E402

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402
from diffsmooth_trt.methods import DiffSmooth  # noqa: E402
from diffsmooth_trt.methods.base import Rows  # noqa: E402
from diffsmooth_trt.noise import LOCAL, grid_law  # noqa: E402
from diffsmooth_trt.noise.sampler import grid_noise  # noqa: E402

OPTIONS: dict[str, Any] = {
    "image_size": 8,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "4",
    "learn_sigma": True,
}
BATCH = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Any) -> Path:
    path = tmp_path_factory.mktemp("denoiser") / "net.pt"
    random_checkpoint(path, "guided-diffusion", OPTIONS)
    return Path(path)


@pytest.fixture(scope="module")
def pair(checkpoint: Path) -> tuple[Path, Path]:
    """The same denoiser, as it is and with its images resized to 20 and cropped to 14."""
    plain, resized = checkpoint.with_name("plain.onnx"), checkpoint.with_name("resized.onnx")
    export_denoiser("guided-diffusion", checkpoint, OPTIONS, 0.25, plain)
    report = export_denoiser(
        "guided-diffusion", checkpoint, OPTIONS, 0.25, resized, resize_to=20, crop=14, resize_mode="bilinear"
    )
    assert report.facts.input_shape == (3, 8, 8)
    assert report.facts.output_shape == (3, 14, 14)
    assert report.facts.details["resize"] == {"to": 20, "crop": 14, "crop_at": 3, "mode": "bilinear", "antialias": True}
    return plain, resized


def engine(path: Path, **options: Any) -> Any:
    return open_engine(path, batch=BATCH, backend="onnxruntime", **options)


def test_the_file_denoises_and_resizes(pair: tuple[Path, Path]) -> None:
    x = np.random.default_rng(0).normal(0.5, 0.4, (BATCH, 3, 8, 8)).astype(np.float32)
    with engine(pair[0]) as plain, engine(pair[1]) as resized:
        got, small = resized.run(x), torch.from_numpy(plain.run(x))
    assert got.shape == (BATCH, 3, 14, 14)
    want = F.interpolate(small, (20, 20), mode="bilinear", antialias=True)[:, :, 3:17, 3:17]
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_local_noise_has_the_classifiers_size(pair: tuple[Path, Path], linear_classifier: Any) -> None:
    """The labels are those of the formula: resize, then each fixed noise, then the mean of the softmaxes."""
    rng = np.random.default_rng(1)
    weights, size = rng.normal(0, 0.3, (4, 3 * 14 * 14)), 3 * 14 * 14
    path = linear_classifier(weights, np.zeros(4), shape=(3, 14, 14))
    method = DiffSmooth(
        engine(pair[1], role="denoiser"), engine(path, role="classifier"), local_sigma=0.25, copies=2, seed=7
    )
    words = np.arange(2, dtype=np.uint64)
    noise = grid_noise(grid_law(0.25), 7, LOCAL, np.zeros(2, np.uint64), words, size).reshape(2, 1, size) / 255
    zeros = np.zeros(BATCH, np.uint64)
    x = rng.normal(0.5, 0.4, (BATCH, 3, 8, 8)).astype(np.float32)
    clean = method.denoiser.run(x).reshape(BATCH, size)
    want = sum(softmax((clean + step) @ weights.T, axis=1) for step in noise).argmax(1)
    assert method.input_shape == (3, 8, 8)
    np.testing.assert_array_equal(method.labels(x, Rows(zeros, zeros, zeros, 0)), want)
    fresh = DiffSmooth(method.denoiser, method.classifier, local_sigma=0.25, copies=2, seed=7, fresh=True)
    assert fresh.labels(x, Rows(zeros, zeros, zeros, 0)).shape == (BATCH,)
    method.close()


def test_sizes_that_do_not_meet(pair: tuple[Path, Path], linear_classifier: Any) -> None:
    path = linear_classifier(np.ones((2, 3 * 8 * 8)), np.zeros(2), shape=(3, 8, 8))
    with engine(pair[1]) as denoiser, engine(path) as classifier:
        with pytest.raises(InputError, match=r"image_size 14, or the denoiser with resize_to 8"):
            DiffSmooth(denoiser, classifier, local_sigma=0.25, copies=1, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_to": 20, "crop": 24}, "crop 24 is larger than the image of 20 pixels"),
        ({"crop": 9}, "crop 9 is larger than the image of 8 pixels"),
        ({"resize_to": 20, "resize_mode": "area"}, "resize_mode 'area' is unknown"),
        ({"resize_to": 5000}, "resize_to must lie between 4 and 4096 pixels"),
    ],
)
def test_refused_sizes(checkpoint: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_denoiser("guided-diffusion", checkpoint, OPTIONS, 0.25, tmp_path / "d.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_program_of_ones_own_is_resized_too(tmp_path: Path) -> None:
    class Half(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * 0.5

    torch.export.save(torch.export.export(Half(), (torch.rand(2, 3, 4, 4),)), tmp_path / "d.pt2")
    report = export_denoiser(
        "program", tmp_path / "d.pt2", None, 0.25, tmp_path / "d.onnx", resize_to=6, trust_program=True
    )
    assert report.facts.output_shape == (3, 6, 6)
