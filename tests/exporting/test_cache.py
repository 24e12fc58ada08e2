"""Networks that are no engine files: exported once by content, said in one line, found again, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")

import diffsmooth_trt as dst  # noqa: E402
from diffsmooth_trt import zoo  # noqa: E402
from diffsmooth_trt.cli import main  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
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
    assert "images of 32 pixels, mean 0.485,0.456,0.406, std 0.229,0.224,0.225" in line
    again = checkpoint.rename(tmp_path / "other-name.pt").rename(checkpoint)  # by content, not by date
    assert certify(second, cache, again) == 0
    assert capsys.readouterr().err == f"diffsmooth-trt: --engine {checkpoint} was exported earlier, as {made}\n"
    assert list(cache.iterdir()) == [made]
    with dst.open_run(first) as one, dst.open_run(second) as two:
        assert one.record.classifier.id == two.record.classifier.id
        assert one.files["engine"] == str(made)
    assert main(["verify", str(first), "--quiet", "--threads", "1"]) == 0


def test_python_takes_what_the_commands_take(checkpoint, tmp_path, caplog):
    """`certify` and `SmoothedClassifier` find one engine file, and the logger says so; votes are equal."""
    cache, key = tmp_path / "cache", "ab" * 32
    cache.mkdir()
    caplog.set_level("INFO", "diffsmooth_trt")
    how = {"backend": "onnxruntime", "threads": 1, "batch": 8, "cache": cache}
    drawn = {"n0": 2, "n": 20, "key": key}
    with dst.certify(engine=checkpoint, method="rs", sigma=0.25, data=zoo.IMAGES, max=1, **drawn, **how) as run:
        (by_file,) = run.results()
    x = np.stack([image.pixels for image in dst.open_images(zoo.IMAGES, limit=1)])
    with dst.SmoothedClassifier(checkpoint, sigma=0.25, **how) as named:
        assert named.certify(x, **drawn).radius[0] == by_file.radius
        with pytest.raises(InputError, match="x has images of 32×20 pixels, f is exported for square ones"):
            named.predict(x[:, :20])
    (made,) = cache.iterdir()
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert caplog.messages[0].startswith(f"--engine {checkpoint} was exported (resnet20, weights state_dict, ")
    assert caplog.messages[1] == f"f {checkpoint} was exported earlier, as {made}"
    with pytest.raises(InputError, match="^cache .* is no folder"):
        dst.certify(engine=checkpoint, method="rs", sigma=0.25, data=zoo.IMAGES, cache=tmp_path / "none")


def test_images_that_no_network_takes_are_refused_before_it_is_exported(checkpoint, tmp_path, capsys):
    for name, sizes, message in (
        (
            "wide",
            [(40, 32)],
            "has an image of 40×32 pixels, expected square ones of one size: give --resize 256 --crop 224",
        ),
        (
            "mixed",
            [(32, 32), (48, 48)],
            "image 1 is (48, 48, 3), the engine takes (32, 32, 3): pass --resize 32 --crop 32",
        ),
    ):
        for number, size in enumerate(sizes):
            (tmp_path / name).mkdir(exist_ok=True)
            PillowImage.new("RGB", size).save(tmp_path / name / f"{number}.png")
        arguments = [*RUN, "--engine", str(checkpoint), "--cache", str(tmp_path), "--out", str(tmp_path / "r.sqlite")]
        arguments[arguments.index("--data") + 1] = str(tmp_path / name)
        arguments[arguments.index("--max") + 1] = "2"
        assert main(arguments) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert message in said
    assert not list(tmp_path.glob("*.onnx"))


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
        (odd, cache, [], "fits no built-in architecture: say which it has, like --engine torchvision/NAME:"),
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
