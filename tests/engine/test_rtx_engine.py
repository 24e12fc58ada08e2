"""Plans of TensorRT for RTX through the engine, on stand-ins: identity, cache, capture, and the comparison at the first opening."""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.api import run
from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.engine.backends.tensorrt_check import checks_path
from diffsmooth_trt.engine.graph import read_graph
from diffsmooth_trt.engine.record import Record, record_path
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.report.tables import summarise
from diffsmooth_trt.runs.config import RunConfig

KEY = "0123456789abcdef" * 4
RNG = np.random.default_rng(1)


@pytest.fixture
def machine(load_beside: Any, host_kernels: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    standin = load_beside("standin_cuda.py")
    made = standin.Machine(host_kernels)
    standin.install(monkeypatch, made, tmp_path / "home")
    made.trt = standin.install_rtx(monkeypatch, made)
    made.gpu = SimpleNamespace(
        name="Stand-in", compute_capability="9.0", driver="580"
    )  # the stand-in device's capability
    monkeypatch.setattr("diffsmooth_trt.device.nvidia.find_gpu", lambda number=0: made.gpu)
    monkeypatch.setattr("diffsmooth_trt.exporting.plan_check.find_gpu", lambda number=0: made.gpu)
    return made


@pytest.fixture
def plans(
    machine: Any, linear_classifier: Callable[..., Path], shrinking_denoiser: Callable[..., Path], tmp_path: Path
) -> Callable[..., dict[str, Path]]:
    """`make(batch)`: a denoiser and a classifier as `export plan --target` leaves them, their graphs beside them."""
    graphs = {
        "engine": shrinking_denoiser(0.5),
        "classifier": linear_classifier(8 * RNG.normal(size=(5, 48)), np.zeros(5)),
    }

    def make(batch: int = 128, **changed: Any) -> dict[str, Path]:
        made = {}
        for option, role in (("engine", "denoiser"), ("classifier", "classifier")):
            onnx = graphs[option]
            path, content = onnx.with_suffix(".plan"), onnx.read_bytes()
            path.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            here = {"library": "tensorrt-rtx", "tensorrt": "1.7.1.116", "targets": ["sm86", "sm90"]} | changed
            graph = read_graph(onnx, role=role, sigma=None)
            source = {"name": onnx.name, "sha256": digest, "weights": {}}
            record = Record("plan", digest, batch, graph.facts, source, here, {})
            record_path(path).write_text(record.to_json(), encoding="utf-8")
            made[option] = path
        return made

    return make


def config(out: Path, **options: Any) -> RunConfig:
    settings = {"method": "dds", "n": 600, "n0": 50, "key": KEY, "batch": 128, "device": "cuda:0"}
    return RunConfig(command="certify", out=out, **{**settings, **options})


def opening(path: Path, **how: Any) -> Any:
    """`open_engine`, which on the CPU finds ONNX Runtime's own session: the stand-in is for the GPU."""
    if "device" in how:
        return open_engine(path, **how)
    library: Any = sys.modules["onnxruntime"]
    standin, library.InferenceSession = library.InferenceSession, sys.modules["tests_standin_cuda"].REAL  # type: ignore[attr-defined]
    try:
        return open_engine(path, **how, backend="onnxruntime")
    finally:
        library.InferenceSession = standin


def test_the_identity_names_card_driver_and_library(machine: Any, plans: Any) -> None:
    with open_engine(plans(4)["engine"], batch=4, device="cuda:0") as engine:
        named = {
            name: engine.identity[name] for name in ("backend", "version", "driver", "device", "compute_capability")
        }
        assert named == {
            "backend": "tensorrt-rtx", "version": "1.7.1.116", "driver": "580", "device": "Stand-in",
            "compute_capability": "9.0",
        }  # fmt: skip
        assert len(engine.identity["probe"]) == 64 and engine.capturable
        assert "not compared with" in engine.caveat
    machine.trt.refuses = "capture"
    with open_engine(plans(4)["engine"], batch=4, device="cuda:0") as engine:
        assert not engine.capturable


def test_compiled_kernels_are_kept_beside_the_plan(machine: Any, plans: Any) -> None:
    path = plans(4)["engine"]
    open_engine(path, batch=4, device="cuda:0").close()
    (cache,) = path.parent.glob("*.cache")
    assert cache.name == f"{path.name}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}-sm90-1.7.1.116.cache"
    assert machine.trt.read == [] and cache.read_bytes() == b"kernels compiled"
    open_engine(path, batch=4, device="cuda:0").close()
    assert machine.trt.read == [b"kernels compiled"]
    cache.write_bytes(b"of another driver")  # is rejected, and replaced
    open_engine(path, batch=4, device="cuda:0").close()
    assert cache.read_bytes() == b"kernels compiled"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"targets": ["sm86", "sm120"]},
            r"built for compute capability 8.6, 12.0, this GPU has 9.0: .* --target current`",
        ),
        ({"tensorrt": "1.8.0.1"}, r"built by TensorRT for RTX 1.8.0.1, this machine has 1.7.1.116"),
        ({"library": "tensorrt-lite"}, "was built by 'tensorrt-lite', this version knows tensorrt, tensorrt-rtx"),
        (
            {"library": "tensorrt", "tensorrt": "11.4", "gpu": "a", "compute_capability": "9.0", "driver": "1"},
            "TensorRT cannot be loaded where tensorrt_rtx is loaded already",
        ),
    ],
)
def test_plans_that_do_not_fit(machine: Any, plans: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_engine(plans(4, **changed)["engine"], batch=4, device="cuda:0")


def test_the_first_run_on_a_card_compares(
    machine: Any, plans: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted beside the plans, for the card; a run without the graphs says that nothing was compared."""
    made = plans()
    options: dict[str, Any] = {**made, "data": images_npz(count=2, classes=5)}
    graphs = {path: path.with_suffix(".onnx") for path in made.values()}
    for graph in graphs.values():
        graph.rename(graph.with_suffix(".away"))
    with run(config(tmp_path / "a.sqlite", **options)) as store:
        assert [note for note in summarise(store).notes if "was not compared with" in note] == [
            f"{path.name} was not compared with {graph.name}, the graph that it was built from, on this GPU: keep both side by side"
            for path, graph in graphs.items()
        ]
    for graph in graphs.values():
        graph.with_suffix(".away").rename(graph)
    from diffsmooth_trt.exporting import plan_check

    compare = plan_check.compare_engines
    compared: list[str] = []

    def counted(engine: Any, reference: Any) -> Any:
        compared.append(engine.path.name)
        return compare(engine, reference)

    monkeypatch.setattr(plan_check, "compare_engines", counted)
    monkeypatch.setattr(plan_check, "open_engine", opening)
    for out in ("b.sqlite", "c.sqlite"):  # once
        with run(config(tmp_path / out, **options)) as store:
            assert not [note for note in summarise(store).notes if "compared" in note]
    assert compared == [path.name for path in made.values()]
    (noted,) = json.loads(checks_path(made["classifier"]).read_text())["checks"]
    assert (noted["gpu"], noted["driver"], noted["tensorrt"], noted["same_labels"]) == (
        "Stand-in",
        "580",
        "1.7.1.116",
        1,
    )
    assert noted["max_difference"] < 1e-4
    machine.gpu.driver = "590"  # what runs is compiled anew: compared anew
    run(config(tmp_path / "d.sqlite", **options)).close()
    assert len(compared) == 4
    assert len(json.loads(checks_path(made["engine"]).read_text())["checks"]) == 2
    assert dst.open_run(tmp_path / "c.sqlite").meta["classifier"]["denoiser"]["backend"] == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("how", "kinds"),
    [
        ({"device": "cuda:1,cuda:0"}, {"RTX 4090"}),
        ({"device": "cuda:2,cuda:0"}, {"RTX 4090", "RTX 3060"}),
        ({"device": "all"}, {"RTX 4090", "RTX 3060"}),
        ({"device": "cuda:0", "ray": "local"}, {"RTX 4090", "RTX 3060"}),
        ({"device": "cuda:0", "ray": "10.0.0.1:6379"}, set()),
    ],
)
def test_several_devices_compare_once_a_kind_of_card(
    how: Any,
    kinds: set[str],
    machine: Any,
    plans: Any,
    images_npz: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the workers begin, of which there are none here; and the notes go to them with the plan."""
    from diffsmooth_trt.device import several
    from diffsmooth_trt.distributed import run as distributed
    from diffsmooth_trt.distributed.files import EngineFiles
    from diffsmooth_trt.exporting import plan_check

    class AtWorkers(Exception):
        pass

    def workers(config: Any, progress: Any) -> None:
        raise AtWorkers

    cards = [
        SimpleNamespace(name=name, compute_capability="9.0", driver="580")
        for name in ("RTX 4090", "RTX 4090", "RTX 3060")
    ]
    monkeypatch.setattr(several, "gpus_visible", lambda: len(cards))
    monkeypatch.setattr(several, "find_gpu", lambda number: cards[number])
    monkeypatch.setattr(plan_check, "find_gpu", lambda number: cards[number])
    one = plan_check.open_device("cuda:0")
    monkeypatch.setattr(plan_check, "open_device", lambda device: one)  # the stand-in has one
    monkeypatch.setattr(plan_check, "open_engine", opening)
    monkeypatch.setattr(distributed, "run", workers)
    compared, compare = [], plan_check.compare_engines
    monkeypatch.setattr(plan_check, "compare_engines", lambda *both: compared.append(1) or compare(*both))
    made = plans()
    with pytest.raises(AtWorkers):
        run(config(tmp_path / "a.sqlite", **made, **how, data=images_npz(count=1, classes=5)))
    assert len(compared) == len(kinds) * len(made)
    for path in made.values():
        notes = json.loads(checks_path(path).read_text())["checks"] if kinds else []
        assert {note["gpu"] for note in notes} == kinds and len(notes) == len(kinds)
        assert (checks_path(path).name in EngineFiles.of(path).parts) == bool(kinds)


def test_a_plan_that_differs_does_not_run(
    machine: Any, plans: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffsmooth_trt.exporting import plan_check
    from diffsmooth_trt.exporting.checks.compare import Comparison

    monkeypatch.setattr(plan_check, "open_engine", opening)
    monkeypatch.setattr(plan_check, "compare_engines", lambda *engines: Comparison(8, 0.5, 0.1, 1.0))
    with pytest.raises(InputError, match="differs from its source by 0.5 where 0.001 is allowed"):
        run(config(tmp_path / "a.sqlite", **plans(), data=images_npz(count=1, classes=5)))
    assert not (tmp_path / "a.sqlite").exists() and not list(tmp_path.glob("*.checks.json"))


def test_few_labels_and_damaged_notes(machine: Any, plans: Any) -> None:
    path = plans(4)["classifier"]
    here = {
        "plan": hashlib.sha256(path.read_bytes()).hexdigest(),
        "gpu": "Stand-in",
        "driver": "580",
        "tensorrt": "1.7.1.116",
    }
    for content, said in (
        (json.dumps({"format": 1, "checks": [{**here, "same_labels": 0.98}]}), "gave only 98.0 % of the labels of"),
        (json.dumps({"format": 1, "checks": [{**here, "same_labels": 0.999}]}), ""),
        (json.dumps({"format": 2, "checks": [here]}), "was not compared with"),
        ("{", "was not compared with"),
        ("[]", "was not compared with"),
    ):
        checks_path(path).write_text(content, encoding="utf-8")
        with open_engine(path, batch=4, device="cuda:0") as engine:
            assert said in engine.caveat and bool(said) == bool(engine.caveat)


@pytest.fixture
def plugin(machine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ONNX Runtime's plug-in as far as the engine uses it; sessions are the stand-in's for CUDA."""
    import onnxruntime as ort

    name, library = "NvTensorRTRTXExecutionProvider", "libonnxruntime_providers_nv_tensorrt_rtx.so"
    made = SimpleNamespace(registered=[], options={}, config={})
    module: Any = SimpleNamespace(get_ep_name=lambda: name, get_library_path=lambda: library, __version__="0.5.0")
    module.__spec__ = importlib.machinery.ModuleSpec("onnxruntime_ep_nv_tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", module)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *given: made.registered.append(given))
    seen = [SimpleNamespace(ep_name="CPUExecutionProvider"), SimpleNamespace(ep_name=name)]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: seen if made.registered else seen[:1])

    class Options(ort.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            made.config[key] = value

        def add_provider_for_devices(self, devices: Any, options: dict[str, str]) -> None:
            assert devices == seen[1:]
            made.options |= options

    session = ort.InferenceSession
    shared = {"device_id": "0", "use_tf32": "1", "cudnn_conv_algo_search": "HEURISTIC"}

    class Session(session):  # type: ignore[misc, valid-type]
        def __init__(self, path: str, options: Any) -> None:
            stream = {"user_compute_stream": made.options["user_compute_stream"]}
            super().__init__(
                path, options, providers=[("CUDAExecutionProvider", {**shared, **stream})], enable_fallback=0
            )

        def get_providers(self) -> list[str]:
            return [made.runs]

    made.runs = name
    monkeypatch.setattr(ort, "SessionOptions", Options)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    return made


def test_onnxruntimes_plug_in(plugin: Any, machine: Any, shrinking_denoiser: Callable[..., Path]) -> None:
    path = shrinking_denoiser(0.5)
    for _ in range(2):
        with open_engine(
            path, batch=4, sigma=0.5, role="denoiser", device="cuda:0", backend="onnxruntime-rtx"
        ) as engine:
            x = RNG.random((4, 3, 4, 4), dtype=np.float32)
            session = sys.modules["tests_standin_cuda"].REAL(str(path))  # type: ignore[attr-defined]
            (want,) = session.run(None, {session.get_inputs()[0].name: x})
            np.testing.assert_array_equal(engine.run_on_host(x), want)
            assert (engine.identity["backend"], engine.identity["precision"]) == ("onnxruntime-rtx", "tf32")
            assert engine.identity["plugin"] == "0.5.0"
    assert plugin.registered == [("NvTensorRTRTXExecutionProvider", "libonnxruntime_providers_nv_tensorrt_rtx.so")]
    assert set(plugin.options) == {"has_user_compute_stream", "user_compute_stream", "nv_runtime_cache_path"}
    assert plugin.config["session.disable_cpu_ep_fallback"] == "1"
    how: dict[str, Any] = {
        "batch": 4,
        "sigma": 0.5,
        "role": "denoiser",
        "device": "cuda:0",
        "backend": "onnxruntime-rtx",
    }
    with pytest.raises(InputError, match="does not exist in ONNX Runtime's TensorRT for RTX provider, which uses TF32"):
        open_engine(path, precision="fp32", **how)
    plugin.runs = "CPUExecutionProvider"
    with pytest.raises(InputError, match="on CPUExecutionProvider, not on NvTensorRTRTXExecutionProvider: pip install"):
        open_engine(path, **how)


def test_what_the_plug_in_lacks(
    plugin: Any, shrinking_denoiser: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    how: dict[str, Any] = {
        "batch": 4,
        "sigma": 0.5,
        "role": "denoiser",
        "device": "cuda:0",
        "backend": "onnxruntime-rtx",
    }
    path = shrinking_denoiser(0.5)

    def fails(*given: Any) -> None:
        raise RuntimeError("Failed to load library libcuda.so.1\nmore")

    monkeypatch.setattr(ort, "register_execution_provider_library", fails)
    with pytest.raises(InputError, match=r"does not load \(Failed to load library libcuda.so.1\): pip install"):
        open_engine(path, **how)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *given: None)
    with pytest.raises(InputError, match="sees no cuda:0: it is for RTX cards"):
        open_engine(path, **how)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    monkeypatch.delitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx")
    with pytest.raises(InputError, match="needs ONNX Runtime's plug-in for it: pip install"):
        open_engine(path, **how)
