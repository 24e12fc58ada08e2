"""The papers' loop in torch, as it is and compiled, for bench.py."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from networks import LOCAL_SIGMA, SIGMA, Pair, classifier, denoisers, in_halves
from torch import nn


class EagerLoop:
    """Certification as the papers' code does it: `torch.randn` noise, fp32 modules one after another, counts on the host."""

    def __init__(self, pair: Pair, device: torch.device, precision: str, wrap: Callable[[nn.Module], Any]) -> None:
        self.pair, self.device = pair, device
        self.unet = wrap(in_halves(denoisers(pair)[0].to(device), precision))
        made = None if pair.classifier is None else classifier(pair, folded=False)
        self.classifier = None if made is None else wrap(in_halves(made[0].to(device), precision))
        self.classes = 1 if made is None else made[1]
        generator = torch.Generator().manual_seed(3)
        shape = (max(1, pair.copies), 1, 3, pair.size, pair.size)
        self.local = (LOCAL_SIGMA * torch.randn(shape, generator=generator)).to(device)
        self.image = torch.full((3, pair.size, pair.size), 0.5, device=device)

    @torch.no_grad()
    def votes(self, batch: int, batches: int) -> list[int]:
        """Counts of `batches` batches of one image."""
        counts = [0] * self.classes
        for _ in range(batches):
            # Else each compiled network begins a step of its own, and the graph's memory that holds `denoised` is taken again.
            torch.compiler.cudagraph_mark_step_begin()
            rows = self.image.repeat((batch, 1, 1, 1))
            denoised = self.unet(rows + SIGMA * torch.randn_like(rows))
            if self.classifier is None:
                labels = denoised[:, 0, 0, 0].long().clamp(0, 0)
            elif not self.pair.copies:
                labels = self.classifier(denoised).argmax(1)
            else:
                total = torch.zeros(batch, self.classes, device=self.device)
                for noise in self.local:
                    total += torch.softmax(self.classifier(denoised + noise), dim=1)
                labels = total.argmax(1)
            for label in labels.cpu().tolist():
                counts[label] += 1
        return counts


def set_switches(kind: str, precision: str) -> None:
    """torch's switches as the loops of `kind` and `precision` have them; "ours": as this package's engines have them.

    Others are PyTorch's own defaults: TF32 in convolutions, not in matrix products.
    """
    torch.backends.cudnn.allow_tf32 = precision != "exact" and kind != "ours"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = kind == "compile"
    torch.backends.cudnn.deterministic = kind == "ours"


def papers_loop(pair: Pair, kind: str, precision: str, mode: str, device: torch.device) -> EagerLoop:
    """The loop, "eager" or "compile"d in torch's `mode` ("none": not compiled, for rehearsals); see `set_switches`."""
    set_switches(kind, precision)

    def wrap(net: nn.Module) -> Any:
        if kind == "eager" or mode == "none":
            return net
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.compile(net, mode=mode)

    return EagerLoop(pair, device, "fp32" if precision == "exact" else precision, wrap)


def torch_rate(
    pair: Pair, kind: str, precision: str, batch: int, seconds: float, mode: str, device: torch.device
) -> dict[str, Any]:
    """Samples a second of `papers_loop`."""
    loop = papers_loop(pair, kind, precision, mode, device)
    loop.votes(batch, 3)
    rates: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(rates) < 3:
        part = time.perf_counter()
        loop.votes(batch, 1)
        rates.append(batch / (time.perf_counter() - part))
    found = {"samples_per_second": float(np.median(rates)), "lowest": min(rates), "highest": max(rates)}
    return found if kind == "eager" else {**found, "mode": mode, "cudnn_benchmark": True}


def ceilings(rehearse: bool) -> Iterator[tuple[str, float]]:
    """(name, value) of what the device does at most, on random data: matrix products in TFLOP/s, a copy in TB/s."""
    where, size = torch.device("cpu" if rehearse else "cuda"), 256 if rehearse else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, dtype in (
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp32", torch.float32),
        ("tf32", torch.float32),
    ):
        a, b = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        yield f"{name}_tflops", 2 * size**3 / torch_seconds(partial(torch.matmul, a, b)) / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    values = torch.randn(1 << (20 if rehearse else 30), device=where)
    target = torch.empty_like(values)
    yield "copy_tb_per_s", 2 * values.nbytes / torch_seconds(lambda: target.copy_(values)) / 1e12


def torch_seconds(work: Callable[[], Any], repeats: int = 10) -> float:
    """The median of seven means of torch's work, after a warm-up."""

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    work()
    found = []
    for _ in range(7):
        wait()
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        wait()
        found.append((time.perf_counter() - start) / repeats)
    return sorted(found)[3]


def give_memory_back() -> None:
    """All that nobody holds any more: call it where no exception is under way, as its traceback holds what has failed."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
