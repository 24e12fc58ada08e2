"""`bench`: what is counted is what the graph says, rates and latencies belong together, and a slower machine is found."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffsmooth_trt import zoo
from diffsmooth_trt.bench.config import BenchConfig
from diffsmooth_trt.bench.flops import operations
from diffsmooth_trt.bench.matmul import FLOPS, KINDS, ROWS, SIDE, chain
from diffsmooth_trt.bench.measure import PACKING, measure
from diffsmooth_trt.bench.neighbours import Neighbours, note
from diffsmooth_trt.bench.report import compare, text
from diffsmooth_trt.bench.result import EAGER, BenchResult, Spread
from diffsmooth_trt.certify.batch_size import Clock
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import BACKENDS, open_engine
from diffsmooth_trt.errors import InputError, OutOfMemory
from diffsmooth_trt.methods import DenoisedSmoothing

measure_module = importlib.import_module("diffsmooth_trt.bench.measure")
ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(19)
QUICK: dict[str, Any] = {"batches": (2, 4), "rounds": 3, "seconds": 0.01, "backend": "onnxruntime"}


@pytest.fixture(scope="module")
def pair(linear_classifier: Any, shrinking_denoiser: Any) -> dict[str, Any]:
    return {
        "engine": shrinking_denoiser(0.5),
        "classifier": linear_classifier(RNG.normal(size=(5, 48)), np.zeros(5)),
    }


@pytest.fixture(scope="module")
def measured(pair: dict[str, Any]) -> BenchResult:
    return measure(BenchConfig.given(**pair, **QUICK))


def graph(path: Path, nodes: list[Any], weights: dict[str, tuple[int, ...]], shape: list[int], out: list[int]) -> Path:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", *out])],
        [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_operations_are_those_of_the_products(tmp_path: Path, linear_classifier: Any) -> None:
    """Each counted by hand: rows · output pixels · (inputs of one output) multiplications, twice."""
    assert operations(linear_classifier(np.zeros((5, 48)), np.zeros(5)), 3) == 2 * 3 * 5 * 48
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    path = graph(tmp_path / "c.onnx", [conv], {"w": (6, 2, 3, 3)}, [4, 8, 8], [6, 4, 4])
    assert operations(path, 5) == 2 * 5 * (6 * 4 * 4) * (2 * 3 * 3)
    back = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    path = graph(tmp_path / "t.onnx", [back], {"w": (4, 3, 2, 2)}, [4, 8, 8], [3, 16, 16])
    assert operations(path, 5) == 2 * 5 * (4 * 8 * 8) * (3 * 2 * 2)


def test_operations_of_unknown_products_are_not_guessed(tmp_path: Path) -> None:
    einsum = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,io->bo")
    assert operations(graph(tmp_path / "e.onnx", [einsum], {"w": (4, 4)}, [4], [4]), 1) is None


def test_the_chain_of_products_is_what_its_rate_counts(tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / f"{kind}.onnx"
        onnx.save(chain(kind), path)
        assert operations(path, ROWS) == FLOPS
    with open_engine(path, batch=2, backend="onnxruntime") as engine:
        assert engine.output_shape == (2, SIDE)


def test_rates_and_latencies_of_a_device_that_does_one_step_at_a_time(measured: BenchResult) -> None:
    assert [row.batch for row in measured.rows] == [2, 4]
    for row in measured.rows:
        assert 0 < row.rate.low <= row.rate.median <= row.rate.high and row.rate.count == 3
        assert row.latency.low <= row.latency.median <= row.latency_p95 <= row.latency.high and row.latency.count >= 3
        assert row.rate.high <= 1000 * row.batch / row.latency.low * (1 + 1e-9)
        assert row.rate.low >= 1000 * row.batch / row.latency.high * (1 - 1e-9)
        assert set(row.stages) == {PACKING, "noise", "denoiser", "classifier", "votes"}
        assert sum(row.stages.values()) == pytest.approx(1)
        assert row.engines["classifier"].gflops == 2 * row.batch * 5 * 48 / 1e9
        assert row.engines["denoiser"].gflops is None  # it has no products
    assert measured.matmul["fp32"].median > 0
    assert measured.classifier["denoiser"]["sha256"] and "batch" not in measured.classifier["denoiser"]


def test_stages_are_told_where_the_time_goes(pair: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that takes 5 ms more has them in its share."""
    real = DenoisedSmoothing.labels

    def slow(self: DenoisedSmoothing, *given: Any) -> Any:
        found = real(self, *given)
        time.sleep(0.005)
        return found

    monkeypatch.setattr(DenoisedSmoothing, "labels", slow)
    (row,) = measure(BenchConfig.given(**pair, **{**QUICK, "batches": (2,)})).rows
    seconds = row.engines["classifier"].seconds
    assert seconds is not None and seconds >= 0.005
    assert row.stages["classifier"] > 0.5
    assert row.latency.low >= 5


@pytest.fixture
def late(make_device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device as a GPU is one, of 256 MiB, that `--device cuda:0` opens; a row takes 1 MiB of it."""
    made = make_device(total=1 << 28)
    engine = type("Late", (made.module.LateEngine,), {"row_bytes": 1 << 20})
    monkeypatch.setattr(measure_module, "open_device", lambda name: made)
    real = BACKENDS["onnxruntime"]
    monkeypatch.setitem(BACKENDS, "onnxruntime", lambda: made.module.Either(made, engine, real()))
    monkeypatch.setattr(measure_module, "measurable", lambda engine: False)  # the chain of products takes more memory
    return made


def test_a_device_that_works_late_is_waited_for_at_each_stage(pair: dict[str, Any], late: Any) -> None:
    result = measure(BenchConfig.given(**pair, **QUICK, device="cuda:0"))
    assert late.captures == 2  # one a batch size: the steps whose stages are timed are not recorded
    assert late.watch is None
    for row in result.rows:
        assert set(row.stages) == {PACKING, "noise", "denoiser", "classifier", "votes"}
        assert row.stages["classifier"] > 0.02 and row.stages["denoiser"] > 0.02  # what is only enqueued takes nothing
        assert row.memory_mib is not None and row.memory_mib >= 2 * row.batch
    assert result.notes[:2] == [
        f"no share of the matmul rate for the {part}: onnxruntime runs no chain of products"
        for part in ("denoiser", "classifier")
    ]


def test_a_batch_size_that_memory_does_not_take_is_left_out(pair: dict[str, Any], late: Any) -> None:
    given = {**QUICK, "batches": (4, 200), "rounds": 1, "device": "cuda:0"}
    result = measure(BenchConfig.given(**pair, **given))
    assert [row.batch for row in result.rows] == [4]
    assert result.notes[0].startswith("batch 200 was left out: ")
    with pytest.raises(OutOfMemory):
        measure(BenchConfig.given(**pair, **{**given, "batches": (200,)}))


def test_auto_is_a_size_that_was_timed_anyway_or_one_more(pair: dict[str, Any]) -> None:
    rows = measure(BenchConfig.given(**pair, **{**QUICK, "batches": (16, "auto"), "rounds": 1})).rows
    assert [row.auto for row in rows] in ([True], [False, True])
    assert len({row.batch for row in rows}) == len(rows)


def test_files_made_for_one_batch_size_are_timed_at_it(linear_classifier: Any) -> None:
    fixed = linear_classifier(RNG.normal(size=(5, 48)), np.zeros(5), batch=3)
    given: dict[str, Any] = {"engine": fixed, "method": "rs", "sigma": 0.25, **QUICK}
    with pytest.raises(InputError, match=r"batches 2 cannot be run.*made for batches of 3"):
        measure(BenchConfig.given(**given))
    del given["batches"]
    assert [row.batch for row in measure(BenchConfig.given(**given)).rows] == [3]


def changed(result: BenchResult, factor: float, **more: Any) -> BenchResult:
    """The same machine, this many times as fast."""
    rows = [
        dataclasses.replace(row, rate=Spread(*(getattr(row.rate, n) * factor for n in ("median", "low", "high")), 3))
        for row in result.rows
    ]
    return dataclasses.replace(result, rows=rows, **more)


def test_neighbours_are_other_processes() -> None:
    """What this process does is not counted, what another does is; both take a processor for half a second."""

    if Neighbours().begun is None:
        pytest.skip("this system does not say what processors do")
    processors = os.cpu_count() or 1
    begun, start, alone = time.process_time(), time.perf_counter(), Neighbours()
    while time.process_time() - begun < 0.5:
        pass
    found, wall, beside = alone.share(), time.perf_counter() - start, Neighbours()
    assert found is not None and found <= 1 - 0.4 / (wall * processors)
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    loud = beside.share()
    assert loud is not None and loud >= 0.5 / processors * 0.5  # of a second or so, on all processors
    assert note(0.5) and not note(0.01) and not note(None)


def test_what_is_slower_by_more_than_the_margin_is_named(measured: BenchResult) -> None:
    assert compare(changed(measured, 1 / 0.95), measured, 0.1, "old.json").slower == []
    found = compare(changed(measured, 1 / 0.85), measured, 0.1, "old.json")
    assert found.slower == ["engine, batch 2", "engine, batch 4"]
    assert "0.850 slower" in "\n".join(found.lines)
    eager = dataclasses.replace(measured, rows=[dataclasses.replace(row, subject=EAGER) for row in measured.rows])
    assert compare(changed(eager, 10), eager, 0.1, "old.json").slower == []


def test_values_that_are_no_measurements_are_refused(measured: BenchResult) -> None:
    for changes in (
        {"machine": ["x"]},
        {"rows": [dataclasses.replace(measured.rows[0], rate=Spread(0.0, 0.0, 0.0, 1))]},
    ):
        old = dataclasses.replace(measured, **changes)
        with pytest.raises(InputError, match="^compare old.json holds values that this version cannot use"):
            compare(old, measured, 0.1, "old.json")


def test_another_machine_or_classifier_is_said(measured: BenchResult) -> None:
    other = changed(measured, 1, machine={**measured.machine, "processors": 99})
    assert any("another processors (before: 99" in line for line in compare(other, measured, 0.1, "old.json").lines)
    assert not any("another" in line for line in compare(measured, measured, 0.1, "old.json").lines)


def test_what_is_written_is_read_back(measured: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(measured.to_json(), encoding="utf-8")
    assert BenchResult.read(path) == measured
    assert text(BenchResult.read(path)) == text(measured)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not what `bench --json` writes"),
        ("[1]", "is not what `bench --json` writes"),
        ('{"format": 2}', "has format 2"),
        ('{"format": 1, "rows": 3}', "is not what"),
    ],
)
def test_damaged_files_are_one_line(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        BenchResult.read(path)


def test_a_rate_of_nothing_is_damage(measured: BenchResult, tmp_path: Path) -> None:
    values = json.loads(measured.to_json())
    values["rows"][0]["rate"]["median"] = 0
    path = tmp_path / "old.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match="ValueError"):
        BenchResult.read(path)


def test_command_compares_and_fails_where_it_is_slower(
    pair: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, old = tmp_path / "new.json", tmp_path / "old.json"
    command = ["bench", "--engine", str(pair["engine"]), "--classifier", str(pair["classifier"])]
    command += ["--batches", "4", "--rounds", "2", "--seconds", "0.01", "--backend", "onnxruntime"]
    assert main([*command, "--json", str(out)]) == 0
    assert "samples/s" in capsys.readouterr().out
    result = BenchResult.read(out)
    for factor, status in ((100, 1), (0.01, 0)):
        old.write_text(changed(result, factor).to_json(), encoding="utf-8")
        assert main([*command, "--compare", str(old)]) == status
    found = capsys.readouterr().out
    assert "slower by more than 10%: engine, batch 4" in found
    assert main([*command[:-6], "--batches", "2", "--rounds", "1", "--compare", str(old)]) == 2
    assert "none of which was timed here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classifier": None}, "--classifier is needed by --method dds"),
        ({"method": "rs", "classifier": None}, "--sigma is needed by --method rs"),
        ({"method": "magic"}, "--method 'magic' is unknown"),
        ({"batches": ()}, "--batches is empty"),
        ({"batches": (0,)}, "--batches must be an integer of 1 to 65536, got 0"),
        ({"batches": (4, 4)}, "names a size twice"),
        ({"rounds": 0}, "--rounds must be"),
        ({"seconds": float("nan")}, "--seconds must lie between"),
        ({"sigma": -1.0}, "--sigma must"),
        ({"m": 3}, "--m is for --method diffsmooth"),
        ({"method": "diffsmooth", "arch": "resnet56"}, "eager PyTorch is timed for --method rs and dds"),
        ({"arch": "resnet56"}, "--classifier-checkpoint is needed"),
        ({"device": "tpu"}, "--device 'tpu' is unknown"),
    ],
)
def test_bad_arguments_are_one_line(given: dict[str, Any], said: str, pair: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        BenchConfig.given(**{**pair, **given})
    assert said in error.value.message and "\n" not in error.value.message


def test_eager_pytorch_is_timed_on_the_checkpoints_that_engines_were_made_from() -> None:
    pytest.importorskip("torch", reason="eager PyTorch")
    states = ROOT / "export" / "zoo"
    made: dict[str, Any] = {"family": "guided-diffusion", "config": "zoo", "checkpoint": states / "unet.pt"}
    made |= {"arch": "resnet56", "classifier_checkpoint": states / "classifier-dds.pt"}
    pair = {"engine": zoo.DENOISER, "classifier": zoo.CLASSIFIER_DDS}
    result = measure(BenchConfig.given(**pair, **made, **{**QUICK, "batches": (32,), "rounds": 1}))
    ours, theirs = result.rows
    assert theirs.subject == EAGER and theirs.agreement is not None and theirs.agreement >= 0.9
    assert ours.engines["denoiser"].share is not None and 0 < ours.engines["denoiser"].share < 3
    assert "× eager" in text(result)


def test_the_clock_counts_every_step_of_a_turn(pair: dict[str, Any]) -> None:
    names = {"engine": "denoiser", "classifier": "classifier"}
    engines = {name: open_engine(pair[name], role=role, batch=4, backend="onnxruntime") for name, role in names.items()}
    with engines["engine"], engines["classifier"]:
        clock, calls = Clock(DenoisedSmoothing(engines["engine"], engines["classifier"])), []
        real = clock.step.collect
        clock.step.collect = lambda: (calls.append(1), real())[1]  # type: ignore[method-assign]
        start = time.perf_counter()
        rate = clock.rate(0.05)
        spent = time.perf_counter() - start
        assert spent >= 0.05 and rate == pytest.approx(4 * len(calls) / spent, rel=0.05)
