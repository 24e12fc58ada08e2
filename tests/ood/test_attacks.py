"""Graphs in torch against their engines, and attacks that stay in the ball and find what is there."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import onnx
import pytest
from onnx import helper

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.ood.accuracy import adversarial_accuracy
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.model import Model

torch = pytest.importorskip("torch")

from diffsmooth_trt.ood.attacks import apgd, attacked, checkpoints, pgd  # noqa: E402
from diffsmooth_trt.ood.budget import BUDGETS, Budget  # noqa: E402
from diffsmooth_trt.ood.record import OodAsked  # noqa: E402
from diffsmooth_trt.ood.torch_graph import TorchGraph  # noqa: E402

SHAPE = (3, 4, 4)
TINY = Budget(10, 1, 5, 1, 1, 1)


@pytest.mark.parametrize("path", [zoo.DENOISER, zoo.CLASSIFIER_DDS, zoo.DETECTOR], ids=lambda path: path.stem)
def test_graphs_compute_what_the_engines_compute(path):
    """2e-5 of the largest output: both are float32. The gradient is checked against a difference of the engine's outputs."""
    x = np.random.default_rng(0).random((4, 3, 32, 32)).astype(np.float32)
    graph = TorchGraph(path)
    with open_engine(path, batch=4, backend="onnxruntime") as engine:
        want = engine.run(x)
        given = torch.from_numpy(x).requires_grad_(True)
        found = graph(given)
        assert np.abs(found.detach().numpy() - want).max() < 2e-5 * max(1, np.abs(want).max())
        found.reshape(4, -1).mean(1).sum().backward()
        gradient = given.grad.numpy()
        step = (1e-2 * np.sign(gradient)).astype(np.float32)
        change = (engine.run(x + step).reshape(4, -1) - engine.run(x - step).reshape(4, -1)).mean(1, dtype=np.float64)
        assert change == pytest.approx(2e-2 * np.abs(gradient).reshape(4, -1).sum(1), rel=0.35)


def test_other_nodes_are_refused_by_name(write_graph, tmp_path):
    nodes = [helper.make_node("Ceil", ["x"], ["c"], "jump"), helper.make_node("Flatten", ["c"], ["y"])]
    path = write_graph(tmp_path / "g.onnx", nodes, {}, [48], None, SHAPE, "B")
    with pytest.raises(InputError, match="jump \\(Ceil\\)"):
        TorchGraph(path)


def test_dilated_pools_are_refused(write_graph, tmp_path):
    pool = {"kernel_shape": [2, 2], "dilations": [2, 2]}
    nodes = [helper.make_node("AveragePool", ["x"], ["p"], "wide", **pool), helper.make_node("Flatten", ["p"], ["y"])]
    model = onnx.helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", 1, ["B", *SHAPE])],
            [helper.make_tensor_value_info("y", 1, ["B", 12])],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
    )  # fmt: skip
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(InputError, match="wide \\(AveragePool\\): an average pool is dilated"):
        TorchGraph(tmp_path / "g.onnx")(torch.zeros(1, *SHAPE))


def test_attacks_find_the_corner_of_a_linear_function():
    rng = np.random.default_rng(1)
    weights = torch.from_numpy(rng.normal(0, 1, SHAPE).astype(np.float32))
    x = torch.from_numpy(rng.uniform(0.2, 0.8, (6, *SHAPE)).astype(np.float32))

    def objective(images):
        return (images * weights).sum((1, 2, 3))

    corner = objective(x + 0.1 * weights.sign())
    assert objective(apgd(objective, x, x, 0.1, 20)).numpy() == pytest.approx(corner.numpy(), abs=1e-4)
    assert objective(pgd(objective, x, x, 0.1, 20)).numpy() == pytest.approx(corner.numpy(), abs=1e-4)


def test_attacked_points_stay_in_the_ball_and_rise():
    """A function with many maxima; each run's best point is at least as good as its start projected, and none leaves the box."""
    rng = np.random.default_rng(2)
    x = np.r_[rng.random((5, *SHAPE)), np.zeros((1, *SHAPE)), np.ones((1, *SHAPE))].astype(np.float32)
    weights = torch.from_numpy(rng.normal(0, 9, SHAPE).astype(np.float32))

    def objective(images):
        return torch.sin((images * weights).sum((1, 2, 3))) + (images**2).mean((1, 2, 3))

    runs = list(attacked(objective, x, 0.03, list(range(7)), TINY))
    assert [name for name, _ in runs] == ["apgd", "pgd-contrast", "pgd-uniform", "pgd-normal"]
    before = objective(torch.from_numpy(x))
    for _, points in runs:
        assert np.abs(points - x).max() <= 0.03 + 2**-23 and points.min() >= 0 and points.max() <= 1
    best = torch.stack([objective(torch.from_numpy(points)) for _, points in runs]).amax(0)
    assert (best > before).all()
    again = list(attacked(objective, x, 0.03, list(range(7)), TINY))
    assert all((a[1] == b[1]).all() for a, b in zip(runs, again, strict=True))


def test_the_large_budget_and_checkpoints():
    large = BUDGETS["large"]
    assert (large.iterations, large.restarts, large.steps) == (500, 5, 200)
    assert large.gradients == 501 * 5 + 201 * 9
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # Croce & Hein 2020, section 3.1


def test_a_missing_library_is_named(linear_classifier, image_set, tmp_path, monkeypatch, capsys):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchattacks" else found(name))
    path, out = linear_classifier(np.ones((5, 48)), np.zeros(5)), tmp_path / "r.jsonl"
    given = ["ood", "--classifier", str(path), "--in-data", str(image_set("inside")), "--out-data", "generated:uniform"]
    for epsilons, words in (
        ("2/255,8/255", "pip install"),
        ("2", "between 0 and 1"),
        ("x", "like 2/255"),
        ("1/0", "like"),
    ):
        assert main([*given, "--out", str(out), "--accuracy", epsilons]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1 and not out.exists()


def test_accuracy_of_the_command_with_a_stand_in_library(linear_classifier, image_set, tmp_path, monkeypatch, capsys):
    """A library whose attack is one gradient step: what it leaves is printed and in the JSON, the seed is handed on."""
    seeds = []

    class AutoAttack:
        def __init__(self, model, *, norm, eps, version, n_classes, seed):
            assert (norm, version, n_classes) == ("Linf", "standard", 5)
            self.model, self.eps = model, eps
            seeds.append(seed)

        def __call__(self, x, y):
            x = x.clone().requires_grad_(True)
            torch.nn.functional.cross_entropy(self.model(x), y).backward()
            return (x + self.eps * x.grad.sign()).clamp(0, 1)

    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "torchattacks" or found(name))
    monkeypatch.setitem(sys.modules, "torchattacks", types.SimpleNamespace(AutoAttack=AutoAttack))
    path, table = linear_classifier(np.random.default_rng(0).normal(0, 1, (5, 48)), np.zeros(5)), tmp_path / "t.json"
    given = ["--classifier", str(path), "--in-data", str(image_set("inside", 20)), "--out-data", "generated:uniform"]
    more = ["--out", str(tmp_path / "r.jsonl"), "--batch", "8", "--seed", str(2**64 + 7), "--json", str(table)]
    assert main(["ood", *given, *more, "--accuracy", "1/1000,0.3"]) == 0
    assert "in-distribution accuracy of 20 images" in capsys.readouterr().out
    small, large = json.loads(table.read_text())["accuracy"]
    assert small["epsilon"] == 0.001 and small["clean"] >= small["adversarial"] >= large["adversarial"] == 0
    assert seeds and set(seeds) == {7}


def test_adversarial_accuracy_is_below_the_clean_one(linear_classifier, image_set, tmp_path):
    pytest.importorskip("torchattacks")
    path = linear_classifier(np.random.default_rng(0).normal(0, 1, (5, 48)), np.zeros(5))
    config = OodConfig(path, image_set("inside", 20), ("generated:uniform",), tmp_path / "r.jsonl", batch=8)
    model = Model(config)
    try:
        found = adversarial_accuracy(model, Images(config.in_data), (0.001, 0.3))
        with pytest.raises(InputError, match="expected above 0"):
            adversarial_accuracy(model, Images(config.in_data), (0.0,))
    finally:
        model.close()
    assert found[0].clean == found[1].clean > found[1].adversarial == 0
    assert found[0].adversarial >= found[1].adversarial


def test_runs_of_earlier_versions_call_the_large_budget_published():
    """Their file says `published`, which is no name of a budget any more; whoever goes on or verifies asks for `large`."""
    recorded = {"kind": "adversarial", "score": "softmax", "temperature": 1.0, "seed": 0, "draws": 1, "epsilon": 0.01}
    images = {"skip": 1, "max": None, "resize": None, "crop": None, "quantise": False}
    assert OodAsked.of_record({**images, **recorded, "budget": "published"}).budget == "large"
    assert OodAsked.of_record({**images, **recorded, "budget": "small"}).budget == "small"
