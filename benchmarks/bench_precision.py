"""The zoo in fp32, bf16 and int8 on the CPU: size, samples/s, labels and certified accuracy.

    python benchmarks/bench_precision.py --calibration-data cifar10-train-lossless.parquet --data cifar10-test.parquet
    python benchmarks/bench_precision.py --calibration-data cifar10-train-lossless.parquet --ways

Both engines run under OpenVINO: the fp32 files in fp32, the same files in bf16 (what OpenVINO does by default where the CPU can),
then the int8 denoiser with the bf16 classifier, then both in int8. Each round times every pair once on the same noisy images;
labels are compared with the fp32 pair's; certified accuracy is what `certify` gives with fixed n. Writes
benchmarks/results/precision_cpu.json. `--ways` compares ways to quantise the denoiser instead and writes
benchmarks/results/quantisation_ways.json; NNCF's are among them where it is installed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_noise import cpu_model
from numpy.typing import NDArray

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.engine import Engine, instruction_set, open_engine
from diffsmooth_trt.exporting import export_classifier, export_denoiser
from diffsmooth_trt.exporting.checks.noised import CALIBRATION, VERIFICATION, fitting_pixels, noised
from diffsmooth_trt.exporting.writers.onnx_half import quiet_tools
from diffsmooth_trt.exporting.writers.onnx_int8 import CALIBRATION_SAMPLES, chosen_nodes
from diffsmooth_trt.report.curves import certified_accuracy
from diffsmooth_trt.report.tables import summarise

ROOT = Path(__file__).resolve().parent
STATES = ROOT.parent / "export" / "zoo"
BATCH, SIGMA, SHAPE = 64, 0.25, (3, 32, 32)

Floats = NDArray[np.float32]


def test_images(samples: int) -> list[Floats]:
    """`samples` noisy images of the zoo's 100, in batches."""
    pixels = fitting_pixels(zoo.IMAGES, SHAPE, 100)
    return list(noised(pixels, SIGMA, samples - samples % BATCH, BATCH, VERIFICATION))


def answers(denoiser: Engine, classifier: Engine, batches: list[Floats]) -> tuple[Floats, NDArray[np.int64]]:
    """Denoised images and their labels."""
    images = [denoiser.run(batch) for batch in batches]
    return np.concatenate(images), np.concatenate([classifier.run(batch).argmax(1) for batch in images])


def exported(folder: Path, precision: str, calibration: Path) -> tuple[Path, Path]:
    """The zoo's denoiser and classifier as files of `precision`, the classifier calibrated behind the denoiser."""
    data = calibration if precision == "int8" else None
    common: dict[str, Any] = {"precision": precision, "calibration_data": data, "verify_samples": 64}
    denoiser, classifier = folder / f"denoiser-{precision}.onnx", folder / f"classifier-{precision}.onnx"
    export_denoiser("guided-diffusion", STATES / "unet.pt", "zoo", SIGMA, denoiser, **common)
    state = STATES / "classifier-dds.pt"
    export_classifier("resnet56", state, classifier, verify_denoiser=zoo.DENOISER, **common)
    return denoiser, classifier


def alternately(subjects: dict[str, Callable[[], object]], rounds: int, samples: int) -> dict[str, dict[str, float]]:
    """Samples a second of every subject, timed in turn: median, minimum, maximum."""
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(rounds + 1):
        for name, call in subjects.items():
            start = time.perf_counter()
            call()
            if turn:  # the first one warms up
                rates[name].append(samples / (time.perf_counter() - start))
    return {name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in rates.items()}


def certified(pair: tuple[Path, Path], precision: str, a: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Certified accuracy at the published radii of one pair."""
    with dst.certify(
        engine=pair[0], classifier=pair[1], method="dds", data=a.data, max=a.max, n=a.n, backend="openvino",
        precision=precision, batch=BATCH, out=folder / "run.sqlite", key="0123456789abcdef" * 4,
    ) as store:  # fmt: skip
        done = summarise(store)
    (folder / "run.sqlite").unlink()
    accuracy = certified_accuracy(done.labels, done.predicted, done.radii, (0.0, 0.25, 0.5))
    return {"0": float(accuracy[0]), "0.25": float(accuracy[1]), "0.5": float(accuracy[2])}


def precisions(a: argparse.Namespace, folder: Path) -> None:
    """The table of precisions."""
    full, eight = (exported(folder, precision, a.calibration_data) for precision in ("fp32", "int8"))
    mixed = (eight[0], full[1])
    rows: dict[str, tuple[tuple[Path, Path], str]] = {
        "fp32": (full, "fp32"), "bf16": (full, "bf16"), "int8 denoiser": (mixed, "bf16"), "int8 both": (eight, "bf16"),
    }  # fmt: skip
    batches = test_images(a.samples)
    count = sum(map(len, batches))
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    want: NDArray[np.int64] | None = None
    few = batches[: max(1, a.timed // BATCH)]
    for name, (pair, precision) in rows.items():
        engines = [open_engine(path, batch=BATCH, backend="openvino", precision=precision) for path in pair]
        _, labels = answers(engines[0], engines[1], batches)
        want = labels if want is None else want
        found[name] = {
            "effective": [engine.identity["precision"] for engine in engines],
            "bytes": sum(path.stat().st_size for path in pair),
            "same_labels": float((labels == want).mean()),
        }
        calls[name] = functools.partial(answers, engines[0], engines[1], few)
    for name, rate in alternately(calls, a.rounds, BATCH * len(few)).items():
        found[name]["samples_per_second"] = rate
    for name, (pair, precision) in rows.items() if a.data else ():
        found[name]["certified_accuracy"] = certified(pair, precision, a, folder)
        print(name, found[name], flush=True)
    settings = {
        "batch": BATCH,
        "samples": count,
        "rounds": a.rounds,
        "timed": BATCH * len(few),
        "images": a.max,
        "n": a.n,
    }
    write("precision_cpu.json", {"settings": settings, "results": found})


def ways(a: argparse.Namespace, folder: Path) -> None:
    """Ways to quantise the denoiser: what the export does, and what it was chosen over."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    full, eight = (exported(folder, precision, a.calibration_data) for precision in ("fp32", "int8"))
    graph = onnx.load(str(full[0]), load_external_data=False).graph
    chosen, _ = chosen_nodes(graph, True)
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"][1:-1]
    pixels = fitting_pixels(a.calibration_data, SHAPE, CALIBRATION_SAMPLES)
    batches = list(noised(pixels, SIGMA, CALIBRATION_SAMPLES, 32, CALIBRATION))

    class Reader:
        def __init__(self) -> None:
            self.left: Iterator[Floats] = iter(batches)

        def get_next(self) -> dict[str, Floats] | None:
            return next(({"images": batch} for batch in self.left), None)

    inputs_only = {"OpTypesToExcludeOutputQuantization": ["Conv"]}
    moving = inputs_only | {"CalibMovingAverage": True}
    eight_bits: dict[str, Any] = {"per_channel": True, "activation_type": QuantType.QUInt8, "nodes_to_quantize": chosen}
    symmetric = {"activation_type": QuantType.QInt8, "extra_options": moving | {"ActivationSymmetric": True}}
    everything: dict[str, Any] = {"op_types_to_quantize": None, "nodes_to_quantize": None, "extra_options": {}}
    tried: dict[str, dict[str, Any]] = {
        "1×1 convolutions too": {"nodes_to_quantize": convolutions, "extra_options": moving},
        "outputs too": {"extra_options": {"CalibMovingAverage": True}},
        "one scale a tensor": {"per_channel": False, "extra_options": moving},
        "symmetric activations": symmetric,
        "extremes of all batches": {"extra_options": inputs_only},
        "99.999th percentile": {
            "calibrate_method": CalibrationMethod.Percentile, "extra_options": inputs_only | {"CalibPercentile": 99.999},
        },
        "every operator": everything,
    }  # fmt: skip
    files = {"fp32": full[0], "as exported": eight[0]}
    for name, how in tried.items():
        files[name] = folder / f"way-{len(files)}.onnx"
        with quiet_tools():
            quantize_static(
                str(full[0]), str(files[name]), Reader(), **({"op_types_to_quantize": ["Conv"]} | eight_bits | how)
            )
    if importlib.util.find_spec("nncf"):
        files |= by_nncf(full[0], chosen, batches, folder)
    compare_ways(files, full[1], a)


def by_nncf(source: Path, chosen: list[str], batches: list[Floats], folder: Path) -> dict[str, Path]:
    """NNCF's post-training quantisation with its correction of biases, of the same nodes and of all it would choose."""
    import nncf

    model = onnx.load(str(source))
    rest = [node.name for node in model.graph.node if node.name not in chosen]
    made: dict[str, Path] = {}
    for name, kept in (("NNCF, the same nodes", rest), ("NNCF, its own choice", [])):
        # Its correction of biases wants batches of one size: single images.
        data = nncf.Dataset(
            [batch[row : row + 1] for batch in batches for row in range(len(batch))], lambda x: {"images": x}
        )
        with quiet_tools():
            quantised = nncf.quantize(
                model, data, subset_size=CALIBRATION_SAMPLES, preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
            )  # fmt: skip
        made[name] = folder / f"nncf-{len(made)}.onnx"
        onnx.save(quantised, str(made[name]))
    return made


def compare_ways(files: dict[str, Path], classifier_file: Path, a: argparse.Namespace) -> None:
    """Difference from fp32, labels and speed of each file, in bf16 where it is not quantised."""
    batches = test_images(a.samples)
    few = batches[: max(1, a.timed // BATCH)]
    classifier = open_engine(classifier_file, batch=BATCH, backend="openvino", precision="fp32")
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    want: tuple[Floats, NDArray[np.int64]] | None = None
    for name, path in {**files, "bf16": files["fp32"]}.items():
        precision = "fp32" if name == "fp32" else "bf16"
        denoiser = open_engine(path, batch=BATCH, backend="openvino", precision=precision, role="denoiser", sigma=SIGMA)
        got = answers(denoiser, classifier, batches)
        want = got if want is None else want
        found[name] = {
            "effective": denoiser.identity["precision"],
            "bytes": path.stat().st_size,
            "mean_difference": float(np.abs(got[0] - want[0]).mean()),
            "same_labels": float((got[1] == want[1]).mean()),
        }

        def call(denoiser: Engine = denoiser) -> None:
            for batch in few:
                denoiser.run(batch)

        calls[name] = call
    for name, rate in alternately(calls, a.rounds, BATCH * len(few)).items():
        found[name]["samples_per_second"] = rate
        print(name, found[name], flush=True)
    settings = {"batch": BATCH, "samples": sum(map(len, batches)), "rounds": a.rounds, "timed": BATCH * len(few)}
    write("quantisation_ways.json", {"settings": settings, "results": found})


def write(name: str, document: dict[str, Any]) -> None:
    """The document under results/, with the machine and the versions."""
    packages = ("onnxruntime", "openvino", "torch", *(("nncf",) if importlib.util.find_spec("nncf") else ()))
    machine = {"cpu": cpu_model(), "processors": os.cpu_count(), "instruction_set": instruction_set()}
    versions = {package: version(package) for package in packages}
    (ROOT / "results" / name).write_text(
        json.dumps({"machine": machine, "versions": versions, **document}, indent=1) + "\n"
    )


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--calibration-data", type=Path, required=True)
    p.add_argument("--data", type=Path, help="certify this too")
    p.add_argument("--ways", action="store_true", help="compare ways to quantise instead")
    p.add_argument("--samples", type=int, default=2048)
    p.add_argument("--timed", type=int, default=512)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--max", type=int, default=200)
    p.add_argument("--n", type=int, default=1000)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (ways if a.ways else precisions)(a, Path(folder))


if __name__ == "__main__":
    main()
