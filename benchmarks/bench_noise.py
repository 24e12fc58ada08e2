"""Times making noisy images on one core: ours, the NumPy reference, and the usual floating-point normals.

    python benchmarks/bench_noise.py    # prints the table, writes benchmarks/results/noise_cpu.json

Answers are checked first, everything is warmed up, and the subjects take turns in one process, so that
whatever else the machine does meets them all alike. Ours is the whole step from uint8 pixels to the float32
batch; the normals are only drawn, neither scaled nor added, so the comparison favours them. Building the law
(once a process) is excluded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffsmooth_trt.noise import ESTIMATION, GridLaw, grid_law, reference, sampler

RESULTS = Path(__file__).parent / "results" / "noise_cpu.json"
KEY = 0x243F6A8885A308D313198A2E03707344
ROWS, DIMENSION = 128, 3 * 32 * 32
SIGMAS = (0.12, 0.25, 0.5, 1.0, 4.0)

Subject = Callable[[], object]


def noisy_images(law: GridLaw, variant: str) -> Subject:
    """Return the step as the smoother takes it; raises where its output is not the reference's."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, DIMENSION), dtype=np.uint8)
    rows, images = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.uint64)
    samples = np.arange(ROWS, dtype=np.uint64)
    out = np.empty((ROWS, DIMENSION), np.float32)

    def run() -> None:
        sampler.noisy_images(law, KEY, ESTIMATION, pixels, images, samples, out, 1, rows=rows, variant=variant)

    run()
    for sample in (0, ROWS - 1):
        k = reference.grid_noise(law, KEY, ESTIMATION, 0, sample, DIMENSION)
        if not np.array_equal(out[sample], (pixels[0] + k).astype(np.float32) / np.float32(255)):
            raise SystemExit(f"{variant}: the noise is not the reference's, so its speed means nothing")
    return run


def reference_noise(law: GridLaw) -> Subject:
    """Return the auditable NumPy path, noise only."""
    return lambda: [reference.grid_noise(law, KEY, ESTIMATION, 0, sample, DIMENSION) for sample in range(ROWS)]


def standard_normal(generator: np.random.Generator, kind: type[Any]) -> Subject:
    """Return NumPy's own normals, into an array that is there already."""
    made = np.empty((ROWS, DIMENSION), kind)
    return lambda: generator.standard_normal(out=made, dtype=kind)


def subjects() -> dict[str, Subject]:
    """Return what is timed: each makes ROWS × DIMENSION coordinates."""
    found: dict[str, Subject] = {}
    for sigma in SIGMAS:
        for variant in sampler.variants():
            found[f"noisy_images {variant} sigma={sigma:g}"] = noisy_images(grid_law(sigma), variant)
    found["reference (NumPy) sigma=0.25"] = reference_noise(grid_law(0.25))
    generator = np.random.default_rng(0)
    for kind in (np.float32, np.float64):
        found[f"numpy standard_normal {np.dtype(kind)}"] = standard_normal(generator, kind)
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    found["torch.randn float32"] = lambda: torch.randn(ROWS, DIMENSION)
    return found


def measure(timed: dict[str, Subject], repeats: int) -> dict[str, dict[str, float]]:
    """Return median, least and quartiles, in ns a coordinate, of `repeats` turns of each subject."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + 2):
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    table = {}
    for name, taken in seconds.items():
        scaled = [value * 1e9 / (ROWS * DIMENSION) for value in taken]
        low, median, high = statistics.quantiles(scaled, n=4)
        table[name] = {"median": median, "min": min(scaled), "quartile_1": low, "quartile_3": high}
    return table


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="turns of each subject (default 40)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    timed = subjects()
    table = measure(timed, options.repeats)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    if "torch" in sys.modules:
        versions["torch"] = str(sys.modules["torch"].__version__)
    about = {
        "subject": f"{ROWS} rows of {DIMENSION} coordinates on one core",
        "unit": "ns per coordinate",
        "repeats": options.repeats,
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "instruction_set": sampler.instruction_set(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions,
    }
    print(f"{about['subject']}; {about['cpu']}, {about['instruction_set']}; {versions}")
    print(f"{'':44}{'median':>9}{'min':>9}{'quartiles':>18}   ns per coordinate")
    for name, row in table.items():
        spread = f"{row['quartile_1']:.2f}–{row['quartile_3']:.2f}"
        print(f"{name:44}{row['median']:9.2f}{row['min']:9.2f}{spread:>18}")
    rounded = {name: {key: round(value, 3) for key, value in row.items()} for name, row in table.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, "results": rounded}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
