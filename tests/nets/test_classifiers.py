"""Built-in classifiers beside the CIFAR ResNets: parameter names, arithmetic against other implementations, batch norms folded."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
import torch.nn.functional as F  # noqa: E402

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.classifier import without_batch_norm  # noqa: E402
from diffsmooth_trt.nets.beit import Beit  # noqa: E402
from diffsmooth_trt.nets.classifiers import KNOWN, classifier_from_arch, classifier_names  # noqa: E402


def shaken(net: Any) -> Any:
    """Random parameters and statistics, so that nothing is a one or a zero."""
    torch.manual_seed(3)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn_like(buffer)
        elif name.endswith("running_var"):
            buffer += 0.5 * torch.rand_like(buffer)
    return net.eval()


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in classifier_from_arch(name).module.state_dict().items()}


def test_wide_resnet_has_the_common_names() -> None:
    """Those of WRN-28-10's published checkpoints: 36.5 million parameters, a shortcut in the first block of each stage."""
    found = shapes("wrn-28-10")
    assert found["conv1.weight"] == (16, 3, 3, 3)
    for stage, width, before in ((1, 160, 16), (2, 320, 160), (3, 640, 320)):
        for block in range(4):
            name = f"block{stage}.layer.{block}"
            assert found[f"{name}.bn1.weight"] == (before if block == 0 else width,)
            assert found[f"{name}.conv1.weight"] == (width, before if block == 0 else width, 3, 3)
            assert found[f"{name}.conv2.weight"] == (width, width, 3, 3)
            assert (f"{name}.convShortcut.weight" in found) == (block == 0)
    assert found["bn1.running_var"] == (640,)
    assert found["fc.weight"] == (10, 640)
    with torch.device("meta"):
        assert sum(p.numel() for p in classifier_from_arch("wrn-28-10").module.parameters()) == 36_479_194
        assert "block1.layer.0.convShortcut.weight" not in classifier_from_arch("wrn-10-1").module.state_dict()


def restated_wide_resnet(p: dict[str, Any], x: Any) -> Any:
    """WRN-10-W from its parameters by name, as in Zagoruyko & Komodakis' description."""

    def norm(name: str, x: Any) -> Any:
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        scale = (p[f"{name}.weight"] / torch.sqrt(var + 1e-5)).reshape(1, -1, 1, 1)
        return F.relu((x - mean.reshape(1, -1, 1, 1)) * scale + p[f"{name}.bias"].reshape(1, -1, 1, 1))

    x = F.conv2d(x, p["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        name, stride = f"block{stage}.layer.0", 1 if stage == 1 else 2
        h = norm(f"{name}.bn1", x)
        skip = F.conv2d(h, p[f"{name}.convShortcut.weight"], stride=stride)
        h = norm(f"{name}.bn2", F.conv2d(h, p[f"{name}.conv1.weight"], stride=stride, padding=1))
        x = skip + F.conv2d(h, p[f"{name}.conv2.weight"], padding=1)
    return F.avg_pool2d(norm("bn1", x), 8).flatten(1) @ p["fc.weight"].T + p["fc.bias"]


def test_wide_resnet_arithmetic() -> None:
    net = shaken(classifier_from_arch("wrn-10-2").module)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = restated_wide_resnet(net.state_dict(), x)
        torch.testing.assert_close(net(x), want, rtol=0, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160),
        ("resnet152", 60_192_808), ("wide_resnet50_2", 68_883_240), ("wide_resnet101_2", 126_886_696),
        ("resnext50_32x4d", 25_028_904), ("resnext101_32x8d", 88_791_336), ("resnext101_64x4d", 83_455_272),
    ],
)  # fmt: skip
def test_resnets_are_as_large_as_torchvisions(name: str, parameters: int) -> None:
    """The numbers that its documentation gives."""
    with torch.device("meta"):
        net = classifier_from_arch(name).module
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "kind", "widths"),
    [("resnet18", "basic", [64, 128, 256, 512]), ("resnet50", "bottleneck", [256, 512, 1024, 2048])],
)
def test_resnets_are_those_of_transformers(name: str, kind: str, widths: list[int]) -> None:
    """Parameters in the same order, though under other names; its bottlenecks put the stride in the 3×3 convolution."""
    transformers = pytest.importorskip("transformers", reason="compares with another implementation")
    depths = [2, 2, 2, 2] if name == "resnet18" else [3, 4, 6, 3]
    config = transformers.ResNetConfig(layer_type=kind, hidden_sizes=widths, depths=depths, num_labels=7)
    other = transformers.ResNetForImageClassification(config).eval()
    net = shaken(classifier_from_arch(name, 7).module)
    ours = net.state_dict()
    blocks = {key.rsplit(".", 1)[0] for key in ours}
    assert {"conv1", "layer2.0.downsample.0", "layer2.0.downsample.1", "layer4.1.bn2", "fc"} <= blocks

    # They list a block's shortcut first.
    def place(key: str) -> tuple[str, bool]:
        return (
            key.split(".downsample")[0] if "downsample" in key else ".".join(key.split(".")[:2])
        ), "downsample" not in key

    names = list(ours)
    firsts = {place(key)[0]: names.index(key) for key in reversed(names)}
    ordered = sorted(names, key=lambda key: (firsts[place(key)[0]], place(key)[1], names.index(key)))
    theirs = other.state_dict()
    other.load_state_dict({key: ours[name] for key, name in zip(theirs, ordered, strict=True)})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = other(pixel_values=x).logits
        torch.testing.assert_close(net(x), want, rtol=0, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["resnet34", "wide_resnet50_2", "resnext50_32x4d"])
def test_resnets_are_torchvisions(name: str) -> None:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # one that was built for another torch raises the latter
        pytest.skip(f"torchvision cannot be imported: {error}")
    net = shaken(classifier_from_arch(name, 4).module)
    other = models.get_model(name, weights=None, num_classes=4).eval()
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = other(x)
        torch.testing.assert_close(net(x), want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_beit_is_the_one_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="compares with another implementation")
    config = transformers.BeitConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=64, num_labels=7,
        use_relative_position_bias=True, layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    other = shaken(transformers.BeitForImageClassification(config))
    with torch.device("meta"):
        net = Beit(64, 24, 2, 3, 7)
    p = other.state_dict()

    def find(*parts: str) -> Any:
        (name,) = [key for key in p if all(part in key for part in parts)]
        return p[name]

    state = {
        "cls_token": find("cls_token"),
        "patch_embed.proj.weight": find("patch_embeddings", "weight"),
        "patch_embed.proj.bias": find("patch_embeddings", "bias"),
        "fc_norm.weight": find("pooler", "weight"),
        "fc_norm.bias": find("pooler", "bias"),
        "head.weight": find("classifier.weight"),
        "head.bias": find("classifier.bias"),
    }
    pairs = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "o_proj",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
    }
    for block in (0, 1):
        at, ours = f"layer.{block}.", f"blocks.{block}."
        if not any(".layer." in key for key in p):
            at = f"layers.{block}."
        state[f"{ours}attn.qkv.weight"] = torch.cat([find(at, f"{part}_proj.weight") for part in "qkv"])
        state[f"{ours}attn.q_bias"], state[f"{ours}attn.v_bias"] = find(at, "q_proj.bias"), find(at, "v_proj.bias")
        state[f"{ours}attn.relative_position_bias_table"] = find(at, "relative_position_bias_table")
        state |= {f"{ours}gamma_{number}": find(at, f"lambda_{number}") for number in (1, 2)}
        for name, theirs in pairs.items():
            state |= {f"{ours}{name}.{part}": find(at, f"{theirs}.{part}") for part in ("weight", "bias")}
    net.load_state_dict(state, assign=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(pixel_values=x).logits, rtol=0, atol=1e-5)


def test_beit_large_has_timms_names() -> None:
    """Those of beit_large_patch16_512, the classifier of DDS on ImageNet."""
    found = shapes("beit_large_patch16_512")
    assert len(found) == 3 + 24 * 16 + 4
    assert found["blocks.23.attn.relative_position_bias_table"] == (63 * 63 + 3, 16)
    assert found["blocks.0.attn.qkv.weight"] == (3072, 1024)
    assert {"cls_token", "patch_embed.proj.weight", "blocks.0.gamma_1", "blocks.0.mlp.fc2.bias", "fc_norm.bias"} <= set(
        found
    )


@pytest.mark.parametrize(("name", "left"), [("resnet50", 0), ("wrn-16-2", 7)])
def test_batch_norms_fold_where_a_convolution_precedes_them(name: str, left: int) -> None:
    """In a wide residual network the first norm of each block, and the last of all, follow a sum."""
    net = shaken(classifier_from_arch(name, 5).module)
    fused = without_batch_norm(net)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules()) == left
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = net(x)
        torch.testing.assert_close(fused(x), want, rtol=0, atol=2e-5 * float(want.abs().max()))


def test_norms_that_do_more_stay() -> None:
    class Rectified(torch.nn.BatchNorm2d):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return F.relu(super().forward(x))

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), Rectified(4)).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(without_batch_norm(net)(x), net(x))


def test_every_listed_name_is_made_as_listed() -> None:
    with torch.device("meta"):
        for entry in KNOWN:
            for name in entry.names:
                made = classifier_from_arch(name)
                assert (made.name, made.classes) == (name, entry.classes)
                assert made.module.state_dict()[f"{made.head}.weight"].shape[0] == entry.classes
    assert len(set(classifier_names())) == len(classifier_names())


@pytest.mark.parametrize("name", ["wrn-27-10", "wrn-4-10", "wrn-28-0"])
def test_wide_resnets_that_do_not_exist(name: str) -> None:
    with pytest.raises(InputError, match="the depth must be 6n \\+ 4"):
        classifier_from_arch(name)
