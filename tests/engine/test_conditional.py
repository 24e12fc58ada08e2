"""Conditional denoisers: noise levels and labels by row, files of other roles are told apart, what does not fit is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from diffsmooth_trt.engine import BACKENDS, METADATA_KEY, EngineFacts, open_engine
from diffsmooth_trt.errors import InputError

SHAPE = (3, 4, 4)
MEANS = np.random.default_rng(3).uniform(-0.8, 0.8, (5, 48))
SD = 0.5


def inputs_of(rows, labels=6):
    rng = np.random.default_rng(4)
    s = np.exp(rng.uniform(np.log(1e-4), np.log(3), rows)).astype(np.float32)
    x = (rng.uniform(-1, 1, (rows, *SHAPE)) + s[:, None, None, None] * rng.normal(size=(rows, *SHAPE))).astype(
        np.float32
    )
    return x, s, rng.integers(0, labels, rows)


def ideal(x, s, labels):
    means = np.concatenate([MEANS, MEANS.mean(axis=0, keepdims=True)])[labels].reshape(x.shape)
    s2 = s.astype(np.float64)[:, None, None, None] ** 2
    return (SD**2 * x + s2 * means) / (SD**2 + s2)


@pytest.mark.parametrize("precision", [None, "fp32"])
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("rows", [1, 5, 37])
def test_noise_level_and_label_act_on_their_own_row(backend, rows, precision, conditional_denoiser):
    x, s, labels = inputs_of(rows)
    path = conditional_denoiser(MEANS, SD)
    with open_engine(path, batch=rows, role="conditional", backend=backend, precision=precision) as engine:
        y = engine.denoise(x, s, labels)
        assert (engine.facts.classes, engine.null_class, engine.facts.sigma) == (5, 5, None)
        assert y.dtype == np.float32
        np.testing.assert_allclose(
            y, ideal(x, s, labels), atol=1e-5 if engine.identity["precision"] == "fp32" else 0.05
        )
        order = np.random.default_rng(2).permutation(rows)
        np.testing.assert_array_equal(engine.denoise(x[order], s[order], labels[order]), y[order])


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_identity_does_not_depend_on_threads_and_tells_networks_apart(backend, conditional_denoiser):
    paths = [conditional_denoiser(MEANS, SD), conditional_denoiser(MEANS, 2 * SD)]
    probes = []
    for path, threads in ((paths[0], 1), (paths[0], 2), (paths[1], 1)):
        with open_engine(path, batch=37, role="conditional", backend=backend, threads=threads) as engine:
            probes.append(engine.identity["probe"])
    assert probes[0] == probes[1] != probes[2]


def test_without_null_class_and_with_fixed_batch(conditional_denoiser):
    path = conditional_denoiser(MEANS, SD, null=False, batch=4)
    x, s, labels = inputs_of(4, 5)
    with open_engine(path, batch=4, role="conditional", precision="fp32") as engine:
        assert engine.null_class is None
        np.testing.assert_allclose(engine.denoise(x, s, labels), ideal(x, s, labels), atol=1e-5)
        with pytest.raises(InputError, match=r"takes labels 0…4, got 5 \(it has no null class\)"):
            engine.denoise(x, s, np.full(4, 5))
    with pytest.raises(InputError, match="exported for batches of 4, the run asks for 2"):
        open_engine(path, batch=2, role="conditional")


def test_rows_without_a_finite_answer_are_returned(conditional_denoiser):
    x, s, labels = inputs_of(4)
    x[1] = np.nan
    s[2] = 1e30
    with open_engine(conditional_denoiser(MEANS, SD), batch=4, precision="fp32") as engine:
        finite = np.isfinite(engine.denoise(x, s, labels)).all(axis=(1, 2, 3))
    assert finite.tolist() == [True, False, False, True]


def test_arguments_that_do_not_fit(conditional_denoiser, linear_classifier):
    x, s, labels = inputs_of(4)
    cases = [
        ({"x": x[:2]}, r"takes float32 \(4, 3, 4, 4\), got float32 \(2, 3, 4, 4\)"),
        ({"x": x.astype(np.float64)}, "got float64"),
        ({"s": s[:, None]}, r"takes s as float32 \(4,\), got float32 \(4, 1\)"),
        ({"s": s.astype(np.float64)}, "takes s as float32"),
        ({"s": np.array([1, 0, 1, 1], dtype=np.float32)}, "finite and above 0, got 0.0"),
        ({"s": np.array([1, 1, np.inf, 1], dtype=np.float32)}, "finite and above 0, got inf"),
        ({"s": np.array([1, 1, np.nan, 1], dtype=np.float32)}, "finite and above 0, got nan"),
        ({"labels": labels.astype(np.int32)}, "takes labels as int64"),
        ({"labels": np.array([0, -1, 2, 3])}, r"takes labels 0…4, got -1 \(or the null class 5\)"),
        ({"labels": np.array([0, 6, 2, 3])}, "takes labels 0…4, got 6"),
    ]
    with open_engine(conditional_denoiser(MEANS, SD), batch=4) as engine:
        for changes, message in cases:
            with pytest.raises(InputError, match=message) as error:
                engine.denoise(**{"x": x, "s": s, "labels": labels, **changes})
            assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=r"is a conditional denoiser: call denoise\(x, s, labels\)"):
            engine.run(x)
    with open_engine(linear_classifier(np.ones((2, 48)), np.zeros(2)), batch=4) as engine:
        assert engine.null_class is None
        with pytest.raises(InputError, match=r"is a classifier, denoise needs a conditional denoiser: call run\(x\)"):
            engine.denoise(x, s, labels)


def test_files_of_other_roles(conditional_denoiser, shrinking_denoiser, linear_classifier):
    conditional, classifier = conditional_denoiser(MEANS, SD), linear_classifier(np.ones((2, 48)), np.zeros(2))
    cases = [
        (conditional, "denoiser", "is a conditional denoiser, expected a denoiser: export it with sigma instead of"),
        (conditional, "classifier", "is a conditional denoiser, expected a classifier: swap"),
        (shrinking_denoiser(), "conditional", "is a denoiser, expected a conditional denoiser: make one with .*--cond"),
        (classifier, "conditional", "is a classifier, expected a conditional denoiser: make one with"),
        (
            shrinking_denoiser(None),
            "conditional",
            r"has inputs x float \[None, 3, 4, 4\] and 1 outputs: expected images",
        ),
    ]
    for path, role, message in cases:
        with pytest.raises(InputError, match=message) as error:
            open_engine(path, batch=2, role=role, sigma=0.25)
        assert "\n" not in str(error.value)


def change(model, kind):
    graph = model.graph
    if kind == "name":
        graph.input[1].name = "sigma"
    elif kind == "dtype":
        graph.input[2].type.tensor_type.elem_type = TensorProto.INT32
    elif kind == "batch":
        graph.input[1].type.tensor_type.shape.dim[0].dim_value = 3
    elif kind == "order":
        first, second = graph.input[1], graph.input[2]
        swapped = [graph.input[0], onnx.ValueInfoProto(), onnx.ValueInfoProto()]
        swapped[1].CopyFrom(second), swapped[2].CopyFrom(first)
        del graph.input[1:]
        graph.input.extend(swapped[1:])
    elif kind == "output":
        graph.output.append(helper.make_tensor_value_info("s2", TensorProto.FLOAT, ["B", 1, 1, 1]))


@pytest.mark.parametrize("kind", ["name", "dtype", "batch", "order", "output"])
def test_graphs_with_other_inputs_are_refused(tmp_path, conditional_denoiser, kind):
    model = onnx.load(conditional_denoiser(MEANS, SD))
    change(model, kind)
    onnx.save(model, path := tmp_path / "other.onnx")
    with pytest.raises(
        InputError, match=r"has inputs images float .* expected images float \[B, C, H, W\], s float \[B\]"
    ):
        open_engine(path, batch=2, role="conditional")


def test_facts_that_contradict_the_graph_or_themselves(tmp_path, conditional_denoiser):
    model = onnx.load(conditional_denoiser(MEANS, SD))
    path = tmp_path / "facts.onnx"

    def saved(**changes):
        del model.metadata_props[:]
        facts = {"role": "conditional", "input_shape": SHAPE, "classes": 5, "value_range": (-1.0, 1.0), **changes}
        helper.set_model_props(model, {METADATA_KEY: EngineFacts(**facts).to_json()})
        onnx.save(model, path)
        return path

    with pytest.raises(InputError, match="does not say its number of classes: make one"):
        open_engine(saved(classes=None), batch=2)
    with pytest.raises(InputError, match="its graph takes"):
        open_engine(saved(input_shape=(3, 8, 8)), batch=2)
    with pytest.raises(InputError, match="has 3 inputs and 1 outputs: expected one image batch in"):
        open_engine(saved(role="denoiser", value_range=(0.0, 1.0)), batch=2)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(InputError, match="carries no facts, so its classes are unknown: make one with"):
        open_engine(path, batch=2, role="conditional")
    with pytest.raises(InputError, match="has 3 inputs"):
        open_engine(path, batch=2, role="denoiser", sigma=0.25)
    with pytest.raises(InputError, match="value range .* is not"):
        EngineFacts("conditional", SHAPE, classes=5)
    with pytest.raises(InputError, match="null class 3 is not the label 5 that follows the classes"):
        EngineFacts("conditional", SHAPE, classes=5, value_range=(-1.0, 1.0), details={"null_class": 3})


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_coupled_rows_are_refused(tmp_path, conditional_denoiser, backend):
    model = onnx.load(conditional_denoiser(MEANS, SD))
    model.graph.node[1].output[0] = "own"
    model.graph.node.insert(2, helper.make_node("ReduceMean", ["own", "zero"], ["s2"], keepdims=1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    onnx.save(model, path := tmp_path / "coupled.onnx")
    with pytest.raises(InputError, match="takes the mean over the batch axis"):
        open_engine(path, batch=4, role="conditional", backend=backend, precision="fp32")
