"""`reproduce`: its configurations, the way by the zoo and by random weights, going on, and bad input."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.reproduce import TABLES, estimate, reproduce, run
from diffsmooth_trt.reproduce.engines import check_hashes, files_of, keep_hashes, zoo_engines
from diffsmooth_trt.reproduce.estimate import of_ood, sentence
from diffsmooth_trt.reproduce.run import Cell
from diffsmooth_trt.runs.config import RunConfig

HOW = {"backend": "onnxruntime", "key": "ab" * 32}


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.command == "certify"])
def test_every_configuration_is_one_that_certify_takes(tmp_path, name):
    """All settings go together; rows of a table have names of their own, and numbers fall with the radius."""
    table = TABLES[name]
    assert len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        slots = {network.option: tmp_path / "e.onnx" for network in table.networks}
        if row.options.get("method") != "apndc":
            slots.pop("unconditional", None)
        RunConfig(
            "certify", **table.settings, **row.options, **slots, sigma=row.sigma, data=zoo.IMAGES, out=tmp_path / "r"
        )
        numbers = [row.paper[radius] for radius in sorted(row.paper)]
        assert numbers == sorted(numbers, reverse=True)
        assert all(0 < value < 100 for value in numbers)
        assert all(radius <= 4 * row.sigma for radius in row.paper)


@pytest.mark.parametrize("name", ["cohen-cifar10", "diffsmooth-imagenet"])
def test_the_zoo_goes_the_way_and_goes_on(tmp_path, capsys, name):
    sigma = ["--sigma", "0.25"] if name != "diffsmooth-imagenet" else []
    call = [
        "reproduce",
        name,
        "--zoo",
        "--out",
        str(tmp_path),
        "--max",
        "2",
        "--n0",
        "10",
        "--n",
        "64",
        "--batch",
        "32",
        *sigma,
    ]
    how = ["--backend", "onnxruntime", "--key", "ab" * 32]
    if name == "diffsmooth-imagenet":  # has no row for the zoo's noise
        assert main([*call, *how]) == 2
        assert "diffsmooth-imagenet has rows for 0.5, 1.0" in capsys.readouterr().err
        return
    assert main([*call, *how]) == 0
    first = capsys.readouterr().out
    assert re.search(rf"{name}: 1 rows, \d+ votes, about \d+ s here", first)
    assert "paper" in first and "difference" in first and "zoo networks, not the paper's" in first
    assert "n is 64, not the paper's" in first and "max is 2, not the paper's" in first
    runs = list(tmp_path.glob("*.sqlite"))
    content = runs[0].read_bytes()
    assert main([*call, *how[:2], "--resume"]) == 0  # what is done is not drawn again
    assert capsys.readouterr().out.split("\n", 1)[1] == first.split("\n", 1)[1]
    assert runs == list(tmp_path.glob("*.sqlite")) and len(content) > 0


def test_the_time_is_said_before_anything_is_drawn(tmp_path):
    said = []
    given = {"max": 3, "n": 61, "n0": 5, "batch": 8, "threads": 2, "backend": "onnxruntime"}
    found = reproduce("dds-cifar10", out=tmp_path, networks="zoo", estimate=True, say=said.append, **given)
    assert found is None and not list(tmp_path.glob("*.sqlite"))
    assert re.fullmatch(r"dds-cifar10: 1 rows, 198 votes, about \d+ s here", said[0])


def test_out_of_distribution_tables_by_the_zoo(tmp_path, monkeypatch):
    table = TABLES["distro-cifar10"]
    rows = tuple(row for row in table.rows if row.options["kind"] == "guaranteed")
    monkeypatch.setitem(TABLES, table.name, run.replace(table, rows=rows))  # the other kinds take minutes
    given = {"out": tmp_path, "networks": "zoo", "out_data": ("generated:uniform",), "max": 2, "batch": 2}
    said: list[str] = []
    found = reproduce(table.name, backend="onnxruntime", say=said.append, **given)
    assert re.fullmatch(r"distro-cifar10: 1 rows, 4 evaluations, about \d+ s here", said[0])
    assert set(found.cells) == {"0.25-guaranteed"}
    assert [cell.what for cell in found.cells["0.25-guaranteed"]][-1] == "guaranteed 0.01 FPR"
    assert found.images == {"0.25-guaranteed": 2}
    assert "—" in found.text()


def test_scores_that_are_not_smoothed_are_without_the_denoiser():
    """DISTRO's code takes them at timestep 0, which moves a pixel by less than a step of the 8-bit grid."""
    table = TABLES["distro-cifar10"]
    options = {row.name: set(zoo_engines(table, row)) for row in table.rows}
    two = {"classifier", "detector"}
    assert options == {
        "0.12-clean": two, "0.12-guaranteed": two, "0.12-adversarial": two,
        "0.12-certified-distro-l2": {*two, "engine"}, "0.12-certified": {*two, "engine"},
    }  # fmt: skip


def test_the_time_of_an_attack_counts_its_gradients(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.05)
    asked = {"classifier": zoo.CLASSIFIER_DDS, "in_data": zoo.IMAGES, "out_data": ("generated:uniform",), "max": 3}
    asked |= {"out": tmp_path / "r.jsonl", "batch": 4, "backend": "onnxruntime", "threads": 1}
    assert of_ood(OodConfig(**asked)).count == 6
    attacked = of_ood(OodConfig(**asked, kind="adversarial", budget="large"))
    assert attacked.count == 6 + 3 * 3 * (501 * 5 + 201 * 9) and attacked.seconds > 0
    certified = of_ood(OodConfig(**asked, kind="certified", sigma=0.25, n=100))
    assert (certified.count, certified.most) == (6 * 100, True)
    assert sentence("t", [certified], "evaluations").startswith("t: 1 rows, 600 evaluations, at most ")


def test_random_weights_go_the_whole_way(tmp_path, monkeypatch):
    """Checkpoints in the published format, the real export, and a run of it; with ResNet-20, as ResNet-110 takes a minute."""
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    table = TABLES["cohen-cifar10"]
    small = {
        "family": "cifar_resnet20",
        "random": ("random_classifier", "cifar_resnet20"),
        "options": {"verify_samples": 100},
    }
    networks = tuple(run.replace(network, **small) for network in table.networks)
    monkeypatch.setitem(TABLES, table.name, run.replace(table, networks=networks))
    given = {
        "out": tmp_path,
        "networks": "random",
        "data": zoo.IMAGES,
        "sigma": [0.25],
        "n0": 2,
        "n": 12,
        "max": 1,
        "batch": 4,
    }
    found = reproduce("cohen-cifar10", **given, **HOW)
    assert [cell.what for cell in found.cells["0.25"]] == ["ε = 0", "ε = 0.25", "ε = 0.5", "ε = 0.75"]
    engines = sorted(path.name for path in (tmp_path / "engines").glob("*.onnx"))
    assert engines == ["cohen-cifar10-engine-0.25.onnx"]
    before = (tmp_path / "engines" / engines[0]).stat().st_mtime_ns
    reproduce("cohen-cifar10", **given, **HOW)
    assert (tmp_path / "engines" / engines[0]).stat().st_mtime_ns == before
    assert "random networks, not the paper's" in found.text()


def test_differences_are_held_against_two_samples_of_images():
    cell = Cell("ε = 0.5", 43.0, 45.0, 100 * run._error(0.45, 0.43, 500, 500))
    assert cell.line() == ("ε = 0.5", "43.0", "45.0", "+2.0 ± 3.1")
    assert run._error(1.0, 0.9, 6, 10_000) == pytest.approx(0.1223, abs=1e-3)  # six right ones are no certainty
    assert Cell("ε = 0.5", None, 45.0).line() == ("ε = 0.5", "—", "45.0", "")
    assert Cell("ε = 0.5", 70.0, 71.0, 2.0, least=True).line()[1] == "> 70.0"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dds-cifar", {}, r"no table dds-cifar: did you mean dds-cifar10\? use one of cohen-cifar10, .*distro-cifar100"),
        ("dds-cifar10", {}, "models is missing"),
        ("dds-cifar10", {"models": "."}, "data is missing: CIFAR-10 test"),
        ("dds-cifar10", {"models": ".", "data": "x"}, r"lacks cifar10_uncond_50M_500K.pt \(published at https://.*\); vit-base"),
        ("cohen-cifar10", {"models": ".", "data": "x", "sigma": [0.12]}, "lacks models/cifar10/resnet110/noise_0.12/checkpoint"),
        ("cohen-cifar10", {"models": ".", "data": "x", "sigma": [0.3]}, "sigma 0.3: cohen-cifar10 has rows for 0.12, 0.25"),
        ("cohen-cifar10", {"networks": "random", "data": "absent.parquet"}, "absent.parquet does not exist"),
        ("distro-cifar10", {"networks": "zoo", "out_data": ("absent.npz",)}, "absent.npz does not exist"),
        ("dds-cifar10", {"networks": "zoo", "out": __file__}, "out .*test_reproduce.py is a file: give a folder"),
        ("ndc-cifar10", {"networks": "zoo"}, "the zoo has no conditional denoiser"),
        ("distro-cifar10", {"networks": "zoo"}, "out_data is missing"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        reproduce(name, **{"out": "out", **options})
    assert "\n" not in str(error.value)


def test_checkpoints_of_another_hash(tmp_path):
    """A checkpoint that engines were made of is known; a published hash is held against the file too."""
    table = TABLES["cohen-cifar10"]
    rows, models = table.rows[1:2], tmp_path / "models"
    path = models / "models/cifar10/resnet110/noise_0.25/checkpoint.pth.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")
    files = files_of(table, rows, models)
    check_hashes(table, rows, files, tmp_path)
    path.write_bytes(b"other")  # what nothing was made of may be fetched again
    keep_hashes(table, rows[0], check_hashes(table, rows, files, tmp_path), tmp_path)
    check_hashes(table, rows, files, tmp_path)
    path.write_bytes(b"two")
    with pytest.raises(InputError, match=r"has SHA-256 .*, the one in .*checkpoints.json has .*: put that file there"):
        check_hashes(table, rows, files, tmp_path)
    (tmp_path / "checkpoints.json").write_text('{"one": ')
    with pytest.raises(InputError, match=r"checkpoints.json is damaged: remove it"):
        check_hashes(table, rows, files, tmp_path)
    (tmp_path / "checkpoints.json").unlink()
    known = run.replace(table, networks=tuple(run.replace(network, sha256="0" * 64) for network in table.networks))
    with pytest.raises(InputError, match="the published one has 0000000000000000…"):
        check_hashes(known, rows, files, Path(tmp_path))
