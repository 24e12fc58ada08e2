"""How long `bench` takes at its defaults on the zoo, and how far several runs of it agree: the command, as a user calls it.

    python benchmarks/bench_bench.py [--quiet 3] [--most 10]

Runs until `--quiet` runs had the machine to themselves, which `bench` itself says, and compares those; the others are kept beside
them. Writes benchmarks/results/bench_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from bench_noise import cpu_model

from diffsmooth_trt import zoo
from diffsmooth_trt.bench.neighbours import LOUD
from diffsmooth_trt.bench.result import BenchResult

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = [sys.executable, "-c", "import sys; from diffsmooth_trt.cli import main; sys.exit(main())", "bench"]
PAIR = ["--engine", str(zoo.DENOISER), "--classifier", str(zoo.CLASSIFIER_DDS)]


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--quiet", type=int, default=3)
    p.add_argument("--most", type=int, default=10)
    a = p.parse_args()
    results: list[BenchResult] = []
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        while len(results) < a.most and sum((each.others or 0) <= LOUD for each in results) < a.quiet:
            out = Path(folder) / f"{len(results)}.json"
            start = time.perf_counter()
            subprocess.run([*COMMAND, *PAIR, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter() - start, 1))
            results.append(BenchResult.read(out))
            print(f"{seconds[-1]} s, other processes took {results[-1].others or 0:.1%} of the processors", flush=True)
    rows: list[dict[str, Any]] = []
    for batch in sorted({row.batch for result in results for row in result.rows}):
        found = [[row.rate.median for row in result.rows if row.batch == batch] for result in results]
        rates = [one[0] if one else None for one in found]  # a search may choose another size each time
        quiet = [rate for rate, one in zip(rates, results, strict=True) if rate and (one.others or 0) <= LOUD]
        apart = max((max(x, y) / min(x, y) - 1 for x, y in combinations(quiet, 2)), default=None)
        rows.append({"batch": batch, "samples_per_second": rates, "apart": apart})
        print(f"batch {batch:4}: {', '.join(f'{rate:.0f}' for rate in quiet)} samples/s", end="")
        print("" if apart is None else f", at most {apart:.1%} apart", flush=True)
    document = {
        "machine": {**results[0].machine, "cpu": cpu_model()},
        "seconds": seconds,
        "others": [round(result.others or 0, 3) for result in results],
        "loud": LOUD,
        "rows": rows,
        "matmul_gflops": {kind: [each.matmul[kind].median for each in results] for kind in results[0].matmul},
    }
    RESULTS.joinpath("bench_cpu.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
