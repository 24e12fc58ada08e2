"""`--weights published` and `--sift published` against the published code's sums, restated here without the package.

The restatement (tests/support/published_ndc.py) gets the file of the network, which it runs by itself, the noisy image and the
noises. `benchmarks/bench_published.py` compares labels on the zoo.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from diffsmooth_trt.engine import EngineFacts, open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.methods import METHODS, Rows

SHAPE, SIGMA, CLASSES = (3, 4, 4), 0.25, 5


@pytest.fixture(scope="module")
def network(tmp_path_factory, write_graph):
    """`make(seed)`: a file with x ↦ x/(1 + s²) + s·conv(tanh(conv(x/√(1 + s²)) + embedding of the label)), random weights."""

    def make(seed):
        rng = np.random.default_rng(seed)
        weights = {
            "w1": rng.normal(0, 0.4, (8, 3, 3, 3)), "b1": rng.normal(0, 0.2, 8), "w2": rng.normal(0, 0.2, (3, 8, 3, 3)),
            "b2": rng.normal(0, 0.1, 3), "rows": rng.normal(0, 0.8, (CLASSES + 1, 8, 1, 1)), "one": np.array(1.0),
        }  # fmt: skip
        nodes = [
            helper.make_node("Reshape", ["s", "column"], ["s4"]),
            helper.make_node("Mul", ["s4", "s4"], ["s2"]),
            helper.make_node("Add", ["s2", "one"], ["total"]),
            helper.make_node("Sqrt", ["total"], ["norm"]),
            helper.make_node("Div", ["images", "norm"], ["scaled"]),
            helper.make_node("Conv", ["scaled", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            helper.make_node("Gather", ["rows", "labels"], ["emb"]),
            helper.make_node("Add", ["c", "emb"], ["h"]),
            helper.make_node("Tanh", ["h"], ["g"]),
            helper.make_node("Conv", ["g", "w2", "b2"], ["f"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            helper.make_node("Mul", ["f", "s4"], ["out"]),
            helper.make_node("Div", ["images", "total"], ["skip"]),
            helper.make_node("Add", ["skip", "out"], ["y"]),
        ]
        values = {name: value.astype(np.float32) for name, value in weights.items()}
        values["column"] = np.array([-1, 1, 1, 1])
        facts = EngineFacts(
            "conditional", SHAPE, classes=CLASSES, value_range=(-1.0, 1.0), details={"null_class": CLASSES}
        )
        inputs = [
            helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", *SHAPE]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, ["B"]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["B"]),
        ]
        path = tmp_path_factory.mktemp("network") / "conditional.onnx"
        return write_graph(path, nodes, values, list(SHAPE), facts, SHAPE, "B", inputs)

    return make


@pytest.fixture
def code(load_beside):
    """The published code, restated."""
    return load_beside("published_ndc.py")


def running(path):
    """The network as a function of images `[B, 3, 4, 4]`, levels and labels `[B]`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def denoise(x, s, y):
        given = {"images": x.astype(np.float32), "s": np.asarray(s, np.float32), "labels": np.asarray(y, np.int64)}
        return session.run(None, given)[0].astype(np.float64)

    return denoise


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    noisy = (rng.random((count, *SHAPE)) + SIGMA * rng.normal(size=(count, *SHAPE))).astype(np.float32)
    return noisy, Rows(*(np.array(v, np.uint64) for v in ([1] * count, [3] * count, list(range(count)))), 99)


@pytest.fixture
def opened():
    engines = []

    def make(path, name, batch, sigma=SIGMA, **options):
        engines.append(open_engine(path, batch=batch, role="conditional", backend="onnxruntime"))
        given = {"weights": "published", "local_noise": "fresh", **options}
        return METHODS[name].of({"engine": engines[-1]}, sigma, METHODS[name].Options(**given))

    yield make
    for engine in engines:
        engine.close()


def noises(method, rows, row):
    """`noise(i)` of one row."""
    return lambda i: method.noise(rows, i)[row].reshape(SHAPE).astype(np.float64)


@pytest.mark.parametrize("steps", [8, 32, 126])
@pytest.mark.parametrize("name", ["dc", "epndc", "apndc"])
def test_published_losses_are_the_published_codes(network, opened, code, name, steps):
    """To 1e-6, on another random network each, three images, also at another σ."""
    for seed, sigma in ((steps, 0.25), (steps + 1, 0.5)):
        path = network(seed)
        net, method = running(path), opened(path, name, 15, sigma, steps=steps)
        noisy, rows = drawn(3, seed)
        found = method.losses(noisy, rows)
        for row in range(3):
            noise = noises(method, rows, row)
            expected = [code.published(name, net, noisy[row], steps, sigma, noise, y, CLASSES) for y in range(CLASSES)]
            assert found[row] == pytest.approx(expected, rel=1e-6)
            assert int(np.argmin(found[row])) == int(np.argmin(expected))


def test_numbers_of_terms(network, opened):
    """124 levels of 126, and 119 pairs."""
    path = network(0)
    assert [len(opened(path, name, 1, steps=126).terms.levels) for name in ("dc", "epndc", "apndc")] == [124, 119, 124]


@pytest.mark.parametrize("steps", [126, 1001])
@pytest.mark.parametrize("name", ["dc", "apndc"])
def test_the_sieve_drops_what_the_published_rule_drops(conditional_denoiser, opened, code, name, steps):
    """1000 classes, near one another so that some stay and others go; what is left and its losses, to 1e-6."""
    spread = 0.05 if name == "dc" else 0.02
    means = np.random.default_rng(5).normal(0, spread, (1000, 48))
    path = conditional_denoiser(means, 0.5)
    net, method = running(path), opened(path, name, 500, steps=steps, sift="published", local_noise="fixed")
    noisy, rows = drawn(1)
    found = method.losses(noisy, rows)[0]
    left, refined = code.sifted(name, net, noisy[0], steps, SIGMA, noises(method, rows, 0), 1000)
    assert np.flatnonzero(np.isfinite(found)).tolist() == left
    assert 1 <= len(left) < 1000
    assert found[left].tolist() == pytest.approx([126 * refined[y] for y in left], rel=1e-6)


def test_the_sieves_step_is_the_classifiers(conditional_denoiser, opened):
    """With 1001 steps losses are 8 times smaller than with 126, so that fewer classes are 5·10⁻⁵ behind."""
    path = conditional_denoiser(np.random.default_rng(5).normal(0, 0.02, (1000, 48)), 0.5)
    spent = []
    for steps in (126, 1001):
        method = opened(path, "apndc", 500, steps=steps, sift="published", local_noise="fixed")
        method.losses(*drawn(1))
        spent.append(method.evaluations)
    assert spent[0] < spent[1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("apndc", {"sift": "published", "weights": "paper"}, "sift published weighs as .*: add weights published"),
        ("epndc", {"sift": "published"}, "sift published is for method dc, apndc, got epndc: use sift spread"),
        ("apndc", {"sift": "published", "sigma": 0.5}, r"of sigma 0\.25 whatever sigma is, got 0\.5"),
        ("apndc", {"steps": 2}, "steps must be 3 to 100000, got 2"),
        ("epndc", {"steps": 7}, "drop_steps is 5 of steps 7, expected to leave a pair"),
    ],
)
def test_what_the_published_code_cannot_do(network, opened, name, options, message):
    with pytest.raises(InputError, match=message) as error:
        opened(network(0), name, 2, **options)
    assert "\n" not in str(error.value)


def test_the_sieve_and_what_follows_have_noises_of_their_own(network, opened):
    """As in the published code: what chooses the classes and what compares them is drawn apart."""
    method = opened(network(0), "apndc", 5, sift="published")
    sieve, rest = method.sieve, method.terms
    assert (sieve.first_noise, len(sieve.levels), rest.first_noise, len(rest.levels)) == (0, 50, 50, 126)
    assert method.noises == 176
