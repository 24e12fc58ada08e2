"""Folding equals the unfolded formula for every kind of network; preprocessing equals torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="folding needs torch")
import torch.nn.functional as F  # noqa: E402

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.graph.norm import ChannelGroupNorm  # noqa: E402
from diffsmooth_trt.exporting.graph.one_shot import denoiser_pair  # noqa: E402
from diffsmooth_trt.exporting.sources.openai import OpenAI  # noqa: E402
from diffsmooth_trt.nets.options import DenoiserOptions, parse_options  # noqa: E402
from diffsmooth_trt.nets.unet import UNet  # noqa: E402

SMALL = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,3", "attention_resolutions": "8"}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("improved-diffusion", {"learn_sigma": True, "noise_schedule": "cosine", "diffusion_steps": 4000}),
    ("improved-diffusion", {"use_scale_shift_norm": False, "dropout": 0.3, "num_heads_upsample": 2}),
    ("guided-diffusion", {"resblock_updown": True, "learn_sigma": True, "num_head_channels": 32}),
    ("guided-diffusion", {"use_new_attention_order": True, "num_heads": 2, "use_scale_shift_norm": False}),
    ("guided-diffusion", {"conv_resample": False, "class_cond": True, "num_classes": 4, "null_class": 3}),
]


def network(family: str, extra: dict[str, Any]) -> tuple[DenoiserOptions, UNet]:
    options = parse_options(family, {**SMALL, **extra})
    torch.manual_seed(11)
    net = options.network()
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return options, net


def pair(options: DenoiserOptions, net: UNet, sigma: float, fractional: bool = False) -> tuple[Any, Any]:
    """The plain and the folded denoiser."""
    family = OpenAI(options)
    return denoiser_pair(family, net.eval(), family.level(sigma, fractional))


@pytest.mark.parametrize(("family", "extra"), VARIANTS)
@pytest.mark.parametrize("sigma", [0.12, 0.5])
def test_folded_equals_unfolded(family: str, extra: dict[str, Any], sigma: float) -> None:
    options, net = network(family, extra)
    source, folded = pair(options, net, sigma)
    noisy = torch.rand(3, 3, 16, 16) + sigma * torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        want, got = source(noisy), folded(noisy)
    assert float(want.std()) > 0.05
    assert float(want.min()) >= 0
    assert float(want.max()) <= 1
    torch.testing.assert_close(got, want, rtol=0, atol=5e-6)


def test_unfolded_is_the_formula() -> None:
    """Against the formula in float64 with the ε of the network, at the published t*."""
    options, net = network(*VARIANTS[0])
    source, _ = pair(options, net, 0.25)
    t = options.schedule.timestep(0.25)
    bar = options.schedule.alphas_bar[t]
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        x_t = np.sqrt(bar) * (2 * x.double() - 1)
        eps = net(x_t.float(), torch.full((2,), t * 1000 / 4000)).double()[:, :3]
        clean = torch.clamp(x_t / np.sqrt(bar) - np.sqrt(1 / bar - 1) * eps, -1, 1)
        torch.testing.assert_close(source(x).double(), (clean + 1) / 2, rtol=0, atol=1e-6)


def test_a_fractional_timestep_removes_exactly_the_noise() -> None:
    """Its noise is 2σ where the first whole timestep's is above; the plain form is checked against the formula."""
    options, net = network(*VARIANTS[0])
    level, whole = (OpenAI(options).level(0.25, fractional) for fractional in (True, False))
    assert level.s == 0.5 < whole.s
    assert whole.timestep - 1 < level.timestep < whole.timestep
    source, folded = pair(options, net, 0.25, fractional=True)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        time = torch.full((2,), level.timestep * 1000 / 4000)
        eps = net((2 * x - 1) / np.sqrt(1.25), time)[:, :3]
        want = (torch.clamp(2 * x - 1 - 0.5 * eps, -1, 1) + 1) / 2
        torch.testing.assert_close(source(x), want, rtol=0, atol=2e-6)
        torch.testing.assert_close(folded(x), want, rtol=0, atol=5e-6)


def test_networks_that_predict_the_clean_image() -> None:
    options, net = network("guided-diffusion", {"predict_xstart": True})
    source, folded = pair(options, net, 0.25)
    level = OpenAI(options).level(0.25, False)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        clean = net(np.sqrt(level.details["alpha_bar"]) * (2 * x - 1), torch.full((2,), level.noise_input))
        want = (torch.clamp(clean, -1, 1) + 1) / 2
        torch.testing.assert_close(source(x), want, rtol=0, atol=2e-6)
        torch.testing.assert_close(folded(x), want, rtol=0, atol=5e-6)


def test_large_weights_are_shared() -> None:
    options, net = network(*VARIANTS[0])
    _, folded = pair(options, net, 0.25)
    owned = {parameter.data_ptr() for parameter in net.parameters()}
    copied = sum(p.numel() for p in folded.parameters() if p.data_ptr() not in owned)
    assert copied < 0.02 * sum(parameter.numel() for parameter in net.parameters())


def test_labels_need_a_null_class() -> None:
    options, net = network("guided-diffusion", {"class_cond": True, "num_classes": 4})
    with pytest.raises(InputError, match="needs null_class"):
        pair(options, net, 0.25)


def test_sigma_outside_the_schedule() -> None:
    options, net = network("guided-diffusion", {})
    with pytest.raises(InputError, match="sigma must lie in"):
        pair(options, net, 1000.0)


@pytest.mark.parametrize("channels", [32, 96])
def test_group_norm_form(channels: int) -> None:
    """Also where the mean is large against the spread, and where a map is constant."""
    weight, bias = torch.randn(channels), torch.randn(channels)
    x = torch.randn(2, channels, 5, 7) * 0.2 + 3
    x[1, :3] = 1.5
    want = F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5)
    got = ChannelGroupNorm(32, 1e-5, weight, bias)(x)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)
