"""A short run of the harness in faults.py: no fault loses a vote, counts one twice, or says more than one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULTS = 8


def test_no_fault_changes_a_row(tmp_path: Path) -> None:
    """Each fault once, of one command or another; found is what always goes wrong. `faults.py` alone does each a hundred times."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests" / "faults" / "faults.py"),
            "--rounds",
            "1",
            "--n",
            "1000",
            "--without",
            "export",
            "radius",
            "attack",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == FAULTS and all(" 0 wrong" in line or "left out" in line for line in lines), done.stdout
