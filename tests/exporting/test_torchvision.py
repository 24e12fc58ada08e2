"""torchvision's classifiers with a user's checkpoint, where torchvision is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier  # noqa: E402
from diffsmooth_trt.exporting.classifier import load_classifier  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import Overrides  # noqa: E402
from diffsmooth_trt.exporting.sources.torchvision import load_torchvision  # noqa: E402


@pytest.fixture
def models() -> Any:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return models


def saved(models: Any, name: str, path: Path, parallel: bool = False) -> Any:
    torch.manual_seed(0)
    net = models.get_model(name, weights=None, num_classes=4).eval()
    torch.save((torch.nn.DataParallel(net) if parallel else net).state_dict(), path)
    return net


@pytest.mark.parametrize("parallel", [False, True])
def test_a_checkpoint_exports(tmp_path: Path, models: Any, parallel: bool) -> None:
    """The preprocessing is torchvision's evaluation transform: images of the right size are normalised alone."""
    saved(models, "mobilenet_v3_small", tmp_path / "c.pt", parallel)
    report = export_classifier("torchvision/mobilenet_v3_small", tmp_path / "c.pt", tmp_path / "c.onnx")
    assert report.max_difference <= report.tolerance
    facts = report.facts
    assert (facts.classes, facts.input_shape, facts.family) == (4, (3, 224, 224), "torchvision/mobilenet_v3_small")
    assert facts.details["mean"] == [0.485, 0.456, 0.406] and facts.details["resize"] is None


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "swin_t"])
def test_every_kind_of_last_layer_is_counted(tmp_path: Path, models: Any, name: str) -> None:
    net = saved(models, name, tmp_path / "c.pt")
    loaded = load_torchvision(f"torchvision/{name}", tmp_path / "c.pt")
    assert loaded.classes == 4 and loaded.preprocessing.input_size == 224
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.net(x), net(x))


def test_what_cannot_be_is_said(tmp_path: Path, models: Any) -> None:
    saved(models, "mobilenet_v3_small", tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"no classifier 'mobilenet_v3' \(it has mobilenet_v"):
        load_torchvision("torchvision/mobilenet_v3", tmp_path / "c.pt")
    with pytest.raises(InputError, match="does not fit the network"):
        load_torchvision("torchvision/mobilenet_v3_large", tmp_path / "c.pt")


def test_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "c.pt")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match="needs torchvision, which cannot be imported"):
        load_classifier("torchvision/resnet18", tmp_path / "c.pt", Overrides())
