"""Engine files of the pairs for bench.py: built once into a folder, and run by the package's own step."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from networks import SIGMA, Missing, Pair, classifier, denoisers, in_precision
from torch import nn

from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.device import Array, Device, open_device
from diffsmooth_trt.engine import Engine, EngineFacts, open_engine
from diffsmooth_trt.errors import InputError, shortened
from diffsmooth_trt.exporting.checks.inputs import ImageCheck
from diffsmooth_trt.exporting.writers.onnx import _append_facts, _save, trace
from diffsmooth_trt.methods import DenoisedSmoothing, DiffSmooth, Method, Rows
from diffsmooth_trt.noise import SELECTION, Key, grid_law

ROOT = Path(__file__).resolve().parents[2]
COUPLED = "bits depend on the place in the batch"
SUFFIXES = {"inductor": ".pt2", "onnxruntime": ".onnx", "tensorrt": ".plan"}


def available(engine: str, *, rehearse: bool) -> None:
    """Raise Missing unless `engine` can be built and run on this machine."""
    if rehearse:
        if engine != "onnxruntime":
            raise Missing("no GPU in a rehearsal")
        return
    if engine == "onnxruntime":
        import onnxruntime as ort

        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise Missing(f"onnxruntime {ort.__version__} has no CUDA provider")
    elif engine == "tensorrt":
        from diffsmooth_trt.device.nvidia import import_tensorrt

        try:
            import_tensorrt()
        except InputError as error:
            raise Missing(str(error)) from None
    elif not torch.cuda.is_available():
        raise Missing(f"torch {torch.__version__} sees no GPU")


def file_of(folder: Path, pair: Pair, role: str, engine: str, precision: str, batch: int) -> Path:
    """Where an engine file is; networks are shared between pairs."""
    net = pair.unet if role == "denoiser" else f"{pair.classifier}@{pair.size}"
    if engine == "onnxruntime":  # one file for every batch size, and for fp32 with and without TF32
        return folder / f"{net}-{'fp32' if precision == 'tf32' else precision}.onnx"
    return folder / f"{net}-{precision}-b{batch}{SUFFIXES[engine]}"


def facts_of(pair: Pair, role: str, precision: str, classes: int | None) -> EngineFacts:
    """The facts of a random network."""
    shape = (3, pair.size, pair.size)
    kept = "fp32" if precision == "tf32" else precision
    return EngineFacts(role, shape, classes=classes, sigma=SIGMA if role == "denoiser" else None, precision=kept)


def build(pair: Pair, role: str, engine: str, precision: str, batch: int, out: Path, autotune: bool) -> None:
    """Write one engine file; nothing where it is there already. `autotune` is for packages."""
    if out.exists():
        return
    net, classes = (denoisers(pair)[1], None) if role == "denoiser" else classifier(pair, folded=True)
    facts = facts_of(pair, role, precision, classes)
    if engine == "inductor":
        from diffsmooth_trt.exporting.writers.onnx_half import Request
        from diffsmooth_trt.exporting.writers.package import PackageSettings, write_package

        check, settings = ImageCheck(net, facts.input_shape, SIGMA), PackageSettings(precision, "cuda:0", autotune)
        few = Request(precision, verify_samples=32)  # random weights, which the CPU would take minutes for
        write_package(net.float(), check, facts, out, batch, settings, request=few)
    else:
        onnx = file_of(out.parent, pair, role, "onnxruntime", precision, batch)
        if not onnx.exists():
            _onnx(in_precision(net, precision).eval(), facts, onnx)
        if engine == "tensorrt":
            from diffsmooth_trt.exporting.plan import build_uncompared
            from diffsmooth_trt.exporting.writers.tensorrt_settings import PlanSettings

            build_uncompared(onnx, out, batch, PlanSettings(tf32=precision == "tf32"), out.parent / "timing.cache")


def _onnx(module: nn.Module, facts: EngineFacts, out: Path) -> None:
    """One file for every batch size; not compared with its source, as it holds random weights for timing alone."""
    model = trace(module, ImageCheck(module, facts.input_shape, SIGMA), None)
    files = _save(model, out.parent, f"draft-{out.name}")
    _append_facts(files[-1], facts)
    files[-1].rename(out)


def session_device(rehearse: bool) -> Device:
    """The first GPU, or what stands for one."""
    return rehearsal_device() if rehearse else open_device("cuda:0")


@cache
def rehearsal_device() -> Device:
    """The device of the tests: the kernels on the processor, ONNX Runtime's engines on it."""
    from diffsmooth_trt.engine import BACKENDS

    spec = importlib.util.spec_from_file_location("host_device", ROOT / "tests" / "support" / "host_device.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        library = sys.modules["tests_host_kernels"].compile_kernels(Path(folder))
    device: Device = module.HostDevice(library)
    real = BACKENDS["onnxruntime"]
    BACKENDS["onnxruntime"] = lambda: module.Either(device, module.LateEngine, real())
    return device


class Alone(Method):
    """A denoiser by itself, for its speed: every sample votes for class 0."""

    name = "alone"

    def __init__(self, denoiser: Engine) -> None:
        super().__init__(denoiser, denoiser.facts.input_shape, SIGMA)
        self.classes = 1
        with self.device.errors():
            self.zeros = self.device.asarray(np.zeros(self.batch, np.int64))

    def labels(self, noisy: Array, rows: Rows) -> Array:
        self.classifier.run(noisy, nhwc=self.noisy_nhwc)
        return self.zeros


def open_pair(folder: Path, pair: Pair, engine: str, precision: str, batch: int, device: Device) -> Method:
    """The pair's method on its built engines. Where bits of a row depend on its place in the batch that is noted, not refused."""
    asked = precision if engine == "onnxruntime" and precision in ("fp32", "tf32") else None
    if not device.name.startswith("cuda"):
        asked = "fp32"
    options: dict[str, Any] = {"batch": batch, "device": device, "precision": asked}
    options["backend"] = None if engine == "inductor" else engine

    def opened(role: str) -> Engine:
        path = file_of(folder, pair, role, engine, precision, batch)
        try:
            return open_engine(path, role=role, **options)
        except InputError as error:
            if "coupled" not in str(error):
                raise
            with mock.patch.object(Engine, "probe", return_value=COUPLED):
                return open_engine(path, role=role, **options)

    denoiser = opened("denoiser")
    if pair.classifier is None:
        return Alone(denoiser)
    if not pair.copies:
        return DenoisedSmoothing(denoiser, opened("classifier"))
    return DiffSmooth(denoiser, opened("classifier"), local_sigma=0.12, copies=pair.copies, seed=0)


def kernel_seconds(step: Step, spans: list[Span], batches: int = 10) -> dict[str, float]:
    """Seconds a batch that the GPU spends in each kernel, by name, whichever library launched it, as torch's profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(batches):
            step.launch(spans)
            step.collect()
    return {each.key: each.self_device_time_total / 1e6 / batches for each in trace.key_averages()}


def measured(method: Method, seconds: float) -> dict[str, Any]:
    """Samples a second of whole steps; which share of the GPU's work is ours (noises, softmax, votes), and of its time none."""
    device, law = method.device, grid_law(method.sigma)
    step = Step(method, law, Key(1))
    pixels = np.full(int(np.prod(method.input_shape)), 127, np.uint8)
    spans = [Span(Block(0, SELECTION, 0, method.batch), pixels, 0, method.batch, 0)]
    for _ in range(3):
        step.launch(spans)
        step.collect()
    rates: list[float] = []
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or len(rates) < 5:
        part, before = time.perf_counter(), done
        while time.perf_counter() - part < seconds / 10 or done == before:
            while not step.full:
                step.launch(spans)
            step.collect()
            done += 1
        rates.append((done - before) * method.batch / (time.perf_counter() - part))
    while step.flying:
        step.collect()
    rate = sorted(rates)[len(rates) // 2]
    found: dict[str, Any] = {"samples_per_second": rate, "lowest": min(rates), "highest": max(rates)}
    waits = []
    for _ in range(9):
        start = time.perf_counter()
        step.launch(spans)
        step.collect()
        waits.append(time.perf_counter() - start)
    found["rows_independent"] = all(each.identity["probe"] != COUPLED for each in method.engines.values())
    found["latency_milliseconds"] = 1000 * sorted(waits)[4]
    found["graph"] = getattr(device, "graph", "none")
    if device.name.startswith("cuda"):
        kernels = kernel_seconds(step, spans)
        busy = sum(kernels.values())  # one stream: no two at once
        if not busy:
            return {**found, "profile": "saw no kernels"}
        own = {name: seconds / busy for name, seconds in kernels.items() if name.startswith("ds_")}
        found |= {"busy_milliseconds": 1000 * busy, "own_kernels": own, "own_kernels_share": sum(own.values())}
        found["kernels"] = dict(sorted(kernels.items(), key=lambda each: -each[1])[:40])
        found["idle_share"] = max(0.0, 1 - busy * rate / method.batch)
    return found


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds, or why there is nothing: {"missing": …} or {"failed": …}."""
    try:
        return work()
    except Missing as error:
        return {"missing": str(error)}
    except Exception as error:  # compilers raise whatever they like; the other subjects are to be measured all the same
        return {"failed": f"{type(error).__name__}: {shortened(error)}"}
