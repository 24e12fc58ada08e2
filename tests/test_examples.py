"""The examples run as a user runs them, and say what they should."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def ran(name: str, folder: Path) -> str:
    """What `python examples/NAME` prints in `folder`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_of_ones_own(tmp_path: Path) -> None:
    """Certified, verified, and known to the command line with its own flag."""
    said = ran("own_method.py", tmp_path)
    assert "mirrored.sqlite: verified" in said
    assert "again: certify mirrored, sigma=0.25, n0=20, n=100" in said


def test_a_backend_of_ones_own(tmp_path: Path) -> None:
    assert "reference.sqlite: verified" in ran("own_backend.py", tmp_path)


def test_arrays(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said = ran("arrays.py", tmp_path)
    assert "Certificates of 3 images: 3 answered" in said and "[0 1 1]" in said
    assert not list(tmp_path.iterdir())


def test_rays_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray")
    said = ran("with_ray.py", tmp_path)
    assert said.count("image ") == 2 and "the workers' run is that of one process" in said


def test_the_adversarial_robustness_toolbox(tmp_path: Path) -> None:
    """The loss under the attacked key grows, as the gradients are exact."""
    pytest.importorskip("art", reason="the extra art: the Adversarial Robustness Toolbox")
    pytest.importorskip("torch", reason="gradients need torch")
    attacked = ran("with_art.py", tmp_path).splitlines()[0]
    before, after = ([float(value) for value in part.split()] for part in re.findall(r"\[([^]]*)\]", attacked))
    assert all(new > old for old, new in zip(before, after, strict=True)), attacked


def test_the_notebook(tmp_path: Path) -> None:
    """Its cells, one after the other in one process, as a kernel runs them; it is stored without outputs."""
    notebook = json.loads((ROOT / "examples" / "certify.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    program = "\n".join("".join(cell["source"]) for cell in cells)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("image ") == 2
    assert "run.sqlite: verified" in done.stdout
    assert "[0 1 1]" in done.stdout
