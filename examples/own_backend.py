"""A backend of your own: one class, one line in BACKENDS. Here: ONNX's own evaluator, slow and easy to read.

    python examples/own_backend.py

It certifies an image of the zoo by `certify --backend reference`, and draws the votes again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.device import CPU, Device
from diffsmooth_trt.dtypes import Floats32
from diffsmooth_trt.engine import BACKENDS, Engine
from diffsmooth_trt.engine.base import Inputs
from diffsmooth_trt.engine.graph import GraphFile
from diffsmooth_trt.errors import InputError


class ReferenceEngine(Engine):
    """An `.onnx` file in `onnx.reference`. The package has proved its rows independent, and probes it once it is open."""

    backend = "reference"

    def __init__(
        self, file: GraphFile, batch: int, *, device: Device = CPU, precision: str | None, threads: int | None
    ) -> None:
        if precision not in (None, "fp32") or file.facts.precision != "fp32":
            raise InputError("--backend reference computes in fp32: leave --precision out, and give an fp32 file")
        super().__init__(file.path, file.facts, batch, device, sha256=file.sha256)
        self.evaluator = ReferenceEvaluator(str(file.path))
        self.names = self.evaluator.input_names
        self.identity |= {"version": onnx.__version__, "precision": "fp32"}  # whatever decides an output

    @classmethod
    def graph_rows(cls, batch: int) -> set[int]:
        return {1}

    def _run(self, inputs: Inputs) -> Floats32:
        """Row by row: NumPy's matrix products round a row by its place in the batch, which the probe at opening finds."""
        rows = (
            dict(zip(self.names, (part[row : row + 1] for part in inputs), strict=True)) for row in range(self.batch)
        )
        return np.concatenate([next(iter(self.evaluator.run(None, row))) for row in rows]).astype(np.float32)


BACKENDS["reference"] = lambda: ReferenceEngine

if __name__ == "__main__":
    asked: dict[str, Any] = {
        "method": "rs",
        "sigma": 0.12,
        "max": 1,
        "n0": 4,
        "n": 12,
        "alpha": 0.1,
        "batch": 8,
        "backend": "reference",
    }
    with dst.certify(engine=zoo.CLASSIFIER_DDS, data=zoo.IMAGES, out="reference.sqlite", **asked) as run:
        for result in run.results():
            print(result.image, result.predict, f"{result.radius:.4f}")
    print(dst.verify("reference.sqlite", fraction=1).verdict)
