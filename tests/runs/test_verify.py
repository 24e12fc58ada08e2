"""Verification: votes drawn again are the recorded ones, and every edit of a run is noticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import base
from diffsmooth_trt.methods import METHODS, Plain
from diffsmooth_trt.runs import engines, identity

RNG = np.random.default_rng(3)
W, B = RNG.normal(size=(3, 48)), np.zeros(3)


@pytest.fixture
def files(linear_classifier, shrinking_denoiser, images_npz):
    return {
        "rs": {"engine": linear_classifier(W, B), "method": "rs", "sigma": 0.25},
        "dds": {"engine": shrinking_denoiser(), "classifier": linear_classifier(W, B), "method": "dds"},
        "data": images_npz(count=3, classes=3),
    }


@pytest.fixture
def run(files, tmp_path):
    """`make(method, …)`: a small run store."""

    def make(method: str = "rs", command: str = "certify", **changes) -> Path:
        options = {**files["rs" if method == "rs" else "dds"], "method": method, "n": 1200, "backend": "onnxruntime"}
        if command == "certify":
            options["n0"] = 30
        options |= {"data": files["data"], "out": tmp_path / "run.sqlite", "batch": 32, **changes}
        getattr(dst, command)(**options).close()
        return options["out"]

    return make


def edit(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def edit_meta(path: Path, name: str, change) -> None:
    with dst.open_run(path) as store:
        value = change(store.meta[name])
    edit(path, "UPDATE meta SET value = ? WHERE name = ?", json.dumps(value), name)


def listed(text: str) -> list[int]:
    """Votes of the three classes."""
    return [json.loads(text).get(str(label), 0) for label in range(3)]


def written(votes: list[int]) -> str:
    return json.dumps({str(label): count for label, count in enumerate(votes) if count}, separators=(",", ":"))


def read(path: Path, statement: str) -> list[tuple]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("rs", {}),
        ("rs", {"command": "predict"}),
        ("rs", {"backend": "openvino"}),
        ("rs", {"backend": "openvino", "precision": "fp32"}),
        ("dds", {"max": 2}),
        ("diffsmooth", {"m": 2}),
        ("diffsmooth", {"m": 2, "local_noise": "fresh", "local_sigma": 0.2, "skip": 2}),
    ],
)
def test_a_clean_run_verifies(run, method, changes):
    path = run(method, **changes)
    before = path.read_bytes()
    done = dst.verify(path, fraction=1)
    assert done.agrees, done.lines()
    assert done.notes == []
    phases = 1 if changes.get("command") == "predict" else 2
    images = 2 if {"max", "skip"} & {*changes} else 3
    assert (done.blocks, done.recorded, done.results) == (images * (phases + 1), images * (phases + 1), images)
    assert done.samples == images * (1200 + 30 * (phases - 1))
    assert path.read_bytes() == before


def test_verification_needs_no_equal_blocks(run):
    """Blocks of other lengths, where each is what its samples gave: a replay depends on the range alone."""
    path = run(n=1000, n0=100, max=1)
    with dst.open_run(path) as store:
        done = [listed(text) for (text,) in store.connection.execute("SELECT counts FROM blocks ORDER BY phase")]
    part = run(n=700, n0=100, max=1, out=path.with_name("part.sqlite"), key=key_of(path))
    ((first,),) = read(part, "SELECT counts FROM blocks WHERE phase = 1")
    rest = [a - b for a, b in zip(done[1], listed(first), strict=True)]
    edit(path, "UPDATE blocks SET stop = 700, counts = ? WHERE phase = 1", first)
    edit(path, "INSERT INTO blocks VALUES (0, 1, 700, 1000, ?)", written(rest))
    lines = dst.verify(path, fraction=1).mismatches
    assert [line for line in lines if "replayed" in line] == []
    assert len(lines) == 1 and "blocks that its run asks for" in lines[0]


def key_of(path: Path) -> str:
    with dst.open_run(path) as store:
        return store.meta["key"]


def move_a_vote(path: Path) -> None:
    """Between two classes that were not selected, so that the result still follows."""
    ((text,),) = read(path, "SELECT counts FROM blocks WHERE image = 1 AND phase = 1 AND start = 1000")
    ((predict,),) = read(path, "SELECT predict FROM results WHERE image = 1")
    votes = listed(text)
    selected = predict if predict >= 0 else int(np.argmax(selection(path)))
    giver = max((label for label in range(3) if label != selected), key=lambda label: votes[label])
    taker = next(label for label in range(3) if label not in (selected, giver))
    votes[giver] -= 1
    votes[taker] += 1
    edit(path, "UPDATE blocks SET counts = ? WHERE image = 1 AND phase = 1 AND start = 1000", written(votes))


def selection(path: Path) -> list[int]:
    ((text,),) = read(path, "SELECT counts FROM blocks WHERE image = 1 AND phase = 0")
    return listed(text)


def test_one_moved_vote_is_found(run):
    path = run(sigma=1.0)
    move_a_vote(path)
    with dst.open_run(path) as store:
        assert len(list(store.results())) == 3  # it is consistent in itself
    (line,) = dst.verify(path, fraction=1).mismatches
    assert line.startswith("image 1, estimation, from sample 1000 to before 1200: recorded votes {")
    assert "}, replayed {" in line


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE results SET radius = radius + 0.001, predict = 1 WHERE image = 1", ["image 1: ", "follow"]),
        ("UPDATE results SET hits = 'many' WHERE image = 1", ["image 1: ", "follow"]),
        ("UPDATE images SET label = (label + 1) % 3 WHERE image = 2", ["image 2: recorded label", "--data has"]),
        ("UPDATE images SET sha256 = 'ab' WHERE image = 0", ["image 0: pixels in --data are not"]),
        ("UPDATE images SET image = 7 WHERE image = 2", ["image 7: recorded, but --data holds no such image"]),
        ("DELETE FROM images WHERE image = 2", ["image 2: ", "lacks its result or its row"]),
        ("DELETE FROM blocks WHERE image = 1 AND phase = 0", ["image 1: ", "the blocks that its run asks for"]),
        ("DELETE FROM results WHERE image = 1", ["image 1: has all its votes, but no result"]),
        (
            "UPDATE blocks SET stop = stop + 1 WHERE image = 0 AND phase = 0",
            ["image 0, selection, ", "impossible|cannot"],
        ),
        ("UPDATE blocks SET counts = '{\"1\": 2' WHERE image = 0 AND phase = 0", ["image 0, selection, ", "cannot"]),
        ("UPDATE blocks SET phase = 9 WHERE image = 0 AND phase = 0", ["image 0, phase 9, ", "unasked"]),
        (f"UPDATE meta SET value = '\"{'ff' * 32}\"' WHERE name = 'key'", ["replayed"]),
        ("UPDATE meta SET value = '\"ff\"' WHERE name = 'law'", ["law: recorded ff, here "]),
        ("UPDATE meta SET value = '\"ff\"' WHERE name = 'data'", ["data: recorded ff, here "]),
        ("UPDATE meta SET value = '0.0' WHERE name = 'total_variation'", ["total_variation: recorded 0.0, here "]),
        ("UPDATE meta SET value = '4' WHERE name = 'classes'", ["classes: recorded 4, here 3"]),
        ("UPDATE meta SET value = '5' WHERE name = 'images'", ["images: recorded 5, here 3"]),
    ],
)
def test_edits_are_found(run, statement, expected):
    path = run(sigma=1.0)
    edit(path, statement)
    done = dst.verify(path, fraction=1)
    text = "\n".join(done.mismatches)
    assert not done.agrees
    for part in expected:
        assert any(choice in text for choice in part.split("|")), text
    assert "NOT reproduced here" in done.verdict


RADII = {"sigma": 1.0, "radius": (0.05, 0.2), "n": 2000}


@pytest.mark.parametrize(
    "changes",
    [
        RADII,
        {**RADII, "radius": 0.5, "family_wise": True},
        {"sigma": 1.0, "tolerance": 0.05, "n": 2000, "family_wise": True},
    ],
)
def test_a_run_that_stops_early_verifies(run, changes):
    path = run(key="4" * 64, **changes)
    with dst.open_run(path) as store:
        results = list(store.results())
    done = dst.verify(path, fraction=1)
    assert done.agrees, done.lines()
    assert min(result.trials for result in results) < 2000
    assert done.samples == sum(result.trials + 30 for result in results)
    assert (done.blocks, done.results) == (done.recorded, 3)


def test_an_extended_run_verifies(run):
    path = run(key="4" * 64, **RADII)
    with dst.open_run(path) as store:
        before = {result.image: result.trials for result in store.results()}
    run(**{**RADII, "n": 5000}, resume=True)
    with dst.open_run(path) as store:
        assert store.meta["extended_from"] == [2000]
        assert [image for image, trials in before.items() if store.result(image).trials > trials] != []
    done = dst.verify(path, fraction=1)
    assert done.agrees, done.lines()
    edit_meta(path, "config", lambda found: {**found, "n": 2000})
    assert main(["verify", str(path)]) == 1


LAST = "(SELECT MAX(start) FROM blocks b WHERE b.image = blocks.image AND phase = 1)"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE decisions SET decision = 'certified' WHERE decision != 'certified'", "follow from its votes"),
        ("UPDATE decisions SET radius = 0.3 WHERE radius = 0.2", "decisions: not one on each preset radius"),
        ("DELETE FROM decisions WHERE image = 1", "image 1: "),
        ("INSERT INTO decisions VALUES (1, 0.9, 'certified')", "image 1: "),
        ("INSERT INTO decisions VALUES (7, 0.05, 'certified')", "decisions: not one on each preset radius"),
        (f"DELETE FROM blocks WHERE image = 1 AND start = {LAST}", "image 1: "),
        ("DELETE FROM blocks WHERE image = 1 AND phase = 1 AND start = 90", "image 1: "),
        ("UPDATE results SET radius = radius + 0.001 WHERE radius > 0", "follow from its votes"),
        ("DELETE FROM results WHERE image = 1", "image 1: has all its votes, but no result"),
    ],
)
def test_edits_of_a_run_that_stops_early_are_found(run, statement, expected, capsys):
    path = run(key="4" * 64, **RADII)
    edit(path, statement)
    assert main(["verify", str(path), "--fraction", "1"]) == 1
    assert expected in capsys.readouterr().out


def test_a_moved_vote_of_a_run_that_stops_early_is_found(run):
    """Before a look that decides nothing, so that all else still follows."""
    path = run(key="4" * 64, **RADII)
    ((text,),) = read(path, "SELECT counts FROM blocks WHERE image = 1 AND phase = 1 AND start = 40")
    votes = listed(text)
    order = np.argsort(selection(path))
    giver, taker = sorted(order[:2], key=lambda label: -votes[label])
    votes[giver] -= 1
    votes[taker] += 1
    edit(path, "UPDATE blocks SET counts = ? WHERE image = 1 AND phase = 1 AND start = 40", written(votes))
    (line,) = dst.verify(path, fraction=1).mismatches
    assert line.startswith("image 1, estimation, from sample 40 to before 50: recorded votes {")


@pytest.mark.parametrize("column", [1, 2])
def test_an_edited_threshold_is_found(run, column, capsys):
    path = run(key="4" * 64, **RADII)
    ((text,),) = read(path, "SELECT value FROM meta WHERE name = 'thresholds'")
    thresholds = json.loads(text)
    thresholds["0.2"][20][column] -= 1
    edit(path, "UPDATE meta SET value = ? WHERE name = 'thresholds'", json.dumps(thresholds))
    assert main(["verify", str(path)]) == 1
    assert "the thresholds do not follow from its radii and alpha" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        ("sigma", 0.5, "is not the hash of the recorded classifier"),
        ("noise_version", 0, "noise version: recorded 0, here 2"),
        ("id", "0123", "0123 is not the hash"),
    ],
)
def test_edited_classifiers_are_found(run, part, value, expected):
    path = run()
    edit_meta(path, "classifier", lambda found: {**found, part: value})
    assert expected in "\n".join(dst.verify(path).mismatches)


def test_edited_pixels_are_found(run, files):
    path = run()
    with np.load(files["data"]) as archive:
        images, labels = archive["images"], archive["labels"]
    images[1, 0, 0, 0] ^= 1
    np.savez(files["data"], images=images, labels=labels)
    done = dst.verify(path, fraction=1)
    assert [line.split(":")[0] for line in done.mismatches] == ["data", "image 1"]
    assert (done.blocks, done.recorded) == (6, 9)  # an image that is not the run's is not drawn


def test_the_engines_are_those_of_the_run(run, files, linear_classifier, shrinking_denoiser, tmp_path, capsys):
    path = run("dds")
    other = linear_classifier(W + 1, B)
    for flag, file in (("--classifier", other), ("--engine", shrinking_denoiser(None))):
        assert main(["verify", str(path), flag, str(file)]) == 2
        assert f"{flag} {file} has SHA-256" in capsys.readouterr().err
    shutil.copy(other, files["dds"]["classifier"])
    with pytest.raises(dst.InputError, match="the run used .*: pass the file that the run used"):
        dst.verify(path)


def test_files_are_looked_for_beside_the_run(run, files, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(files["rs"]["engine"], folder / "sub" / "c.onnx")
    shutil.copy(files["data"], folder / "images.npz")
    monkeypatch.chdir(folder)
    run(engine="sub/c.onnx", data="images.npz", out=Path("run.sqlite"))
    assert dst.verify("run.sqlite").agrees
    monkeypatch.chdir(tmp_path)
    assert dst.verify(folder / "run.sqlite").agrees
    (folder / "sub" / "c.onnx").unlink()
    with pytest.raises(dst.InputError, match="engine sub/c.onnx, .* is not here: pass engine"):
        dst.verify(folder / "run.sqlite")
    assert dst.verify(folder / "run.sqlite", engine=files["rs"]["engine"]).agrees
    edit(folder / "run.sqlite", "DELETE FROM meta WHERE name = 'files'")
    with pytest.raises(dst.InputError, match="does not record the path of its engine: pass engine"):
        dst.verify(folder / "run.sqlite")
    assert dst.verify(folder / "run.sqlite", engine=files["rs"]["engine"], data=files["data"]).agrees


def test_another_instruction_set_is_noted_and_harmless(run, monkeypatch):
    path = run()
    monkeypatch.setattr(base, "instruction_set", lambda: "other")
    monkeypatch.setattr(identity.platform, "python_version", lambda: "3.99")
    done = dst.verify(path, fraction=1)
    assert done.agrees
    assert "the classifier id differs in classifier.instruction_set (recorded: " in done.notes[0]
    assert "python (recorded: " in done.notes[1] and "here: 3.99)" in done.notes[1]


@pytest.mark.parametrize(
    ("here", "part", "agree"),
    [
        ({"batch": 5}, "classifier.batch (recorded: 32, here: 5)", True),
        (
            {"backend": "openvino", "precision": "fp32"},
            "classifier.backend (recorded: onnxruntime, here: openvino)",
            None,
        ),
        (
            {"backend": "openvino", "precision": None},
            "classifier.backend (recorded: onnxruntime, here: openvino)",
            None,
        ),
    ],
)
def test_another_machine_is_explained(run, monkeypatch, here, part, agree):
    path = run(n=20_000, max=1)
    open_engine = engines.open_engine
    monkeypatch.setattr(engines, "open_engine", lambda file, **options: open_engine(file, **{**options, **here}))
    done = dst.verify(path, fraction=1)
    assert part in done.notes[0] and "votes may differ by that alone" in done.notes[0]
    assert all("replayed" in line for line in done.mismatches)
    assert agree is None or done.agrees == agree


def test_votes_of_another_arithmetic_are_not_reproduced(run, monkeypatch, capsys):
    """A classifier whose answer hangs on the last digits: exit 1, and the id says why."""
    path = run(n=3000, max=1)

    class Coarse(Plain):
        def labels(self, noisy, rows):
            return super().labels(np.round(noisy, 1), rows)

    monkeypatch.setitem(METHODS, "rs", Coarse)
    monkeypatch.setattr(base, "instruction_set", lambda: "other")
    assert main(["verify", str(path), "--fraction", "1"]) == 1
    *mismatches, note, verdict = capsys.readouterr().out.splitlines()
    assert mismatches and all("replayed" in line for line in mismatches)
    assert note.startswith("note: the classifier id differs in classifier.instruction_set")
    assert f"NOT reproduced here, {len(mismatches)} mismatch" in verdict


def test_choice_of_blocks(run, capsys):
    """A share of the blocks, another one each time, the same one under --blocks-seed; never fewer than 30."""
    path = run(n=50_000, batch=512)
    seeds, chosen = set(), set()
    for number in range(9):
        edit(path, "UPDATE meta SET value = ? WHERE name = 'key'", json.dumps(f"{number:064x}"))
        assert main(["verify", str(path), "--fraction", "0.3"]) == 1
        *lines, verdict = capsys.readouterr().out.splitlines()
        seed = verdict.split("--blocks-seed ")[1]
        assert "46 of 153 blocks" in verdict
        assert main(["verify", str(path), "--fraction", "0.3", "--blocks-seed", seed]) == 1
        assert capsys.readouterr().out.splitlines() == [*lines, verdict]
        seeds.add(seed)
        chosen |= {line.split(":")[0] for line in lines if "replayed" in line}
    assert len(seeds) == 9
    assert len(chosen) > 100
    assert dst.verify(path, fraction=1e-9).blocks == 30


def test_exit_codes(run, files, tmp_path, capsys):
    path = run()
    assert main(["verify", str(path)]) == 0
    out = capsys.readouterr().out
    assert "verified; 9 of 9 blocks" in out and len(out.splitlines()) == 1
    (tmp_path / "text").write_text("no store")
    for arguments, message in (
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "text"], "is not a run store"),
        ([path, "--fraction", "0"], "--fraction must be above 0 and at most 1, got 0.0"),
        ([path, "--fraction", "nan"], "--fraction must be above 0"),
        ([path, "--engine", "none.onnx"], "--engine none.onnx does not exist"),
        ([path, "--classifier", files["dds"]["classifier"]], "--classifier is not used by --method rs"),
        ([path, "--data", "none.npz"], "none.npz does not exist"),
        ([path, "--threads", "0"], "--threads must be"),
    ):
        assert main(["verify", *map(str, arguments)]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    edit(path, "UPDATE results SET radius = 9 WHERE image = 1")
    assert main(["verify", str(path)]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classifier", {}),
        ("classifier", 3),
        ("config", {"n": 5}),
        ("files", 7),
        ("key", "zz"),
        ("key", 5),
        ("versions", 1),
    ],
)
def test_damaged_meta_is_one_line(run, name, value, capsys):
    path = run()
    edit_meta(path, name, lambda _: value)
    assert main(["verify", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_damaged_pages_are_one_line(run, capsys):
    path = run(n=40_000)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * len(content[8192:])
    path.write_bytes(content)
    assert main(["verify", str(path)]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unfinished_run(run):
    """Also one that is being written: what is committed is looked at, the block in work is not."""
    path = run()
    edit(path, "DELETE FROM results WHERE image = 1")
    edit(path, "DELETE FROM blocks WHERE image = 1 AND start = 1000")
    writer = dst.RunStore.open(path, write=True)
    try:
        writer.connection.execute("DELETE FROM blocks WHERE image = 2")  # not committed
        done = dst.verify(path, fraction=1, unfinished=True)
    finally:
        writer.close()
    assert done.agrees
    assert (done.blocks, done.results) == (8, 2)
    assert done.notes == ["the run is not finished: 1 of 3 images have no result (1)"]
    assert dst.verify(path).mismatches == [
        "missing: 1 of 3 images have no result (1); pass --unfinished to verify what a run has done so far"
    ]
    edit(path, "DELETE FROM results")
    edit(path, "DELETE FROM blocks")
    with pytest.raises(dst.InputError, match="holds no votes yet"):
        dst.verify(path)


def test_a_given_key_is_noted(run):
    assert dst.verify(run(key="ab" * 32)).notes == [
        "the key was given, not drawn: whoever gave it could have tried many and kept one"
    ]


TABLES = ("results", "blocks", "images", "timing")


@pytest.mark.parametrize("tables", [TABLES, ("results", "blocks"), ("results", "blocks", "images")])
def test_images_taken_out_are_missed(run, capsys, tables):
    """Whoever deletes those that abstain makes no run of the others."""
    path = run()
    for table in tables:
        edit(path, f"DELETE FROM {table} WHERE image IN (0, 2)")
    assert main(["verify", str(path)]) == 1
    assert "missing: 2 of 3 images have no result (0, 2); pass --unfinished" in capsys.readouterr().out
    assert main(["verify", str(path), "--unfinished"]) == 0
    assert "note: the run is not finished: 2 of 3 images have no result (0, 2)" in capsys.readouterr().out
    edit(path, "UPDATE meta SET value = '1' WHERE name = 'images'")
    assert main(["verify", str(path), "--unfinished"]) == 1
    assert "images: recorded 1, here 3" in capsys.readouterr().out
    assert main(["report", str(path)]) == 1  # the one that is left is not the first
    assert "has image 1, which its run was not asked for" in capsys.readouterr().err


def test_images_put_in_are_noticed(run, capsys):
    """A fourth image, as good as the best: with its results, and as a mere row."""
    path = run(max=2)
    for table in TABLES:
        columns = ", ".join(name for _, name, *_ in read(path, f"PRAGMA table_info({table})") if name != "image")
        edit(path, f"INSERT INTO {table} (image, {columns}) SELECT 2, {columns} FROM {table} WHERE image = 0")
    assert main(["report", str(path)]) == 1
    assert "has image 2, which its run was not asked for" in capsys.readouterr().err
    for _ in range(2):
        assert main(["verify", str(path)]) == 1
        assert "not asked for: the run has 1 image more (2)" in capsys.readouterr().out
        read(path, "DELETE FROM results WHERE image = 2")
    assert main(["report", str(path)]) == 0


def test_results_without_their_votes_are_noticed(run, capsys):
    path = run()
    edit(path, "DELETE FROM blocks WHERE image = 1")
    for command in ("report", "verify"):
        assert main([command, str(path)]) == 1
        said = capsys.readouterr()
        assert "image 1 does not have the blocks that its run asks for" in said.out + said.err


def test_the_space_is_verified(run, capsys):
    path = run()
    assert read(path, "SELECT value FROM meta WHERE name = 'shape'") == [("[3, 4, 4]",)]
    edit(path, "UPDATE meta SET value = '[3, 2, 2]' WHERE name = 'shape'")
    assert main(["verify", str(path)]) == 1
    assert "shape: recorded [3, 2, 2], here [3, 4, 4]" in capsys.readouterr().out
