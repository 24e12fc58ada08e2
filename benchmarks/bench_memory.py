"""Peak memory of `certify` against n and the number of images, each run a process of its own.

    python benchmarks/bench_memory.py

Plain smoothing with the zoo's classifier, so that many samples take little time. Writes benchmarks/results/memory_cpu.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from diffsmooth_trt import zoo

RESULTS = Path(__file__).resolve().parent / "results"
SCRIPT = """
import resource, sys
import diffsmooth_trt as dst
engine, data, out, count, n = sys.argv[1:]
dst.certify(engine=engine, data=data, out=out, method="rs", sigma=0.25, max=int(count), n=int(n)).close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
RUNS = [(2, 1000), (2, 10_000), (2, 40_000), (20, 1000), (100, 1000)]


def peak(count: int, n: int, folder: str) -> float:
    """Peak resident memory in MiB of one run."""
    out = Path(folder) / f"{count}-{n}.sqlite"
    command: list[str | Path] = [sys.executable, "-c", SCRIPT, zoo.CLASSIFIER_DDS, zoo.IMAGES, out, str(count), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count, n in RUNS:
            rows.append({"images": count, "n": n, "peak_mib": round(peak(count, n, folder), 1)})
            print(rows[-1], flush=True)
    (RESULTS / "memory_cpu.json").write_text(json.dumps({"batch": 64, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
