"""DDPM++ and NCSN++ (Song et al. 2021) under the parameter names of EDM's checkpoints (Karras et al. 2022).

`SongUNet` is the raw network F of EDM's preconditioning; a state dict of EDM's preconditioned network fits it once `model.`
is removed from its names. Labels are whole numbers here where EDM takes one-hot vectors; the label after the classes
stands for EDM's zero vector, "no class".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of every GroupNorm
SKIP_SCALE = math.sqrt(0.5)  # of every residual sum


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or fewer so that each has at least 4 channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, EPS)


class ResampledConv(nn.Module):
    """Doubling or halving with the separable `taps` (where `resample` says "up" or "down"), then a convolution if any.

    `fused` convolves before it halves. A `kernel` of 0 has no convolution.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor

    def __init__(
        self, channels: int, out: int, kernel: int, taps: Sequence[float] = (), resample: str = "", fused: bool = False
    ) -> None:
        super().__init__()
        self.resample, self.fused = resample, fused
        self.register_parameter("weight", nn.Parameter(torch.empty(out, channels, kernel, kernel)) if kernel else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(out)) if kernel else None)
        if self.weight is not None:
            nn.init.xavier_uniform_(self.weight)
        if resample:
            line = torch.tensor(taps, dtype=torch.float32)
            self.register_buffer("resample_filter", torch.outer(line, line)[None, None] / line.sum().square())

    def forward(self, x: Tensor) -> Tensor:
        edge = (self.resample_filter.shape[-1] - 1) // 2 if self.resample else 0
        if self.fused:
            return self._filtered(self._convolved(x, edge), 0)
        x = self._filtered(x, edge) if self.resample else x
        return x if self.weight is None else self._convolved(x, 0)

    def _convolved(self, x: Tensor, edge: int) -> Tensor:
        if self.weight is None:
            raise TypeError("there is no convolution to apply")
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2 + edge)

    def _filtered(self, x: Tensor, edge: int) -> Tensor:
        channels = x.shape[1]
        kernel = self.resample_filter.expand(channels, 1, -1, -1)
        if self.resample == "up":
            return F.conv_transpose2d(x, 4 * kernel, groups=channels, stride=2, padding=edge)
        return F.conv2d(x, kernel, groups=channels, stride=2, padding=edge)


class Block(nn.Module):
    """Two GroupNorm–SiLU–conv stages around the embedding, a scaled skip connection, then self-attention where asked."""

    def __init__(
        self,
        channels: int,
        out: int,
        emb_channels: int,
        taps: Sequence[float],
        dropout: float,
        *,
        resample: str = "",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.attention = channels, out, attention
        self.dropout = nn.Dropout(dropout)
        self.norm0 = group_norm(channels)
        self.conv0 = ResampledConv(channels, out, 3, taps, resample)
        self.affine = nn.Linear(emb_channels, out)
        self.norm1 = group_norm(out)
        self.conv1 = ResampledConv(out, out, 3)
        self.skip = ResampledConv(channels, out, 1, taps, resample) if out != channels or resample else None
        if attention:
            self.norm2 = group_norm(out)
            self.qkv = ResampledConv(out, 3 * out, 1)
            self.proj = ResampledConv(out, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        x = ((x if self.skip is None else self.skip(x)) + h) * SKIP_SCALE
        return (x + self._attended(x)) * SKIP_SCALE if self.attention else x

    def _attended(self, x: Tensor) -> Tensor:
        """One head over all channels; q, k and v lie side by side for each channel."""
        q, k, v = self.qkv(self.norm2(x)).reshape(len(x), self.out_channels, 3, -1).unbind(2)
        weight = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(self.out_channels)).softmax(dim=2)
        result: Tensor = self.proj(torch.einsum("nqk,nck->ncq", weight, v).reshape(x.shape))
        return result


class Positional(nn.Module):
    """Sinusoidal embedding `[N, channels]` of noise inputs `[N]`, sines first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.count = channels // 2

    def forward(self, noise: Tensor) -> Tensor:
        exponent = torch.arange(self.count, dtype=torch.float32, device=noise.device) / (self.count - 1)
        angles = noise[:, None] * torch.exp(-math.log(10000.0) * exponent)[None]
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Fourier(nn.Module):
    """Random Fourier features `[N, channels]` of noise inputs `[N]`, sines first; the frequencies are in the checkpoint."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.register_buffer("freqs", torch.randn(channels // 2) * 16)

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * (2 * math.pi * self.freqs)[None]
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class SongUNet(nn.Module):
    """F of EDM: scaled images `[N, C, H, W]`, noise inputs `[N]`, labels int64 `[N]` or None → `[N, C, H, W]`.

    Arguments are EDM's own; `label_dim` classes are labels 0…label_dim−1 and label_dim is "no class". Augmentation labels
    are always zero, as EDM has them outside training.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        channels: int,
        label_dim: int,
        augment_dim: int,
        model_channels: int,
        channel_mult: Sequence[int],
        channel_mult_emb: int,
        num_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float,
        embedding_type: str,
        channel_mult_noise: int,
        encoder_type: str,
        decoder_type: str,
        resample_filter: Sequence[float],
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        noise_channels, emb_channels = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        self.map_noise = Positional(noise_channels) if embedding_type == "positional" else Fourier(noise_channels)
        self.map_label = nn.Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)

        def block(inner: int, outer: int, resample: str = "", attention: bool = False) -> Block:
            return Block(inner, outer, emb_channels, resample_filter, dropout, resample=resample, attention=attention)

        sizes = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * mult for mult in channel_mult]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = ResampledConv(channels, model_channels, 3)
        skips, width, aux = [model_channels], model_channels, channels
        for level, (size, wide) in enumerate(zip(sizes, widths, strict=True)):
            name = f"{size}x{size}"
            if level:
                self.enc[f"{name}_down"] = block(width, width, "down")
                skips.append(width)
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = ResampledConv(aux, aux, 0, resample_filter, "down")
                    self.enc[f"{name}_aux_skip"] = ResampledConv(aux, width, 1)
                elif encoder_type == "residual":
                    residual = ResampledConv(aux, width, 3, resample_filter, "down", fused=True)
                    self.enc[f"{name}_aux_residual"] = residual
                    aux = width
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = block(width, wide, attention=size in attn_resolutions)
                width = wide
                skips.append(width)
        last = len(sizes) - 1
        for level in reversed(range(len(sizes))):
            size, wide, name = sizes[level], widths[level], f"{sizes[level]}x{sizes[level]}"
            if level == last:
                self.dec[f"{name}_in0"] = block(width, width, attention=True)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, "up")
            for index in range(num_blocks + 1):
                attention = index == num_blocks and size in attn_resolutions
                self.dec[f"{name}_block{index}"] = block(width + skips.pop(), wide, attention=attention)
                width = wide
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < last:
                    self.dec[f"{name}_aux_up"] = ResampledConv(channels, channels, 0, resample_filter, "up")
                self.dec[f"{name}_aux_norm"] = group_norm(width)
                self.dec[f"{name}_aux_conv"] = ResampledConv(width, channels, 3)

    def embedding(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The vector `[N, model_channels · channel_mult_emb]` that conditions every block."""
        if (labels is None) != (self.map_label is None):
            raise ValueError("labels are needed exactly when the network is class-conditional")
        emb = self.map_noise(noise)
        if self.map_label is not None and labels is not None:
            hot = F.one_hot(labels, self.label_dim + 1)[:, : self.label_dim].to(emb.dtype)
            emb = emb + self.map_label(hot * math.sqrt(self.label_dim))
        result: Tensor = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        return result

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.torso(x, self.embedding(noise, labels))

    def torso(self, x: Tensor, emb: Tensor) -> Tensor:
        """Everything after the embedding."""
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if "aux_down" in name:
                aux = layer(aux)
            elif "aux_skip" in name:
                x = skips[-1] = x + layer(aux)
            elif "aux_residual" in name:
                x = skips[-1] = aux = (x + layer(aux)) * SKIP_SCALE
            else:
                x = layer(x) if name.endswith("_conv") else layer(x, emb)
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
                if x.shape[1] != layer.in_channels:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, emb)
        if image is None:
            raise AssertionError("every decoder ends in an image")
        return image
