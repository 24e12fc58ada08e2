"""Denoisers that are none are said to be none, with what would fit better; those that denoise are not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

from diffsmooth_trt import zoo  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402
from diffsmooth_trt.exporting.checks.denoising import (  # noqa: E402
    denoising,
    denoising_warnings,
    others_of,
    others_of_program,
)
from diffsmooth_trt.exporting.checks.noised import fitting_pixels  # noqa: E402
from diffsmooth_trt.exporting.denoiser import read_family  # noqa: E402
from diffsmooth_trt.exporting.graph.one_shot import SourceDenoiser  # noqa: E402
from diffsmooth_trt.schedule import Schedule  # noqa: E402

STATE = Path(__file__).parent.parent.parent / "export" / "zoo" / "unet.pt"
SIGMA, COUNT = 0.25, 2


@pytest.fixture(scope="module")
def pixels() -> Any:
    return fitting_pixels(zoo.IMAGES, (3, 32, 32), COUNT)


@pytest.fixture(scope="module")
def family() -> tuple[Any, Any]:
    made = read_family("guided-diffusion", "zoo", STATE)
    return made, made.load(STATE)[0]


def seen(family: tuple[Any, Any], pixels: Any, **changes: Any) -> Any:
    """What is found of the zoo's network under a configuration that says something else."""
    wrong = copy.copy(family[0])
    vars(wrong).update(changes)
    source = SourceDenoiser(wrong, family[1], wrong.level(SIGMA, False))
    return denoising(source, pixels, SIGMA, COUNT, others_of(wrong, family[1], SIGMA))


def test_a_denoiser_passes(family: tuple[Any, Any], pixels: Any) -> None:
    found = seen(family, pixels)
    assert 0.2 < found.before < 0.3
    assert found.after < found.before / 2
    assert not list(denoising_warnings(found.recorded()))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_another_prediction_is_named(family: tuple[Any, Any], pixels: Any, prediction: str) -> None:
    """InvokeAI#7965: what converts a checkpoint forgets which it is."""
    found = seen(family, pixels, prediction=prediction)
    (*_, said) = denoising_warnings(found.recorded())
    assert f"with the prediction epsilon instead of {prediction} the error would be" in said


def test_another_schedule_is_named(family: tuple[Any, Any], pixels: Any) -> None:
    for wrong in (Schedule("linear", 4000), Schedule("cosine", 100)):
        found = seen(family, pixels, schedule=wrong)
        (said,) = denoising_warnings(found.recorded())
        assert "with a cosine schedule of" in said


class InMinusOneToOne(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A denoiser, of sorts, that takes and returns images in [-1, 1]: a mean over 3² pixels."""

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.avg_pool2d(x + 1, 3, 1, 1, count_include_pad=False) - 1


class Returning(InMinusOneToOne):
    """It takes them in [0, 1]."""

    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x) - 1


def test_images_in_another_range(tmp_path: Path, pixels: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = denoising(Returning(), pixels, SIGMA, COUNT, others_of_program(Returning()))
    said = list(denoising_warnings(found.recorded() if found else None))
    assert "this is no denoiser for that noise" in said[0]
    assert "lie more than 0.25 outside of [0, 1]" in said[1]
    assert "with images in [-1, 1] out the error would be" in said[2]
    torch.export.save(torch.export.export(Returning(), (torch.rand(2, 3, 32, 32),)), tmp_path / "d.pt2")
    report = export_denoiser(
        "program", tmp_path / "d.pt2", None, SIGMA, tmp_path / "d.onnx", trust_program=True, verify_samples=4
    )
    report.show()
    printed = capsys.readouterr()
    assert "denoising: the error of 2 images falls from" not in printed.out
    assert "warning: this is no denoiser for that noise" in printed.err
    assert "better" in report.verification["denoising"]


def test_sizes_that_change_are_not_compared(pixels: Any) -> None:
    assert denoising(torch.nn.AvgPool2d(2), pixels, SIGMA, COUNT) is None
