"""The kit for the first minutes on a GPU: its rehearsal, what its time boxes hold, and the wheel that travels in parts."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "benchmarks" / "gpu"


def test_every_stage_is_rehearsed_on_a_processor(tmp_path: Path) -> None:
    """The command itself; the stages that need a GPU say so. What is asked for and unknown is left out, not fatal."""
    pytest.importorskip("torch", reason="the kit's networks are torch's")
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    stages = ["bash", str(KIT / "session.sh"), "--rehearse", "--folder", str(tmp_path / "files")]
    every = list(json.loads(subprocess.check_output([sys.executable, "-c", LIST], text=True)))
    done = subprocess.run(
        [*stages, "no-such", *every], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "out" / "session.log").read_text()
    assert "stage 'no-such' is unknown: left out; there are device, doctor" in done.stdout
    document = json.loads((tmp_path / "out" / "session.json").read_text())
    results = document["stages"]
    assert list(results) == every
    skipped = {name for name, result in results.items() if result["status"] == "skipped"}
    assert skipped == {"sanitizer", "tests"}
    assert "noise bits equal" in results["kernels"]["found"]["figure"]
    assert [results["certify"]["found"][name]["largest_difference"] for name in ("dds", "diffsmooth")] == [0, 0]
    pair = results["speed"]["found"]["unet+resnet110x5 b2"]
    assert {"ours", *pair["ratios"]} == set(pair["rates"])
    assert all(each["turns"] == 2 and 0 < each["lowest"] <= each["median"] for each in pair["rates"].values())
    assert results["device"]["found"]["bf16_tflops"] > 0
    assert len(list((tmp_path / "out").iterdir())) <= 6


LIST = f"import sys, json; sys.path.insert(0, {str(KIT)!r}); import stages; print(json.dumps(list(stages.STAGES)))"


def test_a_session_goes_on_whatever_a_stage_does(tmp_path: Path) -> None:
    script = ROOT / "tests" / "support" / "session_stages.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "session.json").read_text())["stages"]
    told = {name: (result["status"], result.get("why")) for name, result in results.items()}
    assert told == {
        "works": ("done", None),
        "fails": ("failed", "ValueError: of a compiler"),
        "hangs": ("stopped", "killed after 1 s, its time box; child was found last"),
        "crashes": ("failed", "ended by signal 9"),
        "lacks": ("skipped", "no such thing here"),
        "finds_a_fault": ("failed", "3 of 4 are wrong"),
        "needs_more": ("skipped", "too little memory: it needs 2 GiB of the GPU, 1.5 are free"),
        "last": ("done", None),
        "late": ("not begun", "the call's time is over"),
    }
    assert results["works"]["found"] == {"answer": 42, "figure": "42 answers"}
    child = Path(f"/proc/{results['hangs']['found']['child']}/stat")
    assert (
        not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"
    )  # ended; no one has asked for it yet
    assert results["fails"]["found"] == {"answer": 1}
    assert "ValueError: of a compiler" in (tmp_path / "session.log").read_text()
    lines = [line.split() for line in done.stdout.splitlines()[-10:]]
    assert [line[0] for line in lines] == ["stage", *results]


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(KIT))
    return importlib.import_module("wheel_parts")


def fat_binary(*entries: tuple[int, bytes]) -> bytes:
    """A fat binary with (capability, payload) entries."""
    body = b"".join(
        struct.pack("<HHIQ", 2, 0x101, 64, len(payload))
        + bytes(12)
        + struct.pack("<I", capability)
        + bytes(32)
        + payload
        for capability, payload in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_only_one_kinds_machine_code_is_kept(wheel: Any) -> None:
    text = b"\x7fELF the host's own code"
    code = text + fat_binary((80, b"eighty!!"), (90, b"ninety!!")) + text + fat_binary((90, b"more")) + text
    kept = text + fat_binary((80, bytes(8)), (90, b"ninety!!")) + text + fat_binary((90, b"more")) + text
    assert wheel.only(code, "9.0") == (kept, 2)
    assert wheel.only(kept, "9.0") == (kept, 2)
    broken = bytearray(code)
    struct.pack_into("<Q", broken, len(text) + 16 + 8, 1 << 40)
    with pytest.raises(ValueError, match="sizes that do not fit"):
        wheel.only(bytes(broken), "9.0")


def test_a_wheel_travels_in_parts(wheel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "x.whl"
    with zipfile.ZipFile(source, "w") as made:
        made.writestr("onnxruntime/capi/", "")
        made.writestr(f"onnxruntime/capi/{wheel.CUDA_PROVIDER}", fat_binary((80, bytes(range(256))), (90, b"ninety!!")))
        made.writestr("onnxruntime/__init__.py", "VALUE = 3\n")
        made.writestr("onnxruntime/tools/left.py", "out")
    packed, kept = wheel._packed(source)
    assert kept == 1
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    parts = [packed[: len(packed) // 2], packed[len(packed) // 2 :]]
    about = {"python": here, "capability": "9.0", "sha256": [hashlib.sha256(part).hexdigest() for part in parts]}
    with pytest.raises(wheel.Skipped, match=r"`session.sh prepare` makes"):
        wheel.install(tmp_path, tmp_path, "9.0")
    for number, part in enumerate(parts):
        folder = tmp_path / f"gpu-wheel-{number}"
        folder.mkdir()
        (folder / "part").write_bytes(part)
        (folder / "about.json").write_text(json.dumps(about))
        if number == 0:
            with pytest.raises(wheel.Skipped, match="part 1 of 2 is not here: bring build/gpu-wheel-1"):
                wheel.install(tmp_path, tmp_path, "9.0")
    with pytest.raises(wheel.Skipped, match=r"is for compute capability 9.0, here it is 10.0"):
        wheel.install(tmp_path, tmp_path, "10.0")
    site = wheel.install(tmp_path, tmp_path / "target", "9.0")
    assert sorted(path.name for path in site.rglob("*") if path.is_file()) == ["__init__.py", wheel.CUDA_PROVIDER]
    (tmp_path / "gpu-wheel-1" / "part").write_bytes(parts[1][:-1] + b"x")
    with pytest.raises(ValueError, match="gpu-wheel-1 is damaged"):
        wheel.install(tmp_path, tmp_path / "target", "9.0")
