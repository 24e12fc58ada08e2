"""The published pairs with random weights, for bench.py: as the papers' code runs them, and as this package exports them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffsmooth_trt.exporting.classifier import without_batch_norm
from diffsmooth_trt.exporting.graph.low_precision import LowPrecision
from diffsmooth_trt.exporting.graph.one_shot import OneShotDenoiser
from diffsmooth_trt.exporting.graph.preprocessing import ClassifierWithPreprocessing, Preprocessing
from diffsmooth_trt.exporting.sources.openai import OpenAI
from diffsmooth_trt.nets.classifiers import classifier_from_arch
from diffsmooth_trt.nets.options import named_options, parse_options

SIGMA, LOCAL_SIGMA = 0.25, 0.12
HALF = (0.5, 0.5, 0.5)
TINY = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,1", "attention_resolutions": "8"}


class Missing(Exception):
    """What this machine lacks for a subject; the table says so."""


@dataclass(frozen=True)
class Pair:
    """A denoiser and, unless it is measured alone, a classifier: names of what is built, and how the papers use them."""

    name: str
    unet: str
    size: int
    classifier: str | None = None
    copies: int = 0
    n: int = 100_000

    @property
    def method(self) -> str:
        """What the runner calls it."""
        return "alone" if self.classifier is None else "diffsmooth" if self.copies else "dds"


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("unet", "cifar10_uncond_50M_500K", 32),
        Pair("unet+vit", "cifar10_uncond_50M_500K", 32, "vit_base_patch16_224"),
        Pair("unet+resnet110x5", "cifar10_uncond_50M_500K", 32, "cifar_resnet110", copies=5),
        Pair("unet552+beit", "256x256_diffusion_uncond", 224, "beit_large_patch16_224", n=10_000),
        Pair("unet552+beitx5", "256x256_diffusion_uncond", 224, "beit_large_patch16_224", copies=5, n=10_000),
    )
}
REHEARSED = {
    pair.name: pair
    for pair in (
        Pair("unet", "tiny", 32, n=1000),
        Pair("unet+vit", "tiny", 32, "cifar_resnet20", n=1000),
        Pair("unet+resnet110x5", "tiny", 32, "cifar_resnet20", copies=5, n=1000),
    )
}


def _random(net: nn.Module, seed: int) -> nn.Module:
    """Weights that are no zeros, the same in every process: last layers of diffusion networks begin as zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.abs().max() == 0:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return net.eval().requires_grad_(False)


class PapersDenoiser(nn.Module):
    """One-shot denoising around the untouched network, as in Carlini et al. 2023."""

    def __init__(self, net: Any, alpha_bar: float, embedded: float) -> None:
        super().__init__()
        self.net, self.alpha_bar, self.embedded = net, alpha_bar, embedded

    def forward(self, x: Tensor) -> Tensor:
        a = self.alpha_bar
        x_t = a**0.5 * (2 * x - 1)
        time = torch.full((len(x),), self.embedded, device=x.device)
        eps = self.net(x_t, time, None)[:, :3]
        estimate: Tensor = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
        return (estimate.clamp(-1, 1) + 1) / 2


def denoisers(pair: Pair) -> tuple[nn.Module, nn.Module]:
    """The one-shot denoiser as in Carlini et al. 2023, and folded as exported."""
    torch.manual_seed(1)
    options = parse_options("improved-diffusion", TINY) if pair.unet == "tiny" else named_options(pair.unet)
    net: Any = _random(options.network(), 1)
    family = OpenAI(options)
    level = family.level(SIGMA, False)
    return PapersDenoiser(net, 1 / (1 + level.s**2), level.noise_input).eval(), OneShotDenoiser(family, net, level)


def classifier(pair: Pair, *, folded: bool) -> tuple[nn.Module, int]:
    """The pair's classifier with its preprocessing, and its number of classes; Missing where it needs timm."""
    name = str(pair.classifier)
    torch.manual_seed(2)
    if name.startswith("vit"):
        if importlib.util.find_spec("timm") is None:
            raise Missing(f"{name} needs timm")
        import timm

        classes, net, mean, std, size = 10, timm.create_model(name, pretrained=False, num_classes=10), HALF, HALF, 224
    else:
        arch = classifier_from_arch(name)
        classes, net, mean, std, size = arch.classes, arch.module, arch.mean, arch.std, arch.size
    net = _random(net.eval(), 2)
    done = Preprocessing(mean, std, size, size)
    return ClassifierWithPreprocessing(without_batch_norm(net) if folded else net, done, pair.size), classes


class Inside(nn.Module):
    """`net` in `dtype`, float32 outside."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype
        if isinstance(net, PapersDenoiser):  # the sines of its timestep are made in float32
            net.net.time_embed.register_forward_pre_hook(lambda _, given: (given[0].to(dtype),))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.to(self.dtype))
        return y.float()


DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def in_halves(net: nn.Module, precision: str) -> nn.Module:
    """All of the network in `precision`, as the stock loops have it."""
    return net if DTYPES[precision] == torch.float32 else Inside(net, DTYPES[precision])


def in_precision(net: nn.Module, precision: str) -> nn.Module:
    """The network as this package exports it in `precision`."""
    return net if DTYPES[precision] == torch.float32 else LowPrecision(net, precision)


def multiply_adds(net: nn.Module, size: int) -> int:
    """Multiply-adds of one image, counted by torch in the matrix products and convolutions."""
    counter = FlopCounterMode(display=False)
    device = next(iter(net.parameters())).device
    # plain attention: on a processor torch counts nothing for its fused one
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        net(torch.zeros(1, 3, size, size, device=device))
    return int(counter.get_total_flops()) // 2


def pair_multiply_adds(pair: Pair) -> int:
    """Of one sample: the denoiser once, the classifier once or m times."""
    total = multiply_adds(denoisers(pair)[0], pair.size)
    if pair.classifier is not None:
        total += max(1, pair.copies) * multiply_adds(classifier(pair, folded=False)[0], pair.size)
    return total
