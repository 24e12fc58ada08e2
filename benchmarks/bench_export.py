"""Exports of published configurations at full size with random weights: difference, time, peak memory, size.

    python benchmarks/bench_export.py [NAME …]

Writes benchmarks/results/export_cpu.json, keeping what other names gave before. Each checkpoint is saved in its published
format, then exported by the command line in a process of its own, whose peak resident memory is read when it ends.
The 552 M network needs 9 GB of disk in the temporary folder and 8 GB of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_noise import cpu_model

from diffsmooth_trt.engine.graph import read_graph
from diffsmooth_trt.exporting.denoiser import read_family

RESULTS = Path(__file__).parent / "results" / "export_cpu.json"
RUNS: dict[str, tuple[str, list[str]]] = {
    "cifar10_uncond_50M_500K": ("improved-diffusion", ["--sigma", "0.25"]),
    "256x256_diffusion_uncond": ("guided-diffusion", ["--sigma", "0.5", "--image-size", "224"]),
    "edm-cifar10-32x32-cond-vp": ("edm", ["--conditional"]),
}
COMMAND = "import sys; from diffsmooth_trt.cli import main; sys.exit(main())"


def checkpoint(family: str, config: str, path: Path) -> int:
    """Write a random checkpoint; returns the number of parameters."""
    torch.manual_seed(0)
    net = read_family(family, config, path).network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    prefix = "model." if family == "edm" else ""
    torch.save({prefix + name: tensor for name, tensor in net.state_dict().items()}, path)
    return sum(parameter.numel() for parameter in net.parameters())


def measure(name: str, folder: Path) -> dict[str, object]:
    """One export; the JSON entry."""
    family, options = RUNS[name]
    source, out = folder / f"{name}.pt", folder / "engine.onnx"
    parameters = checkpoint(family, name, source)
    command = [
        "export",
        "denoiser",
        "--family",
        family,
        "--config",
        name,
        "--checkpoint",
        str(source),
        "--out",
        str(out),
    ]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *command, *options])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{name}: the export ended with status {status}")
    details = read_graph(out, role=None, sigma=None).facts.details
    weights = 4 * parameters
    return {
        "parameters": parameters,
        "options": options,
        "max_difference": details["max_difference"],
        "tolerance": details["tolerance"],
        "seconds": round(seconds, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "peak_over_weights": round(usage.ru_maxrss * 1024 / weights, 2),
        "file_bytes": {file.name.replace(file.stem, "engine"): file.stat().st_size for file in folder.glob("engine*")},
        "versions": details["versions"],
        "machine": cpu_model(),
    }


def main() -> None:
    names = sys.argv[1:] or list(RUNS)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            entry = measure(name, Path(folder))
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps({**known, name: entry}, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
