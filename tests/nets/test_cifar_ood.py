"""Classifiers and detectors of out-of-distribution papers: published names, shapes, and the way through export."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.exporting import export_classifier, export_detector
from diffsmooth_trt.nets.cifar_ood import DenseNet, ResNet18
from diffsmooth_trt.nets.classifiers import classifier_from_arch
from diffsmooth_trt.nets.detector import SIZES, Detector
from diffsmooth_trt.ood.interval import IntervalGraph
from diffsmooth_trt.ood.model import check_detector

# Names and shapes as the published code defines them, some of each part.
PUBLISHED = {
    "resnet18_ood": (ResNet18, 11_173_962, {
        "conv1.weight": (64, 3, 3, 3), "bn1.running_mean": (64,), "layer1.1.bn2.weight": (64,),
        "layer2.0.shortcut.0.weight": (128, 64, 1, 1), "layer2.0.shortcut.1.bias": (128,),
        "layer4.1.conv2.weight": (512, 512, 3, 3), "linear.weight": (10, 512),
    }),
    "densenet100": (DenseNet, 769_162, {
        "conv1.weight": (24, 3, 3, 3), "block1.layer.0.bn1.weight": (24,), "block1.layer.15.conv1.weight": (48, 204, 1, 1),
        "block1.layer.3.conv2.weight": (12, 48, 3, 3), "trans1.conv1.weight": (108, 216, 1, 1), "trans2.bn1.bias": (300,),
        "block3.layer.15.conv1.weight": (48, 330, 1, 1), "bn1.weight": (342,), "fc.weight": (10, 342),
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    make, count, shapes = PUBLISHED[name]
    with torch.device("meta"):
        net = make(10)
    state = net.state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_densenet_is_its_formula_on_one_layer():
    torch.manual_seed(0)
    layer = DenseNet(10).block1.layer[0].eval()
    x = torch.randn(2, 24, 8, 8)
    h = layer.conv2(torch.relu(layer.bn2(layer.conv1(torch.relu(layer.bn1(x))))))
    assert torch.equal(layer(x), torch.cat([x, h], 1))


def test_atom_has_one_output_more_than_classes():
    arch = classifier_from_arch("densenet100", 11)
    assert arch.module.fc.weight.shape == (11, 342) and arch.head == "fc" and arch.classes == 11


def joint_checkpoint(path):
    torch.manual_seed(1)
    base, detector = ResNet18(10).eval(), Detector((8, 16, 16, 12)).eval()
    state = {f"base_model.{name}": value for name, value in base.state_dict().items()}
    state |= {f"detector.{name}": value for name, value in detector.state_dict().items()}
    torch.save(state, path)
    return base, detector


def test_both_halves_of_a_joint_checkpoint_are_exported(tmp_path):
    base, detector = joint_checkpoint(tmp_path / "joint.pt")
    export_classifier("resnet18_ood", tmp_path / "joint.pt", tmp_path / "c.onnx", verify_samples=32)
    report = export_detector(tmp_path / "joint.pt", tmp_path / "d.onnx")
    assert report.facts.role == "detector" and report.facts.details["widths"] == [8, 16, 16, 12]
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        pairs = ((tmp_path / "c.onnx", base(x)), (tmp_path / "d.onnx", detector(x)))
    for path, want in pairs:
        with open_engine(path, batch=4, backend="onnxruntime") as engine:
            assert np.abs(engine.run(x.numpy()) - want.numpy()).max() < 1e-4
    graph = IntervalGraph(tmp_path / "d.onnx")
    check_detector(graph)
    assert graph.last_weight[:, 0] == pytest.approx(-np.exp(detector.L5.weight[0].detach().numpy()), rel=1e-6)


def test_d_never_exceeds_its_bias():
    detector = Detector((8, 8, 8, 8))
    assert (detector(100 * torch.randn(20, 3, 32, 32)) <= detector.L5.bias).all()
    assert SIZES["S"] == (128, 256, 256, 128)


def test_other_checkpoints_are_refused(tmp_path):
    torch.save(DenseNet(10).state_dict(), tmp_path / "c.pt")
    with pytest.raises(InputError, match="has no C1, C2, C3, L4, L5"):
        export_detector(tmp_path / "c.pt", tmp_path / "d.onnx")
    joint_checkpoint(tmp_path / "joint.pt")
    with pytest.raises(InputError, match="of another shape .*: check image_size"):
        export_detector(tmp_path / "joint.pt", tmp_path / "d.onnx", image_size=64)
    with pytest.raises(InputError, match="multiple of 4"):
        export_detector(tmp_path / "joint.pt", tmp_path / "d.onnx", image_size=30)
    state = Detector((8, 8, 8, 8)).state_dict()
    for weight, shape in ((torch.tensor(1.0), r"\[\]"), (torch.zeros(0, 3, 3, 3), r"\[0, 3, 3, 3\]")):
        torch.save({**state, "C1.weight": weight}, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=f"C1.weight has shape {shape}: expected the detector CNN"):
            export_detector(tmp_path / "odd.pt", tmp_path / "d.onnx")
    assert not (tmp_path / "d.onnx").exists()
