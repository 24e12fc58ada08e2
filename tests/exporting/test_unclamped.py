"""Denoisers whose values outside of [0, 1] stay, and what exports say of a null class that was not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "model_channels": 16,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [4],
}


def test_only_the_clamp_is_left_out(tmp_path: Path, random_checkpoint: Any) -> None:
    _, net = random_checkpoint(tmp_path / "net.pt", "edm", SMALL)
    found = {}
    x = np.random.default_rng(0).uniform(-1, 2, (3, 3, 8, 8)).astype(np.float32)
    for name, unclamped in (("clamped", False), ("open", True)):
        out = tmp_path / f"{name}.onnx"
        report = export_denoiser("edm", tmp_path / "net.pt", SMALL, 0.25, out, unclamped=unclamped)
        assert report.facts.details.get("clamped", True) != unclamped
        with open_engine(out, batch=3, role="denoiser", sigma=0.25, backend="onnxruntime") as engine:
            found[name] = engine.run(x)
    s, data = 0.5, 0.5
    with torch.no_grad():
        model = torch.from_numpy(2 * x - 1)
        scaled = model / (s * s + data * data) ** 0.5
        answer = net.eval()(scaled, torch.full((3,), np.log(s) / 4, dtype=torch.float32), None)
        estimate = data**2 / (s * s + data**2) * model + s * data / (s * s + data**2) ** 0.5 * answer
    expected = (estimate.numpy() + 1) / 2
    assert expected.min() < 0 < 1 < expected.max()
    assert np.abs(found["open"] - expected).max() < 1e-5
    assert np.abs(found["clamped"] - expected.clip(0, 1)).max() < 1e-5


def test_conditional_exports_say_whether_the_null_class_was_trained(
    tmp_path: Path, random_checkpoint: Any, capsys: pytest.CaptureFixture[str], traced_once: Any
) -> None:
    for dropout in (0.0, 0.1):
        options = {**SMALL, "label_dim": 4, "label_dropout": dropout}
        random_checkpoint(tmp_path / "net.pt", "edm", options)
        with traced_once(tmp_path / "traced.onnx"):  # training alone has the dropout
            report = export_denoiser("edm", tmp_path / "net.pt", options, None, tmp_path / "c.onnx", conditional=True)
        assert report.facts.details["null_class_trained"] == (dropout > 0)
        report.show()
        assert ("was not trained without a class" in capsys.readouterr().err) == (dropout == 0)


def test_unclamped_is_for_folded_denoisers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unclamped is what conditional always is: leave it out"):
        export_denoiser("edm", "absent.pt", SMALL, None, tmp_path / "c.onnx", conditional=True, unclamped=True)
