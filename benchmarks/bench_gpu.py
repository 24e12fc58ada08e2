"""Certification speed on one GPU: every engine and precision against the papers' loop and torch.compile, in one run.

    python benchmarks/bench_gpu.py build      # engine files with random weights in the published shapes, kept in --folder
    python benchmarks/bench_gpu.py check      # the noise of the device; what it copies and multiplies in a second
    python benchmarks/bench_gpu.py measure    # samples a second
    python benchmarks/bench_gpu.py latency    # seconds of one small batch
    python benchmarks/bench_gpu.py report     # the table

Needs no network. Each command stops after --minutes and goes on where it stopped when it is called again; `--again` forgets what
was measured. Engines that the machine lacks are reported as missing. `--rehearse` does all of it at tiny shapes on the CPU,
the kernels being those of csrc/kernels.cu: to try this script, not to time anything. Writes benchmarks/results/speed_gpu.json.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_engines import attempt, available, build, file_of, measured, open_pair
from gpu_networks import PAIRS, REHEARSED, EagerLoop, Missing, Pair, pair_multiply_adds

from diffsmooth_trt.device import Device, open_device
from diffsmooth_trt.device.selftest import check_device_noise
from diffsmooth_trt.noise import grid_law

ROOT = Path(__file__).resolve().parent
ENGINES = {
    "tensorrt": ("fp16", "bf16", "tf32"),
    "onnxruntime": ("fp16", "tf32", "fp32"),
    "inductor": ("fp16", "bf16", "fp32"),
}
BATCHES = {32: (256, 1000, 4096), 224: (16, 64, 256)}
SMALL = (1, 2, 4, 8)
# The papers' loop with PyTorch's own defaults (TF32 in convolutions), with TF32 off ("exact"), and in halves; then compiled.
TORCH = {"eager": ("fp32", "exact", "bf16"), "compile": ("fp16", "bf16")}
Named = tuple[str, Callable[[], dict[str, Any]]]
N0 = 100


class Bench:
    """The measurements, kept in a file after each; `minutes` are for one command."""

    def __init__(self, path: Path, folder: Path, minutes: float, rehearse: bool, again: bool) -> None:
        self.path, self.folder, self.rehearse = path, folder, rehearse
        self.end = time.monotonic() + 60 * minutes
        self.pairs = REHEARSED if rehearse else PAIRS
        folder.mkdir(parents=True, exist_ok=True)
        kept = json.loads(path.read_text()) if path.exists() and not again else {}
        self.document: dict[str, Any] = {"machine": machine(rehearse), "results": {}, **kept}
        if self.document["machine"] != machine(rehearse):
            raise SystemExit(
                f"{path} was measured on another machine or with other versions: pass --again to begin anew"
            )

    def device(self) -> Device:
        if not self.rehearse:
            return open_device("cuda:0")
        return rehearsal_device()

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """Write a result down at once."""
        self.document["results"][name] = found
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.document, indent=1, sort_keys=True) + "\n")
        draft.replace(self.path)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found.items()}
        print(f"{name}: {shown}", flush=True)

    def each(self, names: Iterator[Named]) -> None:
        """Measure what has no result yet, until the minutes are over."""
        for name, work in names:
            if name in self.document["results"]:
                continue
            if time.monotonic() > self.end:
                print("time is over: the same command again goes on from here")
                return
            found = attempt(work)
            give_memory_back()
            self.keep(name, found)


def machine(rehearse: bool) -> dict[str, Any]:
    """Device, driver and versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "rehearsal": rehearse}
    for package in (
        "diffsmooth-trt",
        "numpy",
        "cupy-cuda13x",
        "onnxruntime",
        "onnxruntime-gpu",
        "tensorrt",
        "triton",
        "timm",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if not rehearse:
        from diffsmooth_trt.engine.nvidia import find_gpu

        gpu = find_gpu(0)
        found |= {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver}
    return found


@cache
def rehearsal_device() -> Device:
    """The device of the tests: the kernels on the processor, ONNX Runtime's engines on it."""
    from diffsmooth_trt.engine import BACKENDS

    spec = importlib.util.spec_from_file_location("host_device", ROOT.parent / "tests" / "host_device.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    BACKENDS["onnxruntime"] = lambda: module.LateEngine
    with tempfile.TemporaryDirectory() as folder:
        library = sys.modules["tests_host_kernels"].compile_kernels(Path(folder))
    device: Device = module.HostDevice(library)
    return device


def subjects(bench: Bench, small: bool = False) -> Iterator[tuple[Pair, str, str, int]]:
    """(pair, engine, precision, batch) of every measurement of ours."""
    for pair in bench.pairs.values():
        sizes = (2, 4) if bench.rehearse else SMALL if small else BATCHES[pair.size]
        for engine, precisions in ENGINES.items():
            for precision in ("fp32",) if bench.rehearse and engine == "onnxruntime" else precisions:
                for batch in sizes:
                    yield pair, engine, precision, batch


def _built(bench: Bench, pair: Pair, role: str, engine: str, precision: str, batch: int, out: Path) -> dict[str, Any]:
    available(engine, rehearse=bench.rehearse)
    start = time.perf_counter()
    build(pair, role, engine, precision, batch, out)
    return {"seconds": time.perf_counter() - start}


def build_all(bench: Bench, small: bool) -> None:
    """Every engine file that this machine can build."""

    def names() -> Iterator[Named]:
        for pair, engine, precision, batch in subjects(bench, small):
            for role in ("denoiser", *(("classifier",) if pair.classifier else ())):
                out = file_of(bench.folder, pair, role, engine, precision, batch)
                name = f"build {out.name}"
                if not out.exists() and "seconds" in bench.document["results"].get(name, {}):
                    del bench.document["results"][name]  # the folder was emptied since
                yield name, partial(_built, bench, pair, role, engine, precision, batch, out)

    bench.each(names())


def check(bench: Bench) -> None:
    """Noise of the device against the sampler's, and what the device can do at most."""

    def noise() -> dict[str, Any]:
        device = bench.device()
        for sigma in (0.12, 0.25, 0.5, 1.0):
            check_device_noise(grid_law(sigma), device)
        return {"sigmas": [0.12, 0.25, 0.5, 1.0], "bits": "equal to the sampler's"}

    where = torch.device("cpu" if bench.rehearse else "cuda")

    def ceilings() -> dict[str, Any]:
        size, found = (256 if bench.rehearse else 8192), {}
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
            a, b = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
            torch.backends.cuda.matmul.allow_tf32 = False
            found[f"{name}_tflops"] = 2 * size**3 / torch_seconds(partial(torch.matmul, a, b)) / 1e12
            if name == "fp32" and not bench.rehearse:
                torch.backends.cuda.matmul.allow_tf32 = True
                found["tf32_tflops"] = 2 * size**3 / torch_seconds(partial(torch.matmul, a, b)) / 1e12
        values = torch.randn(1 << (20 if bench.rehearse else 30), device=where)
        target = torch.empty_like(values)
        found["copy_tb_per_s"] = 2 * values.nbytes / torch_seconds(lambda: target.copy_(values)) / 1e12
        return found

    def network(pair: Pair) -> dict[str, Any]:
        return {"multiply_adds": pair_multiply_adds(pair)}

    networks = [(f"multiply-adds {pair.name}", partial(network, pair)) for pair in bench.pairs.values()]
    bench.each(iter([("noise", noise), ("ceilings", ceilings), *networks]))


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


def torch_rate(pair: Pair, kind: str, precision: str, batch: int, seconds: float, rehearse: bool) -> dict[str, Any]:
    """Samples a second of the eager or the compiled loop."""
    device = torch.device("cpu" if rehearse else "cuda")
    exact = precision == "exact"
    # PyTorch's own defaults: TF32 in convolutions, not in matrix products
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = not exact, False
    torch.backends.cudnn.benchmark = kind == "compile"
    mode = "default" if rehearse else "max-autotune"

    def wrap(net: torch.nn.Module) -> Any:
        if kind == "eager":
            return net
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.compile(net, mode=mode)

    loop = EagerLoop(pair, device, "fp32" if exact else precision, wrap)
    loop.votes(batch, 3)
    rates: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(rates) < 3:
        part = time.perf_counter()
        loop.votes(batch, 1)
        rates.append(batch / (time.perf_counter() - part))
    return {"samples_per_second": float(np.median(rates)), "lowest": min(rates), "highest": max(rates)}


def _ours(bench: Bench, pair: Pair, engine: str, precision: str, batch: int, seconds: float) -> dict[str, Any]:
    available(engine, rehearse=bench.rehearse)
    if not file_of(bench.folder, pair, "denoiser", engine, precision, batch).exists():
        raise Missing("its engine file: call build first")
    device = bench.device()
    method = open_pair(bench.folder, pair, engine, precision, batch, device)
    try:
        return measured(method, seconds)
    finally:
        method.close()
        device.release()


def measure(bench: Bench, small: bool) -> None:
    """Ours and torch's, batch by batch."""
    seconds = 0.1 if bench.rehearse else 3.0
    prefix = "latency" if small else "speed"

    def names() -> Iterator[Named]:
        for pair in bench.pairs.values():
            sizes = (2,) if bench.rehearse else SMALL if small else BATCHES[pair.size]
            for kind, precision in ((kind, precision) for kind, known in TORCH.items() for precision in known):
                for batch in sizes:
                    work = partial(torch_rate, pair, kind, precision, batch, seconds, bench.rehearse)
                    yield f"{prefix} {pair.name} {kind} {precision} b{batch}", work
        for pair, engine, precision, batch in subjects(bench, small):
            work = partial(_ours, bench, pair, engine, precision, batch, seconds)
            yield f"{prefix} {pair.name} {engine} {precision} b{batch}", work

    bench.each(names())


def report(bench: Bench) -> str:
    """A line a measurement: rate, certificate, arithmetic, and the shares of a step that are not the networks'."""
    results = bench.document["results"]
    about = ", ".join(f"{name} {value}" for name, value in bench.document["machine"].items() if value)
    lines = [about, f"ceilings: {results.get('ceilings', {})}", ""]
    head = ("samples/s", "s a certificate", "ms a batch", "TFLOP/s", "of matmul", "noise+votes", "idle", "× eager")
    lines.append(f"{'subject':>44}" + "".join(f"{name:>16}" for name in head))
    absent: dict[str, list[str]] = {}
    for name in sorted(name for name in results if name.startswith(("speed ", "latency "))):
        if "samples_per_second" in results[name]:
            lines.append(f"{name:>44}" + "".join(f"{cell:>16}" for cell in _cells(bench, name)))
        else:
            why = "; ".join(f"{key}: {value}" for key, value in results[name].items())
            absent.setdefault(f"{name.split()[2]} {why}", []).append(name)
    return "\n".join([*lines, *(f"{why} ({len(names)} measurements)" for why, names in absent.items())])


def _cells(bench: Bench, name: str) -> list[str]:
    results, found = bench.document["results"], bench.document["results"][name]
    kind, pair, _, precision, size = name.split()
    rate, of = found["samples_per_second"], results.get(f"multiply-adds {pair}", {}).get("multiply_adds")
    tflops = 2 * of * rate / 1e12 if of else None
    top = results.get("ceilings", {}).get(f"{'fp32' if precision == 'exact' else precision}_tflops")
    base = results.get(f"{kind} {pair} eager fp32 {size}", {}).get("samples_per_second")
    certificate = (N0 + bench.pairs[pair].n) / rate if pair in bench.pairs else None
    wait = found.get("latency_milliseconds", 1000 * int(size[1:]) / rate)
    return [
        *(f"{rate:.1f}", _cell(certificate, ".1f"), _cell(wait, ".2f"), _cell(tflops, ".3g")),
        _cell(tflops / top if tflops and top else None, ".1%"),
        *(_cell(found.get(share), ".2%") for share in ("noise_and_votes_share", "idle_share")),
        _cell(rate / base if base else None, ".2f"),
    ]


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("command", choices=("build", "check", "measure", "latency", "report"))
    p.add_argument("--folder", type=Path, default=ROOT.parent / "build" / "bench_gpu", help="engine files")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "speed_gpu.json")
    p.add_argument("--minutes", type=float, default=8.5)
    p.add_argument("--small", action="store_true", help="build: for the batches of latency")
    p.add_argument("--only", metavar="PAIR,…", help="these pairs")
    p.add_argument("--again", action="store_true", help="forget what was measured")
    p.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    a = p.parse_args()
    if a.rehearse and a.out == p.get_default("out"):
        a.out = a.folder.with_name("bench_gpu_rehearsal.json")
        a.folder = a.folder.with_name("bench_gpu_rehearsal")
    a.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(a.out, a.folder, a.minutes, a.rehearse, a.again)
    if a.only:
        bench.pairs = {name: pair for name, pair in bench.pairs.items() if name in a.only.split(",")}
    if a.command == "build":
        build_all(bench, a.small)
    elif a.command == "check":
        check(bench)
    elif a.command != "report":
        measure(bench, small=a.command == "latency")
    print(report(bench))


if __name__ == "__main__":
    main()
