"""Interval bounds: they contain what the network gives, agree with another implementation, and refuse other graphs by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from diffsmooth_trt import zoo
from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.ood.interval import DOUBLE, SINGLE, IntervalGraph, linf_box
from diffsmooth_trt.ood.linf import scaled
from diffsmooth_trt.ood.model import check_detector

SHAPE = (3, 4, 4)
IMAGES = np.random.default_rng(0).random((20, *SHAPE)).astype(np.float32)


def test_bounds_contain_100000_perturbed_outputs(small_detector):
    """Corners, edges and inner points of the boxes of 20 images through ONNX Runtime, in float32."""
    path = small_detector()
    low, high = IntervalGraph(path).bounds(*linf_box(IMAGES, 0.05), roundoff=SINGLE)
    rng = np.random.default_rng(1)
    with open_engine(path, batch=1000, backend="onnxruntime", role="detector") as engine:
        for image, least, most in zip(IMAGES, low, high, strict=True):
            for part in range(5):
                noise = rng.uniform(-1, 1, (1000, *SHAPE))
                noise = np.sign(noise) if part < 2 else noise
                points = np.clip(image + np.float32(0.05) * noise, 0, 1).astype(np.float32)
                d = engine.run(points)
                assert ((d >= least) & (d <= most)).all()


def test_the_box_holds_the_ball_in_float32():
    """Every pixel value, moved by epsilon in float32 up and down as attacks do it, and the exact ball around k/255."""
    pixels = np.arange(256)
    x = pixels.astype(np.float32) / np.float32(255)
    for epsilon in (0.0, 1e-4, 2 / 255, 0.01, 8 / 255, 0.3):
        low, high = linf_box(x, epsilon)
        assert (low <= np.maximum(x - np.float32(epsilon), 0)).all() and low.min() == 0
        assert (high >= np.minimum(x + np.float32(epsilon), 1)).all() and high.max() == 1
        for step in (-epsilon, epsilon):
            exact = np.clip(pixels / 255 + step, 0, 1)
            for point in (exact, exact.astype(np.float32)):
                assert ((low <= point) & (point <= high)).all()


def test_zoo_detector_stays_in_its_bounds():
    images = scaled(list(Images(zoo.IMAGES, limit=4)))
    low, high = IntervalGraph(zoo.DETECTOR).bounds(*linf_box(images, 0.01), roundoff=SINGLE)
    signs = np.sign(np.random.default_rng(2).uniform(-1, 1, (16, *images.shape))).astype(np.float32)
    with open_engine(zoo.DETECTOR, batch=64, precision="fp32", role="detector") as engine:
        d = engine.run(np.clip(images + np.float32(0.01) * signs, 0, 1).reshape(-1, *images.shape[1:])).reshape(16, 4)
    assert ((d >= low[:, 0]) & (d <= high[:, 0])).all()


def test_bounds_do_not_depend_on_the_other_boxes():
    """To the last digit, as runs that are resumed or verified need it; a matrix product's depends on its rows."""
    boxes = linf_box(np.random.default_rng(3).random((9, 3, 32, 32)).astype(np.float32), 0.01)
    graph = IntervalGraph(zoo.DETECTOR)
    low, high = graph.bounds(*boxes)
    for rows in (slice(0, 1), slice(2, 9)):
        again = graph.bounds(*(each[rows] for each in boxes))
        assert np.array_equal(again[0], low[rows]) and np.array_equal(again[1], high[rows])


def test_bounds_agree_with_an_independent_implementation(small_detector):
    """Lower and upper ends by clamped weights in torch, float64, as the published code does it."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    path = small_detector()
    weights = {
        t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()).double()
        for t in onnx.load(path).graph.initializer
    }
    box = linf_box(IMAGES, 0.03)
    low, high = (torch.from_numpy(end) for end in box)

    def both(apply, weight, bias):
        more, less = weight.clamp(min=0), weight.clamp(max=0)
        return apply(low, more) + apply(high, less) + bias, apply(high, more) + apply(low, less) + bias

    low, high = both(lambda x, w: F.conv2d(x, w, padding=1), weights["w1"], weights["b1"][:, None, None])
    low, high = (F.avg_pool2d(end.relu(), 2).flatten(1) for end in (low, high))
    low, high = both(lambda x, w: x @ w, weights["w2"], weights["b2"])
    low, high = low.relu(), high.relu()
    low, high = both(lambda x, w: x @ w, weights["w3"], weights["b3"])
    found = IntervalGraph(path).bounds(*box)
    assert np.abs(found[0] - low.numpy()).max() < 1e-6 and np.abs(found[1] - high.numpy()).max() < 1e-6
    assert (found[0] <= low.numpy()).all() and (found[1] >= high.numpy()).all()


def test_roundoff_widens(small_detector):
    graph, box = IntervalGraph(small_detector()), linf_box(IMAGES, 0.0)
    narrow, wide = graph.bounds(*box, roundoff=DOUBLE), graph.bounds(*box, roundoff=SINGLE)
    assert (wide[0] < narrow[0]).all() and (wide[1] > narrow[1]).all()
    assert (wide[1] - wide[0]).max() < 1e-2


AFFINE = [
    ("Mul", "x", "a"), ("Mul", "a", "x"), ("Add", "x", "a"), ("Sub", "x", "a"), ("Sub", "a", "x"), ("Div", "x", "a"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "first", "second"), AFFINE)
def test_affine_nodes(write_graph, tmp_path, kind, first, second):
    constant = np.array([-2.0, 0.5, 3.0], np.float32).reshape(3, 1, 1)
    nodes = [helper.make_node(kind, [first, second], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    path = write_graph(tmp_path / "g.onnx", nodes, {"a": constant}, [48], None, SHAPE, "B")
    low, high = linf_box(IMAGES, 0.1)
    found = IntervalGraph(path).bounds(low, high)
    calls = {"Mul": np.multiply, "Add": np.add, "Sub": np.subtract, "Div": np.divide}

    def value(x):
        return calls[kind](*((x, constant) if first == "x" else (constant, x))).reshape(len(x), -1)

    ends = np.stack([value(low), value(high)])
    assert found[0] == pytest.approx(ends.min(0), abs=1e-9) and found[1] == pytest.approx(ends.max(0), abs=1e-9)
    assert (found[0] <= ends.min(0)).all() and (found[1] >= ends.max(0)).all()


UNSUPPORTED = {
    "Sigmoid": [helper.make_node("Sigmoid", ["x"], ["s"], "squash"), helper.make_node("Flatten", ["s"], ["y"])],
    "Add": [helper.make_node("Add", ["x", "x"], ["s"], "residual"), helper.make_node("Flatten", ["s"], ["y"])],
    "Conv": [helper.make_node("Conv", ["w", "x"], ["s"], "odd"), helper.make_node("Flatten", ["s"], ["y"])],
    "Reshape": [helper.make_node("Reshape", ["x", "shape"], ["y"], "fold")],
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_nodes_are_refused_by_name(write_graph, tmp_path, kind):
    values = {"w": np.ones((3, 3, 4, 4), np.float32), "shape": np.array([-1, 16])}
    path = tmp_path / "g.onnx"
    graph = helper.make_graph(
        UNSUPPORTED[kind], "g", [helper.make_tensor_value_info("x", 1, ["B", *SHAPE])],
        [helper.make_tensor_value_info("y", 1, ["B", None])], [onnx.numpy_helper.from_array(v, n) for n, v in values.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    with pytest.raises(InputError, match=f"{UNSUPPORTED[kind][0].name} \\({kind}\\)"):
        IntervalGraph(path).bounds(*linf_box(IMAGES, 0.1))


def test_residual_networks_are_refused():
    with pytest.raises(InputError, match="that interval bounds do not cover"):
        IntervalGraph(zoo.CLASSIFIER_DDS)


def test_detectors_need_non_positive_last_weights(small_detector):
    check_detector(IntervalGraph(small_detector(-1.0)))
    check_detector(IntervalGraph(zoo.DETECTOR))
    with pytest.raises(InputError, match="above 0 in its last layer"):
        check_detector(IntervalGraph(small_detector(1.0)))


@pytest.mark.parametrize("bias", [False, True])
def test_the_last_layer_is_the_one_whose_result_is_given_out(write_graph, tmp_path, bias):
    """A node of negative weights that comes last in the file, and that nothing reads, does not hide the positive ones."""
    values = {"w": np.full((48, 1), 0.1), "c": np.array([1.0]), "decoy": np.full((48, 1), -1.0)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m" if bias else "y"]),
        *([helper.make_node("Add", ["c", "m"], ["y"])] if bias else []),
        helper.make_node("MatMul", ["f", "decoy"], ["unread"]),
    ]
    values = {name: value.astype(np.float32) for name, value in values.items()}
    path = write_graph(tmp_path / "d.onnx", nodes, values, [1], None, SHAPE, "B")
    with pytest.raises(InputError, match=r"a weight 0\.1 above 0"):
        check_detector(IntervalGraph(path))


def test_empty_boxes_are_refused(small_detector):
    graph = IntervalGraph(small_detector())
    low, high = linf_box(IMAGES, 0.1)
    for bad in ((high, low), (low * np.nan, high), (low[:3], high)):
        with pytest.raises(InputError, match="expected low ≤ high"):
            graph.bounds(*bad)
