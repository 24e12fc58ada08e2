"""The DiffSmooth predictor on the zoo: accuracy, log-loss and time at several parameters, and how far keys agree.

    python benchmarks/bench_predictor.py [--max 100]

Each row predicts the zoo's 100 images under two keys. Writes benchmarks/results/predictor.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_noise import cpu_model

from diffsmooth_trt import zoo
from diffsmooth_trt.images import Images
from diffsmooth_trt.noise import Key
from diffsmooth_trt.predictor import DiffSmoothPredictor
from diffsmooth_trt.runs.identity import versions

RESULTS = Path(__file__).resolve().parent / "results"
KEYS = (1, 2)
ROWS: list[dict[str, Any]] = [
    {"denoising_sigma": 0, "num_samples": 1, "local_vote": 5},
    {"denoising_sigma": 0.25, "num_samples": 1, "local_vote": 1},
    {"denoising_sigma": 0.25, "num_samples": 20, "local_vote": 1},
    {"denoising_sigma": 0.25, "num_samples": 20, "local_vote": 5},
]


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--max", type=int, default=100)
    a = p.parse_args()
    images = list(Images(zoo.IMAGES, limit=a.max))
    x, labels = np.stack([image.pixels for image in images]), np.array([image.label for image in images])
    numbers, rows = np.array([image.index for image in images]), []
    for options in ROWS:
        denoiser = zoo.DENOISER if options["denoising_sigma"] else None
        answers, losses, seconds, right = [], [], [], []
        for number in KEYS:
            with DiffSmoothPredictor(zoo.CLASSIFIER_DIFFSMOOTH, denoiser, key=Key(number), **options) as predictor:
                start = time.perf_counter()
                logs = predictor.predict_log_proba(x, numbers)
                seconds.append(time.perf_counter() - start)
            answers.append(logs.argmax(axis=1))
            losses.append(-float(logs[np.arange(len(x)), labels].mean()))
            right.append(int((answers[-1] == labels).sum()))
        same = int((answers[0] == answers[1]).sum())
        rows.append({**options, "local_sigma": 0.12, "right": right, "loss": losses, "same": same, "seconds": seconds})
        print(rows[-1], flush=True)
    document = {"images": len(x), "machine": {**versions(), "cpu": cpu_model()}, "rows": rows}
    RESULTS.joinpath("predictor.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
