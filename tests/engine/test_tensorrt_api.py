"""Every name, method and keyword that the package takes of TensorRT exists in NVIDIA's published bindings: 10, 11, and RTX's."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "diffsmooth_trt"
HERE = ROOT / "tests" / "support"
# The least that the checker has to see in the package: were it blind, it would find nothing wrong.
SEEN = {
    "Builder.build_serialized_network",
    "Builder.create_network",
    "BuilderFlag.TF32",
    "IBuilderConfig.builder_optimization_level =",
    "IBuilderConfig.set_timing_cache(ignore_mismatch=)",
    "IOptimizationProfile.set_shape(min=)",
    "ITensor.name",
    "ITimingCache.serialize",
    "OnnxParser.get_error(index=)",
    "OnnxParserRefitter.refit_from_file",
    "ParserError.node_name",
    "Refitter.refit_cuda_engine",
}
SEEN_RTX = {
    "IBuilderConfig.num_compute_capabilities =",
    "IBuilderConfig.set_compute_capability",
    "ICudaEngine.create_runtime_config",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy =",
    "IRuntimeConfig.set_runtime_cache",
}


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def bindings(which: str) -> Path:
    """The folder of the bindings of a major version, or of "rtx": where `make test` puts them, else anywhere on the path."""
    package, own, pattern = "tensorrt_bindings", f"trt{which}", f"tensorrt_cu*bindings-{which}.*.dist-info"
    if which == "rtx":
        package, own, pattern = "tensorrt_rtx_bindings", "rtx", "tensorrt_rtx*bindings-*.dist-info"
    for folder in (ROOT / ".venv" / own, *map(Path, sys.path)):
        if list(folder.glob(pattern)) and (folder / package).is_dir():
            return folder
    pytest.skip(f"no bindings of TensorRT {which}: `make test` installs them where they exist for the platform")


@pytest.fixture(scope="module", params=["11", "10", "rtx"])
def offered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the bindings of one major version offer, and the folders of bindings and empty libraries."""
    folder, scratch = bindings(request.param), tmp_path_factory.mktemp("libraries")
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler for the empty libraries")
    done = subprocess.run(
        [sys.executable, HERE / "tensorrt_bindings.py", folder, scratch], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["version"].split(".")[0] == {"rtx": "1"}.get(request.param, request.param)
    return {**found, "rtx": request.param == "rtx", "folder": folder, "scratch": scratch}


def test_everything_the_package_uses_exists(offered: dict[str, Any]) -> None:
    uses: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "trt." not in source or (path.stem.endswith("_rtx") and not offered["rtx"]):
            continue  # what only TensorRT for RTX has is in files of that name
        checker = loaded("tensorrt_uses").Checker(offered)
        checker.check(source)
        assert not checker.problems, f"TensorRT {offered['version']}: {path.relative_to(ROOT)}: {checker.problems}"
        uses |= checker.uses
    assert uses >= (SEEN | SEEN_RTX if offered["rtx"] else SEEN)


WRONG = {
    "trt.Bilder": "trt.Bilder does not exist",
    "trt.BuilderFlag.FP61": "BuilderFlag.FP61 does not exist",
    "trt.ILogger.Severity.BAD": "ILogger.Severity.BAD does not exist",
    "trt.Builder(log).create_netwrok()": "Builder.create_netwrok does not exist",
    "trt.Builder()": "Builder() needs logger",
    "trt.Builder(log).create_network(flag=1)": "Builder.create_network has no keyword flag",
    "trt.Builder(log).create_network(1, 2)": "Builder.create_network takes 1 arguments, 2 are given",
    "trt.Builder(log).create_builder_config().set_flag()": "IBuilderConfig.set_flag needs flag",
    "trt.OnnxParser(network, log).num_errors = 3": "OnnxParser.num_errors cannot be set",
    "context: trt.IExecutionContext = made()\ncontext.execute_async_v2(1)": "execute_async_v2 does not exist",
    "def f(parser: trt.OnnxParser | None) -> None:\n    parser.get_error(0).nodename()": "ParserError.nodename does not exist",
    "class A:\n    def g(self) -> None:\n        self.engine.no()\n    def f(self) -> None:\n"
    "        self.engine = trt.Runtime(log).deserialize_cuda_engine(plan)": "ICudaEngine.no does not exist",
    "errors: list[trt.ParserError] = []\n[error.dsc() for error in errors]": "ParserError.dsc does not exist",
    "self.trt.Runtime(log).deserialize_cuda_engine(plan).nothing": "ICudaEngine.nothing does not exist",
}


@pytest.mark.parametrize("code", WRONG)
def test_the_checker_finds_what_does_not_exist(offered: dict[str, Any], code: str) -> None:
    checker = loaded("tensorrt_uses").Checker(offered)
    checker.check(code)
    assert len(checker.problems) == 1
    assert WRONG[code] in next(iter(checker.problems))


def test_the_checker_tells_the_versions_apart(offered: dict[str, Any]) -> None:
    """The old way to ask for half precision: there in 10, gone in 11."""
    checker = loaded("tensorrt_uses").Checker(offered)
    checker.check("trt.Builder(log).create_builder_config().set_flag(trt.BuilderFlag.FP16)")
    assert len(checker.problems) == (0 if offered["version"].startswith("10.") else 1)


PROBE = """
import ctypes, json, os, sys
from pathlib import Path
for library in Path(sys.argv[2]).glob("lib*.so.*"):
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
sys.setdlopenflags(os.RTLD_LAZY)
sys.path.insert(0, sys.argv[1])
rtx = sys.argv[3] == "rtx"
if not rtx:
    sys.modules["tensorrt"] = sys.modules["tensorrt_libs"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tensorrt" else real(name, *rest)
from diffsmooth_trt.device.nvidia import import_tensorrt
from diffsmooth_trt.engine.backends.tensorrt_log import open_log
from diffsmooth_trt.exporting.writers import tensorrt as writer
library = "tensorrt-rtx" if rtx else "tensorrt"
trt = import_tensorrt(library)
log = open_log(trt)
log.log(trt.ILogger.Severity.WARNING, "a warning")
log.log(trt.ILogger.Severity.ERROR, "an error\\nof two lines")
print(json.dumps([trt.__version__, log.last, writer.network_flags(trt, library)]))
"""


def test_our_module_loads_against_the_bindings(offered: dict[str, Any]) -> None:
    """Our logger is a subclass of TensorRT's and TensorRT's enumerations work in it, on the real bindings."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, offered["folder"], offered["scratch"], "rtx" if offered["rtx"] else ""],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    strong = {"10": 2, "11": 0, "1": 1}[offered["version"].split(".")[0]]  # the flag's bit; in 11 all networks are
    assert json.loads(done.stdout) == [offered["version"], "an error of two lines", strong]
