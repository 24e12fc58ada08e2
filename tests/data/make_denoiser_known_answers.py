"""Writes denoiser_known_answers.pt and .json: a small ε-network's checkpoint and what it answers.

    python tests/data/make_denoiser_known_answers.py

The answers come from tests/nets/plain_unet.py in float64. To keep the file small, all parameters are overlapping
half-precision views of one block of numbers, some of them transposed: a loader has to cope with that too.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "nets"))

import plain_unet  # noqa: E402

OPTIONS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "attention_resolutions": "16",
    "num_heads": 2,
    "class_cond": True,
    "num_classes": 3,
    "null_class": 2,
    "learn_sigma": True,
    "diffusion_steps": 4000,
    "noise_schedule": "cosine",
    "rescale_timesteps": True,
}
PLAIN = {"width": 32, "mult": (1,), "blocks": 1, "attend": (0,), "heads": 2}
BLOCK = 30_011


def parameters() -> dict[str, torch.Tensor]:
    """The checkpoint: views of one half-precision storage."""
    generator = np.random.Generator(np.random.Philox(key=7))
    block = torch.from_numpy(generator.uniform(-1, 1, BLOCK) * 0.12).half()
    found, offset = {}, 0
    for name, shape in plain_unet.shapes(classes=3, out_channels=6, **PLAIN).items():
        size = math.prod(shape)
        offset = (offset + 997) % (BLOCK - size)
        view = block[offset : offset + size]
        found[name] = view.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if len(shape) > 1 else view
    return found


def image() -> torch.Tensor:
    """One model-unit image `[1, 3, 16, 16]`."""
    steps = torch.arange(3 * 16 * 16, dtype=torch.float64).reshape(1, 3, 16, 16)
    return torch.sin(steps * 0.37) + 0.3 * torch.cos(steps * steps * 0.011)


def main() -> None:
    """Write both files."""
    state = parameters()
    torch.save(state, HERE / "denoiser_known_answers.pt")
    exact = {name: tensor.double() for name, tensor in state.items()}
    cases = []
    for time, label, new_order in ((0.0, 0, False), (289.5, 2, False), (289.5, 2, True), (999.75, 1, True)):
        out = plain_unet.forward(exact, image(), time, label=label, new_order=new_order, **PLAIN)
        values = [round(float(value), 7) for value in out.flatten()[::97]]
        rms = round(float(out.square().mean().sqrt()), 7)
        cases.append({"time": time, "label": label, "new_order": new_order, "values": values, "rms": rms})
    text = json.dumps({"options": OPTIONS, "stride": 97, "cases": cases}, indent=1)
    (HERE / "denoiser_known_answers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
