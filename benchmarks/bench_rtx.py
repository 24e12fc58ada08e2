"""Plans that TensorRT for RTX builds here, without a GPU: size, seconds and memory of each, and how quantised files compare.

    python benchmarks/bench_rtx.py                 # small networks of every family and form, in every precision, for four cards
    python benchmarks/bench_rtx.py --published     # the published sizes with random weights, for the RTX 40 series
    python benchmarks/bench_rtx.py --labels --calibration-data cifar10-train-lossless.parquet    # the zoo as GPUs multiply it

`products` are how many run in which precision by the builder's own listing. Each published size is built in a process of its own,
whose largest resident memory is told. Writes its part of benchmarks/results/rtx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from bench_noise import cpu_model
from rtx_forms import FORMS, SIGMA, lowered, precisions_of

from diffsmooth_trt import zoo
from diffsmooth_trt.engine.graph import read_graph
from diffsmooth_trt.errors import DiffsmoothError, message_of
from diffsmooth_trt.exporting.writers.tensorrt import listed_layers
from diffsmooth_trt.exporting.writers.tensorrt_layers import products
from diffsmooth_trt.exporting.writers.tensorrt_settings import LEAST, PlanSettings, number_of

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "rtx.json"
CARDS = ("sm80", "sm86", "sm89", "sm120")


def built(path: Path, target: str, batch: int, out: Path) -> dict[str, Any]:
    """One build in this process: the plan's bytes, seconds, MiB at most, and how many products run in which precision."""
    graph = read_graph(path, role=None, sigma=None)
    start = time.perf_counter()
    try:
        lines = listed_layers(path, graph.input_shapes(batch), PlanSettings(targets=(target,)), out)
    except DiffsmoothError as error:
        return {"refused": message_of(error)}
    seconds = time.perf_counter() - start
    kinds = Counter(products(lines, onnx.load(str(path), load_external_data=False).graph).values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"bytes": out.stat().st_size, "seconds": round(seconds, 2), "peak_mib": round(peak), "products": dict(kinds)}


def apart(path: Path, target: str, batch: int) -> dict[str, Any]:
    """`built` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", str(path), target, str(batch), str(Path(folder) / "x.plan")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"refused": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def small(names: list[str]) -> list[dict[str, Any]]:
    """Every form, precision and card that has the precision."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            source = FORMS[name](Path(folder))
            for precision in precisions_of(read_graph(source, role=None, sigma=None).facts):
                path = lowered(source, precision)
                for target in CARDS:
                    if number_of(target) >= LEAST.get(precision, 0):
                        found = built(path, target, 4, Path(folder) / "x.plan")
                        found.pop("peak_mib", None)  # of all builds so far
                        row = {"form": name, "precision": precision, "target": target, **found}
                        rows.append(row)
                        print(json.dumps(row), flush=True)
    return rows


def labels(calibration: Path, samples: int) -> dict[str, Any]:
    """The zoo's denoiser, classifier and both as GPUs multiply them, against fp32, on `samples` noisy images of the zoo."""
    from bench_precision import STATES, answers, test_images

    from diffsmooth_trt.engine import open_engine
    from diffsmooth_trt.exporting import export_classifier, export_denoiser

    batches, found = test_images(samples), {}
    how: dict[str, Any] = {"batch": 64, "backend": "onnxruntime"}
    with tempfile.TemporaryDirectory() as folder:
        full = (zoo.DENOISER, zoo.CLASSIFIER_DDS)
        _, want = answers(open_engine(full[0], **how), open_engine(full[1], **how), batches)
        for name, chosen in (("int8", {"precision": "int8", "quantise_for": "gpu"}), ("fp8", {"precision": "fp8"})):
            common: dict[str, Any] = {**chosen, "calibration_data": calibration, "verify_samples": 64}
            pair = (Path(folder) / f"d-{name}.onnx", Path(folder) / f"c-{name}.onnx")
            export_denoiser("guided-diffusion", STATES / "unet.pt", "zoo", SIGMA, pair[0], **common)
            state = STATES / "classifier-dds.pt"
            export_classifier("resnet56", state, pair[1], verify_denoiser=zoo.DENOISER, **common)
            for what, files in (("denoiser", (pair[0], full[1])), ("classifier", (full[0], pair[1])), ("both", pair)):
                engines = [open_engine(path, **how) for path in files]
                _, got = answers(engines[0], engines[1], batches)
                found[f"{name} {what}"] = float((got == want).mean())
                print(name, what, found[f"{name} {what}"], flush=True)
    return {"samples": sum(map(len, batches)), "same_labels": found}


def published(names: list[str]) -> list[dict[str, Any]]:
    """The published sizes with random weights at batches of 1, in fp32 and fp16."""
    from rtx_published import PUBLISHED

    rows = []
    for name in names or list(PUBLISHED):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, str(ROOT / "rtx_published.py"), name, folder],
                capture_output=True,
                text=True,
                check=False,
            )
            paths = [Path(line) for line in done.stdout.split()]
            for path in paths:
                row = {"form": name, "precision": path.stem, "target": "sm89", **apart(path, "sm89", 1)}
                rows.append(row)
                print(json.dumps(row), flush=True)
            if done.returncode or not paths:
                print(name, done.stderr[-500:], file=sys.stderr)
    return rows


def write(part: str, found: Any) -> None:
    """Put one part into the file of results."""
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    packages = ("torch", "onnx", "onnxruntime", "tensorrt-rtx-cu13")
    machine = {"cpu": cpu_model(), "processors": os.cpu_count(), "versions": {name: version(name) for name in packages}}
    content[part] = {"machine": machine, "results": found}
    RESULTS.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=4, metavar=("FILE", "TARGET", "BATCH", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--published", action="store_true", help="the published sizes")
    parser.add_argument("--labels", action="store_true", help="labels of the zoo in int8 and fp8")
    parser.add_argument("--calibration-data", type=Path, help="for --labels")
    parser.add_argument("--samples", type=int, default=2000, help="noisy images for --labels (default: 2000)")
    parser.add_argument("--form", action="append", default=[], help="only this one (several times)")
    a = parser.parse_args()
    if a.one:
        print(json.dumps(built(Path(a.one[0]), a.one[1], int(a.one[2]), Path(a.one[3]))))
    elif a.labels:
        write("labels", labels(a.calibration_data, a.samples))
    elif a.published:
        write("published", published(a.form))
    else:
        write("small", small(a.form or list(FORMS)))


if __name__ == "__main__":
    main()
