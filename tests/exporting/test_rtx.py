"""Plans built for real, by TensorRT for RTX: what is recorded, what is refused, and where such a plan may run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine.backends.tensorrt_plan import check_runs_here, read_plan
from diffsmooth_trt.engine.record import read_record, record_path
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.exporting import plan as planning
from diffsmooth_trt.exporting.plan import export_plan
from diffsmooth_trt.exporting.writers.tensorrt_settings import TARGETS, PlanSettings

ROOT = Path(__file__).resolve().parents[2]
CARDS = ("sm80", "sm86", "sm89", "sm120")
W = np.random.default_rng(0).normal(size=(4, 48))
CLASSIFIER = ["export", "plan", "--onnx", str(zoo.CLASSIFIER_DDS), "--batch", "4"]


pytestmark = pytest.mark.usefixtures("tensorrt_rtx")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a driver, whatever this one has."""
    monkeypatch.setattr("diffsmooth_trt.device.nvidia.DRIVER_LIBRARY", "libcuda.so.1.none")


def test_our_list_of_targets_is_the_librarys(tensorrt_rtx: Any) -> None:
    assert {name.lower() for name in tensorrt_rtx.ComputeCapability.__members__ if name.startswith("SM")} == set(
        TARGETS
    )


def test_a_plan_is_built_without_a_gpu(no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.plan"
    assert main([*CLASSIFIER, "--out", str(out), "--target", "sm120", "sm86"]) == 0
    said = capsys.readouterr().out
    assert "for sm86, sm120 by TensorRT for RTX 1." in said and "not compared with classifier-dds.onnx" in said
    record = read_record(out, "plan")
    assert record.machine["library"] == "tensorrt-rtx" and record.machine["targets"] == ["sm86", "sm120"]
    assert (record.batch, record.independence) == (4, "proved")
    assert "plan_check" not in record.facts.details
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.plan", "c.plan.json"]
    plan = read_plan(out, role="classifier", sigma=None)
    assert (plan.library, plan.compute_capabilities) == ("tensorrt-rtx", ("8.6", "12.0"))
    here = {"library": "tensorrt-rtx", "tensorrt": plan.tensorrt}
    check_runs_here(plan, **here, compute_capability="12.0")
    for changed, message in (
        (
            {"compute_capability": "8.9"},
            "built for compute capability 8.6, 12.0, this GPU has 8.9: .* --target current`",
        ),
        ({"tensorrt": "1.8.0.1"}, f"built by TensorRT for RTX {plan.tensorrt}, this machine has 1.8.0.1"),
        ({"library": "tensorrt"}, "built by TensorRT for RTX and runs in nothing else, got TensorRT: build it again"),
    ):
        with pytest.raises(InputError, match=message):
            check_runs_here(plan, **{**here, "compute_capability": "8.6", **changed})


def test_builds_are_equal_and_hold_what_was_asked(no_gpu: None, tmp_path: Path) -> None:
    hashes = []
    for name, target in (("a", "sm89"), ("b", "sm89"), ("c", "sm120")):
        out = tmp_path / f"{name}.plan"
        export_plan(zoo.CLASSIFIER_DDS, out, batch=4, settings=PlanSettings(targets=(target,)))
        hashes.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "sm90"], "--target 'sm90' is unknown to TensorRT for RTX: use current or some of sm75 RTX 20, sm80"),
        (["--target", "sm89", "sm89"], "name each target once"),
        (["--target", "current", "sm89"], "current (this machine's GPU) by itself"),
        (["--target", "current"], "a plan is built where it runs, and here is missing: no NVIDIA driver"),
        (["--target", "sm75"], "cannot be built for --target sm75: sm75: FP32 GEMM is not supported (node node_"),
        (["--target", "sm89", "--timing-cache", "t"], "--timing-cache is for the full TensorRT"),
        (["--target", "sm89", "--weight-stripped"], "--weight-stripped is for the full TensorRT"),
        (["--target", "sm89", "--version-compatible"], "--version-compatible is for the full TensorRT"),
        (["--target", "sm89", "--optimization-level", "5"], "--optimization-level is for the full TensorRT"),
        (["--target", "sm89", "--workspace", "1", "--batch", "256"], "--workspace 1 MiB is too little for classifier-dds.onnx"),
    ],
)  # fmt: skip
def test_refusals(
    no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*CLASSIFIER, "--out", str(tmp_path / "c.plan"), *options]) == 2
    line = capsys.readouterr().err
    assert message in line and len(line.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_size_that_is_named_is_enough(no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*CLASSIFIER, "--batch", "256", "--out", str(tmp_path / "c.plan"), "--target", "sm89", "--workspace"]
    assert main([*command, "1"]) == 2
    size = capsys.readouterr().err.partition(": give ")[2].split(",")[0]
    assert main([*command, size]) == 0


def test_a_precision_that_a_target_lacks_is_refused_before_the_build(
    no_gpu: None, tmp_path: Path, linear_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_build", lambda *given: pytest.fail("it was built"))
    read = planning._read

    def of_precision(*given: Any, **more: Any) -> Any:
        import dataclasses

        build = read(*given, **more)
        facts = dataclasses.replace(build.graph.facts, precision=precision)
        return dataclasses.replace(build, graph=dataclasses.replace(build.graph, facts=facts))

    monkeypatch.setattr(planning, "_read", of_precision)
    for given, targets, message in (
        ("fp8", ("sm86", "sm89"), r"target sm86: that GPU multiplies nothing in fp8: .* \(fp8: sm89, sm120, sm121\)"),
        ("bf16", ("sm75",), "target sm75: that GPU multiplies nothing in bf16"),
    ):
        precision = given
        precision = given
        with pytest.raises(InputError, match=message):
            export_plan(
                linear_classifier(W, np.zeros(4)), tmp_path / "c.plan", batch=4, settings=PlanSettings(targets=targets)
            )


def test_a_card_of_another_kind_compares_nothing_and_its_own_needs_cupy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffsmooth_trt.device.nvidia import Gpu

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cupy" else real(name, *rest))
    monkeypatch.setattr(planning, "find_gpu", lambda: Gpu("a card", "8.6", "580"))
    made = export_plan(zoo.CLASSIFIER_DDS, tmp_path / "c.plan", batch=4, settings=PlanSettings(targets=("sm89",)))
    assert made.comparison is None
    for targets in (("sm86", "sm89"), ("current",)):
        with pytest.raises(InputError, match=r"cannot be built|is built where it runs") as caught:
            export_plan(zoo.CLASSIFIER_DDS, tmp_path / "d.plan", batch=4, settings=PlanSettings(targets=targets))
        assert "CuPy, by which the plan is run and compared: pip install 'diffsmooth-trt[rtx]'" in str(caught.value)
    monkeypatch.setattr(planning, "find_gpu", lambda: Gpu("a card", "9.0", "580"))
    with pytest.raises(InputError, match=r"has compute capability 9.0, which TensorRT for RTX does not build for"):
        export_plan(zoo.CLASSIFIER_DDS, tmp_path / "d.plan", batch=4, settings=PlanSettings(targets=("current",)))


@pytest.mark.parametrize("targets", ["sm89", [], ["8.9"], ["sm"], None])
def test_damaged_targets_are_refused(tmp_path: Path, targets: Any) -> None:
    out = tmp_path / "c.plan"
    out.write_bytes(b"plan")
    facts = {"format": 1, "role": "classifier", "input_shape": [3, 4, 4], "classes": 4, "value_range": [0, 1]}
    machine = {"library": "tensorrt-rtx", "tensorrt": "1.7", "targets": targets}
    source = {"name": "c.onnx", "sha256": "0" * 64}
    content = {"format": 1, "kind": "plan", "sha256": hashlib.sha256(b"plan").hexdigest(), "batch": 4, "facts": facts}
    text = json.dumps({**content, "machine": machine, "source": source, "settings": {}})
    record_path(out).write_text(text, encoding="utf-8")
    if targets == "sm89":
        assert read_plan(out, role=None, sigma=None).compute_capabilities == ("8.9",)
        return
    with pytest.raises(InputError, match="has targets .*, expected some like sm89: export it again"):
        read_plan(out, role=None, sigma=None)


BOTH = """
import sys
sys.path[:0] = sys.argv[1:]
from diffsmooth_trt.device.nvidia import import_tensorrt
import_tensorrt("tensorrt-rtx")
try:
    import_tensorrt("tensorrt")
except Exception as error:
    print(error)
"""


def test_one_library_a_process() -> None:
    """Both define createInferBuilder_INTERNAL: calls of the second would reach the first."""
    folder = str(Path(importlib.util.find_spec("tensorrt_rtx").origin).parents[1])  # type: ignore[union-attr, arg-type]
    done = subprocess.run([sys.executable, "-c", BOTH, str(ROOT), folder], capture_output=True, text=True, timeout=60)
    assert "TensorRT cannot be loaded where tensorrt_rtx is loaded already" in done.stdout, done.stderr
