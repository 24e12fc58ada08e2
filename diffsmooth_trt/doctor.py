"""What works on this machine, and why the rest does not. Each probe is a process of its own: libraries may end theirs.

The driver is asked before anything of NVIDIA's is touched, and the full TensorRT only where it has answered. TensorRT for RTX
builds without one.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DiffsmoothError, message_of

SECONDS = 180
CPU_INSTALL = "pip install 'diffsmooth-trt[cpu]'"
CUDA_INSTALL = "pip uninstall onnxruntime; pip install 'diffsmooth-trt[cuda]'"
TORCH = "PyTorch (export, .pt2)"
RTX_BUILDS, RTX_RUNS = "TensorRT for RTX builds", "TensorRT for RTX runs"
ON_A_GPU = ("cupy", "onnxruntime_cuda", "rtx_runs")
MEBI = 1 << 20


@dataclass
class Finding:
    """One thing that was looked at: whether it works, what was found, and where it does not, why and what to do."""

    name: str
    works: bool
    found: str = ""
    why: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def line(self, width: int) -> str:
        """The finding in one line."""
        text = "; ".join(part for part in (self.found, self.why) if part)
        return f"{'ok' if self.works else 'no':4}{self.name:{width}}{' '.join(text.split())}"


def _first(error: BaseException) -> str:
    return (message_of(error).strip().splitlines() or [type(error).__name__])[0]


# Probes; each runs in its own process and may raise anything, or crash.


def _cpu() -> Finding:
    from .engine import instruction_set
    from .engine.choice import available_cores
    from .noise import grid_law, sampler
    from .noise.selftest import check_noise

    check_noise(grid_law(0.25))
    cores = available_cores()
    details = {"features": instruction_set(), "cores": cores, "noise": sampler.variants()}
    text = f"{details['features']}, {cores} cores; noise passes its self-test ({', '.join(sampler.variants())})"
    return Finding("CPU", True, text, details=details)


def _onnxruntime() -> Finding:
    try:
        import onnxruntime as ort
    except ImportError as error:
        return Finding("ONNX Runtime", False, why=f"{_first(error)}: {CPU_INSTALL}")
    providers = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    details = {"version": ort.__version__, "providers": providers}
    return Finding("ONNX Runtime", True, f"{ort.__version__} with {', '.join(providers)}", details=details)


def _openvino() -> Finding:
    try:
        import openvino as ov
    except ImportError as error:
        return Finding("OpenVINO", False, why=f"{_first(error)}: {CPU_INSTALL}")
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    details = {"version": ov.get_version(), "capabilities": list(able)}
    bf16 = "bf16" if "BF16" in able else "fp32 only (this CPU has no bf16)"
    return Finding("OpenVINO", True, f"{ov.get_version()}, {bf16}", details=details)


def _gpus() -> list[Any]:
    """The GPUs that the driver shows; InputError, saying what is missing, where there is none."""
    from .device.nvidia import find_gpu

    gpus = [find_gpu(0)]
    while True:
        try:
            gpus.append(find_gpu(len(gpus)))
        except DiffsmoothError:
            return gpus


def _driver() -> Finding:
    gpus = _gpus()
    text = ", ".join(f"cuda:{i} {gpu.name} ({gpu.compute_capability})" for i, gpu in enumerate(gpus))
    details = {"driver": gpus[0].driver, "gpus": [vars(gpu) for gpu in gpus]}
    return Finding("NVIDIA driver", True, f"{gpus[0].driver}: {text}", details=details)


def _cupy() -> Finding:
    from .device import open_device
    from .device.selftest import check_device_noise
    from .noise import grid_law

    texts, why = [], ""
    details: dict[str, Any] = {}
    for number in range(len(_gpus())):
        device = open_device(f"cuda:{number}")
        check_device_noise(grid_law(0.25), device)
        free, total = device.memory() or (0, 0)
        texts.append(f"{device.name} {free // MEBI} of {total // MEBI} MiB free, noise passes its self-test")
        if 2 * free < total:
            why = f"another process holds memory of {device.name}: see nvidia-smi, or use a smaller --batch"
        details = {**device.versions, **details, device.name: {"free": free, "total": total}}
    return Finding("CUDA through CuPy", True, "; ".join(texts), why, details)


def _onnxruntime_cuda() -> Finding:
    from . import zoo
    from .engine import open_engine

    _gpus()
    with open_engine(zoo.CLASSIFIER_DDS, batch=2, device="cuda:0", precision="fp32") as engine:
        return Finding("ONNX Runtime on CUDA", True, f"runs a shipped classifier ({engine.identity['version']})")


def _tensorrt() -> Finding:
    from .device.nvidia import import_tensorrt

    _gpus()  # first: a TensorRT runtime without a driver is an object whose first use ends the process
    trt = import_tensorrt(lean=True)
    full = hasattr(trt, "OnnxParser")
    log = trt.Logger(trt.ILogger.Severity.ERROR)
    if trt.Runtime(log) is None:
        return Finding("TensorRT", False, why="its runtime does not start: look at the driver with nvidia-smi")
    kind = "full: builds and runs plans" if full else "lean: runs plans, builds none"
    return Finding("TensorRT", True, f"{trt.__version__} ({kind})", details={"version": trt.__version__, "full": full})


def _rtx_builds() -> Finding:
    from . import zoo
    from .device.nvidia import RTX, import_tensorrt
    from .exporting.plan import build_uncompared
    from .exporting.writers.tensorrt_settings import CARDS, TARGETS, PlanSettings

    trt = import_tensorrt(RTX)
    able = tuple(target for target in TARGETS if target != "sm75")  # which has no fp32 products
    with tempfile.TemporaryDirectory() as folder:
        build_uncompared(zoo.DETECTOR, Path(folder) / "d.plan", 2, PlanSettings(targets=able), None)
    text = f"{trt.__version__} builds a shipped network, and needs no GPU for that, for {CARDS} (sm75: fp16 files)"
    return Finding(RTX_BUILDS, True, text, details={"version": trt.__version__, "targets": list(TARGETS)})


def _rtx_runs() -> Finding:
    from . import zoo
    from .device.nvidia import RTX, find_gpu, import_tensorrt
    from .exporting.plan import export_plan
    from .exporting.writers.tensorrt_settings import CURRENT, PlanSettings, target_of

    gpu, trt = find_gpu(0), import_tensorrt(RTX)
    target = target_of(gpu.compute_capability)
    with tempfile.TemporaryDirectory() as folder:
        export_plan(zoo.DETECTOR, Path(folder) / "d.plan", batch=2, settings=PlanSettings(targets=(CURRENT,)))
    text = f"{trt.__version__} runs a plan of its own on cuda:0 {gpu.name} ({target}), as its graph does on the CPU"
    return Finding(RTX_RUNS, True, text, details={"version": trt.__version__, "target": target})


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding(TORCH, False, why=f"{_first(error)}: pip install 'diffsmooth-trt[cpu,export]'")
    cuda = torch.cuda.is_available()
    text = f"{torch.__version__}, {'works on' if cuda else 'sees no'} GPU"
    return Finding(TORCH, True, text, details={"version": str(torch.__version__), "cuda": cuda})


PROBES: dict[str, tuple[str, Callable[[], Finding]]] = {
    "cpu": ("CPU", _cpu),
    "onnxruntime": ("ONNX Runtime", _onnxruntime),
    "openvino": ("OpenVINO", _openvino),
    "driver": ("NVIDIA driver", _driver),
    "cupy": ("CUDA through CuPy", _cupy),
    "onnxruntime_cuda": ("ONNX Runtime on CUDA", _onnxruntime_cuda),
    "tensorrt": ("TensorRT", _tensorrt),
    "rtx_builds": (RTX_BUILDS, _rtx_builds),
    "rtx_runs": (RTX_RUNS, _rtx_runs),
    "torch": (TORCH, _torch),
}


def _engine_file(path: Path) -> Finding:
    """Whether an engine file is whole, and whether it may run here."""
    name = str(path)
    if path.suffix == ".plan":
        from .device.nvidia import NAMES, find_gpu, import_tensorrt
        from .engine.backends.tensorrt_check import caveat, found_check, where
        from .engine.backends.tensorrt_plan import check_runs_here, read_plan

        plan = read_plan(path, role=None, sigma=None)
        cards = ", ".join(plan.compute_capabilities)
        said = f"{plan.facts.role}, {plan.precision}, batch {plan.batch}, {NAMES[plan.library]} {plan.tensorrt} for {cards}"
        try:
            gpu = find_gpu(0)
        except DiffsmoothError as error:
            return Finding(name, False, said, _first(error))
        version = str(import_tensorrt(plan.library, lean=True).__version__)
        check_runs_here(plan, tensorrt=version, compute_capability=gpu.compute_capability, library=plan.library)
        known = found_check(plan, where(plan, gpu=gpu.name, driver=gpu.driver, tensorrt=version))
        return Finding(name, True, said, caveat(plan, known))
    if path.suffix == ".pt2":
        return _package(path)
    from .engine.graph import read_graph

    graph = read_graph(path, role=None, sigma=None)
    sigma = "" if graph.facts.sigma is None else f", sigma {graph.facts.sigma}"
    return Finding(name, True, f"{graph.facts.role}, {graph.facts.precision}{sigma}, batch {graph.batch or 'any'}")


def _package(path: Path) -> Finding:
    from .engine.record import read_record

    record = read_record(path, "pt2")
    text = f"{record.facts.role}, {record.facts.precision}, batch {record.batch}"
    try:
        from .engine.backends.aotinductor import this_machine
    except ImportError as error:
        return Finding(str(path), False, text, f"{_first(error)}: pip install torch")
    here = this_machine("cuda:0" if record.machine.get("device") == "cuda" else "cpu")
    other = [
        f"{name} {record.machine.get(name)}, here it is {here[name]}"
        for name in here
        if record.machine.get(name) != here[name]
    ]
    if other:
        return Finding(str(path), False, text, f"compiled for {'; '.join(other)}: export it again here")
    return Finding(str(path), True, f"{text}, {', '.join(here.values())}")


def run_probe(name: str) -> Finding:
    """Run the probe `name`, a key of PROBES or the path of an engine file; errors become findings."""
    title, probe = PROBES.get(name, (name, lambda: _engine_file(Path(name))))
    try:
        return probe()
    except Exception as error:
        return Finding(title, False, why=_first(error))


def _in_a_process(name: str) -> Finding:
    title = PROBES[name][0] if name in PROBES else name
    command = [sys.executable, "-m", __name__, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return Finding(
            title, False, why=f"did not answer within {SECONDS} s: see whether the device hangs (nvidia-smi)"
        )
    except OSError as error:
        return Finding(title, False, why=f"could not be looked at ({error.strerror})")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        return Finding(**json.loads(last))
    except (ValueError, TypeError):
        pass
    if done.returncode < 0:
        number = -done.returncode
        known = number in set(signal.Signals)
        how = f"crashed ({signal.Signals(number).name if known else f'signal {number}'})"
    else:
        how = f"failed ({(done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1]})"
    return Finding(title, False, why=f"{how}: reinstall it, or do without")


def examine(files: Sequence[Path] = (), *, each: Callable[[str], Finding] = _in_a_process) -> list[Finding]:
    """Every finding of this machine, then one an engine file; never raises for what it finds. `each` runs one probe.

    What needs a GPU is not tried where the driver shows none.
    """
    findings = []
    gpu = True
    for name in PROBES:
        if not gpu and name in ON_A_GPU:
            findings.append(Finding(PROBES[name][0], False, why=_without_gpu(name)))
            continue
        findings.append(each(name))
        gpu = findings[-1].works if name == "driver" else gpu
    return findings + [each(str(path)) for path in files]


def _without_gpu(name: str) -> str:
    import importlib.util

    missing = name == "cupy" and importlib.util.find_spec("cupy") is None
    return "no GPU to try it on" + (f"; CuPy is not installed: {CUDA_INSTALL}" if missing else "")


def report(findings: Sequence[Finding]) -> str:
    """A line a finding, and the devices that runs can use."""
    width = max(len(finding.name) for finding in findings) + 2
    head = f"Python {platform.python_version()}, {platform.platform()}"
    works = {finding.name: finding.works for finding in findings}
    torch = any(finding.details.get("cuda") for finding in findings if finding.name == TORCH)  # for .pt2 files
    gpu = works.get("CUDA through CuPy") and (
        works.get("ONNX Runtime on CUDA") or works.get("TensorRT") or works.get(RTX_RUNS) or torch
    )
    devices = "--device cpu" + (" and --device cuda:0" if gpu else "")
    return "\n".join([head, *(finding.line(width) for finding in findings), f"usable: {devices}"])


def as_json(findings: Sequence[Finding]) -> str:
    """The same as one JSON object."""
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    return json.dumps({**machine, "findings": [vars(finding) for finding in findings]}, indent=2)


if __name__ == "__main__":
    print(json.dumps(vars(run_probe(sys.argv[1]))))
