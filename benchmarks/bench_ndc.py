"""Diffusion classifiers on the zoo: accuracy on noisy images, evaluations a vote, sifting, and the rate against the bare engine.

    python benchmarks/bench_ndc.py --data cifar10-test.parquet [--images 100] [--steps 126 8 16 32]

One noisy draw (σ = 0.25) of each of the first test images goes through every method, dds too; a sifted method is compared with
itself unsifted on the same draws. The rate is held against the engine alone, in turn. Then 20 images are certified with apndc
through the command line. Writes benchmarks/results/ndc_cpu.json after every row, and goes on from there when run again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_noise import cpu_model
from numpy.typing import NDArray

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.engine import Engine, open_engine
from diffsmooth_trt.exporting import export_denoiser
from diffsmooth_trt.methods import METHODS, DenoisedSmoothing, Method, Rows
from diffsmooth_trt.noise import PREDICTION, Key, grid_law
from diffsmooth_trt.noise.sampler import noisy_images

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "ndc_cpu.json"
SIGMA, KEY, BATCH = 0.25, 20, 100
SIFTED = (("spread", 1.5), ("spread", 1.0))
CERTIFIED: dict[str, Any] = {"steps": 8, "sift": "spread", "sift_margin": 1.5, "n0": 10, "n": 200, "max": 20}


class Noisy:
    """One noisy draw an image, in batches."""

    def __init__(self, data: Path, count: int) -> None:
        images = list(dst.Images(data, limit=count))
        self.labels = np.array([image.label for image in images])
        pixels = np.stack([image.pixels.transpose(2, 0, 1).reshape(-1) for image in images])
        index = np.array([image.index for image in images], np.uint64)
        self.rows = Rows(np.full_like(index, PREDICTION), index, np.zeros_like(index), Key(KEY))
        self.x = np.empty((count, 3, 32, 32), np.float32)
        flat = self.x.reshape(count, -1)
        noisy_images(grid_law(SIGMA), KEY, self.rows.phases, pixels, index, self.rows.samples, flat)

    def labelled(self, method: Method) -> NDArray[np.int64]:
        """The method's labels."""
        found = []
        for start in range(0, len(self.x), method.batch):
            part = slice(start, start + method.batch)
            rows = self.rows.chosen(part)
            found.append(method.labels(self.x[part], rows))
        return np.concatenate(found)


def bare_rate(engine: Engine, batches: int = 10) -> float:
    """Evaluations a second of the engine alone."""
    x = np.zeros((engine.batch, 3, 32, 32), np.float32)
    s = np.linspace(0.5, 3, engine.batch, dtype=np.float32)
    labels = np.arange(engine.batch, dtype=np.int64) % 10
    start = time.perf_counter()
    for _ in range(batches):
        engine.denoise(x, s, labels)
    return batches * engine.batch / (time.perf_counter() - start)


def row(name: str, engine: Engine, noisy: Noisy, plain: NDArray[np.int64] | None, **options: Any) -> dict[str, Any]:
    """One method on all images; `plain` are the labels of the same without sifting."""
    kind = METHODS[name]
    method = kind.of({"engine": engine}, SIGMA, kind.Options(**options))
    before = bare_rate(engine)
    start = time.perf_counter()
    labels = noisy.labelled(method)
    seconds = time.perf_counter() - start
    bare, (_, evaluations) = (before + bare_rate(engine)) / 2, method.spent
    return {
        "method": name, **options, "images": len(labels), "accuracy": float(np.mean(labels == noisy.labels)),
        "evaluations_per_vote": evaluations / len(labels), "seconds_per_vote": seconds / len(labels),
        "evaluations_per_second": evaluations / seconds, "share_of_bare_rate": evaluations / seconds / bare,
        "changed": None if plain is None else float(np.mean(labels != plain)), "labels": ",".join(map(str, labels)),
    }  # fmt: skip


def certified(engine: Path, data: Path) -> dict[str, Any]:
    """A run of apndc, through the Python entry that the command line calls."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        out = Path(folder) / "run.sqlite"
        with dst.certify(engine=engine, method="apndc", sigma=SIGMA, data=data, out=out, **CERTIFIED) as store:
            seconds = time.perf_counter() - start
            results = list(store.results())
        return {
            **CERTIFIED, "seconds": seconds, "seconds_per_certificate": seconds / len(results),
            "certified_at": {str(r): sum(x.correct and (x.radius or 0) >= r for x in results) for r in (0.0, 0.25, 0.5)},
            "abstentions": sum(x.predict < 0 for x in results),
        }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--images", type=int, default=100)
    p.add_argument("--steps", type=int, nargs="+", default=[126, 8, 16, 32])
    p.add_argument("--rows-only", action="store_true", help="certify nothing")
    p.add_argument("--out", type=Path, default=RESULT)
    a = p.parse_args()
    document: dict[str, Any] = json.loads(a.out.read_text()) if a.out.exists() else {"rows": []}
    done = {json.dumps([r["method"], r["steps"], r["sift"], r.get("sift_margin")]): r for r in document["rows"]}
    noisy = Noisy(a.data, a.images)
    document |= {"cpu": cpu_model(), "processors": os.cpu_count(), "sigma": SIGMA, "batch": BATCH}

    def save() -> None:
        document.setdefault("load", []).append(os.getloadavg()[0])
        a.out.write_text(json.dumps(document, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conditional.onnx"
        checkpoint = ROOT.parent / "export" / "zoo" / "unet.pt"
        export_denoiser("guided-diffusion", checkpoint, "zoo", None, path, conditional=True)
        with (
            open_engine(path, batch=BATCH, role="conditional") as engine,
            open_engine(zoo.DENOISER, batch=min(BATCH, a.images), role="denoiser") as denoiser,
            open_engine(zoo.CLASSIFIER_DDS, batch=min(BATCH, a.images), role="classifier") as classifier,
        ):
            document["precision"] = engine.identity["precision"]
            labels = noisy.labelled(DenoisedSmoothing(denoiser, classifier))
            document["dds"] = {"images": len(labels), "accuracy": float(np.mean(labels == noisy.labels))}
            for steps in a.steps:
                for name in ("apndc", "epndc", "dc"):
                    plain = None
                    for sift, margin in (("none", None), *(SIFTED if name == "apndc" else ())):
                        key = json.dumps([name, steps, sift, margin])
                        if key not in done:
                            options = {"steps": steps, "sift": sift}
                            if margin is not None:
                                options["sift_margin"] = margin
                            done[key] = row(name, engine, noisy, plain, **options)
                            document["rows"].append(done[key])
                            save()
                            print({k: v for k, v in done[key].items() if k != "labels"}, flush=True)
                        if sift == "none":
                            plain = np.array(done[key]["labels"].split(","), dtype=np.int64)
        if "certified" not in document and not a.rows_only:
            document["certified"] = certified(path, a.data)
            print(document["certified"])
    save()


if __name__ == "__main__":
    main()
