"""The recipes' own files: random weights in published formats load by the real path, and every recipe says how it is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.exporting.classifiers import load_classifier  # noqa: E402
from diffsmooth_trt.exporting.preprocessing import Overrides  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    **dict.fromkeys(
        ("dds_cifar10", "dds_imagenet", "diffsmooth_cifar10", "diffsmooth_imagenet"), "--denoiser, --classifier"
    ),
    "distro": "--denoiser, --joint",
    "ndc_cifar10": "--denoiser",
}


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "export")
    import random_weights

    return random_weights


@pytest.mark.parametrize("parallel", [True, False])
def test_random_classifiers_have_cohens_format(tmp_path: Path, random_weights: Any, parallel: bool) -> None:
    path = random_weights.random_classifier("cifar_resnet20", tmp_path, parallel=parallel)
    content = torch.load(path, weights_only=True)
    assert content["arch"] == "cifar_resnet20"
    assert all(name.startswith("1.module." if parallel else "1.") for name in content["state_dict"])
    loaded = load_classifier("cifar_resnet20", path, Overrides())
    assert torch.equal(loaded.net.fc.weight, list(content["state_dict"].values())[-2])


def test_a_random_vit_is_a_folder(tmp_path: Path, random_weights: Any) -> None:
    pytest.importorskip("transformers", reason="makes a Hugging Face folder")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    path = random_weights.random_vit(tmp_path, **small)
    loaded = load_classifier("hf", path, Overrides())
    assert (loaded.classes, loaded.preprocessing.input_size, loaded.preprocessing.mode) == (10, 224, "bilinear")


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_need_something_to_export(tmp_path: Path, name: str) -> None:
    """Also that they import, and write nothing before they know what."""
    command = [sys.executable, str(ROOT / "export" / f"{name}.py"), "--out", str(tmp_path / "engines")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"give {RECIPES[name]} or --random-weights" in done.stderr
    assert not (tmp_path / "engines").exists()
