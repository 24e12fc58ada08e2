"""Diffusion classifiers on random exported networks, against the formulas with the torch source in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402
from diffsmooth_trt.methods import METHODS, Rows  # noqa: E402
from diffsmooth_trt.methods.diffusion_terms import default_drop, density, level_weights  # noqa: E402
from diffsmooth_trt.noise import grid_law, seed_key  # noqa: E402
from diffsmooth_trt.noise.reference import grid_noise  # noqa: E402

SIGMA, STEPS, SIZE = 0.25, 6, 16
OPTIONS: dict[str, dict[str, Any]] = {
    "guided-diffusion": {
        "image_size": SIZE, "num_channels": 32, "num_res_blocks": 1, "num_head_channels": 32, "channel_mult": "1",
        "attention_resolutions": "16", "class_cond": True, "num_classes": 4, "null_class": 3, "learn_sigma": True,
    },
    "improved-diffusion": {
        "image_size": SIZE, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1", "attention_resolutions": "16",
        "class_cond": True, "num_classes": 4, "null_class": 3, "diffusion_steps": 4000, "noise_schedule": "cosine",
    },
    "edm": {
        "img_resolution": SIZE, "model_channels": 32, "channel_mult": "1", "num_blocks": 1, "attn_resolutions": "16",
        "label_dim": 3,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(OPTIONS))
def network(request, tmp_path_factory, random_checkpoint):
    """(exported file, D(x; s, y) in float64 from the torch source) of a random network."""
    folder = tmp_path_factory.mktemp("network")
    options, net = random_checkpoint(folder / "net.pt", request.param, OPTIONS[request.param])
    net.eval()
    export_denoiser(request.param, folder / "net.pt", OPTIONS[request.param], None, folder / "c.onnx", conditional=True)

    def answer(x, noise, y):
        labels = torch.tensor([3 if y is None else y])
        with torch.no_grad():
            out = net(torch.from_numpy(x.reshape(1, 3, SIZE, SIZE)).float(), torch.tensor([noise]).float(), labels)
        return out[:, :3].numpy().reshape(-1).astype(np.float64)

    def denoise_epsilon(x, s, y):
        schedule = options.schedule
        t = np.interp(s, schedule.ratios, np.arange(schedule.steps)) * schedule.embedded(1)
        return x - s * answer(x / math.sqrt(1 + s * s), t, y)

    def denoise_edm(x, s, y):
        total = math.sqrt(s * s + 0.25)
        return (0.5 / total) ** 2 * x + s * 0.5 / total * answer(x / total, math.log(s) / 4, y)

    denoise = denoise_edm if request.param == "edm" else denoise_epsilon
    return folder / "c.onnx", denoise


def noise(number, fresh, count):
    word, image = (2 * 2**56 + 9 * count + number, 4) if fresh else (number, 0)
    where = (6, 17) if fresh else (seed_key(0), 33)
    return grid_noise(grid_law(1.0), *where, image, word, 3 * SIZE**2) / 255


def restated(name, denoise, x_tau, y, fresh):
    s_tau, total = 2 * SIGMA, 0.0
    start = denoise(x_tau, s_tau, None) if name == "apndc" else x_tau
    s, gap = np.linspace(1e-4 if name == "dc" else s_tau, 3.0, STEPS, retstep=True)
    drop = default_drop(STEPS, "paper")
    for i in range(drop, STEPS - 1) if name == "epndc" else range(STEPS):
        if name != "epndc":
            x = start + s[i] * noise(i, fresh, STEPS)
            total += level_weights(s[i], density(s[i], "paper"), gap) * np.mean((denoise(x, s[i], y) - start) ** 2)
            continue
        low, high = s[i] ** 2, s[i + 1] ** 2
        tau = s_tau**2
        x = x_tau + math.sqrt(high - tau) * noise(i - drop, fresh, STEPS - 1 - drop)
        p = ((high - low) * denoise(x, s[i + 1], y) + low * x) / high
        q = ((high - low) * x_tau + (low - tau) * x) / (high - tau)
        weight = level_weights(s[i], density(s[i], "paper"), gap) * high * (high - tau)
        total += weight / (4 * (s[i + 1] - s[i]) ** 2 * (low - tau)) * np.mean((p - q) ** 2)
    return total


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["dc", "epndc", "apndc"])
def test_losses_on_random_networks(network, name, fresh):
    path, denoise = network
    x = np.random.default_rng(1).uniform(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
    settings = METHODS[name].Options(steps=STEPS, local_noise="fresh" if fresh else "fixed")
    rows = Rows(*(np.array([value], np.uint64) for value in (1, 4, 9)), 6)
    with open_engine(path, batch=1, role="conditional", backend="onnxruntime") as engine:
        found = METHODS[name].of({"engine": engine}, SIGMA, settings).losses(x, rows)[0]
    x_tau = 2 * x.reshape(-1).astype(np.float64) - 1
    expected = [restated(name, denoise, x_tau, y, fresh) for y in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
