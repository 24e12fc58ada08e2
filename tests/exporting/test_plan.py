"""export plan up to the builder, and the comparison that follows it, on engines that run here."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.device.nvidia import DRIVER_LIBRARY, Gpu
from diffsmooth_trt.engine import EngineFacts, open_engine
from diffsmooth_trt.engine.backends.tensorrt_plan import read_plan
from diffsmooth_trt.engine.graph import read_graph
from diffsmooth_trt.engine.record import Record, publish, read_record, record_path
from diffsmooth_trt.errors import EngineError, InputError
from diffsmooth_trt.exporting import plan
from diffsmooth_trt.exporting.checks.compare import Comparison, compare_engines, noisy_inputs
from diffsmooth_trt.exporting.plan import export_plan, input_shapes
from diffsmooth_trt.exporting.writers.tensorrt_settings import PlanSettings

W = np.random.default_rng(0).normal(size=(4, 48))


def without_driver() -> None:
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return
    pytest.skip("this machine has an NVIDIA driver")


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_driver()
    assert (
        main(["export", "plan", "--onnx", str(zoo.DENOISER), "--batch", "64", "--out", str(tmp_path / "d.plan")]) == 2
    )
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    for part in ("libcuda.so.1", "TensorRT: ", "install the full TensorRT"):
        assert part in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimization-level", "6"], "--optimization-level must be 0 to 5, got 6"),
        (["--workspace", "0"], "--workspace must be 1 to"),
        (["--weight-stripped", "--version-compatible"], "exclude each other"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--out", "d.engine"], "does not end in .plan"),
        (["--onnx", "absent.onnx"], "--onnx absent.onnx does not exist"),
        (["--out", "absent/d.plan"], "the folder absent does not exist"),
        (["--timing-cache", "d.plan"], "is also --out"),
        (["--role", "classifier"], "is a denoiser, expected a classifier"),
        (["--sigma", "0.5"], "exported for sigma 0.25, the run asks for 0.5"),
    ],
)
def test_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--onnx", str(zoo.DENOISER), "--batch", "64", "--out", "d.plan", *options]
    assert main(["export", "plan", *given]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert len(line.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_batch_sizes(tmp_path: Path, linear_classifier: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="takes any batch size and a plan one: pass batch"):
        export_plan(zoo.DENOISER, tmp_path / "d.plan")
    with pytest.raises(InputError, match="carries no facts that say what it is: pass role"):
        export_plan(linear_classifier(W, np.zeros(4), facts=False), tmp_path / "c.plan", batch=4)
    fixed = linear_classifier(W, np.zeros(4), batch=8)
    with pytest.raises(InputError, match="was exported for batches of 8, got batch 4: leave it out"):
        export_plan(fixed, tmp_path / "d.plan", batch=4)


def test_shapes_of_every_input(
    linear_classifier: Callable[..., Path], conditional_denoiser: Callable[..., Path]
) -> None:
    path = linear_classifier(W, np.zeros(4))
    assert input_shapes(path, read_graph(path, role=None, sigma=None), 5) == {"x": (5, 3, 4, 4)}
    path = conditional_denoiser(np.zeros((3, 48)))
    shapes = input_shapes(path, read_graph(path, role=None, sigma=None), 5)
    assert shapes == {"images": (5, 3, 4, 4), "s": (5,), "labels": (5,)}


def test_equal_engines_agree(conditional_denoiser: Callable[..., Path]) -> None:
    for path, batch in ((zoo.CLASSIFIER_DDS, 8), (conditional_denoiser(np.ones((3, 48))), 6)):
        with open_engine(path, batch=batch, backend="onnxruntime") as engine:
            found = compare_engines(engine, engine)
        zoos = path == zoo.CLASSIFIER_DDS  # 32×32: its 100 images are compared, not random ones
        assert (found.rows, found.maximum, found.mean) == (100 if zoos else 2 * batch, 0, 0)
        assert found.agreement == (1 if zoos else None)
        assert found.warning() is None


def test_differences_are_measured(linear_classifier: Callable[..., Path]) -> None:
    """Against the same sums in float64; half of the classes swapped changes half of the labels or more."""
    bias = np.array([0.5, 0, 0, -0.25])
    first, second = linear_classifier(W, np.zeros(4)), linear_classifier(W, bias)
    with open_engine(first, batch=16) as one, open_engine(second, batch=16) as two:
        found = compare_engines(two, one)
        inputs = [x.astype(np.float64).reshape(16, -1) for _, (x,) in noisy_inputs(one.facts, 16)]
    logits = np.concatenate(inputs) @ W.T
    same = (logits.argmax(1) == (logits + bias).argmax(1)).mean()
    assert found.rows == 32
    assert found.maximum == pytest.approx(0.5, rel=1e-4)
    assert found.mean == pytest.approx(0.1875, rel=1e-4)
    assert found.agreement == same
    assert Comparison(2000, 0, 0, 1, 0.99).warning() is not None
    assert Comparison(2000, 0, 0, 1, 0.995).warning() is None
    assert found.recorded()["same_labels"] == same


def test_denoisers_are_compared_on_images_by_labels(tmp_path: Path) -> None:
    """At the file's own noise, 8-bit images on the grid; the last batch is full."""
    with (
        open_engine(zoo.DENOISER, batch=8, backend="onnxruntime") as reference,
        open_engine(zoo.DENOISER, batch=8, backend="openvino", precision="fp32") as engine,
        open_engine(zoo.CLASSIFIER_DDS, batch=8, backend="onnxruntime") as classifier,
    ):
        found = compare_engines(engine, reference, classifier, zoo.IMAGES, most=20)
        batches = list(noisy_inputs(reference.facts, 8, zoo.IMAGES, most=20))
    ((first,), (last,)) = batches[0][1], batches[-1][1]
    assert [rows for rows, _ in batches] == [8, 8, 4] and len(last) == 8  # what fills the last batch does not count
    assert found.rows == 20
    assert 0 < found.maximum < 1e-4
    assert found.agreement == 1
    np.testing.assert_allclose(first * 255, np.rint(first * 255), atol=1e-3)
    with pytest.raises(InputError, match="holds images"):
        list(noisy_inputs(EngineFacts("classifier", (3, 8, 8), classes=2), 8, zoo.IMAGES))


def test_a_large_batch_is_compared_on_few_rows() -> None:
    """The reference's rows, repeated up to the engine's batch; nothing of what is repeated counts: the zoo has 100 images."""
    with (
        open_engine(zoo.CLASSIFIER_DDS, batch=11, backend="onnxruntime") as engine,
        open_engine(zoo.CLASSIFIER_DDS, batch=4, backend="onnxruntime") as reference,
    ):
        found = compare_engines(engine, reference)
    assert (found.rows, found.agreement) == (100, 1)
    assert found.maximum < 1e-4


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A TensorRT whose plans are the ONNX files themselves; the engines that were opened, by name and batch."""
    opened: list[tuple[str, int]] = []

    def build(onnx: Path, shapes: Any, settings: PlanSettings, cache: bytes | None, out: Path) -> bytes | None:
        out.write_bytes(onnx.read_bytes())
        return None if cache is None else cache + b"timings"

    def opening(path: Path, *, device: str = "cpu", allow_host_code: bool = False, **options: Any) -> Any:
        opened.append((path.name, options["batch"]))
        if device == "cpu":
            return open_engine(path, **options)
        return open_engine(path.rename(path.with_suffix(".onnx")), **options, precision="fp32")

    stub: Any = ModuleType("plan_builder")
    stub.build = build
    monkeypatch.setitem(sys.modules, "diffsmooth_trt.exporting.writers.tensorrt", stub)
    monkeypatch.setattr(
        plan, "_present", lambda settings, compared=True: plan.Machine("11.4", Gpu("Stand-in", "9.0", "1"))
    )
    monkeypatch.setattr(plan, "open_engine", opening)
    monkeypatch.setattr(plan, "publish", lambda draft, record, out: None)
    return opened


def test_a_plan_of_a_large_batch(
    tmp_path: Path, builder: list[tuple[str, int]], linear_classifier: Callable[..., Path]
) -> None:
    """What runs on the CPU takes few rows, or the plan's where a file is for no others."""
    report = export_plan(zoo.CLASSIFIER_DDS, tmp_path / "c.plan", batch=40, timing_cache=tmp_path / "timings")
    assert builder == [(zoo.CLASSIFIER_DDS.name, plan.COMPARED), ("c.plan", 40)]
    assert report.comparison is not None and report.comparison.rows == 100
    assert report.record is not None and report.record.batch == 40
    assert (tmp_path / "timings").read_bytes() == b"timings"
    builder.clear()
    fixed = linear_classifier(W, np.zeros(4), batch=40)
    assert export_plan(fixed, tmp_path / "f.plan").comparison.rows == 80
    assert builder == [(fixed.name, 40), ("f.plan", 40)]


def test_a_plan_for_measurements_opens_nothing(
    tmp_path: Path, builder: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "publish", publish)
    out = tmp_path / "d.plan"
    plan.build_uncompared(zoo.DENOISER, out, 4096, PlanSettings(tf32=True), tmp_path / "timings")
    record = read_record(out, "plan")
    assert (record.batch, record.settings["tf32"], builder) == (4096, True, [])
    assert (tmp_path / "timings").read_bytes() == b"timings"


def test_nan_is_no_small_difference(conditional_denoiser: Callable[..., Path]) -> None:
    with open_engine(conditional_denoiser(np.full((3, 48), np.nan)), batch=4) as engine:
        with pytest.raises(EngineError, match="returns NaN or infinity on noisy images"):
            compare_engines(engine, engine)


def test_weights_of_a_stripped_plan_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    """As the ONNX file names them, beside it."""
    content = {"d.plan": b"plan", "d.onnx": b"graph", "parts/w.bin": b"weights"}
    (tmp_path / "parts").mkdir()
    hashes = {}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    source = {"name": "d.onnx", "sha256": hashes["d.onnx"], "weights": {"parts/w.bin": hashes["parts/w.bin"]}}
    machine = {"tensorrt": "10.13.3", "gpu": "a GPU", "compute_capability": "9.0", "driver": "580"}
    facts = EngineFacts("denoiser", (3, 4, 4), sigma=0.25)
    record = Record("plan", hashes["d.plan"], 8, facts, source, machine, {"weight_stripped": True})
    record_path(tmp_path / "d.plan").write_text(record.to_json(), encoding="utf-8")
    plan = read_plan(tmp_path / "d.plan", role="denoiser", sigma=0.25)
    assert plan.source() == tmp_path / "d.onnx"
    (tmp_path / "d.onnx").rename(tmp_path.parent / "blob")
    (tmp_path / "d.onnx").symlink_to(tmp_path.parent / "blob")  # as caches of downloads have it
    assert plan.source() == tmp_path / "d.onnx"
    (tmp_path / "parts" / "w.bin").unlink()
    with pytest.raises(InputError, match="has its weights in parts/w.bin, which is not beside it"):
        plan.source()
