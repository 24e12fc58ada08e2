"""The tables of docs/benchmarks.md are those of the committed result files; what the GPU benchmark does when things go wrong."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

ROOT = Path(__file__).resolve().parent.parent


def test_tables_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], timeout=60)
    assert done.returncode == 0, "run benchmarks/tables.py"


def test_intervals_of_an_auroc_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normals one apart, 30 images a kind: 400 intervals of at least 95 % miss as much as 8 % with probability below 1 %."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("tables")
    rng, true = np.random.default_rng(0), float(ndtr(1 / np.sqrt(2)))
    missed = 0
    for inside, outside in zip(rng.normal(1, 1, (400, 30)), rng.normal(0, 1, (400, 30)), strict=True):
        low, high = tables.auroc_interval(float((inside[:, None] > outside).mean()), 30)
        missed += not low <= true <= high
    assert missed < 32
    assert tables.auroc_interval(1.0, 30) == pytest.approx((40 ** (-1 / 30), 1.0))
    assert tables.auroc_interval(0.0, 30) == pytest.approx((0.0, 1 - 40 ** (-1 / 30)))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch", reason="the benchmark's networks are torch's")
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "gpu"))
    return importlib.import_module("bench")


def test_what_failed_is_kept_and_what_was_missing_is_looked_for_again(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result is on the disk before the work begins; a failed one holds no memory while it is given back."""
    results = importlib.import_module("results")
    path, calls, failed = tmp_path / "r.json", [], []

    def opened(**options: Any) -> Any:
        return bench.Bench(path, tmp_path / "files", **{"minutes": 1, "rehearse": True, "again": False, **options})

    class Memory:
        pass

    def fails() -> dict[str, Any]:
        held = Memory()
        failed.append(weakref.ref(held))
        raise AssertionError("of a compiler")

    def missing() -> dict[str, Any]:
        calls.append("missing")
        raise bench.Missing("TensorRT")

    def works() -> dict[str, Any]:
        calls.append("works")
        assert json.loads(path.read_text())["results"]["c"] == results.UNFINISHED
        return {"seconds": 1.0}

    def ends() -> dict[str, Any]:
        raise KeyboardInterrupt

    given_back: list[bool] = []
    monkeypatch.setattr(results, "give_memory_back", lambda: given_back.append(all(each() is None for each in failed)))
    named = [("a", fails), ("b", missing), ("c", works), ("d", ends)]
    with pytest.raises(KeyboardInterrupt):
        opened().each(named)
    assert given_back == [True] * 3
    found = opened()
    assert found.results["a"] == {"failed": "AssertionError: of a compiler"}
    assert found.results["d"] == results.UNFINISHED
    found.each(named)
    assert calls == ["missing", "works", "missing"]
    opened(minutes=0).each([("e", works)])
    assert calls == ["missing", "works", "missing"]
    opened(again=True).each(named[2:3])
    assert calls == ["missing", "works", "missing", "works"]
    assert set(opened().results) == {"a", "b", "c", "d"}


def test_subjects_that_are_asked_for(bench: Any, tmp_path: Path) -> None:
    kept = bench.Bench(tmp_path / "r.json", tmp_path / "files", 1, True, False)
    kept.pairs, kept.rehearse = bench.PAIRS, False
    asked = bench.Asked(False, True, ("unet", "unet552+beit"), ("inductor", "eager"), ("bf16",), (256, 64))
    found = [(pair.name, *rest) for pair, *rest in asked.subjects(kept, bench.ENGINES)]
    assert found == [("unet", "inductor", "bf16", 256), *(("unet552+beit", "inductor", "bf16", n) for n in (64, 256))]
    found = [(pair.name, *rest) for pair, *rest in asked.subjects(kept, bench.TORCH)]
    assert found[0] == ("unet", "eager", "bf16", 256)
    everything = list(bench.Asked(False, True).subjects(kept, bench.ENGINES))
    assert len(everything) == len(bench.PAIRS) * 9 * 3


def test_attention_is_counted(bench: Any) -> None:
    torch = pytest.importorskip("torch")

    class Attention(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.scaled_dot_product_attention(x, x, self.scale * x)

    assert importlib.import_module("networks").multiply_adds(Attention(), 8) == 2 * 3 * 8 * 8 * 8


def test_plans_are_built_with_tf32_where_they_are_called_so(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, plan = importlib.import_module("engines"), importlib.import_module("diffsmooth_trt.exporting.plan")
    built: list[tuple[str, int, bool]] = []
    monkeypatch.setattr(
        plan,
        "build_uncompared",
        lambda onnx, out, rows, settings, cache: built.append((onnx.name, rows, settings.tf32)),
    )
    monkeypatch.setattr(engines, "_onnx", lambda *arguments: None)
    pair = bench.REHEARSED["unet"]
    for precision in ("tf32", "fp16"):
        out = engines.file_of(tmp_path, pair, "denoiser", "tensorrt", precision, 4)
        engines.build(pair, "denoiser", "tensorrt", precision, 4, out, True)
    assert built == [("tiny-fp32.onnx", 4, True), ("tiny-fp16.onnx", 4, False)]


def test_a_batch_of_the_papers_loop_is_one_step_of_graphs(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch, begun = pytest.importorskip("torch"), []
    loops = importlib.import_module("torch_baseline")
    loop = loops.EagerLoop(bench.REHEARSED["unet"], torch.device("cpu"), "fp32", lambda net: net)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    assert loop.votes(2, 3) == [6]
    assert begun == [1, 1, 1]


def test_simulated_workers_finish_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop, the steps and the run store are the real ones: what changes in them, the simulation has to follow."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scaling = importlib.import_module("bench_scaling")
    costs = scaling.RayCosts(batch=1.0, put=1.0, along=1.0, asked=1.0, under_way=1.0)
    done = scaling.simulate(
        8, images=3, unit=1e6, costs=costs
    )  # so long that this machine's own time is nothing beside it
    # 3 · 10,100 samples by 64 are 474 batches, and those of the audit; the last round of eight workers is not full
    assert 474 <= done["batches_per_second"] * done["seconds"] <= 474 + 3 * 9
    assert 0.9 < done["efficiency"] <= 1
    assert all(each["a_second"] > 0 for name, each in scaling.ledger(50).items() if name != "load")
