"""The auditor, which shares no code with the package, agrees with it, and notices whatever is edited."""

from __future__ import annotations

import json
import runpy
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.noise import grid_law

AUDIT = Path(__file__).resolve().parents[2] / "examples" / "audit.py"
RUN = f"import runpy; sys.argv[0] = {str(AUDIT)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
W = np.random.default_rng(3).normal(size=(3, 48))


def audit(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys; sys.modules['diffsmooth_trt'] = None; {RUN}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("sigma", [0.01, 0.12, 0.3, 1.0])
def test_its_table_is_the_law(sigma):
    names, law = runpy.run_path(str(AUDIT)), grid_law(sigma)
    weights = names["grid_weights"](sigma)
    bits, thresholds, alias = names["alias_table"](weights)
    assert (tuple(weights), bits) == (law.weights, law.column_bits)
    np.testing.assert_array_equal(thresholds, law.thresholds)
    np.testing.assert_array_equal(alias - law.reach, law.alias)


@pytest.mark.parametrize("method", ["rs", "dds"])
def test_audit(method, linear_classifier, shrinking_denoiser, images_npz, tmp_path):
    classifier, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=3, classes=3), tmp_path / "run.sqlite"
    engines = [classifier] if method == "rs" else [shrinking_denoiser(), classifier]
    options = dict(zip(("engine", "classifier"), engines, strict=False))
    sigma = 1.0 if method == "rs" else None
    numbers = {"n": 1500, "n0": 40, "batch": 48, "sigma": sigma}
    with dst.certify(**options, **numbers, method=method, data=data, out=out, backend="onnxruntime") as store:
        assert any(result.radius for result in store.results())
    done = audit(out, data, *engines)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["9 of 9 blocks, 3 results checked", "votes compared exactly"]
    with sqlite3.connect(out) as connection:
        ((text,),) = connection.execute("SELECT counts FROM blocks WHERE image = 1 AND phase = 1 AND start = 1000")
        votes = [json.loads(text).get(str(label), 0) for label in range(3)]
        giver = int(np.argmax(votes))
        votes[giver], votes[giver - 1] = votes[giver] - 1, votes[giver - 1] + 1
        text = json.dumps({str(label): count for label, count in enumerate(votes) if count}, separators=(",", ":"))
        connection.execute("UPDATE blocks SET counts = ? WHERE image = 1 AND phase = 1 AND start = 1000", (text,))
        connection.execute("UPDATE results SET radius = radius + 1e-6, predict = abs(predict) WHERE image = 2")
    connection.close()
    done = audit(out, data, *engines)
    assert done.returncode == 1
    assert "image 1, phase 1, from sample 1000: votes [" in done.stdout
    assert "image 2: class " in done.stdout
    assert "1 of 9 blocks" in audit(out, data, *engines, "--blocks", 1).stdout


def test_audit_of_rounded_images(linear_classifier, tmp_path):
    """The distance is taken off the radius: one that was not is noticed."""
    rng, out = np.random.default_rng(0), tmp_path / "run.sqlite"
    pixels, given, rounded = rng.integers(1, 255, (3, 4, 4, 3), dtype=np.uint8), tmp_path / "x.npz", tmp_path / "z.npz"
    np.savez(given, images=(pixels + 0.3) / 255, labels=np.zeros(3, np.int64))
    np.savez(rounded, images=pixels)
    classifier = linear_classifier(W, np.zeros(3))
    options = {
        "method": "rs",
        "sigma": 1.0,
        "n": 1500,
        "n0": 40,
        "batch": 48,
        "quantise": True,
        "backend": "onnxruntime",
    }
    dst.certify(engine=classifier, data=given, out=out, **options).close()
    done = audit(out, rounded, classifier, "--blocks", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    with sqlite3.connect(out) as connection:
        distance = connection.execute("SELECT MIN(distance) FROM images").fetchone()[0]
        assert distance == pytest.approx(0.3 / 255 * 48**0.5)
        connection.execute("UPDATE results SET radius = radius + ? WHERE radius > 0", (distance,))
    connection.close()
    assert "do not follow from the votes" in audit(out, rounded, classifier, "--blocks", 1).stdout


def test_audit_of_another_backend(linear_classifier, images_npz, tmp_path):
    classifier, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=1, classes=3), tmp_path / "run.sqlite"
    options = {"method": "rs", "sigma": 0.25, "n": 500, "backend": "openvino"}
    dst.certify(engine=classifier, data=data, out=out, **options).close()
    done = audit(out, data, classifier)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "votes compared roughly" in done.stdout


@pytest.fixture(scope="module")
def early(linear_classifier, tmp_path_factory):
    """`make(…)`: run, images and classifier of a run that may stop early; each is made once."""
    folder, classifier = tmp_path_factory.mktemp("early"), linear_classifier(W, np.zeros(3))
    data, rng, made = folder / "images.npz", np.random.default_rng(0), {}
    np.savez(data, images=rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8), labels=np.arange(4) % 3)

    def make(**options):
        name = repr(options)
        if name not in made:
            made[name] = folder / f"{len(made)}.sqlite"
            fixed = {"method": "rs", "sigma": 1.0, "n0": 40, "key": "1" * 64, "batch": 48, "backend": "onnxruntime"}
            dst.certify(engine=classifier, data=data, out=made[name], **fixed, **options).close()
        return made[name], data, classifier

    return make


RADII = {"radius": (0.05, 0.2), "n": 2000}


@pytest.mark.parametrize(
    "options",
    [RADII, {"tolerance": 0.05, "n": 2000}, {"radius": 0.2, "n": 700, "family_wise": True}],
)
def test_audit_of_a_run_that_stops_early(options, early):
    done = audit(*early(**options))
    assert done.returncode == 0, done.stdout + done.stderr
    blocks, exactly = done.stdout.splitlines()
    assert blocks.endswith(" blocks, 4 results checked") and exactly == "votes compared exactly"


LAST = "(SELECT MAX(start) FROM blocks b WHERE b.image = blocks.image AND phase = 1)"
CERTIFIED = "(SELECT image FROM decisions WHERE decision = 'certified' AND radius = 0.2)"


@pytest.mark.parametrize(
    ("options", "statement", "expected"),
    [
        (RADII, "UPDATE decisions SET decision = 'certified' WHERE decision != 'certified'", "image 2: decisions"),
        (RADII, "UPDATE decisions SET radius = 0.3 WHERE radius = 0.2", "image 0: decisions"),
        (RADII, "DELETE FROM decisions WHERE image = 3", "image 3: decisions"),
        (RADII, f"DELETE FROM blocks WHERE start = {LAST} AND image IN {CERTIFIED}", "image 1: decisions"),
        (RADII, "UPDATE results SET radius = 0.21 WHERE radius = 0.2", "radius 0.21 do not follow"),
        (RADII, "UPDATE blocks SET start = start - 1 WHERE image = 1 AND start = 400", "block from 399 does not fit"),
        (RADII, "UPDATE meta SET value = '3' WHERE name = 'images'", "more images than the run says"),
        (RADII, "DELETE FROM images WHERE image = 3", "votes on images whose pixels are not hashed"),
        ({"tolerance": 0.05, "n": 2000}, "UPDATE results SET radius = radius + 1e-6, predict = 2", "image 0: class 2"),
        ({"tolerance": 0.05, "n": 2000}, f"DELETE FROM blocks WHERE start = {LAST}", "image 1: class"),
        ({"tolerance": 0.05, "n": 2000}, "DELETE FROM blocks WHERE start = 40", "image 3: not the blocks that were"),
    ],
)
def test_audit_of_edits(options, statement, expected, early, tmp_path, capsys):
    problems = edited(early(**options), statement, tmp_path, capsys)
    assert expected in problems


@pytest.mark.parametrize("column", [1, 2])
@pytest.mark.parametrize(("look", "fewer"), [(20, 1), (20, -1), (3, 9), (-1, 1)])
def test_audit_of_thresholds(column, look, fewer, early, tmp_path, capsys):
    """One hit less than what is valid, and one more than the least that is: nobody could say why."""
    run = early(**RADII)
    with dst.open_run(run[0]) as store:
        thresholds = store.meta["thresholds"]
    thresholds["0.2"][look][column] -= fewer
    statement = f"UPDATE meta SET value = '{json.dumps(thresholds)}' WHERE name = 'thresholds'"
    problems = edited(run, statement, tmp_path, capsys)
    kind, draws = ("certify", "refute")[column - 1], thresholds["0.2"][look][0]
    assert f"radius 0.2: threshold to {kind} at {draws}: " in problems


def edited(run, statement, tmp_path, capsys) -> str:
    """What the auditor says of the run once it was edited."""
    path, data, classifier = run
    with sqlite3.connect(shutil.copy(path, tmp_path)) as connection:
        before = connection.total_changes
        connection.executescript(statement)
        assert connection.total_changes > before
    connection.close()
    assert runpy.run_path(str(AUDIT))["Audit"](tmp_path / path.name, data, [classifier]).run(0) > 0
    return capsys.readouterr().out
