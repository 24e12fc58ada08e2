"""AOTInductor packages from the command line on: compiled once here, they answer as their source, and nothing else is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="AOTInductor is torch's")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
if shutil.which("g++") is None:
    pytest.skip("AOTInductor needs a C++ compiler", allow_module_level=True)

import diffsmooth_trt as dst  # noqa: E402
from diffsmooth_trt.cli import main  # noqa: E402
from diffsmooth_trt.engine import EngineFacts, open_engine  # noqa: E402
from diffsmooth_trt.engine.backends.aotinductor import InductorEngine, this_machine  # noqa: E402
from diffsmooth_trt.engine.record import Record, read_record, record_path  # noqa: E402
from diffsmooth_trt.errors import EngineError, InputError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier, export_denoiser  # noqa: E402
from diffsmooth_trt.exporting.checks.inputs import ImageCheck  # noqa: E402
from diffsmooth_trt.exporting.checks.rows import prove_program  # noqa: E402
from diffsmooth_trt.exporting.graph.low_precision import LowPrecision  # noqa: E402
from diffsmooth_trt.exporting.graph.one_shot import denoiser_pair  # noqa: E402
from diffsmooth_trt.exporting.program import export_program  # noqa: E402
from diffsmooth_trt.exporting.sources.openai import OpenAI  # noqa: E402
from diffsmooth_trt.exporting.writers import cuda_toolkit  # noqa: E402
from diffsmooth_trt.exporting.writers import package as package_writer  # noqa: E402
from diffsmooth_trt.report.tables import summarise, text_table  # noqa: E402

BATCH, SHAPE = 4, (3, 8, 8)
OPTIONS: dict[str, Any] = {
    "image_size": 8,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "attention_resolutions": "4",
    "learn_sigma": True,
}


def pixels(rows: int = BATCH) -> Any:
    return np.random.default_rng(3).random((rows, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def package(
    tmp_path_factory: pytest.TempPathFactory,
    random_checkpoint: Any,
    linear_classifier: Callable[..., Path],
) -> tuple[Path, Any]:
    """A package of a small random UNet, as the command line writes it, and the network it stands for."""
    folder = tmp_path_factory.mktemp("package")
    options, net = random_checkpoint(folder / "net.pt", "improved-diffusion", OPTIONS)
    (folder / "net.json").write_text(json.dumps(OPTIONS), encoding="utf-8")
    arguments = f"--checkpoint {folder}/net.pt --config {folder}/net.json --sigma 0.25 --batch {BATCH}".split()
    weights = np.random.default_rng(0).normal(size=(2, 192))
    images = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(images, images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.zeros(3, int))
    arguments += ["--verify-data", str(images), "--verify-samples", "10"]
    arguments += ["--verify-classifier", str(linear_classifier(weights, np.zeros(2), shape=SHAPE))]
    kind = ["export", "denoiser", "--family", "improved-diffusion"]
    assert main([*kind, *arguments, "--no-autotune", "--out", str(folder / "d.pt2")]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["d.pt2", "d.pt2.json", "net.json", "net.pt"]
    family = OpenAI(options)
    return folder / "d.pt2", denoiser_pair(family, net.eval(), family.level(0.25, False))[0]


def test_it_answers_as_its_source_with_any_thread_count(package: tuple[Path, Any]) -> None:
    path, source = package
    x, identities = pixels(), []
    with torch.no_grad():
        want = source(torch.from_numpy(x)).numpy()
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        with open_engine(path, batch=BATCH, role="denoiser", sigma=0.25, threads=threads) as engine:
            np.testing.assert_allclose(engine.run(x), want, atol=1e-5)
            np.testing.assert_array_equal(engine.run(x[::-1].copy()), engine.run(x)[::-1])
            identities.append(engine.identity)
    torch.set_num_threads(before)
    assert identities[0] == identities[1] == identities[2]
    assert (identities[0]["backend"], identities[0]["version"]) == ("inductor", torch.__version__)


def test_it_is_read_twice(package: tuple[Path, Any], opened: list[Path]) -> None:
    """To hash it, and to hand over what is hashed again."""
    with open_engine(package[0], batch=BATCH) as engine:
        engine.run(pixels())
    assert opened.count(package[0]) == 2


def test_its_record(package: tuple[Path, Any]) -> None:
    record = read_record(package[0], "pt2")
    assert (record.batch, record.facts.sigma, record.facts.timestep) == (BATCH, 0.25, 145)
    assert record.source["name"] == "net.pt"
    assert record.source["sha256"] == record.facts.source_sha256
    assert record.machine == this_machine("cpu")
    assert record.settings == {"precision": "fp32", "device": "cpu", "autotune": False}
    assert record.facts.details["max_difference"] <= 1e-5
    assert record.rows is not None and record.rows["rows"] == BATCH and len(record.rows["graph"]) == 64
    assert record.independence == "proved"
    verification = record.facts.details["verification"]
    (found,) = verification["backends"]
    assert (verification["images"], found["backend"], found["precision"]) == (10, "inductor", "fp32")
    assert found["same_labels"] == 1 and 0 < found["max_difference"] <= 1e-5


def test_a_run_with_it_is_certified_and_verified(
    package: tuple[Path, Any], tmp_path: Path, linear_classifier: Callable[..., Path], images_npz: Callable[..., Path]
) -> None:
    """Beside an ONNX classifier; votes are drawn again by engines that the store names."""
    weights = np.random.default_rng(0).normal(size=(2, 192))
    given = {"engine": package[0], "classifier": linear_classifier(weights, np.zeros(2), shape=SHAPE)}
    run = tmp_path / "run.sqlite"
    given |= {"data": images_npz(3, shape=SHAPE), "out": run}
    with dst.certify(**given, n0=10, n=40, batch=BATCH) as store:
        assert len(list(store.results())) == 3
        assert store.meta["rows"] == {"denoiser": "proved", "classifier": "proved"}
        assert "rows: proved independent" in text_table([summarise(store)])
    done = dst.verify(run, fraction=1.0)
    assert done.agrees and not any("rows" in note for note in done.notes)


def test_a_record_without_proof_is_said_and_one_of_a_refused_graph_is_refused(
    package: tuple[Path, Any], tmp_path: Path, linear_classifier: Callable[..., Path], images_npz: Callable[..., Path]
) -> None:
    path = tmp_path / "d.pt2"
    shutil.copy(package[0], path)
    record = read_record(package[0], "pt2")
    record_path(path).write_text(dataclasses.replace(record, rows=None).to_json(), encoding="utf-8")
    assert '"rows"' not in record_path(path).read_text(encoding="utf-8")  # as before there were proofs
    weights = np.random.default_rng(0).normal(size=(2, 192))
    given = {"engine": path, "classifier": linear_classifier(weights, np.zeros(2), shape=SHAPE)}
    given |= {"data": images_npz(2, shape=SHAPE), "out": tmp_path / "run.sqlite"}
    with dst.certify(**given, n0=10, n=40, batch=BATCH) as store:
        assert store.meta["rows"] == {"denoiser": "assumed", "classifier": "proved"}
        assert "rows: assumed independent (denoiser)" in text_table([summarise(store)])
    assert any("rows: assumed independent (denoiser)" in note for note in dst.verify(given["out"], fraction=1.0).notes)
    for rows, message in (
        (
            {"refused": "node 'm' takes the mean over the batch axis"},
            "from a graph that is not proved to keep rows apart .node",
        ),
        (
            {**(record.rows or {}), "rows": BATCH + 1},
            "has a proof of independent rows for another graph or batch: make it",
        ),
        ({"version": 1}, "has a proof of independent rows for another graph or batch"),
        (7, "is not a record of an export"),
    ):
        record_path(path).write_text(dataclasses.replace(record, rows=rows).to_json(), encoding="utf-8")
        with pytest.raises(InputError, match=message) as caught:
            open_engine(path, batch=BATCH, role="denoiser", sigma=0.25)
        assert "\n" not in str(caught.value)


class Coupled(torch.nn.Module):  # type: ignore[misc, name-defined]
    """One of the ways in which a program's rows are not by themselves."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("runs", torch.zeros(()))
        self.norm = torch.nn.BatchNorm2d(3, track_running_stats=way != "batch norm").train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "mean":
            return x - x.mean(0, keepdim=True)
        if self.way == "random":
            return x + torch.rand_like(x)
        if self.way == "dropout":
            return torch.nn.functional.dropout(x, 0.5, True)
        if self.way == "state":
            self.runs.add_(1)
            return x + self.runs
        return self.norm(x)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("mean", "takes the mean over the batch axis"),
        ("random", "draws random numbers"),
        ("dropout", "draws random numbers"),
        ("state", "it changes runs in every run"),
        ("batch norm", "is in training mode|over the batch axis"),
        ("running batch norm", "it changes norm|is in training mode"),
    ],
)
def test_coupled_programs_are_refused(way: str, message: str) -> None:
    x = (torch.rand(BATCH, *SHAPE),)
    with pytest.raises(InputError, match=message) as caught:
        prove_program(torch.export.export(Coupled(way), x, strict=False), [tuple(x[0].shape)], "d.pt2")
    assert "\n" not in str(caught.value)


def changed(record: Record, **machine: str) -> str:
    return dataclasses.replace(record, machine={**record.machine, **machine}).to_json()


def test_only_what_was_recorded_is_loaded(package: tuple[Path, Any], tmp_path: Path) -> None:
    source, record = package[0], read_record(package[0], "pt2")
    path = tmp_path / "d.pt2"
    shutil.copy(source, path)
    options: dict[str, Any] = {"batch": BATCH, "role": "denoiser", "sigma": 0.25}
    with pytest.raises(InputError, match=r"has no record d.pt2.json beside it: .* is executable code"):
        open_engine(path, **options)
    good = record.to_json()
    text = json.loads(good)
    for content, changes, message in (
        (good, {"batch": 8}, "exported for batches of 4, the run asks for 8: batch 4"),
        (good, {"role": "classifier", "sigma": None}, "is a denoiser, expected a classifier"),
        (good, {"sigma": 0.5}, "exported for sigma 0.25, the run asks for 0.5"),
        (good, {"device": "tpu"}, "'tpu' is unknown"),
        (changed(record, torch="1.0"), {}, "was compiled for torch 1.0, here it is"),
        (changed(record, instruction_set="z80"), {}, "was compiled for instruction_set z80"),
        (changed(record, device="cuda"), {}, "was compiled for device cuda, here it is cpu"),
        ("{", {}, "is not a record of an export"),
        (json.dumps({**text, "kind": "plan"}), {}, "is not a record of an AOTInductor package"),
        (json.dumps({**text, "batch": 0}), {}, "is not a record of an export"),
        (json.dumps({**text, "machine": 1}), {}, "is not a record of an export"),
        (json.dumps({**text, "more": 1}), {}, "is not a record of an export"),
    ):
        record_path(path).write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message) as caught:
            open_engine(path, **{**options, **changes})
        assert "\n" not in str(caught.value)
    record_path(path).write_text(good, encoding="utf-8")
    open_engine(path, **options).close()
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"is not the file its record was written for \(SHA-256 .* and was not loaded"):
        open_engine(path, **options)


class Other(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A source whose answers differ."""

    def __init__(self, source: Any, factor: float) -> None:
        super().__init__()
        self.source, self.factor = source, factor

    def forward(self, x: Any) -> Any:
        return self.source(x) * self.factor


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.9, r"differs from its source by 0\.\d+ where .* is allowed: nothing was written"),
        (float("nan"), "returns NaN or infinity"),
    ],
)
def test_packages_that_do_not_answer_as_their_source_never_appear(
    package: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, message: str
) -> None:
    """The compiler's part is taken from the package that is there: what is tested comes after it."""
    path, source = package
    monkeypatch.setattr(package_writer, "_compile", lambda program, settings, draft: shutil.copy(path, draft))
    out, facts = tmp_path / "d.pt2", read_record(path, "pt2").facts
    out.write_text("old", encoding="utf-8")
    check = ImageCheck(Other(source, factor), SHAPE, 0.25)
    with pytest.raises(InputError, match=message):
        package_writer.write_package(source, check, facts, out, BATCH, package_writer.PackageSettings(autotune=False))
    assert [each.name for each in tmp_path.iterdir()] == ["d.pt2"]
    assert out.read_text(encoding="utf-8") == "old"


class Branches(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A network whose graph depends on its data."""

    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_compiled_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, facts = tmp_path / "d.pt2", EngineFacts("denoiser", SHAPE, sigma=0.25)
    check, settings = ImageCheck(Branches(), SHAPE, 0.25), package_writer.PackageSettings(autotune=False)
    with pytest.raises(EngineError, match="could not compile the network") as caught:
        package_writer.write_package(Branches(), check, facts, out, 2, settings)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="needs the C\\+\\+ compiler no-such-compiler"):
        package_writer.write_package(Branches(), check, facts, out, 2, settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": None}, "batch is missing: a .pt2 package is compiled for one batch size"),
        ({"precision": "int8"}, "precision 'int8' is not available for .pt2 exports: use one of fp32, fp16, bf16"),
        ({"device": "tpu"}, "'tpu' is unknown"),
        ({"store_fp16": True}, "fp16_weights is for .onnx files"),
        ({"out": "d.onnx", "device": "cuda:0"}, "device cuda:0 is for .pt2 packages"),
        ({"out": "absent/d.pt2"}, "the folder absent does not exist"),
    ],
)
def test_refusals(
    package: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"out": "d.pt2", "batch": BATCH, **changes}
    with pytest.raises(InputError, match=message):
        export_denoiser("improved-diffusion", package[0].with_name("net.pt"), OPTIONS, 0.25, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_multiplies_low_and_normalises_in_float32(package: tuple[Path, Any], precision: str) -> None:
    source = package[1]
    low = LowPrecision(source, precision)
    seen: dict[str, set[Any]] = {}
    for module in low.net.modules():
        kind = type(module).__name__
        if kind in ("Conv2d", "Conv1d", "GroupNorm"):
            module.register_forward_hook(
                lambda _module, _inputs, output, kind=kind: seen.setdefault(kind, set()).add(output.dtype)
            )
    x = torch.from_numpy(pixels())
    with torch.no_grad():
        y, want = low(x), source(x)
    assert seen == {"Conv2d": {low.dtype}, "Conv1d": {low.dtype}, "GroupNorm": {torch.float32}}
    assert y.dtype == torch.float32
    assert {parameter.dtype for parameter in source.parameters()} == {torch.float32}
    difference = float((y - want).abs().max())
    assert 0 < difference < {"fp16": 5e-3, "bf16": 5e-2}[precision]


def test_low_precision_leaves_logits_exact() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.Linear(16, 5))
    low = LowPrecision(net, "bf16")
    assert [layer.weight.dtype for layer in list(low.net)[1:]] == [torch.bfloat16, torch.float32]
    logits = low(torch.from_numpy(pixels()))
    assert not torch.equal(logits, logits.bfloat16().float())


class Own(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A classifier of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(192, 5)

    def forward(self, x: Any) -> Any:
        return self.layer(x.flatten(1))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of programs that torch.export saved."""
    folder = tmp_path_factory.mktemp("programs")
    torch.manual_seed(4)
    x, rows = torch.rand(2, *SHAPE), {0: torch.export.Dim("rows")}
    torch.export.save(torch.export.export(Own().eval(), (x,), dynamic_shapes=(rows,)), folder / "any.pt2")
    torch.export.save(torch.export.export(Own().eval(), (x,)), folder / "two.pt2")
    torch.export.save(torch.export.export(torch.nn.Identity(), (x.double(),)), folder / "double.pt2")
    (folder / "text.pt2").write_text("no program", encoding="utf-8")
    return folder


def test_a_program_of_the_users_own(programs: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.pt2"
    kind = ["export", "pt2", "--role", "classifier", "--trust-program", "--program", str(programs / "any.pt2")]
    assert main([*kind, "--batch", "3", "--no-autotune", "--out", str(out)]) == 0
    x = pixels(3)
    want = torch.export.load(programs / "any.pt2").module()(torch.from_numpy(x)).detach().numpy()
    with open_engine(out, batch=3, role="classifier") as engine:
        assert isinstance(engine, InductorEngine)
        assert engine.facts.classes == 5
        np.testing.assert_allclose(engine.run(x), want, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trusted": False}, "was not opened: torch runs code that such a file holds; pass trust_program"),
        ({"program": "absent.pt2"}, "no such file"),
        ({"program": "text.pt2"}, "is no program that torch.export.save wrote, or is damaged"),
        ({"program": "two.pt2"}, "was exported for batches of 2: pass batch 2"),
        ({"program": "double.pt2"}, r"expected one batch float32 \[B, 3, H, W\]"),
        ({"role": "denoiser", "sigma": 0.25}, "that is no denoiser"),
        ({"role": "denoiser"}, "sigma is None for a denoiser"),
        ({"sigma": 0.25}, "sigma is 0.25 for a classifier"),
        ({"role": "conditional"}, "is not one of denoiser, classifier"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"out": "c.plan"}, "does not end in .pt2"),
    ],
)
def test_program_refusals(programs: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"role": "classifier", "batch": 3, "trusted": True, "out": "c.pt2", **changes}
    path = programs / given.pop("program", "any.pt2")
    with pytest.raises(InputError, match=message) as caught:
        export_program(path, tmp_path / given.pop("out"), **given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_classifiers_take_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the compiler, which is not started again."""
    from diffsmooth_trt.nets.classifiers import classifier_from_arch

    torch.save(classifier_from_arch("resnet20").module.state_dict(), tmp_path / "c.pt")
    asked = []

    def compile_nothing(program: Any, settings: Any, path: Path) -> None:
        asked.append((program.module()(torch.rand(2, 3, 32, 32)).shape, settings))
        raise EngineError("enough")

    monkeypatch.setattr(package_writer, "_compile", compile_nothing)
    with pytest.raises(EngineError, match="enough"):
        export_classifier("resnet20", tmp_path / "c.pt", tmp_path / "c.pt2", batch=2, precision="bf16", autotune=False)
    assert asked == [((2, 10), package_writer.PackageSettings("bf16", "cpu", False))]
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_driver_outside_the_compilers_folders_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers: a versioned file that only this process has found. g++ finds it meanwhile, and not before or after."""
    driver, source = tmp_path / "libcuda.so.580.1", tmp_path / "main.c"
    (tmp_path / "driver.c").write_text("int ds_only_here() { return 0; }")
    source.write_text("int ds_only_here(); int main() { return ds_only_here(); }")
    make = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(driver), str(tmp_path / "driver.c")]
    subprocess.run(make, check=True)
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f10 r-xp 00000000 00:2a 1 {driver}\n7f10-7f20 rw-p 00000000 00:00 0\n")

    def links() -> bool:
        command = ["gcc", "-o", str(tmp_path / "main"), str(source), "-lcuda"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    for before in (None, str(tmp_path / "other")):
        monkeypatch.delenv("LIBRARY_PATH", raising=False)
        if before is not None:
            monkeypatch.setenv("LIBRARY_PATH", before)
        assert not links()
        with package_writer.linkable_driver(maps):
            assert links()
        assert os.environ.get("LIBRARY_PATH") == before
        with package_writer.linkable_driver(tmp_path / "none"):
            assert os.environ.get("LIBRARY_PATH") == before


def test_headers_are_found_where_nvcc_is_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks above nvcc's folder alone; a toolkit without all headers is none."""
    from torch.utils import cpp_extension

    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "bin" / "nvcc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    usual = tmp_path / "usual"
    for folder, names in (("cuda-13.0", cuda_toolkit.HEADERS), ("cuda-14.0", cuda_toolkit.HEADERS[:1])):
        for name in names:
            header = usual / folder / "include" / name
            header.parent.mkdir(parents=True, exist_ok=True)
            header.touch()
    monkeypatch.setattr(cuda_toolkit, "USUAL", tmp_path)
    with pytest.raises(InputError, match="set CUDA_HOME"):
        cuda_toolkit.toolkit_folder()
    monkeypatch.setattr(cuda_toolkit, "USUAL", usual)
    assert cuda_toolkit.toolkit_folder(str(tmp_path)) == usual / "cuda-13.0"
    with cuda_toolkit.findable_headers():
        assert cpp_extension.CUDA_HOME == os.environ["CUDA_HOME"] == str(usual / "cuda-13.0")
    assert "CUDA_HOME" not in os.environ
