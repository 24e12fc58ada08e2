"""Small real engines that need no torch: ONNX graphs written out, and images to feed them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from diffsmooth_trt.engine import METADATA_KEY, EngineFacts

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (3, 4, 4)
EngineMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder beside a checkout; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("DIFFSMOOTH_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "cifar10-test.parquet").is_file():
        pytest.skip(f"no CIFAR-10 in {folder.name}/data beside the checkout")
    return folder


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    out: list[object],
    facts: EngineFacts | None,
    shape: tuple[int, ...],
    batch: int | str,
    inputs: list[onnx.ValueInfoProto] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, *out])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if facts is not None:
        helper.set_model_props(model, {METADATA_KEY: facts.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


class Opened(list[Path]):
    """The files that Python opened while this was listening; an audit hook stays for the life of the process."""

    listening: ClassVar[Opened | None] = None

    @classmethod
    def hear(cls, event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and cls.listening is not None and isinstance(given[0], str):
            cls.listening.append(Path(given[0]))


@pytest.fixture
def opened() -> Iterator[list[Path]]:
    """The files that Python opens during a test, in order and as often as it does."""
    if Opened.listening is None:
        sys.addaudithook(Opened.hear)
    Opened.listening = Opened()
    yield Opened.listening
    Opened.listening = Opened()


@pytest.fixture(scope="session")
def write_graph() -> EngineMaker:
    """`save_graph`, for the fixtures of folders below."""
    return save_graph


@pytest.fixture(scope="session")
def linear_classifier(tmp_path_factory: pytest.TempPathFactory) -> EngineMaker:
    """`make(weights [classes, d], bias [classes], …)`: logits = W·x + b (two classes: a half-space), or their softmax."""

    def make(
        weights: NDArray[np.float64],
        bias: NDArray[np.float64],
        *,
        shape: tuple[int, int, int] = SHAPE,
        facts: bool = True,
        batch: int | str = "B",
        softmax: bool = False,
    ) -> Path:
        classes, last = len(bias), "z" if softmax else "y"
        nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], [last], transB=1)]
        nodes += [helper.make_node("Softmax", ["z"], ["y"])] if softmax else []
        known = EngineFacts("classifier", shape, classes=classes) if facts else None
        values = {"w": weights.astype(np.float32), "b": bias.astype(np.float32)}
        path = tmp_path_factory.mktemp("classifier") / "classifier.onnx"
        return save_graph(path, nodes, values, [classes], known, shape, batch)

    return make


@pytest.fixture(scope="session")
def shrinking_denoiser(tmp_path_factory: pytest.TempPathFactory) -> EngineMaker:
    """`make(sigma, …)`: clip(½ + ¾·(x − ½), 0, 1), a crude denoiser."""

    def make(sigma: float | None = 0.25, *, shape: tuple[int, int, int] = SHAPE, batch: int | str = "B") -> Path:
        nodes = [
            helper.make_node("Mul", ["x", "scale"], ["m"]),
            helper.make_node("Add", ["m", "offset"], ["s"]),
            helper.make_node("Clip", ["s", "low", "high"], ["y"]),
        ]
        values = {"scale": 0.75, "offset": 0.125, "low": 0.0, "high": 1.0}
        arrays = {name: np.array(value, dtype=np.float32) for name, value in values.items()}
        facts = EngineFacts("denoiser", shape, sigma=sigma) if sigma is not None else None
        path = tmp_path_factory.mktemp("denoiser") / "denoiser.onnx"
        return save_graph(path, nodes, arrays, list(shape), facts, shape, batch)

    return make


@pytest.fixture(scope="session")
def conditional_denoiser(tmp_path_factory: pytest.TempPathFactory) -> EngineMaker:
    """`make(means [classes, d], sd=1.0, null=True, …)`: (sd²·x + s²·μ_y)/(sd² + s²), the ideal denoiser of classes N(μ_y, sd²).

    Means are in [-1, 1] units; with `null` the label `classes` is the null class, whose mean is the average.
    """

    def make(
        means: NDArray[np.float64],
        sd: float = 1.0,
        *,
        null: bool = True,
        shape: tuple[int, int, int] = SHAPE,
        batch: int | str = "B",
    ) -> Path:
        classes = len(means)
        rows = np.concatenate([means, means.mean(axis=0, keepdims=True)]) if null else np.asarray(means)
        nodes = [
            helper.make_node("Reshape", ["s", "column"], ["s4"]),
            helper.make_node("Mul", ["s4", "s4"], ["s2"]),
            helper.make_node("Add", ["s2", "sd2"], ["total"]),
            helper.make_node("Gather", ["means", "labels"], ["mean"]),
            helper.make_node("Sub", ["mean", "images"], ["off"]),
            helper.make_node("Div", ["s2", "total"], ["share"]),
            helper.make_node("Mul", ["off", "share"], ["step"]),
            helper.make_node("Add", ["images", "step"], ["y"]),
        ]
        weights = {
            "column": np.array([-1, 1, 1, 1]),
            "sd2": np.array(sd**2, dtype=np.float32),
            "means": rows.reshape(-1, *shape).astype(np.float32),
        }
        details = {"null_class": classes if null else None}
        facts = EngineFacts("conditional", shape, classes=classes, value_range=(-1.0, 1.0), details=details)
        inputs = [
            helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *shape]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [batch]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [batch]),
        ]
        path = tmp_path_factory.mktemp("conditional") / "conditional.onnx"
        return save_graph(path, nodes, weights, list(shape), facts, shape, batch, inputs)

    return make


@pytest.fixture(scope="session")
def random_checkpoint() -> Callable[[Path, str, dict[str, Any]], tuple[Any, Any]]:
    """`make(path, family, options)`: a random network's state dict; its parsed options and the network."""
    import torch

    from diffsmooth_trt.nets import edm
    from diffsmooth_trt.nets.options import parse_options

    def make(path: Path, family: str, options: dict[str, Any]) -> tuple[Any, Any]:
        torch.manual_seed(5)
        parsed: Any = edm.parse_options(options) if family == "edm" else parse_options(family, options)
        net = parsed.network()
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        torch.save(net.state_dict(), path)
        return parsed, net

    return make


@pytest.fixture
def images_npz(tmp_path: Path) -> Callable[..., Path]:
    """`make(count, classes, …)`: random 8-bit images with labels in an .npz."""

    def make(count: int = 5, classes: int = 2, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        path = tmp_path / "images.npz"
        pixels = rng.integers(0, 256, (count, shape[1], shape[2], shape[0]), dtype=np.uint8)
        np.savez(path, images=pixels, labels=rng.integers(0, classes, count))
        return path

    return make


@pytest.fixture(scope="session")
def assert_folded() -> Callable[[Path], None]:
    """`check(path)`: nothing is left in a denoiser's graph that its noise level fixes, nor channels that are no image."""

    def check(path: Path) -> None:
        onnx = pytest.importorskip("onnx", reason="reads graphs")
        model = onnx.load(path)
        onnx.checker.check_model(model)
        operators = [node.op_type for node in model.graph.node]
        unwanted = {"Sin", "Cos", "Log", "Gemm", "Gather", "Shape", "Dropout", "RandomNormal", "If", "Loop", "Pow"}
        assert not unwanted & set(operators)
        names = [tensor.name for tensor in model.graph.initializer]
        assert not [name for name in names if "emb" in name or "map_" in name or "affine" in name]
        last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
        (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[1]]
        assert weight.dims[0] == 3
        assert operators[-1] == "Clip"

    return check


SUPPORT = Path(__file__).with_name("support")


def load_module(path: Path) -> Any:
    """A Python file beside the tests, as a module."""
    name = f"tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The GPU's kernels compiled for the processor."""
    module = load_module(SUPPORT / "host_kernels.py")
    if module.compiler() is None:
        pytest.skip("no C++ compiler to compile the kernels with")
    return module.compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def host_kernels(host_library: Any) -> Callable[..., Any]:
    """`make(grid=None)`: the GPU's kernels on the processor, in a grid of (blocks, threads) where given."""
    module = load_module(SUPPORT / "host_kernels.py")
    return lambda grid=None: module.HostKernels(host_library, grid)


@pytest.fixture
def make_device(host_library: Any) -> Callable[..., Any]:
    """`make(total=…, foreign=…)`: a device as a GPU is one, on the processor; `module` is tests/support/host_device.py."""
    module = load_module(SUPPORT / "host_device.py")

    def make(**options: Any) -> Any:
        device = module.HostDevice(host_library, **options)
        device.module = module
        return device

    return make


@pytest.fixture(scope="session")
def load_beside() -> Callable[[str], Any]:
    """`load(name)`: a Python file of tests/support as a module."""
    return lambda name: load_module(SUPPORT / name)
