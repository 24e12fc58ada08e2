"""EDM's DDPM++ and NCSN++ networks with their preconditioning (Karras et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError
from ...nets.edm import FAMILY, EdmOptions
from ...nets.songunet import SKIP_SCALE, Block, ResampledConv, SongUNet
from ..graph.fold import FoldedAttention, affine_conv, channel_norm, plain_conv
from .families import Family, Level


class Edm(Family):
    """See `families.Family`. The noise input is ln(s)/4; every network with labels takes "no class" as a zero vector.

    The published class-conditional networks were not trained with it: what they denoise without a class is what the
    architecture makes of it.
    """

    name = FAMILY
    prediction = "edm"
    labels_option = "label_dim"

    def __init__(self, options: EdmOptions) -> None:
        self.options, self.image_size, self.sigma_data = options, options.img_resolution, options.sigma_data
        if options.label_dim:
            self.labels, self.null_class = options.label_dim + 1, options.label_dim

    def check_input_size(self, size: int) -> None:
        self.options.check_input_size(size)

    def network(self) -> SongUNet:
        return self.options.network()

    def level(self, sigma: float, fractional: bool) -> Level:
        if fractional:
            raise InputError("--fractional-timestep is for schedules: EDM networks take every noise level as it is")
        s = 2 * sigma
        return Level(s, math.log(s) / 4, None, {"ratio": s, "noise_input": math.log(s) / 4})

    def noise_inputs(self, s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.log(s) / 4)

    def row_inputs(self) -> nn.Module:
        return LogLevel()

    def recorded(self) -> dict[str, Any]:
        return asdict(self.options)

    def details(self) -> dict[str, Any]:
        return {"null_class_trained": self.options.label_dropout > 0}

    def answer(self, net: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        answer: Tensor = net(x, noise, labels)
        return answer

    def folded(self, net: nn.Module, level: Level, gain: float, out: float) -> nn.Module:
        noise = torch.tensor([level.noise_input], dtype=torch.float64).float()
        label = None if self.null_class is None else torch.tensor([self.null_class])
        return FoldedSongUNet(cast(SongUNet, net), cast(SongUNet, net).embedding(noise, label)[0], gain, out)

    def by_row(self, net: nn.Module) -> nn.Module:
        return ConditionalSongUNet(cast(SongUNet, net))


class LogLevel(nn.Module):
    """ln(s)/4 of noise levels s `[B]`."""

    def forward(self, s: Tensor) -> Tensor:
        return torch.log(s) / 4


class FastConv(nn.Module):
    """`scale` · `ResampledConv` + `shift` `[out]`, with two equal taps done by copying or averaging."""

    def __init__(self, source: ResampledConv, shift: Tensor | float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.resample: nn.Module = nn.Identity()
        even = source.resample and source.resample_filter.shape[-1] == 2
        if source.resample and (source.fused or not even or not bool((source.resample_filter == 0.25).all())):
            self.conv: nn.Module = _scaled(source, shift, scale)
            return
        if source.resample:
            up = source.resample == "up"
            self.resample = nn.Upsample(scale_factor=2.0, mode="nearest") if up else nn.AvgPool2d(2)
        plain = source.weight is None
        self.conv = nn.Identity() if plain else affine_conv(_as_conv(source), scale=scale, shift=shift)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(self.resample(x))
        return result


def _as_conv(source: nn.Module) -> nn.Conv2d:
    if not isinstance(source, ResampledConv) or source.weight is None or source.bias is None:
        raise TypeError("expected a convolution with weights")
    return plain_conv(source.weight, source.bias)


def _scaled(source: ResampledConv, shift: Tensor | float, scale: float) -> ResampledConv:
    """`source` with other values; its filter, whose taps sum to 1, lets bias and scale pass."""
    made = ResampledConv(1, 1, 0)
    made.resample, made.fused = source.resample, source.fused
    made.register_buffer("resample_filter", source.resample_filter)
    if source.weight is not None and source.bias is not None:
        made.weight = nn.Parameter((source.weight.detach() * scale), requires_grad=False)
        made.bias = nn.Parameter(source.bias.detach() * scale + shift, requires_grad=False)
    return made


class FastBlock(nn.Module):
    """`Block` without dropout; `emb` folds the embedding of all rows away, None takes one a row.

    The factor of the residual sum goes into the convolutions where both summands have one.
    """

    def __init__(self, source: Block, emb: Tensor | None) -> None:
        super().__init__()
        self.affine = source.affine if emb is None else None
        shift: Tensor | float = 0.0 if emb is None else source.affine(emb[None])[0]
        self.norm0, self.norm1 = channel_norm(source.norm0), channel_norm(source.norm1)
        self.conv0 = FastConv(source.conv0, shift)
        self.conv1 = FastConv(source.conv1, scale=SKIP_SCALE)
        self.skip: nn.Module = nn.Identity()
        self.skip_scale = SKIP_SCALE
        if source.skip is not None:
            self.skip, self.skip_scale = FastConv(source.skip, scale=SKIP_SCALE), 1.0
        self.attention: nn.Module | None = None
        if source.attention:
            conv = _as_conv(source.qkv)
            order = torch.arange(conv.out_channels).reshape(-1, 3).T.reshape(-1)  # (channel, qkv) to (qkv, channel)
            qkv = affine_conv(conv, order)
            self.attention = FoldedAttention(source.norm2, qkv, _as_conv(source.proj), heads=1)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        if self.affine is not None:
            h = h + self.affine(emb)[:, :, None, None]
        h = self.conv1(F.silu(self.norm1(h)))
        x = self.skip(x)
        x = (x if self.skip_scale == 1 else x * self.skip_scale) + h
        return x if self.attention is None else self.attention(x) * SKIP_SCALE


class _Torso(nn.Module):
    """`SongUNet.torso` in its fast form."""

    def __init__(self, net: SongUNet, emb: Tensor | None) -> None:
        super().__init__()
        self.enc = nn.ModuleDict({name: _fast(layer, emb) for name, layer in net.enc.items()})
        self.dec = nn.ModuleDict({name: _fast(layer, emb) for name, layer in net.dec.items()})

    def torso(self, x: Tensor, emb: Tensor | None) -> Tensor:
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if "aux_down" in name:
                aux = layer(aux)
            elif "aux_skip" in name:
                x = skips[-1] = x + layer(aux)
            elif "aux_residual" in name:
                x = skips[-1] = aux = x * SKIP_SCALE + layer(aux)
            else:
                x = layer(x, emb) if isinstance(layer, FastBlock) else layer(x)
                skips.append(x)
        image: Tensor | None = None
        for name, layer in self.dec.items():
            if "aux_up" in name:
                image = layer(image)
            elif "aux_norm" in name:
                normed = layer(x)
            elif "aux_conv" in name:
                part = layer(F.silu(normed))
                image = part if image is None else image + part
            else:
                if "_block" in name:  # not those that change the resolution
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, emb)
        if image is None:
            raise AssertionError("every decoder ends in an image")
        return image


def _fast(layer: nn.Module, emb: Tensor | None) -> nn.Module:
    if isinstance(layer, Block):
        return FastBlock(layer, emb)
    if isinstance(layer, ResampledConv):
        return FastConv(layer, scale=SKIP_SCALE if layer.fused else 1.0)
    return channel_norm(layer)


class FoldedSongUNet(_Torso):
    """x ↦ out·F(gain·x) at the fixed embedding `emb`."""

    def __init__(self, net: SongUNet, emb: Tensor, gain: float, out: float) -> None:
        super().__init__(net, emb)
        self.gain, self.out = gain, out

    def forward(self, x: Tensor) -> Tensor:
        # Images enter and leave in several places where the encoder or decoder is not "standard".
        return self.torso(x * self.gain, None) * self.out


class ConditionalSongUNet(_Torso):
    """Scaled images, noise inputs and labels of every row → F."""

    def __init__(self, net: SongUNet) -> None:
        super().__init__(net, None)
        self.label_dim = net.label_dim
        self.map_noise, self.map_layer0, self.map_layer1 = net.map_noise, net.map_layer0, net.map_layer1
        if net.map_label is None:
            raise TypeError("expected a network with labels")
        weight = net.map_label.weight.T * math.sqrt(net.label_dim)
        rows = torch.cat([weight, torch.zeros(1, weight.shape[1])]) + net.map_label.bias
        self.label_rows = nn.Embedding.from_pretrained(rows.detach())

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        emb = self.map_noise(noise) + self.label_rows(labels)
        return self.torso(x, F.silu(self.map_layer1(F.silu(self.map_layer0(emb)))))
