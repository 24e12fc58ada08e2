"""What is right: the device and its ceilings, doctor, kernels bit for bit, the sanitizer, and runs against the CPU's."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from findings import Findings, Skipped, one_line
from stages import Place

ROOT = Path(__file__).resolve().parents[2]
SIGMAS = (0.12, 0.25, 0.5, 1.0)
KERNEL_TESTS = "tests/noise"
STEP_TEST = "tests/engine/test_cuda.py::test_gpu_replays_a_step_with_the_votes_of_the_cpu"
CLI = (sys.executable, "-c", "import sys; from diffsmooth_trt.cli import main; sys.exit(main())")
NUMBER = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")
# A warning of a library's new version must not cost the only minutes on a card; they are in the log.
PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-W",
    "default",
    "-p",
    "no:cacheprovider",
    "--continue-on-collection-errors",
)


def device(found: Findings, place: Place) -> None:
    """Name, driver, versions; what it multiplies and copies in a second."""
    import torch
    from torch_baseline import ceilings

    found.put(torch=torch.__version__, cuda=torch.version.cuda, python=sys.version.split()[0], versions=_versions())
    if not place.rehearse:
        from diffsmooth_trt.device.nvidia import find_gpu

        gpu = find_gpu(0)
        found.put(name=gpu.name, driver=gpu.driver, compute_capability=gpu.compute_capability, smi=_smi())
        if not torch.cuda.is_available():
            found.status = "failed"
            return found.put(why=f"torch {torch.__version__} sees no GPU", figure=gpu.name)
        free, total = torch.cuda.mem_get_info()
        found.put(memory_gib=total / 2**30, free_gib=free / 2**30, figure=gpu.name)
    top: dict[str, float] = {}
    for name, value in ceilings(place.rehearse):
        top[name] = value
        found.put(**{name: value})
    name = torch.cuda.get_device_name(0) if not place.rehearse else "rehearsal"
    found.put(figure=f"{name}: bf16 {top['bf16_tflops']:.4g} TFLOP/s, copy {top['copy_tb_per_s']:.3g} TB/s")
    return None


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    names = (
        "diffsmooth-trt",
        "numpy",
        "cupy-cuda13x",
        "triton",
        "onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "nvidia-cudnn-cu13",
    )
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _smi() -> str:
    query = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return one_line(error)


def free_memory() -> float:
    """GiB free on the GPU."""
    import torch

    return float(torch.cuda.mem_get_info()[0]) / 2**30


def doctor(found: Findings, place: Place) -> None:
    """`diffsmooth-trt doctor`."""
    if place.rehearse:
        from diffsmooth_trt.doctor import run_probe

        said = [vars(run_probe(name)) for name in ("cpu", "driver")]
    else:
        done = subprocess.run([*CLI, "doctor", "--json"], capture_output=True, text=True, check=False, cwd=ROOT)
        print(done.stdout, done.stderr)
        said = json.loads(done.stdout[done.stdout.index("{") :])["findings"]
    found.put(findings={each["name"]: each["found"] or each["why"] for each in said})
    no = [each["name"] for each in said if not each["works"]]
    found.put(figure=f"{len(said) - len(no)} of {len(said)} work" + (f", not {', '.join(no)}" if no else ""))


def kernels(found: Findings, place: Place) -> None:
    """The device's noise against the sampler's; then the kernels' tests."""
    from engines import session_device

    from diffsmooth_trt.device.selftest import check_device_noise
    from diffsmooth_trt.noise import grid_law

    place_of, start = session_device(place.rehearse), time.perf_counter()
    for sigma in SIGMAS:
        check_device_noise(grid_law(sigma), place_of)
    found.put(noise_bits=f"equal to the sampler's at sigma {', '.join(map(str, SIGMAS))}", figure="noise bits equal")
    found.put(self_test_seconds=time.perf_counter() - start)
    chosen = ["tests/noise/test_reference.py"] if place.rehearse else [KERNEL_TESTS, "-m", "cuda"]
    passed = _pytest(found, place, "kernel_tests", chosen)
    if not place.rehearse:
        passed += _pytest(found, place, "step_test", [STEP_TEST, "-m", "cuda"])
    found.put(figure=f"noise bits equal, {passed} tests passed")


def _pytest(found: Findings, place: Place, name: str, chosen: list[str]) -> int:
    """Run tests; how many passed. What failed, or that all were skipped, is the stage's failure."""
    report = place.folder / f"{name}.xml"
    report.unlink(missing_ok=True)
    done = subprocess.run([*PYTEST, f"--junitxml={report}", *chosen], cwd=ROOT, check=False)
    if not report.exists():
        found.status = "failed"
        found.put(**{name: f"pytest ended with {done.returncode}"}, why=f"{name}: pytest ended with {done.returncode}")
        return 0
    cases = list(ET.parse(report).getroot().iter("testcase"))
    bad = [
        (case.get("name"), child.get("message", ""))
        for case in cases
        for child in case
        if child.tag in ("failure", "error")
    ]
    skipped = [child.get("message", "") for case in cases for child in case if child.tag == "skipped"]
    passed = len(cases) - len(bad) - len(skipped)
    failures = [f"{case}: {one_line(message)}" for case, message in bad]
    found.put(**{name: {"passed": passed, "skipped": len(skipped), "failed": failures[:20]}})
    if bad:
        found.status = "failed"
        found.put(why=f"{len(bad)} of {len(cases)} {name} fail, first {failures[0]}")
    elif not passed and not place.rehearse:
        found.status = "failed"
        found.put(why=f"no test of {name} ran: {skipped[0] if skipped else 'none was found'}")
    return passed


def sanitizer(found: Findings, place: Place) -> None:
    """Every kernel under compute-sanitizer, by the kernels' tests, each array an allocation of its own."""
    program = shutil.which("compute-sanitizer") or next(
        iter(map(str, Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None
    )
    if program is None or place.rehearse:
        raise Skipped("a rehearsal has no GPU" if place.rehearse else "compute-sanitizer is not on this machine")
    names = place.folder / "launched.txt"
    counts: dict[str, int] = {}
    known = set(re.findall(r"DS_KERNEL (\w+)\(", (ROOT / "csrc" / "kernels.cu").read_text()))
    for tool in ("memcheck", "initcheck", "racecheck", "synccheck"):
        names.unlink(missing_ok=True)
        command = [program, "--tool", tool, "--print-limit", "20", "--error-exitcode", "86"]
        plugin = ["-p", "launched", f"--launched={names}", KERNEL_TESTS, STEP_TEST, "-m", "cuda"]
        with subprocess.Popen(
            [*command, *PYTEST, *plugin], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        ) as run:
            said = []
            for line in run.stdout or ():
                print(line, end="")
                said.append(line)
        numbers = [int(next(filter(None, match.groups()), "0")) for line in said if (match := NUMBER.search(line))]
        launched = names.read_text().split() if names.exists() else []
        if not numbers or not launched:
            last = next((line for line in reversed(said) if line.startswith("=========")), said[-1] if said else "")
            found.status = "failed"
            found.put(**{tool: "did not run"}, why=f"{tool} did not run: {one_line(last)}")
            return
        counts[tool] = sum(numbers)
        found.put(
            **{tool: {"findings": counts[tool], "kernels": launched, "not_launched": sorted(known - set(launched))}}
        )
        found.put(
            figure=f"{sum(counts.values())} findings ({', '.join(counts)}; {len(launched)} of {len(known)} kernels)"
        )
        if counts[tool] or run.returncode:
            found.status = "failed"
            found.put(why=f"{tool}: {counts[tool]} findings, exit status {run.returncode}")


def certify(found: Findings, place: Place) -> None:
    """Runs of the zoo on the device and on the CPU with one key: their counts, image by image."""
    from builds import compare_with_cpu

    worst = {}
    for method in ("dds", "diffsmooth"):
        told = compare_with_cpu(method, place)
        worst[method] = told["largest_difference"]
        found.put(**{method: told})
        found.put(
            figure="counts differ by at most "
            + ", ".join(f"{100 * share:.2f} % of n ({name})" for name, share in worst.items())
        )
        if worst[method] > 0.002:
            found.status = "failed"
            found.put(why=f"{method}: above 0.2 % of n")


def tests(found: Findings, place: Place) -> None:
    """Whatever else is marked cuda."""
    if place.rehearse:
        raise Skipped("a rehearsal has no GPU")
    files = sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if "mark.cuda" in path.read_text()
    )
    several = ["-n", "4", "--dist", "load"] if importlib.util.find_spec("xdist") else []
    found.put(figure=f"{_pytest(found, place, 'cuda_tests', [*files, *several, '-m', 'cuda'])} tests passed")
