"""timm's architectures with a user's checkpoint, where timm is installed; what its configurations say, anywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier  # noqa: E402
from diffsmooth_trt.exporting.sources.timm import load_timm, preprocessing_of  # noqa: E402


@pytest.fixture
def timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


CFG = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, (224, 248, 12, "bicubic")),
        ({"crop_pct": 1.0, "input_size": (3, 512, 512)}, (512, 512, 0, "bicubic")),
        ({"crop_mode": "squash"}, (224, 224, 0, "bicubic")),
        ({"crop_pct": 0.875, "interpolation": "bilinear"}, (224, 256, 16, "bilinear")),
        ({"crop_pct": 0.95, "input_size": (3, 288, 288)}, (288, 303, 8, "bicubic")),  # 7.5 is rounded to even
    ],
)
def test_configurations(changes: dict[str, Any], want: tuple[Any, ...]) -> None:
    found = preprocessing_of({**CFG, **changes}, "x")
    assert (found.input_size, found.resize_to, found.crop_at, found.mode) == want


@pytest.mark.parametrize(
    "changes", [{"input_size": (3, 224, 192)}, {"interpolation": "random"}, {"crop_mode": "border"}]
)
def test_configurations_that_no_graph_does(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="timm's x takes"):
        preprocessing_of({**CFG, **changes}, "x")


def test_a_checkpoint_exports(tmp_path: Path, timm: Any) -> None:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "c.pt")
    report = export_classifier("timm/vit_tiny_patch16_224", tmp_path / "c.pt", tmp_path / "c.onnx", image_size=32)
    assert report.max_difference <= report.tolerance
    facts = report.facts
    assert (facts.classes, facts.input_shape, facts.family) == (10, (3, 32, 32), "timm/vit_tiny_patch16_224")
    assert facts.details["resize"]["to"] == 248


def test_tables_that_older_checkpoints_hold_are_derived(tmp_path: Path, timm: Any) -> None:
    net = timm.create_model("beit_base_patch16_224", num_classes=3)
    state = net.state_dict()
    state["blocks.0.attn.relative_position_index"] = net.blocks[0].attn.relative_position_index
    torch.save(state, tmp_path / "c.pt")
    assert load_timm("timm/beit_base_patch16_224", tmp_path / "c.pt").classes == 3


@pytest.mark.parametrize("name", ["beit_enormous", "hf-hub:somebody/something"])
def test_unknown_names(tmp_path: Path, timm: Any, name: str) -> None:
    with pytest.raises(InputError, match=f"has no model '{name}'.*: use a name of timm.list_models"):
        load_timm(f"timm/{name}", tmp_path / "c.pt")


def test_without_timm_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="needs timm, which cannot be imported .*: pip install timm") as caught:
        export_classifier("timm/resnet18", tmp_path / "c.pt", tmp_path / "c.onnx")
    assert "\n" not in str(caught.value)
