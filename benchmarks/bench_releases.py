"""Two checkouts against each other: the demo, and one image certified at n = 10,000, as a user calls them, in turn.

    python benchmarks/bench_releases.py BEFORE [--rounds 5]

BEFORE is another checkout whose compiled module is built; this one is the other. Both run by this Python with the packages
that it has. Each round calls both once for each command, the first to be called changing from round to round; ratios are taken
within a round. Writes benchmarks/results/releases_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_noise import cpu_model

ROOT = Path(__file__).resolve().parent
KEY = "17" * 32
CERTIFY = ["certify", "--method", "dds", "--max", "1", "--n", "10000", "--key", KEY, "--out", "run.sqlite"]


def command(name: str, checkout: Path) -> list[str]:
    zoo = checkout / "diffsmooth_trt" / "zoo"
    files = ["--engine", zoo / "denoiser-0.25.onnx", "--classifier", zoo / "classifier-dds.onnx"]
    files += ["--data", zoo / "cifar10-test-100.parquet"]
    arguments = ["demo"] if name == "demo" else [*CERTIFY, *map(str, files)]
    return [sys.executable, "-c", "import sys; from diffsmooth_trt.cli import main; sys.exit(main())", *arguments]


def timed(name: str, checkout: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processors that the command takes in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        start = time.perf_counter()
        subprocess.run(
            command(name, checkout),
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        return time.perf_counter() - start, sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - used


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def head(checkout: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("before", type=Path, metavar="BEFORE")
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    checkouts = {"before": a.before.resolve(), "now": ROOT.parent}
    document = {
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "commits": {name: head(checkout) for name, checkout in checkouts.items()},
        "rounds": a.rounds,
        "commands": {},
    }
    for name in ("demo", "certify"):
        seconds: dict[str, list[tuple[float, float]]] = {each: [] for each in checkouts}
        for turn in range(a.rounds):
            for each in list(checkouts)[:: 1 if turn % 2 else -1]:
                seconds[each].append(timed(name, checkouts[each]))
                print(name, each, *(round(value, 2) for value in seconds[each][-1]), flush=True)
        pairs = list(zip(seconds["now"], seconds["before"], strict=True))
        document["commands"][name] = {
            "seconds": {each: spread([clock for clock, _ in values]) for each, values in seconds.items()},
            "processor seconds": {each: spread([used for _, used in values]) for each, values in seconds.items()},
            "ratio": spread([now[0] / before[0] for now, before in pairs]),
            "ratio of processor seconds": spread([now[1] / before[1] for now, before in pairs]),
        }
        (ROOT / "results" / "releases_cpu.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
