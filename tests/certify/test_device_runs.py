"""Runs on a device that works late, as a GPU does: the run of the CPU, and what happens when memory or the device fails.

The device is tests/support/host_device.py: the GPU's kernels on NumPy arrays, behind a queue. Where the machine has a CUDA GPU, the
last tests compare it with the CPU.
"""

from __future__ import annotations

import gc
import importlib
import sqlite3
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.api import run
from diffsmooth_trt.certify import batch_size
from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.device import CPU
from diffsmooth_trt.device.selftest import check_device_noise
from diffsmooth_trt.engine import BACKENDS, open_engine
from diffsmooth_trt.errors import EngineError, InputError, NoiseError, OutOfMemory
from diffsmooth_trt.methods import DenoisedSmoothing
from diffsmooth_trt.noise import Key, grid_law
from diffsmooth_trt.runs import engines
from diffsmooth_trt.runs.config import RunConfig

RUNNER = importlib.import_module("diffsmooth_trt.certify.loop")
RNG = np.random.default_rng(3)
KEY = "0123456789abcdef" * 4
TABLES = ("images", "blocks", "partial", "results", "decisions")


@pytest.fixture
def device(make_device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host device that `--device cuda:0` opens, its engines ONNX Runtime's, done late."""
    made = make_device()
    late = type("Late", (made.module.LateEngine,), {})
    monkeypatch.setattr(engines, "open_device", lambda name: made if name == "cuda:0" else CPU)
    real = BACKENDS["onnxruntime"]
    monkeypatch.setitem(BACKENDS, "onnxruntime", lambda: made.module.Either(made, late, real()))
    made.engine = late
    return made


@pytest.fixture
def pair(linear_classifier: Any, shrinking_denoiser: Any) -> dict[str, Any]:
    classifier = linear_classifier(8 * RNG.normal(size=(5, 48)), RNG.normal(size=5))
    return {"engine": shrinking_denoiser(0.5), "classifier": classifier}


def config(out: Path, device: str = "cuda:0", **options: Any) -> RunConfig:
    settings = {"method": "dds", "n": 1300, "n0": 50, "key": KEY, "backend": "onnxruntime", "batch": 64}
    return RunConfig(command="certify", out=out, device=device, **{**settings, **options})


def contents(path: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(path) as connection:
        tables = {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}
    connection.close()
    return tables


METHODS: dict[str, dict[str, Any]] = {
    "rs": {"method": "rs", "sigma": 0.5},
    "dds": {"method": "dds"},
    "diffsmooth": {"method": "diffsmooth", "m": 3, "local_sigma": 0.25},
    "fresh": {"method": "diffsmooth", "m": 2, "local_sigma": 0.25, "local_noise": "fresh"},
    "radius": {"method": "dds", "radius": (0.25, 0.5), "n": 20_000},
    "tolerance": {"method": "dds", "tolerance": 0.2, "n": 3000},
}


@pytest.mark.parametrize(
    ("name", "batch"), [*((name, batch) for name in METHODS for batch in (64, 997)), ("dds", 1), ("fresh", 1)]
)
def test_votes_are_the_cpus(device: Any, pair: Any, images_npz: Any, tmp_path: Path, name: str, batch: int) -> None:
    """Every count and result of the CPU's run, whatever the batch; and steps are recorded as one graph each."""
    options = METHODS[name] | {"data": images_npz(count=4, classes=5), "batch": batch} | pair
    if name == "rs":
        options = {**options, "engine": pair["classifier"], "classifier": None}
    if batch == 1:
        options["n"] = 150
    run(config(tmp_path / "cpu.sqlite", "cpu", **options)).close()
    with run(config(tmp_path / "host.sqlite", **options)) as store:
        identity = store.meta["classifier"]["classifier"]
        assert identity["device"] == "processor" and "instruction_set" not in identity
        assert store.meta["versions"]["device"] == "processor"
    assert contents(tmp_path / "host.sqlite") == contents(tmp_path / "cpu.sqlite")
    assert device.captures >= 1
    assert len(contents(tmp_path / "cpu.sqlite")["results"]) == 4


def test_diffusion_classifiers(device: Any, conditional_denoiser: Any, images_npz: Any, tmp_path: Path) -> None:
    means = RNG.normal(size=(3, 48))
    options = {"engine": conditional_denoiser(means, 0.4), "method": "apndc", "sigma": 0.25, "steps": 6, "n": 200}
    options |= {"data": images_npz(count=2, classes=3), "sift": "spread", "n0": 20}
    run(config(tmp_path / "cpu.sqlite", "cpu", **options)).close()
    run(config(tmp_path / "host.sqlite", **options)).close()
    assert contents(tmp_path / "host.sqlite") == contents(tmp_path / "cpu.sqlite")


def test_zoo_votes(device: Any, tmp_path: Path) -> None:
    """A real pair: DiffSmooth on the shipped engines, the two runs of one batch each."""
    options = {"engine": zoo.DENOISER, "classifier": zoo.CLASSIFIER_DIFFSMOOTH, "data": zoo.IMAGES, "max": 1}
    options |= {"method": "diffsmooth", "n": 12, "n0": 4, "m": 2, "precision": "fp32", "batch": 8}
    run(config(tmp_path / "cpu.sqlite", "cpu", **options)).close()
    run(config(tmp_path / "host.sqlite", **options)).close()
    assert contents(tmp_path / "host.sqlite") == contents(tmp_path / "cpu.sqlite")


def test_two_steps_are_under_way_and_only_counts_are_waited_for(
    device: Any, pair: Any, images_npz: Any, tmp_path: Path
) -> None:
    """One wait a batch, each after the next batch was enqueued: the device always has work."""
    data = images_npz(count=3, classes=5)
    waiting: list[int] = []
    wait = type(device).event

    def event() -> Any:
        inner = wait(device)

        def waited() -> None:
            waiting.append(len(device.queue))
            inner()
            waiting.append(-len(device.queue))

        return waited

    device.event = event
    before = device.waits
    with run(config(tmp_path / "r.sqlite", data=data, batch=150, **pair)) as store:
        again = store.meta["audit"]["spent"] // 150
    batches = 3 * 1350 // 150
    assert device.waits - before == batches + again + 1  # and the one that warms up
    left = [-count for count in waiting[3 : 1 + 2 * batches : 2]]
    assert len(left) == batches - 1 and all(count > 0 for count in left)


def test_resume_and_verify(device: Any, pair: Any, images_npz: Any, tmp_path: Path) -> None:
    data = images_npz(count=3, classes=5)
    whole, part = tmp_path / "whole.sqlite", tmp_path / "part.sqlite"
    for out in (whole, part):
        run(config(out, data=data, **pair)).close()
    with sqlite3.connect(part) as connection:
        connection.execute("DELETE FROM results WHERE image > 0")
        connection.execute("DELETE FROM blocks WHERE image = 2 OR (image = 1 AND start = 1000)")
    connection.close()
    run(config(part, data=data, resume=True, **pair)).close()
    assert contents(part) == contents(whole)
    assert dst.verify(whole, fraction=1).agrees  # on the device that it records
    with pytest.raises(InputError, match=r"classifier\.(classifier|denoiser)\.(device|instruction_set)"):
        run(config(whole, "cpu", data=data, resume=True, **pair))
    done = dst.verify(whole, fraction=1, device="cpu")
    assert done.agrees and any("device" in note for note in done.notes)


def test_the_device_noise_is_tested_first(device: Any, make_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    law = grid_law(0.37)
    check_device_noise(law, device)
    wrong = make_device()
    right = wrong.kernels.noisy_images
    monkeypatch.setattr(
        wrong.kernels, "noisy_images", lambda law, key, *a, **o: right(law, Key(key.number ^ 1), *a, **o)
    )
    with pytest.raises(NoiseError, match=r"host fails its self-test: noisy_images in float32 departs"):
        check_device_noise(law, wrong)


# Memory


def test_out_of_memory_halves_the_batch_before_any_vote(
    device: Any, pair: Any, images_npz: Any, tmp_path: Path
) -> None:
    """The run is that of the batch that fits; a resume finds it again; half of the engines' memory is given back."""
    data = images_npz(count=2, classes=5)
    device.engine.row_bytes = 1 << 20
    device.total = device.taken + (100 << 20)  # two engines: 50 rows fit
    out = tmp_path / "r.sqlite"
    with run(config(out, data=data, batch=150, **pair)) as store:
        assert store.meta["batch_choice"] == {"asked": 150, "chosen": 37, "reason": "out of memory"}
        assert store.meta["classifier"]["classifier"]["batch"] == 37
    run(config(tmp_path / "cpu.sqlite", "cpu", data=data, batch=37, **pair)).close()
    assert contents(out) == contents(tmp_path / "cpu.sqlite")
    before = contents(out)
    run(config(out, data=data, batch=150, resume=True, **pair)).close()
    assert contents(out) == before
    gc.collect()
    assert device.taken < 8 << 20


def test_nothing_of_a_failed_attempt_is_held_when_the_next_begins(
    device: Any, pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the garbage collector, which comes when it likes; and memory is given back after the last array has gone."""
    count, before, given_back = device.count_votes, [], []

    def failing(labels: Any, slots: Any, counts: Any) -> None:
        if len(labels) > 4:
            raise OutOfMemory("host is out of memory")
        count(labels, slots, counts)

    def release() -> None:
        type(device).release(device)
        device.synchronise()  # work that is left over holds its arrays
        given_back.append(device.taken)

    def build(batch: int) -> Any:
        before.append(device.taken)
        engines = [open_engine(pair[name], batch=batch, device=device) for name in ("engine", "classifier")]
        return DenoisedSmoothing(*engines)

    monkeypatch.setattr(device, "count_votes", failing)
    monkeypatch.setattr(device, "release", release)
    gc.disable()
    try:
        assert batch_size.fit(build, 16).method.batch == 4
    finally:
        gc.enable()
    assert before == [before[0]] * 3
    assert given_back == before[:2]


@pytest.mark.parametrize("late", [True, False])
def test_a_step_goes_with_its_last_reference(device: Any, pair: Any, late: bool) -> None:
    where = device if late else CPU
    engines = [
        open_engine(pair[name], batch=4, device=where, backend="onnxruntime") for name in ("engine", "classifier")
    ]
    step = Step(DenoisedSmoothing(*engines), grid_law(0.25), 1)
    for _ in range(2):
        step.launch([Span(Block(0, 1, 0, 4), np.zeros(48, np.uint8), 0, 4, 0)])
        assert step.collect()[1].sum() == 4
    there = weakref.ref(step)
    gc.disable()
    try:
        del step
        assert there() is None
    finally:
        gc.enable()


def test_one_row_too_many_is_an_error(device: Any, pair: Any, images_npz: Any, tmp_path: Path) -> None:
    device.engine.row_bytes = 200 << 20
    device.total = device.taken + (100 << 20)
    with pytest.raises(OutOfMemory, match="host is out of memory"):
        run(config(tmp_path / "r.sqlite", data=images_npz(count=1, classes=5), batch=8, **pair))
    assert not (tmp_path / "r.sqlite").exists()


def test_out_of_memory_within_a_run_keeps_what_was_committed(
    device: Any, pair: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch does not change under way: the run ends, its store is whole, and a resume gives the uninterrupted run."""
    data = images_npz(count=3, classes=5)
    monkeypatch.setattr(RUNNER, "COMMIT_SECONDS", 0.0)
    out, upload, calls = tmp_path / "r.sqlite", device.upload, [0]

    def failing(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] > 150:
            raise OutOfMemory("host is out of memory (another process)")
        upload(*arguments)

    monkeypatch.setattr(device, "upload", failing)
    with pytest.raises(OutOfMemory, match="another process"):
        run(config(out, data=data, **pair))
    held = contents(out)
    assert held["blocks"] and len(held["results"]) < 3
    monkeypatch.setattr(device, "upload", upload)
    device.queue.clear()
    run(config(out, data=data, resume=True, **pair)).close()
    run(config(tmp_path / "cpu.sqlite", "cpu", data=data, **pair)).close()
    assert contents(out) == contents(tmp_path / "cpu.sqlite")


def test_a_device_that_fails_names_the_stage(
    device: Any, pair: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = images_npz(count=3, classes=5), tmp_path / "r.sqlite"
    monkeypatch.setattr(RUNNER, "COMMIT_SECONDS", 0.0)
    launched = device.kernels.launched
    winners = device.kernels.winners

    def failing(scores: Any, labels: Any) -> None:
        def fail() -> None:
            if launched["ds_mark"] and len(done) > 12 and device.broken is None:
                device.broken = "an illegal address"
                device.place_at_failure = device.failing_stage
                device.queue.clear()  # nothing runs after it
                device.queue.append(lambda: None)
            done.append(1)

        device.enqueue(fail)
        winners(scores, labels)

    done: list[int] = []
    monkeypatch.setattr(device.kernels, "winners", failing)
    event = device.event

    def lost() -> Any:
        inner = event()

        def wait() -> None:
            while device.queue and device.broken is None:
                device._done(1)
            if device.broken:
                raise EngineError(f"host failed in stage {device.failing_stage} ({device.broken})")
            inner()

        return wait

    monkeypatch.setattr(device, "event", lost)
    name = pair["classifier"].name
    with pytest.raises(EngineError, match=rf"host failed in stage {name} \(an illegal address\)"):
        run(config(out, data=data, **pair))
    with dst.open_run(out) as store:
        assert store.drawn() > 0


def test_nan_never_becomes_a_vote(device: Any, pair: Any, images_npz: Any, tmp_path: Path) -> None:
    """Found on the device, read with the votes, named by the engine; nothing of that batch is recorded."""
    data, inner = images_npz(count=2, classes=5), device.engine._run
    calls = [0]

    def spoiled(self: Any, inputs: Any) -> Any:
        y = inner(self, inputs)
        calls[0] += 1

        def spoil() -> None:
            y.reshape(-1)[3] = np.nan

        if calls[0] > 8 and self.facts.role == "classifier":
            self.device.enqueue(spoil)
        return y

    device.engine._run = spoiled
    out = tmp_path / "r.sqlite"
    with pytest.raises(EngineError, match=rf"{pair['classifier'].name} returned NaN or infinity"):
        run(config(out, data=data, **pair))
    assert not out.exists() or not contents(out)["blocks"]


# The search for a batch


def fake_method(device: Any, batch: int) -> Any:
    class Nothing:
        closed = False

        def close(self) -> None:
            self.closed = True

    made = Nothing()
    made.batch, made.device = batch, device  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("rates", "limit", "chosen", "last"),
    [
        ({16: 100, 32: 190, 64: 300, 128: 301, 256: 500}, 1 << 20, 64, 128),  # 128 is no faster
        ({16: 100, 32: 200, 64: 400, 128: 800}, 64, 64, 128),  # 128 does not fit
        ({16: 100, 32: 101}, 1 << 20, 16, 32),
        ({16: 100, 32: 90}, 1 << 20, 16, 32),
    ],
)
def test_search_takes_the_smallest_of_the_fastest(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, int], limit: int, chosen: int, last: int
) -> None:
    built: list[Any] = []

    def build(batch: int) -> Any:
        if batch > limit:
            raise OutOfMemory("too little")
        built.append(fake_method(CPU, batch))
        return built[-1]

    found = batch_size.search(build, CPU, clock=lambda method: float(rates[method.batch]))
    assert found.method.batch == chosen and found.choice is not None
    assert found.choice["chosen"] == chosen and found.choice["tried"][-1]["batch"] == last
    assert [method.closed for method in built] == [True] * (len(built) - 1) + [False]


def test_search_stays_within_free_memory(device: Any, pair: Any, images_npz: Any, tmp_path: Path) -> None:
    """It never asks for a batch that by what the last one took cannot fit, with another process holding the rest."""
    device.engine.row_bytes = 1 << 20
    device.total, device.foreign = device.taken + (400 << 20), 200 << 20
    asked: list[int] = []
    start = device.engine.__init__

    def noted(self: Any, file: Any, batch: int, **options: Any) -> None:
        asked.append(batch)
        start(self, file, batch, **options)

    device.engine.__init__ = noted
    out = tmp_path / "r.sqlite"
    with run(config(out, data=images_npz(count=2, classes=5), batch="auto", **pair)) as store:
        choice = store.meta["batch_choice"]
        assert choice["asked"] == "auto" and choice["chosen"] in (16, 32, 64)
        assert [each["batch"] for each in choice["tried"]] in ([16, 32], [16, 32, 64])  # 128 would need 256 of 200 MiB
        assert store.meta["classifier"]["denoiser"]["batch"] == choice["chosen"]
    assert max(asked) <= 64
    before = contents(out)
    run(config(out, data=images_npz(count=2, classes=5), batch="auto", resume=True, **pair)).close()
    assert contents(out) == before


def test_auto_on_the_cpu_and_with_files_of_one_batch(
    linear_classifier: Any, pair: Any, images_npz: Any, tmp_path: Path
) -> None:
    data = images_npz(count=1, classes=5)
    with run(config(tmp_path / "a", "cpu", data=data, batch="auto", n=100, n0=10, **pair)) as store:
        assert store.meta["classifier"]["denoiser"]["batch"] == store.meta["batch_choice"]["chosen"]
    fixed = {**pair, "classifier": linear_classifier(RNG.normal(size=(5, 48)), np.zeros(5), batch=24)}
    with run(config(tmp_path / "b", "cpu", data=data, batch="auto", n=100, n0=10, **fixed)) as store:
        assert store.meta["classifier"]["denoiser"]["batch"] == 24
        assert "batch_choice" not in store.meta
    with pytest.raises(InputError, match=r"exported for batches of 24, the run asks for 64: batch 24"):
        run(config(tmp_path / "c", "cpu", data=data, **fixed))


def test_ordinary_runs_record_no_choice(pair: Any, images_npz: Any, tmp_path: Path) -> None:
    with run(config(tmp_path / "a", "cpu", data=images_npz(count=1, classes=5), n=50, n0=10, **pair)) as store:
        assert "batch_choice" not in store.meta
        assert set(store.meta["versions"]) == {"diffsmooth-trt", "python", "numpy", "scipy", "machine"}


# Engines on such a device


def test_engines_take_the_devices_arrays(device: Any, pair: Any) -> None:
    with open_engine(pair["engine"], batch=6, backend="onnxruntime", device=device) as engine:
        x = RNG.random((6, 3, 4, 4), dtype=np.float32)
        y = device.asnumpy(engine.run(device.asarray(x)))
        np.testing.assert_array_equal(y, np.clip(x * np.float32(0.75) + np.float32(0.125), 0, 1))
        half = device.asarray(x.astype(np.float16))  # another type or layout is converted
        np.testing.assert_allclose(device.asnumpy(engine.run(half)), y, atol=1e-3)
        turned = device.asarray(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        np.testing.assert_array_equal(device.asnumpy(engine.run(turned, nhwc=True)), y)
        with pytest.raises(InputError, match="takes float32"):
            engine.run(device.asarray(x[:3]))


def test_two_devices_do_not_mix(device: Any, make_device: Any, pair: Any) -> None:
    options: dict[str, Any] = {"batch": 2, "backend": "onnxruntime"}
    denoiser = open_engine(pair["engine"], device=device, **options)
    classifier = open_engine(pair["classifier"], device="cpu", **options)
    with pytest.raises(InputError, match="on two devices"):
        DenoisedSmoothing(denoiser, classifier)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "cuda:1:2", "cuda:99999", "", "CUDA:0"])
def test_device_names(name: str, pair: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is unknown: use cpu, or cuda:0"):
        config(tmp_path / "r", name, data=Path("x"), **pair)
