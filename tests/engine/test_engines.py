"""Engines: facts are checked, rows do not influence each other, bad files answer in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffsmooth_trt import zoo
from diffsmooth_trt.engine import BACKENDS, EngineFacts, choose_backend, open_engine
from diffsmooth_trt.engine.graph import read_graph
from diffsmooth_trt.errors import EngineError, InputError

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(2, 48)), np.zeros(2)


def batch_of(size: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).random((size, *shape), dtype=np.float32)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_values_and_identity(backend, linear_classifier):
    path = linear_classifier(W, B)
    x = batch_of(8, (3, 4, 4))
    with open_engine(path, batch=8, backend=backend, precision="fp32", role="classifier") as engine:
        y = engine.run(x)
        assert engine.facts.classes == 2
        assert engine.identity["backend"] == backend
        assert engine.identity["precision"] == "fp32"
        assert engine.identity["batch"] == 8
    np.testing.assert_allclose(y, x.reshape(8, -1) @ W.T.astype(np.float32), atol=1e-4)


@pytest.mark.parametrize("precision", [None, "fp32"])
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("batch", [5, 64])
@pytest.mark.parametrize("file", [zoo.DENOISER, zoo.CLASSIFIER_DDS], ids=["denoiser", "classifier"])
def test_rows_do_not_influence_each_other(file, batch, backend, precision):
    """A row's output is the same bits wherever it stands and whatever stands beside it."""
    x = batch_of(batch, (3, 32, 32))
    order = np.random.default_rng(2).permutation(batch)
    with open_engine(file, batch=batch, backend=backend, precision=precision) as engine:
        y = engine.run(x)
        np.testing.assert_array_equal(engine.run(x[order]), y[order])
        alone = np.repeat(x[3:4], batch, axis=0)
        np.testing.assert_array_equal(engine.run(alone), np.repeat(y[3:4], batch, axis=0))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed in /proc")
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_threads_are_free_to_run_on_any_core(backend):
    """Two processes that pin a thread each pin it to the same core: workers of one machine were half as fast."""

    def cores() -> dict[str, set[int]]:
        return {task.name: os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}

    before = cores()
    with open_engine(zoo.CLASSIFIER_DDS, batch=16, backend=backend, threads=1) as engine:
        engine.run(batch_of(16, (3, 32, 32)))
        added = {task: allowed for task, allowed in cores().items() if before.get(task) != allowed}
    assert [allowed for allowed in added.values() if allowed != os.sched_getaffinity(0)] == []


@pytest.mark.parametrize("precision", [None, "fp32"])
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("file", [zoo.DENOISER, zoo.CLASSIFIER_DDS], ids=["denoiser", "classifier"])
def test_results_do_not_depend_on_threads(file, backend, precision):
    x = batch_of(37, (3, 32, 32))
    ys, identities = [], []
    for threads in (1, 2, 3):
        with open_engine(file, batch=37, backend=backend, precision=precision, threads=threads) as engine:
            ys.append(engine.run(x))
            identities.append(engine.identity)
    assert identities[0] == identities[1] == identities[2]
    np.testing.assert_array_equal(ys[0], ys[1])
    np.testing.assert_array_equal(ys[0], ys[2])


def test_openvino_records_the_precision_that_ran():
    with open_engine(zoo.DENOISER, batch=8, backend="openvino", precision="fp32") as engine:
        assert engine.identity["precision"] == "fp32"
    with open_engine(zoo.DENOISER, batch=8, backend="openvino") as engine:
        assert engine.identity["precision"] in ("fp32", "bf16")


def test_rule_prefers_openvino():
    assert choose_backend(None) == "openvino"
    assert choose_backend("onnxruntime") == "onnxruntime"


def test_own_onnx_without_facts(linear_classifier, shrinking_denoiser):
    with open_engine(linear_classifier(W, B, facts=False), batch=2, role="classifier") as engine:
        assert (engine.facts.classes, engine.facts.input_shape) == (2, (3, 4, 4))
    with open_engine(shrinking_denoiser(None), batch=2, role="denoiser", sigma=0.5) as engine:
        assert engine.facts.sigma == 0.5


def test_facts_survive_json():
    facts = EngineFacts("denoiser", (3, 8, 8), sigma=0.25, timestep=7.0, details={"a": [1]})
    assert EngineFacts.from_json(facts.to_json()) == facts


def one_node(path: Path, node: onnx.NodeProto, kind: int = TensorProto.FLOAT) -> Path:
    values = [helper.make_tensor_value_info(name, kind, ["B", 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_nan_is_an_error_not_a_vote(tmp_path):
    path = one_node(tmp_path / "sqrt.onnx", helper.make_node("Sqrt", ["x"], ["y"]))
    x = np.ones((2, 3, 4, 4), dtype=np.float32)
    x[1] = -1
    with open_engine(path, batch=2, role="denoiser", sigma=0.25, precision="fp32") as engine:
        with pytest.raises(EngineError, match=r"NaN or infinity for 1 of 2 rows"):
            engine.run(x)


def test_bad_files(tmp_path, linear_classifier, shrinking_denoiser):
    classifier, denoiser = linear_classifier(W, B), shrinking_denoiser(0.25)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(zoo.DENOISER.read_bytes()[:5000])
    text = tmp_path / "text.onnx"
    text.write_text("not an engine")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    plan = tmp_path / "x.plan"
    plan.touch()
    identity = one_node(tmp_path / "i.onnx", helper.make_node("Identity", ["x"], ["y"]))
    double = one_node(tmp_path / "d.onnx", helper.make_node("Identity", ["x"], ["y"]), TensorProto.DOUBLE)
    commented = helper.make_node("Identity", ["x"], ["y"], doc_string="comment")
    latin = one_node(tmp_path / "l.onnx", commented)
    latin.write_bytes(latin.read_bytes().replace(b"comment", b"c\xf4mment"))
    open_engine(latin, batch=2, role="denoiser", sigma=0.25).close()  # what comments say is nobody's business
    garbled = tmp_path / "g.onnx"
    garbled.write_bytes(identity.read_bytes().replace(b"Identity", b"Identit\xff"))
    cases = [
        (garbled, {"role": "denoiser"}, "not a readable ONNX file .a name in it is no text"),
        (tmp_path / "none.onnx", {}, "does not exist"),
        (cut, {"role": "denoiser"}, "not a readable ONNX"),
        (text, {"role": "denoiser"}, "not a readable ONNX"),
        (empty, {"role": "denoiser"}, "not a readable ONNX"),
        (plan, {}, r"not an \.onnx"),
        (classifier, {"role": "denoiser"}, "is a classifier, expected a denoiser"),
        (denoiser, {"role": "classifier"}, "is a denoiser, expected a classifier"),
        (denoiser, {"role": "denoiser", "sigma": 0.5}, "exported for sigma 0.25, the run asks for 0.5"),
        (identity, {"role": "denoiser"}, "pass sigma"),
        (identity, {}, "carries no facts"),
        (double, {"role": "denoiser", "sigma": 0.5}, "float32"),
        (linear_classifier(W, B, batch=4), {}, "exported for batches of 4"),
        (denoiser, {"backend": "tpu"}, "use one of openvino, onnxruntime"),
        (denoiser, {"device": "tpu"}, "is unknown: use cpu"),
        (denoiser, {"precision": "int3"}, "use one of fp32, bf16"),
        (denoiser, {"backend": "onnxruntime", "precision": "bf16"}, "does not exist in ONNX Runtime"),
        (denoiser, {"batch": 0}, "at least 1"),
    ]
    for path, options, message in cases:
        with pytest.raises(InputError, match=message) as error:
            open_engine(path, **{"batch": 2, **options})
        assert "\n" not in str(error.value)


def test_wrong_shape_to_run(linear_classifier):
    with open_engine(linear_classifier(W, B), batch=2) as engine, pytest.raises(InputError, match="takes float32"):
        engine.run(np.zeros((1, 3, 4, 4), dtype=np.float32))


def test_dynamic_quantisation_is_refused(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    path = tmp_path / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(InputError, match="quantise it statically"):
        open_engine(path, batch=2, role="denoiser", sigma=0.25)


def test_external_weights_belong_to_the_identity(tmp_path, linear_classifier):
    model = onnx.load(linear_classifier(W, B))
    path = tmp_path / "big.onnx"
    options = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": False}
    onnx.save_model(model, path, location="big.data", **options)
    with open_engine(path, batch=2, backend="onnxruntime") as engine:
        before = engine.identity["weights"]
        assert list(before) == ["big.data"]
    data = tmp_path / "big.data"
    changed = bytearray(data.read_bytes())
    changed[0] ^= 1
    data.write_bytes(changed)
    with open_engine(path, batch=2, backend="onnxruntime") as engine:
        assert engine.identity["weights"] != before
    data.unlink()
    with pytest.raises(InputError, match="needs its weights file big.data"):
        open_engine(path, batch=2)
    outside = tmp_path / "inner" / "big.onnx"
    outside.parent.mkdir()
    for tensor in (model := onnx.load(path, load_external_data=False)).graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../big.data"
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside its folder"):
        open_engine(outside, batch=2)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_coupled_rows_and_random_engines_are_refused(tmp_path, backend):
    """What would make votes depend on packing is refused before a library reads the file."""
    mean = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])]
    noise = [helper.make_node("RandomUniformLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    for name, nodes, message in (("mean", mean, "takes the mean over the batch"), ("noise", noise, "draws random")):
        values = [helper.make_tensor_value_info(v, TensorProto.FLOAT, ["B", 3, 4, 4]) for v in ("x", "y")]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:])
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10), path)
        with pytest.raises(InputError, match=message):
            open_engine(path, batch=4, role="denoiser", sigma=0.25, backend=backend, precision="fp32")


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_output_is_what_the_facts_say(tmp_path, linear_classifier, backend):
    model = onnx.load(linear_classifier(W, B))
    del model.metadata_props[:]
    helper.set_model_props(model, {"diffsmooth_trt": EngineFacts("classifier", (3, 4, 4), classes=7).to_json()})
    onnx.save(model, path := tmp_path / "liar.onnx")
    with pytest.raises(EngineError, match=r"returned \(2, 2\), expected \(2, 7\)"):
        open_engine(path, batch=2, backend=backend)
    del model.metadata_props[:]
    helper.set_model_props(model, {"diffsmooth_trt": EngineFacts("classifier", (3, 8, 8), classes=2).to_json()})
    onnx.save(model, path)
    with pytest.raises(InputError, match="its graph takes"):
        open_engine(path, batch=2, backend=backend)


def test_probe_tells_computations_apart(linear_classifier, shrinking_denoiser):
    hashes = set()
    for path in (linear_classifier(W, B), linear_classifier(W, B + 1), shrinking_denoiser()):
        with open_engine(path, batch=2, backend="onnxruntime") as engine:
            hashes.add(engine.identity["probe"])
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("backend", "reason"), [("openvino", "Training mode is not supported"), ("onnxruntime", "Drpout")]
)
def test_a_librarys_reason_is_said_in_one_line(
    tmp_path: Path, backend: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """pytorch#52758: OpenVINO's message has it on its last lines, and ONNX Runtime logs it besides."""
    pytest.importorskip(backend, reason="one of the backends of .onnx files")
    name = "Dropout" if backend == "openvino" else "Drpout"
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node(name, ["f", "ratio", "on"], ["y"])]
    values = {"ratio": np.array(0.5, np.float32), "on": np.array(True)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 48])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "own.onnx")
    read = read_graph(tmp_path / "own.onnx", role="classifier", sigma=None)
    with pytest.raises(InputError, match=reason) as caught:  # the proof of rows would refuse both before
        BACKENDS[backend]()(read, 2, precision=None, threads=1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
