"""Train the zoo's UNet: CIFAR-10, ε-prediction, σ ∈ [0.05, 1.5], class labels with dropout.

    python export/zoo_denoiser.py --data CLEAN.parquet --more JPEG.parquet --test TEST.parquet --minutes 85 --out runs/denoiser.pt

`--data` holds lossless images, `--more` further ones of any quality; `--lossless` of a batch come from the first, twice that
share after 60 % of the time. Labels are dropped for 10 % of the images, after 60 % of the time for half of them: the
unconditional denoiser is what certification runs, and the conditional one has seen its labels by then. Noise levels:
log σ ~ N(log 0.3, 0.6²), clipped to the range. EMA, cosine decay, bf16 arithmetic. The file is rewritten every two minutes and
`--resume` goes on.

The shipped network: seed 0, 5247 steps of 64 in 42.7 minutes on two Zen 5 cores that other jobs used too, in three calls with
`--resume` (`--minutes 75` until minute 19.4, `--minutes 55` until 32.2, `--minutes 46` to the end), on 5,085 lossless and 50,000
strongly compressed training images. PSNR of the unconditional EMA network at σ = 0.12, 0.25, 0.5, 1.0 on 500 test images:
minute 2 26.90, 23.35, 20.02, 16.62; minute 19 27.55, 23.94, 20.78, 17.88; minute 32 27.66, 24.04, 20.87, 17.99; minute 43 27.75,
24.10, 20.90, 18.03. The whole curve: benchmarks/results/zoo/training-denoiser.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sources import Mixture, load
from torch import Tensor

from diffsmooth_trt.nets.options import named_options
from diffsmooth_trt.nets.unet import UNet

OPTIONS = named_options("zoo")
SCHEDULE = OPTIONS.schedule
NULL = int(OPTIONS.null_class or 0)
SIGMAS = (0.05, 1.5)
LATE = 0.6
SAVE_SECONDS = 120


def predict(model: UNet, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """ε̂ of noisy model images `x` at timesteps `t` for labels `y`."""
    with torch.autocast("cpu", torch.bfloat16):
        eps: Tensor = model(x, t * SCHEDULE.embedded(1), y).float()
    return eps


def noised(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t of model images `x`."""
    ab = torch.from_numpy(SCHEDULE.alphas_bar).float()[t].reshape(-1, 1, 1, 1)
    return ab.sqrt() * x + (1 - ab).sqrt() * eps


def evaluate(model: UNet, images: Tensor) -> dict[str, float]:
    """PSNR of one-shot denoising without labels, per σ, on fixed noise."""
    model.eval()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    result = {}
    with torch.no_grad():
        for sigma in (0.12, 0.25, 0.5, 1.0):
            t = SCHEDULE.timestep(sigma)
            ab = float(SCHEDULE.alphas_bar[t])
            error = 0.0
            for x, eps in zip(images.split(100), noise.split(100), strict=True):
                steps = torch.full((len(x),), t)
                x_t = noised(x, steps, eps)
                guess = predict(model, x_t, steps, torch.full((len(x),), NULL))
                x0 = ((x_t - (1 - ab) ** 0.5 * guess) / ab**0.5).clamp(-1, 1)
                error += float((x0 - x).square().sum())
            result[f"psnr{sigma}"] = round(-10 * math.log10(error / images.numel() / 4), 3)
    return result


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--more")
    p.add_argument("--test", required=True, help="its last 500 images are the validation set")
    p.add_argument("--minutes", type=float, default=85)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=1.2e-3)
    p.add_argument("--lossless", type=float, default=0.3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--resume", action="store_true")
    a = p.parse_args()
    torch.manual_seed(a.seed)
    sources = Mixture.open(a.data, a.more)
    valid = load(a.test, slice(-500, None))[0].float() / 127.5 - 1
    ratios = torch.from_numpy(SCHEDULE.ratios)
    net, ema = OPTIONS.network(), OPTIONS.network()
    ema.load_state_dict(net.state_dict())
    opt = torch.optim.AdamW(net.parameters(), lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    step, used, log = 0, 0.0, []
    if a.resume and a.out.exists():
        s = torch.load(a.out, weights_only=True)
        net.load_state_dict(s["net"])
        ema.load_state_dict(s["ema"])
        opt.load_state_dict(s["opt"])
        step, used, log = s["step"], s["used"], s["log"]
    start, saved = time.time() - used, time.time()
    losses: list[float] = []

    def save() -> None:
        entry = {
            "step": step,
            "minutes": round((time.time() - start) / 60, 2),
            "loss": round(float(np.mean(losses)), 5),
        }
        log.append({**entry, **evaluate(ema, valid)})
        print(json.dumps(log[-1]), flush=True)
        draft = a.out.with_suffix(".tmp")
        content = {"net": net.state_dict(), "ema": ema.state_dict(), "opt": opt.state_dict()}
        torch.save({**content, "step": step, "used": time.time() - start, "log": log}, draft)
        draft.replace(a.out)

    net.train()
    while (done := (time.time() - start) / (60 * a.minutes)) < 1:
        for group in opt.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 400) * (0.5 + 0.5 * math.cos(math.pi * done))
        x, y = sources.draw(a.batch, a.lossless * (2 if done > LATE else 1))
        x = 2 * x - 1
        flip = torch.rand(len(x)) < 0.5
        x[flip] = x[flip].flip(-1)
        y = torch.where(torch.rand(len(y)) < (0.5 if done > LATE else 0.1), NULL, y)
        sigma = torch.exp(math.log(0.3) + 0.6 * torch.randn(len(x), dtype=torch.float64)).clamp(*SIGMAS)
        t = torch.searchsorted(ratios, 2 * sigma)
        eps = torch.randn_like(x)
        loss = F.mse_loss(predict(net, noised(x, t, eps), t, y), eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        with torch.no_grad():
            decay = min(0.9992, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        losses.append(float(loss.detach()))
        if time.time() - saved > SAVE_SECONDS:
            save()
            losses, saved = [], time.time()
    if losses:
        save()


if __name__ == "__main__":
    main()
