"""Contestants measured in turn in one process, so that what the machine does meanwhile happens to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import open_pair
from networks import Pair
from torch_baseline import papers_loop, set_switches

from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.device import Device
from diffsmooth_trt.methods import Method
from diffsmooth_trt.noise import SELECTION, Key, grid_law

KEY = 1


@dataclass
class Contestant:
    """`run(count)` does `count` batches of `batch` samples, or of what else is counted, and waits for the last.

    `ready` sets what it needs of global state.
    """

    batch: float
    run: Callable[[int], None]
    ready: Callable[[], None]

    def seconds(self, count: int) -> float:
        """Of `count` batches."""
        self.ready()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        self.run(count)
        return time.perf_counter() - start


class Steps:
    """The package's own steps of one image, as many under way as the device allows."""

    def __init__(self, method: Method) -> None:
        self.method, self.step = method, Step(method, grid_law(method.sigma), Key(KEY))
        pixels = np.full(int(np.prod(method.input_shape)), 127, np.uint8)
        self.spans = [Span(Block(0, SELECTION, 0, method.batch), pixels, 0, method.batch, 0)]

    def __call__(self, count: int) -> None:
        for _ in range(count):
            if self.step.full:
                self.step.collect()
            self.step.launch(self.spans)
        while self.step.flying:
            self.step.collect()


def ours(
    folder: Path, pair: Pair, engine: str, precision: str, batch: int, device: Device
) -> tuple[Contestant, Method]:
    """The package on its built engines; close the method afterwards."""
    set_switches("ours", precision)
    method = open_pair(folder, pair, engine, precision, batch, device)
    return Contestant(batch, Steps(method), lambda: set_switches("ours", precision)), method


def papers(pair: Pair, kind: str, precision: str, batch: int, mode: str, where: torch.device) -> Contestant:
    """The papers' loop; see torch_baseline.py."""
    loop = papers_loop(pair, kind, precision, mode, where)

    def run(count: int) -> None:
        loop.votes(batch, count)

    return Contestant(batch, run, lambda: set_switches(kind, precision))


def matmul(rehearse: bool) -> Contestant:
    """Products of random bf16 matrices: a "sample" is one TFLOP."""
    size = 256 if rehearse else 8192
    a, b = (torch.randn(size, size, device="cpu" if rehearse else "cuda").bfloat16() for _ in range(2))

    def run(count: int) -> None:
        for _ in range(10 * count):
            torch.matmul(a, b)
        if not rehearse:
            torch.cuda.synchronize()

    return Contestant(20 * size**3 / 1e12, run, lambda: None)


def in_turn(
    contestants: dict[str, Contestant],
    turns: int,
    least: float,
    tell: Callable[[dict[str, list[float]]], None] | None = None,
) -> dict[str, list[float]]:
    """Samples a second of each contestant in each turn, after a warm-up; a turn of one is at least `least` seconds.

    `tell` is given what there is after each turn.
    """
    counts = {}
    for name, each in contestants.items():
        each.seconds(2)
        counts[name] = max(1, int(np.ceil(least / max(each.seconds(1), 1e-9))))
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, each in contestants.items():
            rates[name].append(counts[name] * each.batch / each.seconds(counts[name]))
        if tell is not None:
            tell(rates)
    return rates


def spread(values: list[float]) -> dict[str, Any]:
    """Median, lowest, highest and number of values."""
    return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values), "turns": len(values)}


def ratios(rates: dict[str, list[float]], base: str) -> dict[str, dict[str, Any]]:
    """The spread of `base`'s rate over each other's of the same turn."""
    others = [name for name in rates if name != base]
    return {name: spread([a / b for a, b in zip(rates[base], rates[name], strict=True)]) for name in others}
