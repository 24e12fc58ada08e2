"""Small joint models that need no torch: detectors and classifiers written out as ONNX, and sets of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from diffsmooth_trt.engine import EngineFacts

SHAPE = (3, 4, 4)


@pytest.fixture(scope="session")
def small_detector(tmp_path_factory: pytest.TempPathFactory, write_graph: Callable[..., Path]) -> Callable[..., Path]:
    """`make(sign=-1, …)`: conv-relu-pool-linear-relu-linear on SHAPE with random weights, the last ones of one sign."""

    def make(sign: float = -1.0, *, seed: int = 0, bias: float = 2.0, scale: float = 0.3) -> Path:
        rng = np.random.default_rng(seed)
        weights = {
            "w1": rng.normal(0, 0.4, (6, 3, 3, 3)), "b1": rng.normal(0, 0.2, 6),
            "w2": rng.normal(0, 0.5, (24, 5)), "b2": rng.normal(0, 0.2, 5),
            "w3": sign * scale * (0.2 + rng.random((5, 1))), "b3": np.array([bias]),
        }  # fmt: skip
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["h"]),
            helper.make_node("Relu", ["h"], ["g"]),
            helper.make_node("Gemm", ["g", "w3", "b3"], ["y"]),
        ]
        values = {name: value.astype(np.float32) for name, value in weights.items()}
        path = tmp_path_factory.mktemp("detector") / "detector.onnx"
        return write_graph(path, nodes, values, [1], EngineFacts("detector", SHAPE), SHAPE, "B")

    return make


@pytest.fixture
def image_set(tmp_path: Path) -> Callable[..., Path]:
    """`make(name, count, low, high)`: random images with values of low…high − 1 in an .npz of that name."""

    def make(name: str, count: int = 12, low: int = 0, high: int = 256, shape: tuple[int, int, int] = SHAPE) -> Path:
        rng = np.random.default_rng(len(name) + low)
        path = tmp_path / f"{name}.npz"
        pixels = rng.integers(low, high, (count, shape[1], shape[2], shape[0]), dtype=np.uint8)
        np.savez(path, images=pixels, labels=rng.integers(0, 2, count))
        return path

    return make
