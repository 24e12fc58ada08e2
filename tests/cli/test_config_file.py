"""`--config`: options from a file, what is typed wins, every run repeats itself, and what is wrong is named."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.cli.config_file import read

KEY = "5e" * 32
OWN = f"""
command = "certify"
engine = {str(zoo.DENOISER)!r}
classifier = {str(zoo.CLASSIFIER_DDS)!r}
data = {str(zoo.IMAGES)!r}
max = 3
n0 = 5
n = 60
alpha = 0.01
radius = [0.1, 0.2]
batch = 10
backend = "onnxruntime"
threads = 1
quantise = false
family_wise = true
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


def counts(path):
    with dst.open_run(path) as store:
        return [(result.image, result.label, result.radius) for result in store.results()]


def test_a_file_gives_options_what_is_typed_wins_and_a_run_repeats_itself(config, tmp_path, capsys, monkeypatch):
    first, second, toml = (tmp_path / name for name in ("a.sqlite", "b.sqlite", "again.toml"))
    assert main(["certify", "--max", "1", "--config", str(config), "--out", str(first), "--key", KEY]) == 0
    with dst.open_run(first) as store:
        record = store.record
        assert (record.choice.max, record.stopping.n, record.stopping.radius) == (1, 60, (0.1, 0.2))
        assert record.stopping.family_wise
    assert main(["report", str(first), "--config", str(toml)]) == 0
    said = toml.read_text(encoding="utf-8")
    assert KEY not in said
    assert tomllib.loads(said)["max"] == 1
    monkeypatch.chdir(tmp_path)
    assert main(["certify", "--config=again.toml", "--out", str(second), "--key", KEY]) == 0
    assert counts(second) == counts(first)
    with dst.open_run(second) as again:
        assert again.record.described() == record.described()
    assert read(first) == tomllib.loads(said.replace("family-wise", "family_wise"))  # the store is such a file too
    assert main(["certify", "--config", str(first), "--out", str(first), "--resume"]) == 0  # nothing to type again
    assert capsys.readouterr().err == ""


def test_a_run_with_a_class_map_repeats_itself(linear_classifier, tmp_path, capsys):
    """A configuration without the map would be refused, or take other labels."""
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[4, 7])
    engine = linear_classifier(np.zeros((3, 48)), np.arange(3.0))
    (tmp_path / "map.txt").write_text("4,2\n7,0\n", encoding="utf-8")
    given = ["--class-map", str(tmp_path / "map.txt"), "--data", str(tmp_path / "d.npz"), "--engine", str(engine)]
    given += [
        "--method",
        "rs",
        "--sigma",
        "0.25",
        "--n0",
        "5",
        "--n",
        "60",
        "--batch",
        "20",
        "--backend",
        "onnxruntime",
    ]
    first, second, toml = (tmp_path / name for name in ("a.sqlite", "b.sqlite", "again.toml"))
    assert main(["certify", *given, "--out", str(first)]) == 0
    assert main(["report", str(first), "--config", str(toml)]) == 0
    assert tomllib.loads(toml.read_text(encoding="utf-8"))["class-map"] == str(tmp_path / "map.txt")
    for number, config in enumerate((toml, first)):
        out = second.with_name(f"{number}.sqlite")
        assert main(["certify", "--config", str(config), "--out", str(out)]) == 0
        with dst.open_run(out) as again, dst.open_run(first) as run:
            assert again.record.labels == run.record.labels == {"by": "class map", "classes": {"4": 2, "7": 0}}
    (tmp_path / "map.txt").unlink()
    capsys.readouterr()
    assert main(["certify", "--config", str(toml), "--out", str(second)]) == 2
    said = capsys.readouterr().err
    assert "map.txt" in said and len(said.splitlines()) == 1
    assert main(["report", str(first)]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sigmma = 0.25", "has 'sigmma', which certify does not take: the nearest that it takes is sigma"),
        ("local_sgima = 0.25", "the nearest that it takes is local-sigma"),
        ('n = "1000"', 'n is "1000", expected a whole number'),
        ("n = 10.5", "n is 10.5, expected a whole number"),
        ("n = true", "n is true, expected a whole number"),
        ("alpha = '1e-3'", 'alpha is "1e-3", expected a number'),
        ("resume = 1", "resume is 1, expected true or false"),
        ("data = 3", "data is 3, expected a string in quotes"),
        ("radius = ['a']", 'radius is ["a"], expected numbers'),
        ("max = [1, 2]", "max is [1, 2], expected a whole number"),
        ("engine = {a = 1}", "engine is {'a': 1}, expected a string in quotes"),
        ("method = 'magic'", "invalid choice: 'magic'"),
        ("n = ", "is neither TOML nor a run store"),
        ('command = "predict"', "is for predict, got certify: use `diffsmooth-trt predict --config"),
        ("help = true", "the nearest that it takes is"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(text + "\n", encoding="utf-8")
    assert main(["certify", "--config", str(path), "--out", str(tmp_path / "r.sqlite")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["wrong.toml"]


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "cut.sqlite").write_bytes(b"SQLite format 3\0" + bytes(100))
    for name, message in (
        ("none.toml", "does not exist: give a TOML file"),
        ("bad.toml", "neither TOML"),
        ("cut.sqlite", "is not a run store"),
    ):
        assert main(["certify", "--config", str(tmp_path / name), "--out", str(tmp_path / "r.sqlite")]) == 2
        assert message in capsys.readouterr().err
    assert main(["certify", "--config"]) == 2
    assert "expected one argument" in capsys.readouterr().err
