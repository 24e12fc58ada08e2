"""One round of each kind of the harness in partition.py: a cut between driver and workers changes no row.

It takes a minute, so it runs where it is asked for: DIFFSMOOTH_PARTITION=1 pytest tests/faults/test_partition.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_NAMESPACES = 77


@pytest.mark.skipif("DIFFSMOOTH_PARTITION" not in os.environ, reason="takes a minute: DIFFSMOOTH_PARTITION=1 runs it")
def test_a_cut_network_changes_no_row() -> None:
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "faults" / "partition.py"), "--rounds", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode == NO_NAMESPACES:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "partition: 3 runs, 0 wrong" in done.stdout
