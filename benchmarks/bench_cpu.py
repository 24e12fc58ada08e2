"""Certification speed on the CPU: our engines against the papers' eager fp32 loop, in turn in one process.

    python benchmarks/bench_cpu.py [--rounds 5] [--samples 2048]

The eager loop is written the way the papers' code does it: image by image, `torch.randn` noise, the UNet and the classifier as
fp32 PyTorch modules, votes counted on the host. Ours is the whole runner: noise, engines, counts, run store; without its audit,
which is a share of long runs and a fixed number of rows of such short ones (bench_self_audit.py). Each round times every
subject once on the same image; ratios are taken within a round. Writes benchmarks/results/speed_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_noise import cpu_model
from bench_self_audit import Unaudited
from torch import Tensor, nn

from diffsmooth_trt import zoo
from diffsmooth_trt.certify.progress import NoProgress
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state
from diffsmooth_trt.images import Images
from diffsmooth_trt.methods import Method
from diffsmooth_trt.nets.classifiers import classifier_from_arch
from diffsmooth_trt.nets.options import named_options
from diffsmooth_trt.noise import grid_law
from diffsmooth_trt.runs.config import RunConfig
from diffsmooth_trt.runs.engines import build_method
from diffsmooth_trt.runs.identity import facts_of
from diffsmooth_trt.runs.run import describe
from diffsmooth_trt.runs.store import RunStore

ROOT = Path(__file__).resolve().parent
STATES = ROOT.parent / "export" / "zoo"


class Eager(nn.Module):
    """One-shot denoising and classification, nothing folded."""

    def __init__(self) -> None:
        super().__init__()
        options = named_options("zoo")
        self.unet = options.network()
        load_into(self.unet, load_state(STATES / "unet.pt"))
        arch = classifier_from_arch("resnet56")
        self.classifier = arch.module
        load_into(self.classifier, load_state(STATES / "classifier-dds.pt"))
        self.timestep = options.schedule.timestep(0.25)
        self.embedded = options.schedule.embedded(self.timestep)
        self.alpha_bar = float(options.schedule.alphas_bar[self.timestep])
        self.null_class = options.null_class
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (arch.mean, arch.std))

    def forward(self, x: Tensor) -> Tensor:
        a = self.alpha_bar
        x_t = (2 * x - 1) * a**0.5
        labels = torch.full((len(x),), self.null_class) if self.null_class is not None else None
        eps = self.unet(x_t, torch.full((len(x),), self.embedded), labels)
        x0 = ((x_t - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
        logits: Tensor = self.classifier(((x0 + 1) / 2 - self.mean) / self.std)
        return logits


def eager_loop(model: Eager, pixels: np.ndarray[Any, Any], samples: int, batch: int, sigma: float) -> float:
    """Seconds that `samples` votes of one image take."""
    start = time.perf_counter()
    counts = np.zeros(10, dtype=int)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        for _ in range(samples // batch):
            rows = image.repeat((batch, 1, 1, 1))
            predictions = model(rows + torch.randn_like(rows) * sigma).argmax(1)
            for label in predictions.numpy():
                counts[label] += 1
    return time.perf_counter() - start


def runner_for(config: RunConfig, method: Method, images: Images, shares: dict[str, float]) -> Callable[[], float]:
    """A timed call of the whole runner on `images`, in a fresh run store."""
    record, out = describe(facts_of(method), images, config.choice, config.stopping), config.output.out

    def timed() -> float:
        if out is not None:
            out.unlink(missing_ok=True)
        with RunStore.create(out, record) as store:
            runner = Unaudited(
                method, store, store.rule, Step(method, grid_law(method.sigma), record.key), NoProgress()
            )
            start = time.perf_counter()
            runner.run(images)
            seconds = time.perf_counter() - start
        for name, spent in runner.seconds.items():
            shares[name] = shares.get(name, 0.0) + spent
        return seconds

    return timed


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--samples", type=int, default=2048)
    p.add_argument("--batch", type=int, default=64)
    a = p.parse_args()
    images = Images(zoo.IMAGES, limit=1)
    pixels = next(iter(images)).pixels
    model = Eager().eval()
    subjects: dict[str, Callable[[], float]] = {
        "eager fp32 PyTorch": lambda: eager_loop(model, pixels, a.samples, a.batch, 0.25)
    }
    shares: dict[str, dict[str, float]] = {}
    precisions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend, precision in (("openvino", None), ("openvino", "fp32"), ("onnxruntime", "fp32")):
            config = RunConfig(
                command="predict", engine=zoo.DENOISER, classifier=zoo.CLASSIFIER_DDS, data=zoo.IMAGES,
                out=Path(folder) / "run.sqlite", n=a.samples, backend=backend, precision=precision, batch=a.batch,
            )  # fmt: skip
            method = build_method(config)
            name = f"{backend} {precision or 'default'}"
            precisions[name] = str(method.engines["denoiser"].identity["precision"])
            subjects[name] = runner_for(config, method, images, shares.setdefault(name, {}))
        for timed in subjects.values():
            timed()
        for share in shares.values():
            share.clear()
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(a.rounds):
            for name, timed in subjects.items():
                seconds[name].append(timed())
    base = seconds["eager fp32 PyTorch"]
    results = {}
    print(f"{'subject':24} {'samples/s':>10} {'spread':>15} {'× eager':>8}  noise+count")
    for name, spent in seconds.items():
        rates = sorted(a.samples / s for s in spent)
        ratio = statistics.median(b / s for b, s in zip(base, spent, strict=True))
        spent_on = shares.get(name)
        overhead = (spent_on["noise"] + spent_on["count"]) / sum(spent_on.values()) if spent_on else None
        results[name] = {
            "samples_per_second": {"median": statistics.median(rates), "min": rates[0], "max": rates[-1]},
            "times_eager": ratio,
            "noise_and_count_share": overhead,
            "seconds": spent_on,
            "precision": precisions.get(name, "fp32"),
        }
        shown = f"{overhead:.2%}" if overhead is not None else "–"
        print(f"{name:24} {statistics.median(rates):10.0f} {rates[0]:7.0f}–{rates[-1]:<7.0f} {ratio:8.2f}  {shown}")
    document = {
        "machine": {
            "cpu": cpu_model(), "processors": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        },
        "rounds": a.rounds, "samples": a.samples, "batch": a.batch, "results": results,
    }  # fmt: skip
    (ROOT / "results" / "speed_cpu.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
