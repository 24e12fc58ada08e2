"""How long the demo takes once it is set up: the command, three times, as a user calls it.

    python benchmarks/bench_demo.py

Writes benchmarks/results/demo_cpu.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
PROGRAM = Path(sys.executable).parent / "diffsmooth-trt"


def main() -> None:
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([PROGRAM, "demo"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter() - start, 1))
            print(seconds[-1], flush=True)
    document = {"images": 20, "n0": 100, "n": 1000, "processors": os.cpu_count(), "seconds": seconds}
    (RESULTS / "demo_cpu.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
