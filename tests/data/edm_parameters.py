"""Networks and inputs of edm_known_answers.json, shared by what wrote it and what reads it."""

from __future__ import annotations

import zlib

import numpy as np
import torch

SMALL = {
    "img_resolution": 8, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
    "channel_mult_emb": 2, "augment_dim": 3, "dropout": 0.1,
}  # fmt: skip
NETWORKS = {
    "ddpm++": {**SMALL, "label_dim": 3},
    "ncsn++": {
        **SMALL, "label_dim": 3, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1], "num_blocks": 2,
    },
    "skip, no labels": {**SMALL, "encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]},
}  # fmt: skip
LEVELS = (0.02, 0.5, 3.0)
LABELS = (1, 2, None)


def parameters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Numbers for every parameter, each from a generator of its own, seeded by its name; filters stay."""
    found = {}
    for name, tensor in state.items():
        generator = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
        spread = 0.25 if tensor.dim() > 1 else 0.5
        values = torch.from_numpy(generator.uniform(-spread, spread, tuple(tensor.shape))).float()
        found[name] = tensor if name.endswith("resample_filter") else values
    return found


def images() -> torch.Tensor:
    """Three images `[3, 3, 8, 8]`."""
    steps = torch.arange(3 * 3 * 8 * 8, dtype=torch.float32).reshape(3, 3, 8, 8)
    return torch.sin(steps * 0.37) + 0.3 * torch.cos(steps * 0.011)
