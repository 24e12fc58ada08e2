"""The auditor, which shares no code with the package, agrees with it, and notices an edited vote and radius."""

from __future__ import annotations

import json
import runpy
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.noise import grid_law

AUDIT = Path(__file__).resolve().parents[2] / "benchmarks" / "audit.py"
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
        votes = json.loads(text)
        giver = int(np.argmax(votes))
        votes[giver], votes[giver - 1] = votes[giver] - 1, votes[giver - 1] + 1
        connection.execute(
            "UPDATE blocks SET counts = ? WHERE image = 1 AND phase = 1 AND start = 1000", (json.dumps(votes),)
        )
        connection.execute("UPDATE results SET radius = radius + 1e-6, predict = abs(predict) WHERE image = 2")
    connection.close()
    done = audit(out, data, *engines)
    assert done.returncode == 1
    assert "image 1, phase 1, from sample 1000: votes [" in done.stdout
    assert "image 2: class " in done.stdout
    assert "1 of 9 blocks" in audit(out, data, *engines, "--blocks", 1).stdout


def test_audit_of_another_backend(linear_classifier, images_npz, tmp_path):
    classifier, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=1, classes=3), tmp_path / "run.sqlite"
    options = {"method": "rs", "sigma": 0.25, "n": 500, "backend": "openvino"}
    dst.certify(engine=classifier, data=data, out=out, **options).close()
    done = audit(out, data, classifier)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "votes compared roughly" in done.stdout
