"""The README's tables are those of the committed result files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_readme_tables_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], timeout=60)
    assert done.returncode == 0, "run benchmarks/tables.py"
