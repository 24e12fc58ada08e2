"""The CUDA modules: every line of them on stand-ins, their names held to CuPy's, their errors one line with a remedy.

Where there is a GPU, the tests marked `cuda` run the same on it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.api import run
from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.step import Step
from diffsmooth_trt.device import open_device
from diffsmooth_trt.device.selftest import check_device_noise
from diffsmooth_trt.engine import EngineFacts, open_engine
from diffsmooth_trt.engine.record import Record, record_path
from diffsmooth_trt.errors import EngineError, InputError, OutOfMemory
from diffsmooth_trt.exporting.checks.compare import compare_engines
from diffsmooth_trt.methods import DiffSmooth
from diffsmooth_trt.noise import grid_law
from diffsmooth_trt.runs.config import RunConfig

KEY = "0123456789abcdef" * 4
RNG = np.random.default_rng(1)
ROOT = Path(dst.__file__).parent
MODULES = ("device/cuda.py", "device/nvrtc.py", "engine/backends/onnxruntime_cuda.py", "engine/backends/tensorrt.py")


@pytest.fixture
def standin(load_beside: Any) -> Any:
    return load_beside("standin_cuda.py")


@pytest.fixture
def machine(standin: Any, host_kernels: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    made = standin.Machine(host_kernels)
    made.home = tmp_path / "home"
    made.trt = standin.install(monkeypatch, made, made.home)
    return made


@pytest.fixture
def pair(linear_classifier: Any, shrinking_denoiser: Any) -> dict[str, Any]:
    return {
        "engine": shrinking_denoiser(0.5),
        "classifier": linear_classifier(8 * RNG.normal(size=(5, 48)), np.zeros(5)),
    }


def config(out: Path, device: str = "cuda:0", **options: Any) -> RunConfig:
    settings = {"method": "dds", "n": 1100, "n0": 50, "key": KEY, "backend": "onnxruntime", "batch": 128}
    return RunConfig(command="certify", out=out, device=device, **{**settings, **options})


def blocks(path: Path) -> list[Any]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT * FROM blocks ORDER BY image, phase, start").fetchall()
    connection.close()
    return rows


def one_line(error: Any) -> str:
    text = str(error.value)
    assert "\n" not in text and ":" in text
    return text


METHODS: dict[str, dict[str, Any]] = {
    "rs": {"method": "rs", "sigma": 0.5},
    "dds": {"method": "dds"},
    "diffsmooth": {"method": "diffsmooth", "m": 2, "local_sigma": 0.25},
    "fresh": {"method": "diffsmooth", "m": 2, "local_sigma": 0.25, "local_noise": "fresh"},
}


@pytest.mark.parametrize("name", METHODS)
def test_runs_through_onnxruntime(machine: Any, pair: Any, images_npz: Any, tmp_path: Path, name: str) -> None:
    """A whole run by the CUDA modules gives the CPU's counts, and `verify` finds its device again."""
    options = {**pair, **METHODS[name], "data": images_npz(count=3, classes=5)}
    if name == "rs":
        options |= {"engine": pair["classifier"], "classifier": None}
    run(config(tmp_path / "cuda.sqlite", **options)).close()
    with dst.open_run(tmp_path / "cuda.sqlite") as store:
        identity = store.meta["classifier"]["classifier"]
        assert (identity["device"], identity["compute_capability"]) == ("Stand-in", "9.0")
        assert (identity["backend"], identity["precision"], identity["nhwc"]) == ("onnxruntime", "tf32", False)
        assert store.meta["versions"]["cuda"] == "13.0, driver for 13.0"
    assert dst.verify(tmp_path / "cuda.sqlite", fraction=1).agrees
    assert machine.captured == 0  # its provider is outside of graphs
    import onnxruntime as ort

    ort.InferenceSession = sys.modules["tests_standin_cuda"].REAL
    run(config(tmp_path / "cpu.sqlite", "cpu", **options)).close()
    assert blocks(tmp_path / "cuda.sqlite") == blocks(tmp_path / "cpu.sqlite")


def plan_of(onnx: Path, folder: Path, batch: int, role: str, **changed: Any) -> Path:
    """A plan with its record, as `export plan` leaves them; its bytes are those of the ONNX file."""
    record = pytest.importorskip("diffsmooth_trt.engine.record", reason="plans have no record yet")
    from diffsmooth_trt.engine.graph import read_graph

    path, content = folder / f"{onnx.stem}.plan", onnx.read_bytes()
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    here = {"tensorrt": "11.4.0.106", "gpu": "Stand-in", "compute_capability": "9.0", "driver": "1"} | changed
    facts = read_graph(onnx, role=role, sigma=None).facts
    made = record.Record("plan", digest, batch, facts, {"name": onnx.name, "sha256": digest}, here, {})
    record.record_path(path).write_text(made.to_json(), encoding="utf-8")
    return path


@pytest.fixture
def plans(machine: Any, pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    nvidia = pytest.importorskip("diffsmooth_trt.device.nvidia", reason="nothing asks the driver yet")
    gpu = SimpleNamespace(name="Stand-in", compute_capability="9.0", driver="1")
    monkeypatch.setattr(nvidia, "find_gpu", lambda number=0: gpu)

    def make(batch: int = 128, **changed: Any) -> dict[str, Path]:
        roles = {"engine": "denoiser", "classifier": "classifier"}
        return {name: plan_of(pair[name], tmp_path, batch, role, **changed) for name, role in roles.items()}

    return make


@pytest.mark.parametrize("name", ["dds", "diffsmooth", "fresh"])
def test_runs_through_tensorrt(machine: Any, plans: Any, pair: Any, images_npz: Any, tmp_path: Path, name: str) -> None:
    """As above from plans; the whole step is one graph, launched once a batch."""
    options = {**METHODS[name], "data": images_npz(count=3, classes=5)}
    run(config(tmp_path / "cuda.sqlite", backend=None, **plans(), **options)).close()
    assert machine.captured == 2  # the step that warms up, and the run's
    run(config(tmp_path / "ort.sqlite", **pair, **options)).close()
    assert blocks(tmp_path / "cuda.sqlite") == blocks(tmp_path / "ort.sqlite")
    assert dst.verify(tmp_path / "cuda.sqlite", fraction=1).agrees
    with dst.open_run(tmp_path / "cuda.sqlite") as store:
        assert store.meta["classifier"]["denoiser"]["backend"] == "tensorrt"


def test_files_are_read_twice(machine: Any, plans: Any, pair: Any, opened: list[Path]) -> None:
    """A plan to hash it and to hand over what is hashed again; a graph to hash and prove it, and by the library."""
    for path, reads in ((plans(4)["engine"], 2), (pair["engine"], 1)):
        opened.clear()
        with open_engine(path, batch=4, role="denoiser", sigma=0.5, device="cuda:0"):
            assert opened.count(path) == reads


def test_auto_takes_a_plans_batch(plans: Any, images_npz: Any, tmp_path: Path) -> None:
    options = {"data": images_npz(count=1, classes=5), "batch": "auto", "backend": None, **plans(96)}
    with run(config(tmp_path / "r.sqlite", **options)) as store:
        assert store.meta["classifier"]["denoiser"]["batch"] == 96


@pytest.mark.parametrize(
    ("refuses", "error", "message"),
    [
        (
            "load",
            InputError,
            r"does not load \(Serialization assertion failed Version tag does not match\): build it again",
        ),
        ("context", OutOfMemory, r"out of memory in \w+\.plan at batch 4 \(Requested amount"),
        ("shape", InputError, "does not take batches of 4"),
        ("address", EngineError, "does not take the address"),
        ("execute", EngineError, r"failed \(no reason was given\): what was committed before is kept"),
    ],
)
def test_what_tensorrt_refuses(machine: Any, plans: Any, refuses: str, error: Any, message: str) -> None:
    machine.trt.refuses = refuses
    with pytest.raises(error, match=message) as raised:
        open_engine(plans(4)["engine"], batch=4, device="cuda:0")
    one_line(raised)


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"compute_capability": "8.0"}, {}, "built for compute capability 8.0"),
        ({"tensorrt": "10.9"}, {}, r"built by TensorRT 10.9, this machine has 11\.4"),
        ({}, {"batch": 8}, "built for batches of 4, the run asks for 8: batch 4"),
        ({}, {"role": "classifier"}, "expected a classifier"),
        ({}, {"device": "cpu"}, "a .plan runs on a GPU: device cuda:0"),
    ],
)
def test_plans_that_do_not_fit(plans: Any, changed: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        open_engine(plans(4, **changed)["engine"], **{"batch": 4, "device": "cuda:0", **options})
    one_line(raised)


def test_a_plan_is_compared_with_an_engine_on_the_cpu(plans: Any, pair: Any) -> None:
    """As `export plan` does: the same images to both, a few of them in the plan's full batch."""
    import onnxruntime as ort

    with open_engine(plans(8)["classifier"], batch=8, device="cuda:0") as plan:
        ort.InferenceSession = sys.modules["tests_standin_cuda"].REAL
        with open_engine(pair["classifier"], batch=4, backend="onnxruntime") as reference:
            found = compare_engines(plan, reference)
    assert (found.rows, found.agreement) == (8, 1)
    assert found.maximum < 1e-4


def test_a_changed_plan_never_reaches_tensorrt(machine: Any, plans: Any) -> None:
    path = plans(4)["engine"]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="not the file its record was written for"):
        open_engine(path, batch=4, device="cuda:0")
    assert not machine.trt.plans


def test_two_devices_at_work_and_other_threads_keep_to_their_streams(machine: Any, pair: Any) -> None:
    """The stand-in refuses an array on another stream than its own; another thread begins with none of ours."""
    machine.gpus = 2
    x = RNG.random((2, 3, 4, 4), dtype=np.float32)
    law = grid_law(0.5)
    devices = [open_device(name) for name in ("cuda:0", "cuda:1", "cuda:0")]
    methods = []
    for device in devices:
        denoiser, classifier = (open_engine(pair[each], batch=2, device=device) for each in ("engine", "classifier"))
        methods.append(DiffSmooth(denoiser, classifier, local_sigma=0.25, copies=2, seed=1))
    expected = [engine.run_on_host(x) for engine in methods[-1].engines.values()]

    def work(method: DiffSmooth) -> list[Any]:
        check_device_noise(law, method.device)
        assert method.device.memory()
        step = Step(method, law, 1)
        step.launch([Span(Block(0, 1, 0, 2), np.zeros(48, np.uint8), 0, 2, 0)])
        step.collect()
        return [engine.run_on_host(x) for engine in method.engines.values()]

    found = [work(method) for method in methods]
    with ThreadPoolExecutor(1) as other:
        found += other.map(work, methods)
    for each in found:
        np.testing.assert_array_equal(each[0], expected[0])
        np.testing.assert_array_equal(each[1], expected[1])


# What may be missing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"driver": 0}, "no NVIDIA driver is loaded; install one, or use device cpu"),
        ({"driver": 12080}, r"driver is for CUDA 12\.8, CuPy for CUDA 13\.0: install a newer driver"),
        ({"gpus": 0}, r"is not available \(cudaErrorNoDevice.*\): see `diffsmooth-trt doctor`"),
        ({"total": 4}, "0 of 0 MiB free, too little to begin: stop the process that holds the rest"),
    ],
)
def test_no_usable_gpu(machine: Any, pair: Any, tmp_path: Path, change: dict[str, int], message: str) -> None:
    for name, value in change.items():
        setattr(machine, name, value)
    with pytest.raises(InputError, match=message) as raised:
        run(config(tmp_path / "r.sqlite", data=zoo.IMAGES, **pair))
    assert one_line(raised).startswith("device cuda:0")
    assert not (tmp_path / "r.sqlite").exists()


@pytest.mark.parametrize(("gpus", "there"), [(1, "cuda:0: use"), (4, "cuda:0 … cuda:3: use")])
def test_a_gpu_that_is_not_there(machine: Any, gpus: int, there: str) -> None:
    machine.gpus = gpus
    with pytest.raises(InputError, match=f"cuda:7 does not exist, this machine has {there}"):
        open_device("cuda:7")


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cupy" else real(name, *rest))
    with pytest.raises(InputError, match=r"needs CuPy, which is not installed: pip install 'diffsmooth-trt\[cuda\]'"):
        open_device("cuda:0")


def test_onnxruntime_without_cuda(machine: Any, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    machine.session.loads = False  # the provider is listed, its libraries are not there
    with pytest.raises(InputError, match="not on CUDAExecutionProvider: its libraries"):
        open_engine(pair["engine"], batch=2, device="cuda:0")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match="has no CUDAExecutionProvider: pip uninstall onnxruntime"):
        open_engine(pair["engine"], batch=2, device="cuda:0")


def test_libraries_are_loaded_from_their_wheels(
    machine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first session, without a word; an ONNX Runtime that cannot do so is used as it is."""
    import onnxruntime as ort

    signature, asked = inspect.signature(ort.preload_dlls), []

    def preload(*arguments: Any, **options: Any) -> None:
        asked.append(signature.bind(*arguments, **options).arguments)
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(ort, "preload_dlls", preload)
    importlib.import_module("diffsmooth_trt.engine.backends.onnxruntime_cuda")
    assert asked == [{"directory": ""}]
    assert not capsys.readouterr().out
    monkeypatch.delattr(ort, "preload_dlls")
    importlib.reload(sys.modules["diffsmooth_trt.engine.backends.onnxruntime_cuda"])


def test_options_that_do_not_fit(machine: Any, pair: Any) -> None:
    for options, message in (
        ({"precision": "bf16"}, "export a bf16 file for the GPU"),
        ({"backend": "openvino"}, "does not run .onnx files on a GPU: use onnxruntime or onnxruntime-tensorrt"),
        ({"backend": "tensorrt"}, "does not run .onnx files on a GPU"),
        ({"backend": "onnxruntime-tensorrt", "precision": "fp32"}, "which uses TF32: leave it out"),
        ({"device": "cpu", "precision": "tf32"}, "exists on NVIDIA GPUs only"),
    ):
        with pytest.raises(InputError, match=message):
            open_engine(pair["engine"], **{"batch": 2, "device": "cuda:0", **options})
    with open_engine(pair["engine"], batch=2, device="cuda:0", precision="fp32") as engine:
        assert engine.identity["precision"] == "fp32"
        assert engine.session.chosen["CUDAExecutionProvider"]["use_tf32"] == "0"


def test_onnxruntimes_tensorrt(machine: Any, pair: Any) -> None:
    with open_engine(pair["engine"], batch=3, device="cuda:0", backend="onnxruntime-tensorrt") as engine:
        given = engine.session.chosen["TensorrtExecutionProvider"]
        assert given["trt_profile_min_shapes"] == given["trt_profile_max_shapes"] == "x:3x3x4x4"
        assert engine.identity["backend"] == "onnxruntime-tensorrt"


def test_out_of_memory_in_onnxruntime_halves_the_batch(
    machine: Any, pair: Any, images_npz: Any, tmp_path: Path
) -> None:
    machine.session.row_bytes = 1 << 24
    machine.total = 96 << 24
    with run(config(tmp_path / "r.sqlite", data=images_npz(count=1, classes=5), **pair)) as store:
        assert store.meta["batch_choice"] == {"asked": 128, "chosen": 32, "reason": "out of memory"}


def test_compiled_kernels_are_kept_and_made_again_where_damaged(machine: Any) -> None:
    open_device("cuda:0")
    (kept,) = (machine.home / ".cache" / "diffsmooth-trt").iterdir()
    assert kept.read_bytes().startswith(b"sm_90 ")
    kept.write_bytes(b"half of it")
    open_device("cuda:0")
    assert kept.read_bytes().startswith(b"sm_90 ")


def test_a_gpu_error_names_the_stage(machine: Any, pair: Any, standin: Any) -> None:
    device = open_device("cuda:0")
    device.stage("denoiser.onnx")
    with pytest.raises(EngineError, match=r"cuda:0 \(Stand-in\) failed in stage denoiser.onnx \(cudaErrorIllegal"):
        with device.errors():
            raise standin.CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    with pytest.raises(OutOfMemory, match=r"cuda:0 is out of memory \(Out of memory allocating 9 bytes\), \d+ of"):
        with device.errors():
            raise standin.OutOfMemoryError("Out of memory allocating 9 bytes")


def test_a_step_that_cannot_be_recorded_runs_as_it_is(machine: Any, standin: Any) -> None:
    device, calls = open_device("cuda:0"), []

    def step() -> None:
        calls.append(machine.capture is not None)
        if machine.capture is not None:
            raise standin.CudaError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )

    work = device.recorded(step)
    work()
    assert calls == [False, True, False]
    assert device.graph.startswith("none: cudaErrorStreamCaptureUnsupported")


ROWS = 64


def votes_of_kernels(device: Any) -> list[Any]:
    """Votes of three steps that need no network: each row's label is its brightest pixel."""
    shape = (ROWS, 3, 4, 4)
    with device.errors():
        method: Any = SimpleNamespace(
            **{"device": device, "batch": ROWS, "input_shape": shape[1:], "bins": 48, "capturable": True},
            **{"noisy": device.empty(shape), "noisy_nhwc": False},
            labels=lambda noisy, rows: device.winners(noisy.reshape(ROWS, 48)),
        )
    step, counts = Step(method, grid_law(0.5), 7), []
    pixels = np.full(48, 127, np.uint8)
    for start in (0, ROWS, 2 * ROWS):
        step.launch([Span(Block(0, 1, 0, 3 * ROWS), pixels, 0, ROWS, start)])
        counts.append(step.collect()[1])
    return counts


def test_a_recorded_step_votes_as_the_cpu(machine: Any) -> None:
    np.testing.assert_array_equal(votes_of_kernels(open_device("cuda:0")), votes_of_kernels(open_device("cpu")))
    assert machine.captured == 1


def test_packages_do_not_wait_for_their_last_run(machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream keeps the order of runs; the package's own lock would have the host wait for each."""
    torch = pytest.importorskip("torch", reason="packages are torch's")
    module = importlib.import_module("diffsmooth_trt.engine.backends.aotinductor_cuda")
    signature, asked = inspect.signature(torch._inductor.aoti_load_package), []

    def load(*arguments: Any, **options: Any) -> None:
        asked.append(signature.bind(*arguments, **options).arguments)

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: (pointer, device))
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(module, "exact_fp32", lambda: None)
    monkeypatch.setattr("diffsmooth_trt.engine.backends.aotinductor.this_machine", lambda name: {"device": "cuda"})
    path = tmp_path / "d.pt2"
    path.write_bytes(b"code")
    facts = EngineFacts("denoiser", (3, 4, 4), sigma=0.25)
    record = Record("pt2", hashlib.sha256(b"code").hexdigest(), 2, facts, {}, {"device": "cuda"}, {})
    record_path(path).write_text(record.to_json(), encoding="utf-8")
    machine.gpus = 2
    with module.CudaInductorEngine(path, 2, device=open_device("cuda:1")) as engine:
        assert engine.stream == (4243, "cuda:1")
        engine._check_memory(RuntimeError("run_func_(…) API call failed"))
        with pytest.raises(
            OutOfMemory, match=r"cuda:1 is out of memory in d.pt2 at batch 2 \(CUDA out of memory. Tried"
        ):
            engine._check_memory(
                RuntimeError("run_func_(…) API call failed\n  CUDA out of memory. Tried 2 GiB\nat line 5")
            )
    (given,) = asked
    assert given.pop("path").getvalue() == b"code"
    assert given == {"run_single_threaded": True, "device_index": 1}


# The names


def attributes(source: str) -> set[str]:
    """Dotted names that begin with cupy, cupyx or self.xp, and those of local aliases of them."""
    aliases: dict[str, str] = {"cupy": "cupy", "cupyx": "cupyx"}

    def dotted(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return aliases.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr == "xp":
                return "cupy"
            base = dotted(node.value)
            return None if base is None else f"{base}.{node.attr}"
        return None

    found: set[str] = set()
    for _ in range(2):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = dotted(node.value)
                if name is not None:
                    aliases[node.targets[0].id] = name
            if isinstance(node, ast.Attribute) and (name := dotted(node)) is not None:
                found.add(name)
    return found


def used() -> set[str]:
    return {name for module in MODULES for name in attributes((ROOT / module).read_text(encoding="utf-8"))}


def test_the_stand_in_has_every_name_that_is_used(standin: Any, host_kernels: Any) -> None:
    roots = {"cupy": standin.cupy_module(standin.Machine(host_kernels)), "cupyx": standin.cupyx_module()}
    assert {"cupy.cuda.Stream", "cupy.RawModule", "cupyx.empty_pinned", "cupy.cuda.runtime.memGetInfo"} <= used()
    for name in used():
        place: Any = roots[name.split(".")[0]]
        for part in name.split(".")[1:]:
            assert hasattr(place, part), name
            place = getattr(place, part)


def test_cupy_has_every_name_that_is_used() -> None:
    real = pytest.importorskip("cupy", reason="CuPy is not installed")
    cupyx = importlib.import_module("cupyx")
    roots = {"cupy": real, "cupyx": cupyx}
    objects = {
        real.cuda.Stream: ("use", "synchronize", "begin_capture", "end_capture"),
        real.cuda.Event: ("record", "synchronize"),
        real.cuda.graph.Graph: ("launch", "upload"),
        real.cuda.MemoryPointer: ("copy_from_host_async", "copy_to_host_async", "memset_async", "ptr"),
        real.RawModule: ("get_function",),
        real.cuda.MemoryPool: ("free_bytes", "free_all_blocks"),
        real.ndarray: ("data", "nbytes", "flags"),
    }
    for name in used():
        place: Any = roots[name.split(".")[0]]
        for part in name.split(".")[1:]:
            assert hasattr(place, part), name
            place = getattr(place, part)
    for kind, names in objects.items():
        assert all(hasattr(kind, name) for name in names), kind


# On a GPU


@pytest.fixture
def gpu() -> Any:
    pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        return open_device("cuda:0")
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["dds", "diffsmooth"])
def test_gpu_and_cpu_agree_on_the_zoo(gpu: Any, tmp_path: Path, method: str) -> None:
    """fp32 without TF32: counts within 0.2 % of n on every image."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("the installed ONNX Runtime has no CUDA provider")
    classifier = zoo.CLASSIFIER_DDS if method == "dds" else zoo.CLASSIFIER_DIFFSMOOTH
    options = {"engine": zoo.DENOISER, "classifier": classifier, "data": zoo.IMAGES, "max": 2, "method": method}
    options |= {"n": 1000, "n0": 100, "precision": "fp32"}
    counts = []
    for device in ("cpu", "cuda:0"):
        with run(config(tmp_path / f"{device[:4]}.sqlite", device, **options)) as store:
            counts.append(np.array([store.counts(image)[1] for image in range(2)]))
    assert np.abs(counts[0] - counts[1]).max() <= 0.002 * 1000


@pytest.mark.cuda
def test_gpu_replays_a_step_with_the_votes_of_the_cpu(gpu: Any) -> None:
    """Noise, labels and counts by the kernels alone, as one graph: the same bits."""
    np.testing.assert_array_equal(votes_of_kernels(gpu), votes_of_kernels(open_device("cpu")))
    assert gpu.graph == "captured"


@pytest.mark.cuda
def test_gpu_runs_a_package_as_its_source(gpu: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="packages are torch's")
    exporting = pytest.importorskip("diffsmooth_trt.exporting.writers.package", reason="exports need onnxscript")
    from diffsmooth_trt.exporting.checks.inputs import ImageCheck

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    torch.manual_seed(0)
    first, last = (torch.nn.Conv2d(*channels, 3, padding=1) for channels in ((3, 8), (8, 3)))
    net = torch.nn.Sequential(first, torch.nn.SiLU(), last, torch.nn.Sigmoid()).eval().requires_grad_(False)
    path, facts = tmp_path / "d.pt2", EngineFacts("denoiser", (3, 8, 8), sigma=0.25)
    settings = exporting.PackageSettings(device="cuda:0", autotune=False)
    exporting.write_package(net, ImageCheck(net, facts.input_shape, 0.25), facts, path, 4, settings)
    x = RNG.random((4, 3, 8, 8), dtype=np.float32)
    with open_engine(path, batch=4, device=gpu) as engine:
        found = [engine.run_on_host(x) for _ in range(3)]
    for each in found:
        np.testing.assert_allclose(each, net(torch.from_numpy(x)).numpy(), atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["dds", "diffsmooth"])
def test_gpu_certifies_by_packages_as_the_cpu(gpu: Any, images_npz: Any, tmp_path: Path, method: str) -> None:
    """Whole runs of two networks: counts within 0.2 % of n on every image, and `verify` finds the GPU's votes again."""
    torch = pytest.importorskip("torch", reason="packages are torch's")
    inductor = pytest.importorskip("diffsmooth_trt.exporting.writers.package", reason="exports need onnxscript")
    from diffsmooth_trt.exporting.checks.inputs import ImageCheck
    from diffsmooth_trt.exporting.writers.onnx import write_checked

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    torch.manual_seed(0)
    shape, batch, classes = (3, 4, 4), 64, 5
    first, last = (torch.nn.Conv2d(*channels, 3, padding=1) for channels in ((3, 8), (8, 3)))
    nets = {
        "engine": torch.nn.Sequential(first, torch.nn.SiLU(), last, torch.nn.Sigmoid()),
        "classifier": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, classes)),
    }
    roles = {"engine": ("denoiser", None, 0.5), "classifier": ("classifier", classes, None)}
    files: dict[str, dict[str, Path]] = {"pt2": {}, "onnx": {}}
    for name, net in nets.items():
        role, count, sigma = roles[name]
        facts, check = EngineFacts(role, shape, classes=count, sigma=sigma), ImageCheck(net.eval(), shape, 0.5)
        net.requires_grad_(False)
        for kind in files:
            files[kind][name] = tmp_path / f"{name}.{kind}"
        settings = inductor.PackageSettings(device="cuda:0", autotune=False)
        inductor.write_package(net, check, facts, files["pt2"][name], batch, settings)
        write_checked(net, check, facts, files["onnx"][name], None, False)
    options = {**METHODS[method], "data": images_npz(count=3, classes=classes), "n": 1000, "n0": 100, "batch": batch}
    counts = []
    for kind, where, backend in (("pt2", "cuda:0", None), ("onnx", "cpu", "onnxruntime")):
        with run(config(tmp_path / f"{kind}.sqlite", where, backend=backend, **files[kind], **options)) as store:
            counts.append(np.array([store.counts(image)[1] for image in range(3)]))
    assert counts[0].sum(1).tolist() == [1000] * 3
    assert np.abs(counts[0] - counts[1]).max() <= 0.002 * 1000
    assert dst.verify(tmp_path / "pt2.sqlite", fraction=1).agrees
