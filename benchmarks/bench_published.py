"""Labels of `--weights published` against the published code's sums, restated, on noisy images and the zoo's UNet.

    python benchmarks/bench_published.py --data cifar10-test.parquet [--images 100] [--steps 126 32 8]

One noisy draw (σ = 0.25) of each of the first test images, fresh noises. The restatement (tests/support/published_ndc.py) has no
code of the package; it asks the same engine, and what that was asked before, bit for bit, is not computed again. Also counted:
labels that `--weights paper` gives otherwise. Writes benchmarks/results/published.json after every row, and goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_ndc import SIGMA, Noisy
from bench_noise import cpu_model
from numpy.typing import NDArray

from diffsmooth_trt.engine import Engine, open_engine
from diffsmooth_trt.exporting import export_denoiser
from diffsmooth_trt.methods import METHODS, Method

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "published.json"
BATCH = 100
METHOD_NAMES = ("dc", "epndc", "apndc")


def restatement() -> Any:
    """tests/support/published_ndc.py as a module."""
    path = ROOT.parent / "tests" / "support" / "published_ndc.py"
    spec = importlib.util.spec_from_file_location("published_ndc", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Remembering:
    """D(x; s, y) of an engine, for any number of rows; answers since the last `forget` are kept."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.inner = engine, engine.denoise
        self.known: dict[bytes, NDArray[np.float32]] = {}
        self.asked = self.again = 0
        engine.denoise = self.denoise  # type: ignore[method-assign]

    def forget(self) -> None:
        """Let go of all answers."""
        self.known.clear()

    @staticmethod
    def _name(x: NDArray[np.float32], s: np.float32, y: np.int64) -> bytes:
        return hashlib.blake2b(x.tobytes() + s.tobytes() + y.tobytes(), digest_size=16).digest()

    def denoise(self, x: Any, s: Any, labels: Any) -> Any:
        """As the engine's, which keeps the answers."""
        answer = self.inner(x, s, labels)
        for row in range(len(x)):
            self.known[self._name(x[row], s[row], labels[row])] = answer[row].copy()
        return answer

    def __call__(self, x: Any, s: Any, labels: Any) -> Any:
        """For the restatement: float64 answers."""
        x, s, labels = x.astype(np.float32), np.asarray(s, np.float32), np.asarray(labels, np.int64)
        names = [self._name(x[row], s[row], labels[row]) for row in range(len(x))]
        missing = [row for row, name in enumerate(names) if name not in self.known]
        self.asked += len(x)
        self.again += len(missing)
        for at in range(0, len(missing), self.engine.batch):
            rows = missing[at : at + self.engine.batch]
            fill = np.array(rows)[np.minimum(np.arange(self.engine.batch), len(rows) - 1)]
            self.denoise(x[fill], s[fill], labels[fill])
        return np.stack([self.known[name] for name in names]).astype(np.float64)


def method_of(name: str, engine: Engine, **options: Any) -> Method:
    """A diffusion classifier with fresh noises."""
    kind: Any = METHODS[name]
    made: Method = kind.of({"engine": engine}, SIGMA, kind.Options(local_noise="fresh", **options))
    return made


def row(name: str, steps: int, engine: Engine, noisy: Noisy) -> dict[str, Any]:
    """One method: how many labels are those of the restated sums, and by how much losses differ."""
    code, net = restatement(), Remembering(engine)
    method: Any = method_of(name, engine, steps=steps, weights="published")
    ours, theirs, worst = [], [], 0.0
    for image in range(len(noisy.x)):
        rows = noisy.rows.chosen(slice(image, image + 1))
        losses = method.losses(noisy.x[image : image + 1], rows)[0]
        shape = noisy.x[image].shape

        def noise(number: int, rows: Any = rows, shape: Any = shape) -> NDArray[np.float64]:
            return np.asarray(method.noise(rows, number)[0].reshape(shape).astype(np.float64))

        expected = np.array(
            [code.published(name, net, noisy.x[image], steps, SIGMA, noise, y, method.classes) for y in range(10)]
        )
        net.forget()
        worst = max(worst, float(np.abs(losses / expected - 1).max()))
        ours.append(int(np.argmin(losses)))
        theirs.append(int(np.argmin(expected)))
    engine.denoise = net.inner  # type: ignore[method-assign]
    return {
        "method": name, "steps": steps, "images": len(ours), "equal": int(np.sum(np.array(ours) == theirs)), "worst": worst,
        "accuracy": float(np.mean(np.array(ours) == noisy.labels)), "labels": ",".join(map(str, ours)),
        "evaluated_again": net.again / max(net.asked, 1),
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--images", type=int, default=100)
    p.add_argument("--steps", type=int, nargs="+", default=[126, 32, 8])
    p.add_argument("--out", type=Path, default=RESULT)
    a = p.parse_args()
    document: dict[str, Any] = json.loads(a.out.read_text()) if a.out.exists() else {"rows": []}
    document |= {"cpu": cpu_model(), "processors": os.cpu_count(), "sigma": SIGMA}
    done = {(r["method"], r["steps"]) for r in document["rows"]}
    noisy = Noisy(a.data, a.images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conditional.onnx"
        checkpoint = ROOT.parent / "export" / "zoo" / "unet.pt"
        export_denoiser("guided-diffusion", checkpoint, "zoo", None, path, conditional=True)
        with open_engine(path, batch=BATCH, role="conditional") as engine:
            document["precision"] = engine.identity["precision"]
            for steps in a.steps:
                for name in METHOD_NAMES:
                    if (name, steps) in done:
                        continue
                    found = row(name, steps, engine, noisy)
                    paper = noisy.labelled(method_of(name, engine, steps=steps))
                    labels = np.array(found["labels"].split(","), dtype=np.int64)
                    found["otherwise_by_paper"] = int(np.sum(paper != labels))
                    found["paper_accuracy"] = float(np.mean(paper == noisy.labels))
                    document["rows"].append(found)
                    a.out.write_text(json.dumps(document, indent=1) + "\n")
                    print({k: v for k, v in found.items() if k != "labels"}, flush=True)


if __name__ == "__main__":
    main()
