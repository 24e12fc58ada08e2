"""CIFAR ResNets: parameter names of both layouts, and the accuracy of published weights."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.classifier import without_batch_norm  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import ClassifierWithPreprocessing, Preprocessing  # noqa: E402
from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state  # noqa: E402
from diffsmooth_trt.nets.classifiers import classifier_from_arch, classifier_names  # noqa: E402


def expected_shapes(depth: int, learned: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (channels,)
        found[f"{name}.num_batches_tracked"] = ()

    found["conv1.weight"] = (16, 3, 3, 3)
    norm("bn1", 16)
    before = 16
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range((depth - 2) // 6):
            name = f"layer{stage}.{block}"
            found[f"{name}.conv1.weight"] = (width, before, 3, 3)
            norm(f"{name}.bn1", width)
            found[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{name}.bn2", width)
            if learned and before != width:
                found[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                norm(f"{name}.downsample.1", width)
            before = width
    found[f"{'fc' if learned else 'linear'}.weight"] = (10, 64)
    found[f"{'fc' if learned else 'linear'}.bias"] = (10,)
    return found


@pytest.mark.parametrize("name", ["resnet20", "resnet110", "cifar_resnet20", "cifar_resnet110"])
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        arch = classifier_from_arch(name)
    depth = int(name.removeprefix("cifar_").removeprefix("resnet"))
    shapes = {key: tuple(tensor.shape) for key, tensor in arch.module.state_dict().items()}
    assert shapes == expected_shapes(depth, name.startswith("cifar_"))


def test_normalisation_belongs_to_the_layout() -> None:
    assert classifier_from_arch("resnet56").mean == (0.485, 0.456, 0.406)
    assert classifier_from_arch("cifar_resnet110").std == (0.2023, 0.1994, 0.2010)


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(classifier_names())):
        classifier_from_arch("resnet19")


def test_batch_norm_folds_away() -> None:
    torch.manual_seed(0)
    net = classifier_from_arch("cifar_resnet20").module
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    fused = without_batch_norm(net.eval())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = net(x)
        torch.testing.assert_close(fused(x), want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_published_weights_reach_their_accuracy(shared: Path) -> None:
    """At least 0.9 on the first 200 test images (0.916 on 1017)."""
    checkpoint = shared / "models" / "resnet20-12fca82f.th"
    if not checkpoint.is_file():
        pytest.skip("no resnet20 weights beside the checkout")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the images are stored as parquet")
    image = pytest.importorskip("PIL.Image", reason="the images are stored as PNG")
    table = parquet.read_table(shared / "data" / "cifar10-test.parquet").slice(0, 200)
    rows = [np.asarray(image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()]
    pixels = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255
    arch = classifier_from_arch("resnet20")
    load_into(arch.module, load_state(checkpoint))
    model = ClassifierWithPreprocessing(arch.module, Preprocessing(arch.mean, arch.std, 32, 32), 32)
    with torch.no_grad():
        predicted = model(pixels).argmax(1)
    assert float((predicted == torch.tensor(table["label"].to_pylist())).float().mean()) >= 0.9
