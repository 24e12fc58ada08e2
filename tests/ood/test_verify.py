"""Verifying runs of `ood`: a clean run is reproduced, and every edit of its file is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.ood.bounds import shifted_upper
from diffsmooth_trt.ood.certified import bound_of
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.report import text_report, versions_of
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.store import OodStore
from diffsmooth_trt.ood.verify import verify


@pytest.fixture
def make(linear_classifier, shrinking_denoiser, small_detector, image_set, tmp_path):
    """`make(kind, …)`: a small finished run's file."""

    def made(kind: str = "certified", **changes) -> Path:
        options = {
            "classifier": linear_classifier(np.random.default_rng(0).normal(0, 0.5, (5, 48)), np.zeros(5)),
            "engine": shrinking_denoiser(0.25),
            "detector": small_detector(),
            "in_data": image_set("inside", 6, 120, 256),
            "out_data": ("generated:uniform", str(image_set("other", 5))),
            "out": tmp_path / f"{kind}.jsonl",
            "kind": kind, "batch": 8, "backend": "onnxruntime", **({"n": 200} if kind == "certified" else {}), **changes,
        }  # fmt: skip
        run(OodConfig(**options)).close()
        return options["out"]

    return made


def edit(path: Path, change, line: int = 0) -> Path:
    """A copy of a run's file with one line changed, by default the first; lines of the audit (by the clock) are not counted."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change([each for each in lines if "audit" not in each][line])
    copy = path.with_name("edited.jsonl")
    copy.write_text("".join(json.dumps(each, sort_keys=True) + "\n" for each in lines))
    return copy


@pytest.mark.parametrize(
    ("kind", "changes", "draws"),
    [
        ("clean", {"draws": 2}, 34),
        ("clean", {"engine": None, "detector": None, "score": "energy"}, 0),
        ("guaranteed", {}, 17),
        ("adversarial", {}, 17),
        ("certified", {}, None),
        ("certified", {"engine": None, "detector": None, "sigma": 0.3, "family_wise": True}, None),
        ("certified", {"score": "distro-l2", "n0": 20}, 17 * 200),
    ],
)
def test_a_clean_run_verifies(make, capsys, kind, changes, draws):
    if kind == "adversarial":
        pytest.importorskip("torch")
    path = make(kind, **changes)
    before = path.read_bytes()
    done = verify(path, fraction=1)
    assert done.agrees and (done.blocks, done.recorded) == (17, 17), done.lines()
    assert draws is None or done.samples == draws
    assert path.read_bytes() == before
    assert main(["verify", str(path), "--fraction", "0.2", "--blocks-seed", "5"]) == 0
    said = capsys.readouterr().out
    assert "verified; 17 of 17 images" in said and said.endswith("--blocks-seed 5\n")
    assert ("attacks were not made again" in said) == (kind == "adversarial")


@pytest.mark.parametrize("line", [3, 9, 15])
def test_moved_counts_are_noticed(make, line):
    """One draw moved by a bin, in each set."""
    path = make("certified", tolerance=0.0)

    def move(record):
        record["counts"][-1] -= 1
        record["bins"].append(record["bins"][-1] - 1 if record["bins"][-1] - 1 not in record["bins"] else 0)
        record["counts"].append(1)

    done = verify(edit(path, move, line), fraction=1)
    assert not done.agrees and all("than recorded" in said for said in done.mismatches)
    assert main(["verify", str(path.with_name("edited.jsonl")), "--fraction", "1"]) == 1


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("certified", lambda r: r.update(n=r["n"] + 1), "draws cannot have given"),
        ("certified", lambda r: (r.update(n=r["n"] - 1), r["counts"].__setitem__(0, r["counts"][0] - 1)), "does not stop"),
        ("certified", lambda r: r.update(sha256="0" * 64), "pixels in the data"),
        ("certified", lambda r: r.update(row=77), "holds no such image"),
        ("certified", lambda r: r.update(set=9), "set 9, image"),
        ("certified", lambda r: r.update(label=r["label"] + 1), "recorded label"),
        ("clean", lambda r: r.update(score=r["score"] / 2), "recorded score"),
        ("clean", lambda r: r.update(score=float("nan")), "no numbers"),
        ("clean", lambda r: r.pop("score"), "no numbers"),
        ("guaranteed", lambda r: r.update(bound=float(np.nextafter(r["bound"], 0))), "recorded bound"),
        ("guaranteed", lambda r: r.update(bound=r["score"] / 2), "not in that order"),
    ],
)  # fmt: skip
def test_edited_records_are_noticed(make, kind, change, words):
    done = verify(edit(make(kind, **({"tolerance": 0.0} if kind == "certified" else {})), change, 8), fraction=1)
    assert any(words in said for said in done.mismatches), done.lines()


def test_votes_that_draws_cannot_have_given(make):
    path = make(score="distro-l2", n0=20)
    done = verify(edit(path, lambda r: r["votes"][0].__setitem__(0, 99), 1), fraction=1)
    assert any("votes that its draws" in said for said in done.mismatches)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda meta: meta.update(total_variation=0.0), "total_variation: recorded 0.0"),
        (lambda meta: meta["classifier"].update(id="0" * 16), "is not the hash"),
        (lambda meta: meta.update(notes=["no overlap"]), "notes: recorded"),
        (lambda meta: meta["sets"][1].update(images=3), "sets: recorded"),
        (lambda meta: meta.update(key="cd" * 32), "than recorded"),
        (lambda meta: meta.update(shape=[3, 2, 2]), "shape: recorded"),
    ],
)
def test_edited_descriptions_are_noticed(make, change, words):
    done = verify(edit(make(tolerance=0.0), change), fraction=1)
    assert any(words in said for said in done.mismatches), done.lines()


def test_keys_and_versions_are_noted(make):
    given = verify(make(key="ab" * 32), fraction=1)
    assert given.agrees and any("key was given" in note for note in given.notes)
    elsewhere = edit(make("clean"), lambda meta: meta["versions"].update(numpy="1.0"))
    assert any("numpy" in note for note in verify(elsewhere, fraction=1).notes)


def test_unfinished_runs_are_verified_as_far_as_they_are(make, image_set):
    path = make(out_data=("generated:uniform", str(image_set("other", 5)), str(image_set("more", 1))))
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if b'"audit"' not in line]  # by the clock
    path.write_bytes(b"".join(lines[:11]))
    lacking = "no record of 2 of 6 of generated:uniform, 5 of 5 of other.npz, 1 of 1 of more.npz images"
    done = verify(path, fraction=1, unfinished=True)
    assert done.agrees and done.blocks == 10 and any(f"not finished: {lacking}" in note for note in done.notes)
    (line,) = verify(path, fraction=1).mismatches
    assert line == f"missing: {lacking}; pass --unfinished to verify what a run has done so far"
    assert main(["verify", str(path)]) == 1 and main(["verify", str(path), "--unfinished"]) == 0


def test_images_taken_out_are_missed_and_the_figures_bound_what_they_were(make, capsys):
    """The two worst in-distribution images, from a finished run: whatever is left has figures that the whole run keeps."""
    path = make(family_wise=True)
    with OodStore.open(path) as store:
        whole = [version.measured() for version in versions_of(store, [0.0, 0.5])]
        worst = sorted(store.of_set(0), key=lambda record: bound_of(record, store.record))[:2]
    lines = path.read_text().splitlines(keepends=True)
    gone = {(0, record["row"]) for record in worst}
    kept = [line for line in lines[1:] if (json.loads(line).get("set"), json.loads(line).get("row")) not in gone]
    path.write_text("".join([lines[0], *kept]))
    assert main(["verify", str(path)]) == 1
    assert "missing: no record of 2 of 6 of inside.npz images" in capsys.readouterr().out
    with OodStore.open(path) as store:
        found = versions_of(store, [0.0, 0.5])
        said = text_report(store, found)
    for part, of_all in zip((version.measured() for version in found), whole, strict=True):
        for name, least in part.items():
            assert (
                least.auroc <= of_all[name].auroc and least.aupr <= of_all[name].aupr and least.fpr >= of_all[name].fpr
            )
    assert "UNFINISHED: no record yet of 2 of 6 of inside.npz images" in said and "≥" in said and "≤" in said


def test_at_least_thirty_images_are_scored_again(make, image_set, capsys):
    path = make("clean", in_data=image_set("many", 45, 120, 256))
    assert main(["verify", str(path)]) == 0
    assert "verified; 30 of 95 images" in capsys.readouterr().out


# ---- images off the grid --------------------------------------------------------------------------------


@pytest.fixture
def floats(image_set):
    """`make(name, …)`: the images of `image_set`, a quarter of a step off the grid."""

    def made(name: str, *given: int) -> Path:
        path = image_set(name, *given)
        with np.load(path) as archive:
            images, labels = archive["images"], archive["labels"]
        np.savez(path, images=(images + 0.25 * (images < 255)) / 255, labels=labels)
        return path

    return made


def test_bounds_are_about_images_as_given(make, floats, capsys):
    """They are those of the rounded images, further away; deciding against us on both sides."""
    sets = {"in_data": floats("floats", 6, 120, 256), "out_data": (str(floats("others", 5)),), "family_wise": True}
    path = make(quantise=True, **sets)
    with OodStore.open(path) as store:
        distances = {place: record["distance"] for place, record in store.records.items()}
        rounded = [bound_of(record, store.record) for record in store.of_set(0)]
        radius, distance = 0.1, max(distances.values())
        _, at_radius = versions_of(store, [radius])
        assert distance == pytest.approx(0.25 * 48**0.5 / 255, rel=0.1) and min(distances.values()) > 0
        assert (at_radius.inside < rounded).all() and at_radius.name == "certified"
        for record, moved in zip(store.of_set(1), at_radius.outside["others.npz"], strict=True):
            bound, sigma = bound_of(record, store.record), store.record.classifier.sigma
            least = shifted_upper(bound, radius, sigma)
            assert moved >= shifted_upper(bound, radius + record["distance"], sigma) >= least
            assert moved > least or least == 1
        assert "rounded: 11 images, by up to 0.006" in text_report(store, [at_radius])
    assert verify(path, fraction=1).agrees
    forged = edit(path, lambda record: record.update(distance=0.0), 8)
    assert any("recorded distance 0.0, the data has 0.00" in line for line in verify(forged).mismatches)
    with pytest.raises(InputError, match="distance 0.0, here 0.00.*start anew"):
        make(quantise=True, **sets, out=forged, resume=True)
    old = edit(path, lambda record: record.pop("distance"), 8)
    assert main(["report", str(old)]) == 0
    assert "--quantise: radii are about the rounded images, the distance was not recorded" in capsys.readouterr().out


def test_scores_without_a_certificate_are_of_the_rounded_images(make, floats, capsys):
    path = make("clean", quantise=True, in_data=floats("floats", 6), out_data=(str(floats("others", 5)),))
    assert main(["report", str(path)]) == 0
    said = capsys.readouterr().out
    assert "--quantise: all scores are those of the rounded images" in said
    assert "images in [0, 1]^(3×4×4) (--quantise)\n" in said


def test_figures_without_family_wise_are_estimates(make, tmp_path, capsys):
    for family_wise in (False, True):
        path = make(family_wise=family_wise, max=4, out=tmp_path / f"{family_wise}.jsonl")
        assert main(["report", str(path)]) == 0
        said = capsys.readouterr().out
        assert ("certified (estimate)" in said and "so the figures are estimates" in said) is not family_wise
        assert ("all bounds together are right" in said) is family_wise
        assert "radii: ℓ2 in [0, 1]^(3×4×4); --max 4\n" in said


def test_files_are_found_beside_the_run_or_given(make, tmp_path, capsys):
    path = make("clean")
    kept = json.loads(path.read_text().splitlines()[0])["files"]
    folder = tmp_path / "moved"
    folder.mkdir()
    names = {"engine": kept["engine"], "detector": kept["detector"], "in-data": kept["in_data"]}
    moved = {name: folder / f"{name}{Path(old).suffix}" for name, old in names.items()}
    for name, old in names.items():
        shutil.copy(old, moved[name])
    gone = edit(path, lambda meta: meta["files"].update(in_data="nowhere.npz"))
    assert main(["verify", str(gone)]) == 2
    assert "pass --in-data with its new place" in capsys.readouterr().err
    given = [part for name, place in moved.items() for part in (f"--{name}", str(place))]
    sets = ["--out-data", "generated:uniform", kept["out_data"][1]]
    assert main(["verify", str(gone), *given, *sets, "--fraction", "1"]) == 1, "a set has another name now"
    assert "sets: recorded" in capsys.readouterr().out
    for more, words in (
        (("--out-data", "generated:uniform"), "has 1 sets, the run 2"),
        (("--data", "d.npz"), "--data is for runs of certify or predict"),
        (("--classifier", kept["engine"]), "pass the file that the run used"),
        (("--fraction", "0"), "--fraction must be above 0"),
    ):
        assert main(["verify", str(path), *more]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
    assert main(["verify", str(path.with_name("none.jsonl")), "--detector", "d.onnx"]) == 2
    assert "--detector is for runs of `ood`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda meta: meta.pop("format"), 0),
        (lambda meta: meta.update(key=None), 0),
        (lambda meta: meta.update(key="-1"), 0),
        (lambda record: record.update(set=0.5), 1),
        (lambda record: record.update(row=True), 1),
        (lambda record: record.update(row=1), 1),
        (lambda record: record.pop("sha256"), 1),
    ],
)
def test_damaged_files_are_refused_in_one_line(make, capsys, change, line):
    """By every command that reads them; the sixth has two records of one image."""
    damaged = str(edit(make("clean"), change, line))
    names = ("classifier", "engine", "detector", "in_data", "out_data")
    files = json.loads(Path(damaged).read_text().splitlines()[0])["files"]
    again = [part for name in names for part in (f"--{name.replace('_', '-')}", *np.atleast_1d(files[name]))]
    for command in (["verify", damaged], ["report", damaged], ["ood", *again, "--out", damaged, "--resume"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "or damaged" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("change", [lambda meta: meta.pop("sets"), lambda meta: meta.update(config=[]),
                                    lambda meta: meta["classifier"].pop("sigma")])  # fmt: skip
def test_odd_values_are_reported_in_one_line(make, capsys, change):
    assert main(["report", str(edit(make(), change))]) == 2
    error = capsys.readouterr().err
    assert "holds values that this version cannot use" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("classifier"),
        lambda meta: meta["config"].update(colour="red"),
        lambda meta: meta["config"].update(n="many"),
        lambda meta: meta.pop("files"),
        lambda meta: meta.update(versions=[1]),
        lambda meta: meta["classifier"]["classifier"].pop("batch"),
    ],
)
def test_damaged_first_lines_are_refused_in_one_line(make, capsys, change):
    assert main(["verify", str(edit(make("clean"), change))]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "Traceback" not in error
