"""What bench.py has measured: kept in a file after each measurement, and shown as a table."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from engines import attempt, session_device
from networks import PAIRS, REHEARSED
from torch_baseline import give_memory_back

from diffsmooth_trt.device import Device

ROOT = Path(__file__).resolve().parents[2]
Named = tuple[str, Callable[[], dict[str, Any]]]
N0 = 100
UNFINISHED = {"failed": "did not finish"}
PACKAGES = ("diffsmooth-trt", "numpy", "cupy-cuda13x", "onnxruntime", "onnxruntime-gpu", "tensorrt", "triton", "timm")


class Bench:
    """The measurements, kept in a file after each; `minutes` are for one command, `again` forgets what it measures."""

    def __init__(self, path: Path, folder: Path, minutes: float, rehearse: bool, again: bool) -> None:
        self.path, self.folder, self.rehearse, self.again = path, folder, rehearse, again
        self.end = time.monotonic() + 60 * minutes
        self.pairs = REHEARSED if rehearse else PAIRS
        folder.mkdir(parents=True, exist_ok=True)
        here = machine(rehearse)
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept and kept["machine"] != here:
            if not again:
                raise SystemExit(
                    f"{path} was measured on another machine or with other versions: pass --again to begin anew"
                )
            kept = {}
        self.document: dict[str, Any] = {"machine": here, "results": {}, **kept}

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """What was found, by name."""
        found: dict[str, dict[str, Any]] = self.document["results"]
        return found

    def device(self) -> Device:
        """A GPU of its own for each measurement, or what stands for one."""
        return session_device(self.rehearse)

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """Write a result down at once."""
        self.results[name] = found
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.document, indent=1, sort_keys=True) + "\n")
        draft.replace(self.path)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found.items()}
        print("…" if found == UNFINISHED else f"{name}: {shown}", flush=True)

    def each(self, named: Iterable[Named]) -> None:
        """Measure what has no result yet, or what was missing here, until the minutes are over.

        What begins is written down as failed: where it takes the whole process with it, or all of the time, the next command
        goes on behind it.
        """
        items = dict(named)
        if self.again:
            for name in items:
                self.results.pop(name, None)
        for name, work in items.items():
            if name in self.results and "missing" not in self.results[name]:
                continue
            if time.monotonic() > self.end:
                print("time is over: the same command again (without --again) goes on from here")
                return
            print(name, end=" ")
            self.keep(name, UNFINISHED)
            found = attempt(work)
            give_memory_back()
            self.keep(name, found)


def machine(rehearse: bool) -> dict[str, Any]:
    """Device, driver and versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "rehearsal": rehearse}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if not rehearse:
        from diffsmooth_trt.device.nvidia import find_gpu

        gpu = find_gpu(0)
        found |= {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver}
    return found


def report(bench: Bench) -> str:
    """A line a measurement: rate, certificate, arithmetic, the share of the GPU's work that is ours (noise, softmax, votes) and
    the share of the time that it has none.
    """
    results = bench.results
    about = ", ".join(f"{name} {value}" for name, value in bench.document["machine"].items() if value)
    lines = [about, f"ceilings: {results.get('ceilings', {})}", ""]
    head = ("samples/s", "s a certificate", "ms a batch", "TFLOP/s", "of matmul", "own kernels", "idle", "× eager")
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
    results, found = bench.results, bench.results[name]
    kind, pair, engine, precision, size = name.split()
    rate, of = found["samples_per_second"], results.get(f"multiply-adds {pair}", {}).get("multiply_adds")
    tflops = 2 * of * rate / 1e12 if of else None
    # PyTorch's own fp32 has TF32 in convolutions, which is nearly all of it
    kinds = {("eager", "fp32"): "tf32", ("eager", "exact"): "fp32"}
    top = results.get("ceilings", {}).get(f"{kinds.get((engine, precision), precision)}_tflops")
    base = results.get(f"{kind} {pair} eager fp32 {size}", {}).get("samples_per_second")
    certificate = (N0 + bench.pairs[pair].n) / rate if pair in bench.pairs else None
    wait = found.get("latency_milliseconds", 1000 * int(size[1:]) / rate)
    return [
        *(f"{rate:.1f}", _cell(certificate, ".1f"), _cell(wait, ".2f"), _cell(tflops, ".3g")),
        _cell(tflops / top if tflops and top else None, ".1%"),
        *(_cell(found.get(share), ".2%") for share in ("own_kernels_share", "idle_share")),
        _cell(rate / base if base else None, ".2f"),
    ]


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
