"""The recipes' own files: random weights in published formats load by the real path, and every recipe says how it is run."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.exporting import random_weights  # noqa: E402
from diffsmooth_trt.exporting.classifier import load_classifier  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import Overrides  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    **dict.fromkeys(
        ("dds_cifar10", "dds_imagenet", "diffsmooth_cifar10", "diffsmooth_imagenet"), "--denoiser, --classifier"
    ),
    "distro": "--denoiser, --joint",
    "ndc_cifar10": "--denoiser, --unconditional",
}


@pytest.mark.parametrize("parallel", [True, False])
def test_random_classifiers_have_cohens_format(tmp_path: Path, parallel: bool) -> None:
    path = random_weights.random_classifier("cifar_resnet20", tmp_path, parallel=parallel)
    content = torch.load(path, weights_only=True)
    assert content["arch"] == "cifar_resnet20"
    assert all(name.startswith("1.module." if parallel else "1.") for name in content["state_dict"])
    loaded = load_classifier("cifar_resnet20", path, Overrides())
    assert torch.equal(loaded.net.fc.weight, list(content["state_dict"].values())[-2])


def test_a_random_vit_is_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="makes a Hugging Face folder")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    path = random_weights.random_vit(tmp_path, **small)
    loaded = load_classifier("hf", path, Overrides())
    assert (loaded.classes, loaded.preprocessing.input_size, loaded.preprocessing.mode) == (10, 224, "bilinear")


Recipe = Callable[..., tuple[Any, str]]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Recipe:
    """`run(name, *options)`: exit status and standard error of a recipe that fails, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "export")

    def run(name: str, *options: str) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "export" / f"{name}.py"), run_name="__main__")
        return caught.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_need_something_to_export(tmp_path: Path, recipe: Recipe, name: str) -> None:
    """Also that they import, and write nothing before they know what."""
    status, said = recipe(name)
    assert status == 2
    assert f"give {RECIPES[name]} or --random-weights" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message", "status"),
    [
        ("distro", ["--joint", "absent.pt"], "checkpoint absent.pt: no such file", 2),
        ("ndc_cifar10", ["--denoiser", "absent.pt"], "checkpoint absent.pt: no such file", 2),
        ("ndc_cifar10", ["--denoiser", "absent.pt", "--out", "taken"], "File exists (taken)", 1),
    ],
)
def test_errors_of_recipes_are_one_line(
    tmp_path: Path, recipe: Recipe, name: str, options: list[str], message: str, status: int
) -> None:
    (tmp_path / "taken").touch()
    code, line = recipe(name, *options)
    assert code == status
    assert line.startswith(f"{name}.py: ") and message in line and len(line.splitlines()) == 1
