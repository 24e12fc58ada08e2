"""config.json that timm saves with weights: how images are fed, what the architecture was made with, what classes are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.sources.timm import load_timm  # noqa: E402
from diffsmooth_trt.exporting.sources.timm_config import SavedConfig  # noqa: E402

CFG = {
    "input_size": [3, 32, 32],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.2],
    "crop_pct": 0.8,
    "interpolation": "bilinear",
}
OWN = {"input_size": (3, 224, 224), "mean": (0.485,) * 3, "std": (0.229,) * 3, "crop_pct": 0.9, "classifier": "head"}
NAME = "vit_tiny_patch16_224"
SAID: dict[str, Any] = {"architecture": NAME, "num_classes": 2, "pretrained_cfg": {"tag": "x", **CFG}}


def config(folder: Path, said: dict[str, Any] | str) -> Path:
    (folder / "config.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"label_names": ["ant", "bee"]}, ["ant", "bee"]),
        ({"label_names": {"1": "bee", "0": "ant"}}, ["ant", "bee"]),
        (
            {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "ant, emmet", "n2": "n2"}},
            ["n1, ant, emmet", "n2"],
        ),
        ({"pretrained_cfg": {**CFG, "label_names": ["ant", "bee"]}}, ["ant", "bee"]),
        ({"pretrained_cfg": {**CFG, "labels": ["ant", "bee"]}}, ["ant", "bee"]),
        ({"id2label": {"0": "ant", "1": "bee"}}, ["ant", "bee"]),
        ({"label_names": ["ant"]}, None),
        ({}, None),
    ],
)
def test_what_classes_are_called(tmp_path: Path, more: dict[str, Any], names: list[str] | None) -> None:
    saved = SavedConfig.beside(config(tmp_path, {**SAID, **more}), NAME)
    assert saved is not None and saved.class_names(2) == names


def test_how_images_are_fed_is_that_of_these_weights(tmp_path: Path) -> None:
    """The normalisation that a file beside the weights says is not left out for the architecture's (cf. ScrollPrize/villa#1386)."""
    for said in (SAID, {"architecture": NAME, **CFG}):  # older files have no dictionary of its own
        saved = SavedConfig.beside(config(tmp_path, said), f"{NAME}.augreg_in21k")
        assert saved is not None
        found = saved.over(OWN)
        assert (found["input_size"], found["mean"], found["std"]) == ((3, 32, 32), (0.5, 0.4, 0.3), (0.2,) * 3)
        assert (found["crop_pct"], found["interpolation"], found["classifier"]) == (0.8, "bilinear", "head")


def test_a_configuration_of_others_is_not_taken(tmp_path: Path) -> None:
    config(tmp_path, {**SAID, "architecture": "resnet18.a1_in1k"})
    assert SavedConfig.beside(tmp_path / "net.safetensors", NAME) is None
    with pytest.raises(
        InputError, match="is of resnet18.a1_in1k, got arch timm/vit_tiny_patch16_224: give arch timm/resnet18"
    ):
        SavedConfig.beside(tmp_path, NAME)
    hugging = SavedConfig.beside(config(tmp_path, {"model_type": "vit", "id2label": {"0": "a", "1": "b"}}), NAME)
    assert hugging is not None
    assert (hugging.class_names(2), hugging.over(OWN), hugging.arguments(), hugging.facts()) == (
        ["a", "b"],
        OWN,
        {},
        {},
    )
    (tmp_path / "config.json").unlink()
    assert SavedConfig.beside(tmp_path, NAME) is None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "config.json must hold one JSON object"),
        ({**SAID, "pretrained_cfg": {"mean": [0.5]}}, "does not say how images are fed .*mean must be three"),
        ({**SAID, "pretrained_cfg": {"std": [0.5, 0, 0.5]}}, "std must be three positive"),
        ({**SAID, "pretrained_cfg": {"input_size": 224}}, "does not say how images are fed"),
        ({**SAID, "pretrained_cfg": {"crop_pct": 0}}, "crop_pct 0"),
        ({**SAID, "model_args": {"checkpoint_path": "x.pt"}}, "has model_args .* expected plain values"),
        ({**SAID, "model_args": {"act": {"a": 1}}}, "has model_args .* expected plain values"),
    ],
)
def test_damaged_configurations_are_one_line(tmp_path: Path, said: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        saved = SavedConfig.beside(config(tmp_path, said), NAME)
        assert saved is not None
        saved.over(OWN)
        saved.arguments()
    assert "\n" not in str(caught.value)


def test_a_folder_that_timm_saved_loads_as_it_was_saved(tmp_path: Path) -> None:
    try:
        import timm
        from timm.models import save_for_hf
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    net = timm.create_model(NAME, num_classes=2, img_size=32, act_layer="relu").eval()
    labels = {"label_names": ["ant", "bee"], "label_descriptions": {"ant": "emmet"}}
    save_for_hf(
        net, str(tmp_path), {**labels, "model_args": {"img_size": 32, "act_layer": "relu"}, "pretrained_cfg": CFG}
    )
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        loaded = load_timm(f"timm/{NAME}", path)
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(loaded.net(x), net(x))
        own = loaded.preprocessing
        assert (own.input_size, own.mean, own.std, own.mode) == (32, (0.5, 0.4, 0.3), (0.2,) * 3, "bilinear")
        assert loaded.details["class_names"] == ["ant, emmet", "bee"]
        assert set(loaded.details) == {"class_names", "config", "timm"}
