"""Certification speed on one GPU: every engine and precision against the papers' loop and torch.compile, in one run.

    python benchmarks/gpu/bench.py build      # engine files with random weights in the published shapes, kept in --folder
    python benchmarks/gpu/bench.py check      # the noise of the device; what it copies and multiplies in a second
    python benchmarks/gpu/bench.py measure    # samples a second
    python benchmarks/gpu/bench.py latency    # seconds of one small batch
    python benchmarks/gpu/bench.py report     # the table

Needs no network. Each command begins nothing after --minutes and goes on where it stopped when it is called again. What ended the
command, or outlasted it, is a failure and is not tried again but with `--again`, which forgets what the command measures; what
was missing is looked for again. `--rehearse` does all of it at tiny shapes on the CPU, the kernels being those of
csrc/kernels.cu: to try this script, not to time anything. Writes benchmarks/results/speed_gpu.json.

All of it takes hours, most of them compiling. A first session of half an hour takes two pairs at one precision and batch, with
packages that compile in less time (the table's file says which were); with the package installed, or PYTHONPATH its checkout:

    few="--only unet,unet+resnet110x5 --batch 1000"
    python benchmarks/gpu/bench.py check $few
    python benchmarks/gpu/bench.py build $few --precision bf16 --no-autotune
    python benchmarks/gpu/bench.py measure $few --precision bf16 --no-autotune
    python benchmarks/gpu/bench.py measure $few --precision fp32 --engine eager    # what the others are compared with

and then more: measured kernels (`build` and `measure … --engine inductor --again` without --no-autotune), the other batches
and precisions, the other pairs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engines import available, build, file_of, measured, open_pair
from networks import PAIRS, REHEARSED, Missing, Pair, pair_multiply_adds
from results import ROOT, Bench, Named, report
from torch_baseline import ceilings, torch_rate

from diffsmooth_trt.device.selftest import check_device_noise
from diffsmooth_trt.engine.record import read_record
from diffsmooth_trt.noise import grid_law

ENGINES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("fp16", "bf16", "tf32"),
    "onnxruntime": ("fp16", "tf32", "fp32"),
    "inductor": ("fp16", "bf16", "fp32"),
}
# The papers' loop with PyTorch's own defaults (TF32 in convolutions), with TF32 off ("exact"), and in halves; then compiled.
TORCH: dict[str, tuple[str, ...]] = {"eager": ("fp32", "exact", "bf16"), "compile": ("fp16", "bf16")}
BATCHES = {32: (256, 1000, 4096), 224: (16, 64, 256)}
SMALL = (1, 2, 4, 8)
TINY = (2, 4)  # a rehearsal's


@dataclass(frozen=True)
class Asked:
    """What is built and measured; of pairs, engines, precisions and batches those that are named, all where none is."""

    small: bool
    autotune: bool
    pairs: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()

    def subjects(self, bench: Bench, known: dict[str, tuple[str, ...]]) -> Iterator[tuple[Pair, str, str, int]]:
        """(pair, engine, precision, batch) of the engines of `known`."""
        for pair in bench.pairs.values():
            for engine, precisions in known.items():
                if bench.rehearse and engine == "onnxruntime":
                    precisions = ("fp32",)
                for precision in precisions:
                    for batch in TINY if bench.rehearse else SMALL if self.small else BATCHES[pair.size]:
                        parts = (pair.name, engine, precision, batch)
                        wanted: Any = (self.pairs, self.engines, self.precisions, self.batches)
                        if all(part in some or not some for part, some in zip(parts, wanted, strict=True)):
                            yield pair, engine, precision, batch


def _built(
    bench: Bench, asked: Asked, pair: Pair, role: str, engine: str, precision: str, batch: int, out: Path
) -> dict[str, Any]:
    available(engine, rehearse=bench.rehearse)
    start = time.perf_counter()
    build(pair, role, engine, precision, batch, out, asked.autotune)
    return {"seconds": time.perf_counter() - start}


def build_all(bench: Bench, asked: Asked) -> None:
    """Every engine file that this machine can build."""

    def names() -> Iterator[Named]:
        for pair, engine, precision, batch in asked.subjects(bench, ENGINES):
            for role in ("denoiser", *(("classifier",) if pair.classifier else ())):
                out = file_of(bench.folder, pair, role, engine, precision, batch)
                name = f"build {out.name}"
                if bench.again:
                    out.unlink(missing_ok=True)
                if not out.exists() and "seconds" in bench.results.get(name, {}):
                    del bench.results[name]  # the folder was emptied since
                yield name, partial(_built, bench, asked, pair, role, engine, precision, batch, out)

    bench.each(names())


def _where(bench: Bench) -> torch.device:
    return torch.device("cpu" if bench.rehearse else "cuda")


def check(bench: Bench, asked: Asked) -> None:
    """Noise of the device against the sampler's, and what the device can do at most."""

    def noise() -> dict[str, Any]:
        device = bench.device()
        for sigma in (0.12, 0.25, 0.5, 1.0):
            check_device_noise(grid_law(sigma), device)
        return {"sigmas": [0.12, 0.25, 0.5, 1.0], "bits": "equal to the sampler's"}

    def network(pair: Pair) -> dict[str, Any]:
        return {"multiply_adds": pair_multiply_adds(pair)}

    pairs = [pair for pair in bench.pairs.values() if not asked.pairs or pair.name in asked.pairs]
    networks = [(f"multiply-adds {pair.name}", partial(network, pair)) for pair in pairs]
    bench.each([("noise", noise), ("ceilings", lambda: dict(ceilings(bench.rehearse))), *networks])


def _ours(bench: Bench, pair: Pair, engine: str, precision: str, batch: int, seconds: float) -> dict[str, Any]:
    available(engine, rehearse=bench.rehearse)
    file = file_of(bench.folder, pair, "denoiser", engine, precision, batch)
    if not file.exists():
        raise Missing("its engine file: call build first")
    built = {"autotuned": read_record(file, "pt2").settings["autotune"]} if engine == "inductor" else {}
    device = bench.device()
    method = open_pair(bench.folder, pair, engine, precision, batch, device)
    try:
        found = {**measured(method, seconds), **built}
        found.pop("kernels", None)
        return found
    finally:
        method.close()
        device.release()


def measure(bench: Bench, asked: Asked) -> None:
    """Ours, and then torch's."""
    seconds = 0.1 if bench.rehearse else 3.0
    prefix = "latency" if asked.small else "speed"
    mode = "default" if bench.rehearse else "max-autotune" if asked.autotune else "reduce-overhead"

    def names() -> Iterator[Named]:
        for pair, engine, precision, batch in asked.subjects(bench, ENGINES):
            work = partial(_ours, bench, pair, engine, precision, batch, seconds)
            yield f"{prefix} {pair.name} {engine} {precision} b{batch}", work
        for pair, kind, precision, batch in asked.subjects(bench, TORCH):
            work = partial(torch_rate, pair, kind, precision, batch, seconds, mode, _where(bench))
            yield f"{prefix} {pair.name} {kind} {precision} b{batch}", work

    bench.each(names())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("command", choices=("build", "check", "measure", "latency", "report"))
    p.add_argument("--folder", type=Path, default=ROOT / "build" / "bench_gpu", help="engine files")
    p.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "speed_gpu.json")
    p.add_argument("--minutes", type=float, default=8.5)
    p.add_argument("--small", action="store_true", help="build: for the batches of latency")
    p.add_argument("--only", metavar="PAIR,…", type=_list, default=(), help="these pairs")
    p.add_argument("--engine", metavar="ENGINE,…", type=_list, default=(), help="these engines, eager and compile too")
    p.add_argument("--precision", metavar="PRECISION,…", type=_list, default=(), help="these precisions")
    p.add_argument("--batch", metavar="ROWS,…", type=_list, default=(), help="these batch sizes")
    p.add_argument("--no-autotune", action="store_true", help="compile in less time, with kernels that no timing chose")
    p.add_argument("--again", action="store_true", help="forget what this command measures, and measure it again")
    p.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    a = p.parse_args()
    engines = {**ENGINES, **TORCH}
    sizes = {str(size) for some in (*BATCHES.values(), SMALL, TINY) for size in some}
    for option, given, known in (
        ("--only", a.only, REHEARSED if a.rehearse else PAIRS),
        ("--engine", a.engine, engines),
        ("--precision", a.precision, {each for some in engines.values() for each in some}),
        ("--batch", a.batch, sizes),
    ):
        if unknown := [each for each in given if each not in known]:
            p.error(f"{option} {unknown[0]} is unknown: use {', '.join(sorted(known))}")
    if a.rehearse and a.out == p.get_default("out"):
        a.out = a.folder.with_name("bench_gpu_rehearsal.json")
        a.folder = a.folder.with_name("bench_gpu_rehearsal")
    a.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(a.out, a.folder, a.minutes, a.rehearse, a.again)
    small = a.small if a.command == "build" else a.command == "latency"
    asked = Asked(small, not a.no_autotune, a.only, a.engine, a.precision, tuple(map(int, a.batch)))
    commands = {"build": build_all, "check": check, "measure": measure, "latency": measure}
    if a.command in commands:
        commands[a.command](bench, asked)
    print(report(bench))


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
