"""EDM networks as files; tests/nets/test_songunet.py has the modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402

OPTIONS: dict[str, Any] = {
    "img_resolution": 16, "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Any) -> Path:
    """Parameters as EDM names them, in half precision and below "ema" as its pickles have them."""
    path = tmp_path_factory.mktemp("edm") / "net.pt"
    _, net = random_checkpoint(path, "edm", {**OPTIONS, "label_dim": 3})
    torch.save({"ema": {f"model.{name}": tensor.half() for name, tensor in net.state_dict().items()}}, path)
    return path


def test_files_are_folded_and_run_on_other_sizes(checkpoint: Path, tmp_path: Path, assert_folded: Any) -> None:
    options = {**OPTIONS, "label_dim": 3}
    report = export_denoiser("edm", checkpoint, options, 0.25, tmp_path / "d.onnx", image_size=24)
    facts = report.facts
    assert report.max_difference <= 1e-5
    assert_folded(tmp_path / "d.onnx")
    assert (facts.schedule, facts.timestep, facts.sigma, facts.family) == (None, None, 0.25, "edm")
    assert facts.details["ratio"] == 0.5 and facts.details["options"]["encoder_type"] == "residual"
    with open_engine(tmp_path / "d.onnx", batch=2, role="denoiser", backend="onnxruntime") as engine:
        assert engine.run(torch.rand(2, 3, 24, 24).numpy()).std() > 0.05


def test_refusals(checkpoint: Path, tmp_path: Path) -> None:
    def refused(message: str, options: dict[str, Any] | None = None, **changes: Any) -> None:
        arguments: dict[str, Any] = {"sigma": 0.25, **changes}
        with pytest.raises(InputError, match=message) as caught:
            export_denoiser(
                "edm", checkpoint, options or {**OPTIONS, "label_dim": 3}, out=tmp_path / "d.onnx", **arguments
            )
        assert "\n" not in str(caught.value) and not (tmp_path / "d.onnx").exists()

    refused("parameters 2 unexpected .map_label.weight, map_label.bias.: check the configuration", OPTIONS)
    refused("trained with labels, this one has none: set label_dim in its", OPTIONS, sigma=None, conditional=True)
    refused("image size 17 does not fit this network: it must be a multiple of 2", image_size=17)
    refused("fractional_timestep is for schedules: EDM networks take every noise level", fractional_timestep=True)
