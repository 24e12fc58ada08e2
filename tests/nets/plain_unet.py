"""The ε-network restated as plain tensor operations over a state dict, for comparison with `diffsmooth_trt.nets.unet`.

Written from Ho et al. 2020, Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021; shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


class Layer(NamedTuple):
    """One layer: its name's prefix, what it is, and its widths."""

    name: str
    kind: str
    channels: int
    out: int
    heads: int = 0


def layout(
    *,
    width: int,
    mult: tuple[float, ...],
    blocks: int,
    attend: tuple[int, ...],
    heads: int = 4,
    head_channels: int = 0,
    updown: bool = False,
) -> tuple[list[list[Layer]], list[Layer], list[list[Layer]]]:
    """Layers of the down path, the middle, and the up path; `attend` holds levels (0 = full resolution)."""

    def head_count(channels: int) -> int:
        return channels // head_channels if head_channels else heads

    down: list[list[Layer]] = []
    now = int(width * mult[0])
    stack = [now]
    number = 1
    for level, factor in enumerate(mult):
        out = int(width * factor)
        for _ in range(blocks):
            here = [Layer(f"input_blocks.{number}.0", "res", now, out)]
            if level in attend:
                here.append(Layer(f"input_blocks.{number}.1", "attention", out, out, head_count(out)))
            down.append(here)
            now, number = out, number + 1
            stack.append(now)
        if level < len(mult) - 1:
            down.append([Layer(f"input_blocks.{number}.0", "res-down" if updown else "down", now, now)])
            number += 1
            stack.append(now)
    middle = [
        Layer("middle_block.0", "res", now, now),
        Layer("middle_block.1", "attention", now, now, head_count(now)),
        Layer("middle_block.2", "res", now, now),
    ]
    up: list[list[Layer]] = []
    for level in range(len(mult) - 1, -1, -1):
        out = int(width * mult[level])
        for block in range(blocks + 1):
            prefix = f"output_blocks.{len(up)}"
            here = [Layer(f"{prefix}.0", "res", now + stack.pop(), out)]
            if level in attend:
                here.append(Layer(f"{prefix}.1", "attention", out, out, head_count(out)))
            if block == blocks and level > 0:
                here.append(Layer(f"{prefix}.{len(here)}", "res-up" if updown else "up", out, out))
            up.append(here)
            now = out
    return down, middle, up


def shapes(
    *, classes: int = 0, out_channels: int = 3, scale_shift: bool = True, conv_resample: bool = True, **o: Any
) -> Shapes:
    """Name and shape of every parameter of the network with these options."""
    width, found = o["width"], {}
    emb = 4 * width

    def put(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[:1]

    put("time_embed.0", emb, width)
    put("time_embed.2", emb, emb)
    if classes:
        found["label_emb.weight"] = (classes, emb)
    first = int(width * o["mult"][0])
    put("input_blocks.0.0", first, 3, 3, 3)
    down, middle, up = layout(**o)
    for layer in (layer for block in (*down, middle, *up) for layer in block):
        name, channels, out = layer.name, layer.channels, layer.out
        if layer.kind.startswith("res"):
            put(f"{name}.in_layers.0", channels)
            put(f"{name}.in_layers.2", out, channels, 3, 3)
            put(f"{name}.emb_layers.1", out * (2 if scale_shift else 1), emb)
            put(f"{name}.out_layers.0", out)
            put(f"{name}.out_layers.3", out, out, 3, 3)
            if channels != out:
                put(f"{name}.skip_connection", out, channels, 1, 1)
        elif layer.kind == "attention":
            put(f"{name}.norm", channels)
            put(f"{name}.qkv", 3 * channels, channels, 1)
            put(f"{name}.proj_out", channels, channels, 1)
        elif conv_resample:
            put(f"{name}.{'op' if layer.kind == 'down' else 'conv'}", out, channels, 3, 3)
    put("out.0", first)
    put("out.2", out_channels, first, 3, 3)
    return found


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def forward(
    p: Mapping[str, Tensor],
    x: Tensor,
    time: float,
    *,
    label: int | None = None,
    scale_shift: bool = True,
    conv_resample: bool = True,
    new_order: bool = False,
    **o: Any,
) -> Tensor:
    """ε̂ for images `[N, 3, H, W]` at the embedded timestep `time`, in the precision of `x` and `p`."""
    width = o["width"]

    def linear(name: str, v: Tensor) -> Tensor:
        return p[f"{name}.weight"] @ v + p[f"{name}.bias"]

    def conv(name: str, v: Tensor, stride: int = 1) -> Tensor:
        weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        if weight.dim() == 3:
            weight = weight[..., None]
        edge = weight.shape[-1] // 2
        padded = torch.zeros(*v.shape[:2], v.shape[2] + 2 * edge, v.shape[3] + 2 * edge, dtype=v.dtype)
        padded[:, :, edge : edge + v.shape[2], edge : edge + v.shape[3]] = v
        windows = padded.unfold(2, weight.shape[2], stride).unfold(3, weight.shape[3], stride)
        return torch.einsum("nchwij,ocij->nohw", windows, weight) + bias[None, :, None, None]

    def norm(name: str, v: Tensor) -> Tensor:
        n, c = v.shape[:2]
        groups = v.reshape(n, 32, -1)
        mean = groups.mean(-1, keepdim=True)
        variance = ((groups - mean) ** 2).mean(-1, keepdim=True)
        normal = ((groups - mean) / torch.sqrt(variance + 1e-5)).reshape(v.shape)
        return normal * p[f"{name}.weight"].reshape(1, c, 1, 1) + p[f"{name}.bias"].reshape(1, c, 1, 1)

    def double(v: Tensor) -> Tensor:
        return v.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def halve(v: Tensor) -> Tensor:
        return (v[:, :, ::2, ::2] + v[:, :, 1::2, ::2] + v[:, :, ::2, 1::2] + v[:, :, 1::2, 1::2]) / 4

    def res(layer: Layer, v: Tensor) -> Tensor:
        change = {"res-up": double, "res-down": halve}.get(layer.kind, lambda same: same)
        h = conv(f"{layer.name}.in_layers.2", change(silu(norm(f"{layer.name}.in_layers.0", v))))
        e = linear(f"{layer.name}.emb_layers.1", silu(emb))[None, :, None, None]
        if scale_shift:
            h = norm(f"{layer.name}.out_layers.0", h) * (1 + e[:, : layer.out]) + e[:, layer.out :]
        else:
            h = norm(f"{layer.name}.out_layers.0", h + e)
        h = conv(f"{layer.name}.out_layers.3", silu(h))
        v = change(v)
        return h + (conv(f"{layer.name}.skip_connection", v) if layer.channels != layer.out else v)

    def attention(layer: Layer, v: Tensor) -> Tensor:
        n, c, height, wide = v.shape
        qkv = conv(f"{layer.name}.qkv", norm(f"{layer.name}.norm", v)).reshape(n, 3 * c, height * wide)
        size, outputs = c // layer.heads, []
        for head in range(layer.heads):
            if new_order:
                starts = [part * c + head * size for part in range(3)]
            else:
                starts = [head * 3 * size + part * size for part in range(3)]
            q, k, value = (qkv[:, s : s + size] for s in starts)
            logits = torch.einsum("ncq,nck->nqk", q, k) / math.sqrt(size)
            weight = torch.exp(logits - logits.amax(-1, keepdim=True))
            weight = weight / weight.sum(-1, keepdim=True)
            outputs.append(torch.einsum("nqk,nck->ncq", weight, value))
        return v + conv(f"{layer.name}.proj_out", torch.cat(outputs, 1).reshape(v.shape))

    def apply(layer: Layer, v: Tensor) -> Tensor:
        if layer.kind.startswith("res"):
            return res(layer, v)
        if layer.kind == "attention":
            return attention(layer, v)
        if layer.kind == "down":
            return conv(f"{layer.name}.op", v, 2) if conv_resample else halve(v)
        return conv(f"{layer.name}.conv", double(v)) if conv_resample else double(v)

    half = width // 2
    angles = [time * 10000 ** (-i / half) for i in range(half)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=x.dtype)
    emb = linear("time_embed.2", silu(linear("time_embed.0", waves)))
    if label is not None:
        emb = emb + p["label_emb.weight"][label]

    down, middle, up = layout(**o)
    h = conv("input_blocks.0.0", x)
    saved = [h]
    for block in down:
        for layer in block:
            h = apply(layer, h)
        saved.append(h)
    for layer in middle:
        h = apply(layer, h)
    for block in up:
        h = torch.cat([h, saved.pop()], 1)
        for layer in block:
            h = apply(layer, h)
    return conv("out.2", silu(norm("out.0", h)))
