"""doctor: what works and why not, whatever the libraries do."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffsmooth_trt import doctor, zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.doctor import Finding, examine, report, run_probe
from diffsmooth_trt.engine import EngineFacts
from diffsmooth_trt.engine.record import Record, record_path


def test_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command itself, with a good and two bad engine files: every finding that fails says why."""
    broken = tmp_path / "broken.onnx"
    broken.write_text("not an engine")
    files = [str(zoo.DENOISER), str(broken), str(tmp_path / "absent.plan")]
    assert main(["doctor", "--json", *files]) == 0
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert set(findings) == {title for title, _ in doctor.PROBES.values()} | set(files)
    assert findings["CPU"]["works"]
    assert findings["CPU"]["details"]["noise"][-1] == "portable"
    assert findings["ONNX Runtime"]["works"]
    assert all(each["works"] or each["why"] for each in findings.values())
    assert not any("Traceback" in each["why"] or "\n" in each["why"] for each in findings.values())
    assert findings[files[0]]["found"].startswith("denoiser, fp32, sigma 0.25")
    assert "not a readable ONNX file" in findings[files[1]]["why"]
    assert not findings[files[2]]["works"]


def test_lines() -> None:
    found = [
        Finding("CPU", True, "fine"),
        Finding("CUDA through CuPy", True, "cuda:0"),
        Finding("TensorRT", False, why="no\nlibrary"),
    ]
    assert report(found).splitlines()[1:] == [
        "ok  CPU                fine",
        "ok  CUDA through CuPy  cuda:0",
        "no  TensorRT           no library",
        "usable: --device cpu",
    ]
    found[2] = Finding("TensorRT", True, "11.4")
    assert report(found).endswith("usable: --device cpu and --device cuda:0")
    for cuda in (True, False):
        found[2] = Finding(doctor.TORCH, True, "2.11", details={"cuda": cuda})
        assert report(found).endswith("--device cuda:0") == cuda  # for packages


def test_packages(tmp_path: Path) -> None:
    """Whole, and compiled for this machine; torch runs nothing of them."""
    inductor = pytest.importorskip("diffsmooth_trt.engine.backends.aotinductor", reason="torch is not installed")
    path = tmp_path / "d.pt2"
    path.write_bytes(b"no code")
    facts, machine = EngineFacts("denoiser", (3, 32, 32), sigma=0.25, precision="bf16"), inductor.this_machine("cpu")
    digest = hashlib.sha256(b"no code").hexdigest()
    good = Record("pt2", digest, 64, facts, {}, machine, {})
    record_path(path).write_text(good.to_json())
    found = run_probe(str(path))
    assert found.works and found.found.startswith("denoiser, bf16, batch 64, cpu, ")
    record_path(path).write_text(dataclasses.replace(good, machine={**machine, "torch": "1.0"}).to_json())
    found = run_probe(str(path))
    assert not found.works and found.why.startswith("compiled for torch 1.0, here it is ")
    path.write_bytes(b"other code")
    assert "not the file its record was written for" in run_probe(str(path)).why


def test_nothing_is_tried_on_a_gpu_that_is_not_there() -> None:
    """The driver is asked before what would touch a GPU, TensorRT the last of those."""
    asked: list[str] = []

    def each(name: str) -> Finding:
        asked.append(name)
        return Finding(name, name != "driver", why="no NVIDIA driver")

    found = {finding.name: finding for finding in examine(each=each)}
    assert "rtx_builds" in asked and "rtx_runs" not in asked  # it builds without one
    assert asked.index("driver") < asked.index("tensorrt")
    assert "cupy" not in asked
    assert "onnxruntime_cuda" not in asked
    assert found["CUDA through CuPy"].why.startswith("no GPU to try it on")


def test_tensorrt_is_not_touched_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia = pytest.importorskip("diffsmooth_trt.device.nvidia", reason="nothing asks the driver yet")

    def no_driver(number: int = 0) -> Any:
        raise doctor.DiffsmoothError("no NVIDIA driver (libcuda.so.1 is not on this machine): use one that has it")

    monkeypatch.setattr(nvidia, "find_gpu", no_driver)
    monkeypatch.setattr(nvidia, "import_tensorrt", lambda **_: pytest.fail("TensorRT was touched"))
    assert run_probe("tensorrt").why.startswith("no NVIDIA driver")


def test_tensorrt_for_rtx_builds_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shipped network, for real; the plan of another machine is whole, and says for which cards it is."""
    own = Path(__file__).resolve().parents[1] / ".venv" / "rtx"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(own), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.syspath_prepend(str(own))
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("no TensorRT for RTX: `make test` installs it where there is one for the platform")
    found = doctor._in_a_process("rtx_builds")
    assert found.works and found.found.startswith("1.") and "sm89 RTX 40" in found.found
    command = ["export", "plan", "--onnx", str(zoo.DETECTOR), "--batch", "2", "--out", str(tmp_path / "d.plan")]
    script = f"import sys; from diffsmooth_trt.cli import main; sys.exit(main({[*command, '--target', 'sm89']!r}))"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
    nvidia = importlib.import_module("diffsmooth_trt.device.nvidia")
    monkeypatch.setattr(nvidia, "DRIVER_LIBRARY", "libcuda.so.1.none")
    found = run_probe(str(tmp_path / "d.plan"))
    assert not found.works and found.found.startswith("detector, fp32, batch 2, TensorRT for RTX 1.")
    assert found.found.endswith(" for 8.9") and found.why.startswith("no NVIDIA driver")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -SEGV $$", "crashed (SIGSEGV): reinstall it, or do without"),
        ("echo oh no >&2; exit 3", "failed (oh no): reinstall it, or do without"),
        ("exit 3", "failed (exit status 3)"),
        ("echo half a {", "failed (exit status 0)"),
        ("exec sleep 30", "did not answer within 1 s"),
    ],
)
def test_a_probe_may_end_its_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, why: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(doctor, "SECONDS", 1)
    found = doctor._in_a_process("openvino")
    assert (found.name, found.works) == ("OpenVINO", False)
    assert found.why.startswith(why)


def test_a_missing_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert "could not be looked at" in doctor._in_a_process("cpu").why
