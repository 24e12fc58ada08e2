"""Plans before TensorRT sees them: record, hash, version, compute capability and host code decide."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from diffsmooth_trt.device.nvidia import DRIVER_LIBRARY, find_gpu, import_tensorrt
from diffsmooth_trt.engine import EngineFacts
from diffsmooth_trt.engine.backends.tensorrt_plan import check_runs_here, read_plan
from diffsmooth_trt.engine.record import Record, draft_folder, publish, read_record, record_path
from diffsmooth_trt.engine.rows import VERSION
from diffsmooth_trt.errors import InputError, StoreError

MACHINE = {"tensorrt": "11.4.0.106", "gpu": "NVIDIA H200", "compute_capability": "9.0", "driver": "580.65.06"}


def write(folder: Path, *, machine: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A file of any content and its record: all that `read_plan` looks at."""
    out = folder / "d.plan"
    source = folder / "d.onnx"
    source.write_bytes(b"graph")
    facts = EngineFacts("denoiser", (3, 8, 8), sigma=0.25)
    named = {"name": source.name, "sha256": hashlib.sha256(b"graph").hexdigest(), "weights": {}}
    with draft_folder(out) as drafts:
        draft = drafts / out.name
        draft.write_bytes(b"plan")
        sha256 = hashlib.sha256(b"plan").hexdigest()
        publish(draft, Record("plan", sha256, 64, facts, named, machine or MACHINE, settings), out)
    return out


def test_a_plan_says_what_it_is(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, tf32=True, optimization_level=3), role="denoiser", sigma=0.25)
    assert (plan.batch, plan.facts.sigma, plan.tensorrt, plan.gpu) == (64, 0.25, "11.4.0.106", "NVIDIA H200")
    assert (plan.library, plan.compute_capabilities, plan.precision) == ("tensorrt", ("9.0",), "tf32")
    assert plan.settings["optimization_level"] == 3
    assert not plan.weight_stripped
    assert plan.read() == b"plan"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.onnx", "d.plan", "d.plan.json"]


def test_a_plan_takes_the_proof_of_its_graph_along(tmp_path: Path) -> None:
    """Independent rows: proved for the very graph and batch, or assumed; a graph that was refused is no engine."""
    path = write(tmp_path)
    record = read_record(path, "plan")
    assert (record.rows, record.independence) == (None, "assumed")
    graph = hashlib.sha256(b"graph").hexdigest()
    proof = {"version": VERSION, "rows": 64, "nodes": 3, "graph": graph}

    def with_proof(**changes: Any) -> Record:
        changed = dataclasses.replace(record, rows={**proof, **changes})
        record_path(path).write_text(changed.to_json(), encoding="utf-8")
        return read_plan(path, role="denoiser", sigma=None).record

    assert with_proof().independence == "proved"
    assert with_proof(version=VERSION - 1).independence == "assumed"
    for changes, message in (
        (
            {"graph": "0" * 64},
            "a proof of independent rows for another graph or batch: make it again with `diffsmooth-trt",
        ),
        ({"rows": 32}, "a proof of independent rows for another graph or batch"),
        (
            {"refused": "node 'm' sorts over the batch axis"},
            "not proved to keep rows apart .node 'm' sorts over .*: take that",
        ),
    ):
        with pytest.raises(InputError, match=message) as caught:
            with_proof(**changes)
        assert "\n" not in str(caught.value)


def test_a_plan_of_other_content_or_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    for options, message in (
        ({"role": "classifier", "sigma": None}, "is a denoiser, expected a classifier"),
        ({"role": "denoiser", "sigma": 0.5}, "exported for sigma 0.25, the run asks for 0.5"),
    ):
        with pytest.raises(InputError, match=message):
            read_plan(path, **options)
    plan = read_plan(path, role="denoiser", sigma=None)
    path.write_bytes(b"evil")
    with pytest.raises(InputError, match="changed while it was being opened and was not loaded"):
        plan.read()
    with pytest.raises(InputError, match=r"is not the file its record was written for .* was not loaded"):
        read_plan(path, role="denoiser", sigma=None)
    record_path(path).unlink()
    with pytest.raises(InputError, match="executable code and is loaded only with the record of its export"):
        read_plan(path, role="denoiser", sigma=None)


def test_a_record_without_its_machine_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, machine={"tensorrt": "11.4"})
    with pytest.raises(InputError, match="does not say its compute_capability: export it again"):
        read_plan(path, role="denoiser", sigma=None)


@pytest.mark.parametrize(
    ("version", "capability", "message"),
    [
        ("11.4.0.106", "9.0", None),
        ("11.4.1.7", "9.0", "was built by TensorRT 11.4.0.106, this machine has 11.4.1.7"),
        ("10.16.1.11", "9.0", "was built by TensorRT 11.4.0.106, this machine has 10.16.1.11"),
        ("11.4.0.106", "8.0", r"compute capability 9.0 \(NVIDIA H200\), this GPU has 8.0: build it again here"),
    ],
)
def test_where_a_plan_runs(tmp_path: Path, version: str, capability: str, message: str | None) -> None:
    plan = read_plan(write(tmp_path), role="denoiser", sigma=0.25)
    if message is None:
        check_runs_here(plan, tensorrt=version, compute_capability=capability)
        return
    with pytest.raises(InputError, match=message):
        check_runs_here(plan, tensorrt=version, compute_capability=capability)


def test_host_code_runs_only_when_told(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, version_compatible=True), role="denoiser", sigma=0.25)
    assert plan.holds_host_code
    here = {"tensorrt": "11.5.0.1", "compute_capability": "9.0"}
    with pytest.raises(InputError, match=r"holds executable host code, which is not loaded: pass allow_host_code=True"):
        check_runs_here(plan, **here)
    check_runs_here(plan, **here, allow_host_code=True)
    with pytest.raises(InputError, match="this machine has 11.3"):
        check_runs_here(plan, tensorrt="11.3.0.99", compute_capability="9.0", allow_host_code=True)


def test_stripped_weights_come_from_the_recorded_file(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, weight_stripped=True), role="denoiser", sigma=0.25)
    assert plan.weight_stripped
    assert plan.source() == tmp_path / "d.onnx"
    (tmp_path / "d.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match=r"has its weights in d.onnx, which is not beside it as it was at export"):
        plan.source()


def test_a_pair_that_cannot_be_published_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "d.plan"
    out.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        with draft_folder(out):
            pass
    with pytest.raises(InputError, match="cannot be written"):
        with draft_folder(tmp_path / "absent" / "d.plan"):
            pass
    other = tmp_path / "other"
    other.mkdir()
    record = read_plan(write(other), role="denoiser", sigma=None).record
    with pytest.raises(StoreError, match="could not be written"):
        publish(tmp_path / "no-draft", record, tmp_path / "e.plan")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver by a name that no machine has; TensorRT by what this environment really has."""
    monkeypatch.setattr("diffsmooth_trt.device.nvidia.DRIVER_LIBRARY", f"{DRIVER_LIBRARY}.none")
    with pytest.raises(InputError, match=r"no NVIDIA driver \(libcuda.so.1.none is not on this machine\)"):
        find_gpu()
    monkeypatch.setattr("diffsmooth_trt.device.nvidia.FULL", ("no_such_tensorrt", "wave"))
    monkeypatch.setattr("diffsmooth_trt.device.nvidia.LEAN", ("calendar",))
    with pytest.raises(
        InputError, match=r"wave of no version is too old or a placeholder; calendar is the lean runtime"
    ):
        import_tensorrt()
    with pytest.raises(
        InputError, match=r"calendar of no version is too old or a placeholder: install the full TensorRT"
    ):
        import_tensorrt(lean=True)
