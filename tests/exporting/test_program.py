"""A user's own denoiser as an exported torch program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402


class Own(torch.nn.Module):
    """A convolution, in a class that whoever exports the file does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return (x + 0.1 * self.conv(x)).clamp(0, 1)


def save(path: Path, dynamic: bool, *inputs: Any) -> Own:
    torch.manual_seed(2)
    net = Own().eval()
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    given = inputs or (torch.rand(3, 3, 8, 8),)
    torch.export.save(torch.export.export(net, given, dynamic_shapes=shapes), path)
    return net


@pytest.mark.parametrize("dynamic", [True, False])
def test_runs_as_the_program(dynamic: bool, tmp_path: Path) -> None:
    net = save(tmp_path / "own.pt2", dynamic)
    report = export_denoiser("program", tmp_path / "own.pt2", None, 0.5, tmp_path / "d.onnx", trust_program=True)
    assert (report.facts.sigma, report.facts.family, report.facts.input_shape) == (0.5, "program", (3, 8, 8))
    rows = 5 if dynamic else 3
    x = torch.rand(rows, 3, 8, 8)
    with open_engine(tmp_path / "d.onnx", batch=rows, role="denoiser", backend="onnxruntime") as engine:
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(engine.run(x.numpy())), net(x), rtol=0, atol=1e-5)


class Odd(torch.nn.Module):
    """Programs that are no denoisers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Any) -> Any:
        y = x / 2
        kinds = {"logits": y.mean((2, 3)), "constant": 1, "tuple": (y,), "dict": {"y": y}, "half": y.half()}
        return kinds.get(self.kind, y)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("logits", r"maps \(3, 8, 8\) to \(3,\): that is no denoiser"),
        ("constant", r"maps \(3, 8, 8\) to \(\): that is no denoiser"),
        ("half", "that is no denoiser"),
        ("tuple", r"inside a list, tuple or dict: export a module whose forward\(x\) returns a plain tensor"),
        ("dict", "returns its tensor by name or inside a list, tuple or dict"),
        ("named", "takes or returns its tensor by name or inside a list, tuple or dict"),
    ],
)
def test_other_programs_are_no_denoisers(tmp_path: Path, kind: str, message: str) -> None:
    x = torch.rand(2, 3, 8, 8)
    given: Any = ((), {"x": x}) if kind == "named" else ((x,), {})
    torch.export.save(torch.export.export(Odd(kind), *given), tmp_path / "own.pt2")
    with pytest.raises(InputError, match=message) as caught:
        export_denoiser("program", tmp_path / "own.pt2", None, 0.5, tmp_path / "d.onnx", trust_program=True)
    assert "\n" not in str(caught.value)


def test_damaged_programs_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.pt2"
    save(path, False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="is no program that torch.export.save wrote, or is damaged"):
        export_denoiser("program", path, None, 0.5, tmp_path / "d.onnx", trust_program=True)
    assert capfd.readouterr() == ("", "")


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "own.pt2"

    def refused(message: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {"config": None, "sigma": 0.5, "trust_program": True, **changes}
        with pytest.raises(InputError, match=message) as caught:
            export_denoiser("program", path, out=tmp_path / "d.onnx", **arguments)
        assert "\n" not in str(caught.value) and not (tmp_path / "d.onnx").exists()

    refused("own.pt2: no such file")
    path.write_bytes(b"PK\x03\x04 and more")
    refused("own.pt2 is no program that torch.export.save wrote, or is damaged")
    save(path, False)
    refused(
        "own.pt2 was not opened: torch runs code that .* pass trust_program where you trust it", trust_program=False
    )
    refused("was exported for batches of 3, got batch 4", batch=4)
    refused("needs sigma", sigma=None, conditional=True)
    refused("image_size does not apply to family program", image_size=16)
    save(path, False, torch.rand(3, 8, 8))
    refused(r"takes 1 inputs, the first \[3, 8, 8\], and returns 1: expected one batch float32 \[B, 3, H, W\]")
