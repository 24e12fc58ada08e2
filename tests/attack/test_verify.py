"""Verifying attacks: what was found is found again, and whatever was forged is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.attack.file import AttackFile
from diffsmooth_trt.attack.verify import verify
from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.noise import Key

pytest.importorskip("torch", reason="gradients are torch's")
from diffsmooth_trt.attack.run import AttackConfig, attack

RNG = np.random.default_rng(7)
SIGMA, RADII = 0.5, (0.1, 0.3)
WEIGHTS = RNG.normal(size=(2, 48)) / 7
WEIGHTS -= WEIGHTS.mean(axis=1, keepdims=True)  # the edge passes through grey


@pytest.fixture(scope="module")
def made(linear_classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An attack with contradictions: certificates at α = 0.9999 are false more often than not."""
    folder = tmp_path_factory.mktemp("attack")
    images = np.random.default_rng(3).integers(0, 256, (8, 4, 4, 3), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(8) % 2)
    given: dict[str, Any] = {"n0": 50, "n": 100, "alpha": 0.9999, "key": "ab" * 32, "backend": "onnxruntime"}
    engine = linear_classifier(WEIGHTS, np.array([0.0, 0.05]))
    with dst.certify(
        engine=engine, method="rs", sigma=SIGMA, data=folder / "images.npz", out=folder / "run.sqlite", **given
    ):
        pass
    config = AttackConfig(
        run=folder / "run.sqlite",
        out=folder / "a.json",
        kept=folder / "a.npz",
        radii=RADII,
        n=4000,
        alpha=0.01,
        key=Key.parse("cd" * 32),
    )
    assert attack(config).contradicted
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, whose run is found beside the file."""
    for name in ("run.sqlite", "a.json", "a.npz", "a.contradictions.npz"):
        shutil.copy(made / name, tmp_path / name)
    attack_file = replace(AttackFile.read(tmp_path / "a.json"), run="run.sqlite", kept="a.npz")
    attack_file.write()
    return tmp_path


def changed(folder: Path, change: Callable[[Any], Any]) -> Path:
    path = folder / "a.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values["images"])
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_what_was_found_is_found_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "a.json"
    found = AttackFile.read(path)
    sets = sum((each.clean is not None) + sum(1 + bool(p.votes) for p in each.points) for each in found.images)
    done = verify(path, given={}, seed=1)
    assert done.agrees and done.blocks == done.recorded == sets and done.results == len(found.images) == 8
    assert any("certificates are contradicted" in note for note in done.notes)
    (folder / "a.npz").unlink()
    alone = verify(path, given={}, seed=1)  # points that contradict are kept beside the file in any case
    assert alone.agrees and 0 < alone.blocks < sets and any("points were not kept" in note for note in alone.notes)
    assert main(["verify", str(path)]) == 0
    assert "a.json: verified; " in capsys.readouterr().out


def test_whatever_was_forged_is_named(folder: Path) -> None:
    found = AttackFile.read(folder / "a.json")
    image, point = found.contradicted[0]
    at, of = found.images.index(image), image.points.index(point)
    sure = max(found.images, key=lambda each: each.radius)
    text = (folder / "a.json").read_text(encoding="utf-8")

    def mismatch(said: str, change: Callable[[Any], Any] = lambda images: None) -> None:
        done = verify(changed(folder, change), given={}, seed=1)
        (folder / "a.json").write_text(text, encoding="utf-8")
        assert any(said in each for each in done.mismatches), done.mismatches

    def moved(votes: dict[str, int]) -> None:
        votes["0"], votes["1"] = votes.get("0", 0) + 1, votes.get("1", 0) - 1

    mismatch("answer: recorded votes {", lambda images: moved(images[at]["points"][of]["votes"]))
    nearer = point.squared - 1
    mismatch(f"recorded at √{nearer}/255", lambda images: images[at]["points"][of].update(squared=nearer))
    mismatch("not the recorded ones", lambda images: images[at]["points"][of].update(sha256="0" * 64))
    more = sure.radius + 0.001
    mismatch(f"and radius {more}, the run's", lambda images: images[found.images.index(sure)].update(radius=more))
    mismatch("label, pixels or distance are not the run's", lambda images: images[0].update(sha256="0" * 64))
    for name in ("a.npz", "a.contradictions.npz"):
        with np.load(folder / name) as file:
            values = dict(file)
        values["images"][0, 0, 0, 0] ^= 1
        np.savez(folder / name, **values)
    mismatch("the pixels that were kept are not the recorded ones")
    for name in ("a.npz", "a.contradictions.npz"):
        (folder / name).unlink()
    mismatch("it contradicts a certificate, and is not kept in")


def test_votes_that_nothing_asked_for_are_not_read(folder: Path) -> None:
    found = AttackFile.read(folder / "a.json")
    pointed = next(i for i, each in enumerate(found.images) if each.points and each.points[0].votes is None)
    answered = next(i for i, each in enumerate(found.images) if each.points and each.points[-1].votes)
    most = int((255 * RADII[0]) ** 2)
    text = (folder / "a.json").read_text(encoding="utf-8")
    changes: list[Callable[[Any], Any]] = [
        lambda images: images[pointed]["points"][0].update(votes={"0": 2000, "1": 2000}),
        lambda images: images[answered]["points"][-1].update(votes=None),
        lambda images: images[answered]["points"][-1].update(votes={"-1": 4000}),
        lambda images: images[answered]["points"][-1].update(votes={"0": 4000.0}),
        lambda images: images[pointed]["points"][0].update(squared=most + 1),
        lambda images: images[pointed]["points"][0].update(selection={"0": 1}),
        lambda images: images[pointed]["points"].pop(0),
        lambda images: images[pointed]["points"].append(images[pointed]["points"][0]),
        lambda images: images[0].update(distance=None),
        lambda images: images[0].update(predict=2),
    ]
    for change in changes:
        with pytest.raises((InputError, StoreError)) as error:
            verify(changed(folder, change), given={}, seed=1)
        assert "\n" not in error.value.message
        (folder / "a.json").write_text(text, encoding="utf-8")


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, text = folder / "a.json", (folder / "a.json").read_text(encoding="utf-8")
    (folder / "cut.json").write_text(text[:-9], encoding="utf-8")
    (folder / "not.npz").write_bytes(b"PK\x03\x04 no archive")
    other = {"labels": np.zeros(1, np.int64), "images": np.zeros((1, 4, 4, 3), np.uint8)}
    np.savez(folder / "other.npz", **other)
    for arguments, said, status in (
        (["verify", str(folder / "cut.json")], "is no whole file of `diffsmooth-trt attack`", 1),
        (["report", str(folder / "cut.json")], "is no whole file of `diffsmooth-trt attack`", 1),
        (["verify", str(path), "--images", str(folder / "no.npz")], "no.npz does not exist", 2),
        (["verify", str(path), "--images", str(folder / "not.npz")], "holds no points of an attack", 2),
        (["verify", str(path), "--images", str(folder / "other.npz")], "holds no points of an attack", 2),
        (["verify", str(path), "--unfinished"], "--unfinished is not for files of attack", 2),
        (["verify", str(path), "--fraction", "0"], "--fraction must be above 0", 2),
        (
            ["verify", str(folder / "run.sqlite"), "--images", str(folder / "a.npz")],
            "--images is for files of `attack`",
            2,
        ),
    ):
        assert main(arguments) == status
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1, line
    (folder / "run.sqlite").unlink()
    assert main(["verify", str(path)]) == 2
    assert "run.sqlite, the run that" in capsys.readouterr().err
