"""Networks that are no engine files: exported once by content, said in one line, found again, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

import diffsmooth_trt as dst  # noqa: E402
from diffsmooth_trt import zoo  # noqa: E402
from diffsmooth_trt.cli import main  # noqa: E402
from diffsmooth_trt.files import content_sha256  # noqa: E402
from diffsmooth_trt.nets.classifiers import classifier_from_arch  # noqa: E402

RUN = [
    "certify",
    "--method",
    "rs",
    "--sigma",
    "0.25",
    "--data",
    str(zoo.IMAGES),
    "--max",
    "1",
    "--n0",
    "2",
    "--n",
    "20",
]
RUN += ["--batch", "8", "--backend", "onnxruntime", "--threads", "1"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": classifier_from_arch("resnet20").module.state_dict()}, path)
    return path


def certify(out: Path, cache: Path, engine: object) -> int:
    return main([*RUN, "--engine", str(engine), "--cache", str(cache), "--out", str(out)])


def test_a_checkpoint_is_exported_once_and_the_run_verifies(checkpoint, tmp_path, capsys):
    cache, first, second = tmp_path / "cache", tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    cache.mkdir()
    assert certify(first, cache, checkpoint) == 0
    (line,) = capsys.readouterr().err.splitlines()
    (made,) = cache.iterdir()
    assert line.startswith(f"diffsmooth-trt: --engine {checkpoint} was exported (resnet20, ")
    assert line.endswith(f"to {made}, which later runs take")
    again = checkpoint.rename(tmp_path / "other-name.pt").rename(checkpoint)  # by content, not by date
    assert certify(second, cache, again) == 0
    assert capsys.readouterr().err == f"diffsmooth-trt: --engine {checkpoint} was exported earlier, as {made}\n"
    assert list(cache.iterdir()) == [made]
    with dst.open_run(first) as one, dst.open_run(second) as two:
        assert one.record.classifier.id == two.record.classifier.id
        assert one.files["engine"] == str(made)
    assert main(["verify", str(first), "--quiet", "--threads", "1"]) == 0


def test_what_cannot_be_is_one_line(checkpoint, tmp_path, capsys):
    cache, out = tmp_path / "cache", tmp_path / "r.sqlite"
    cache.mkdir()
    odd = tmp_path / "odd.pt"
    torch.save({"weight": torch.zeros(3, 3)}, odd)
    folder = tmp_path / "folder"
    folder.mkdir()
    dds = ["--method", "dds", "--classifier", str(zoo.CLASSIFIER_DDS)]
    for engine, place, more, message in (
        (checkpoint, tmp_path / "none", [], "is no folder: make it, or leave --cache out for ~/.cache/diffsmooth-trt"),
        (odd, cache, [], "fits no built-in architecture: say which it has, like --engine timm/NAME:"),
        (f"resnet20:{tmp_path}/none.pt", cache, [], "which should be the checkpoint of resnet20"),
        (f"magic:{checkpoint}", cache, [], "magic"),
        (folder, cache, [], "has no weights"),
        (checkpoint, cache, dds, "is not named like a published configuration"),
        (tmp_path / "none.pt", cache, [], "does not exist"),
    ):
        arguments = [*RUN, "--engine", str(engine), "--cache", str(place), "--out", str(out), *more]
        assert main(arguments) == 2, engine
        said = capsys.readouterr().err
        assert message in said, said
        assert len(said.splitlines()) == 1
    assert list(cache.iterdir()) == []
    assert not out.exists()


def test_a_folder_is_named_by_its_files(tmp_path):
    folder = tmp_path / "f"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps({"a": 1}))
    first = content_sha256(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    assert content_sha256(folder) == first  # hidden files are no part of a network
    (folder / "unet" / "config.json").rename(folder / "config.json")
    assert content_sha256(folder) != first
