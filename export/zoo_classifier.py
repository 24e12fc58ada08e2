"""Fine-tune a CIFAR ResNet on images that the zoo's denoiser gave back, for dds or (with local noise) for diffsmooth.

    python export/zoo_classifier.py --denoiser runs/denoiser-0.25.onnx --data CLEAN.parquet --more JPEG.parquet \
        --arch resnet56 --init resnet56.th --minutes 30 --out runs/classifier.pt [--local-sigma 0.12]

Every image is flipped, shifted by up to 2 pixels, noised twice at the denoiser's σ and denoised; the loss is cross-entropy plus
the consistency of the two predictions (Jeong & Shin 2020), which is what a certified radius rewards. Denoised pairs stay in a
pool for about `--reuse` visits each, because denoising costs more than training. Weights are averaged (EMA).

The shipped classifiers: seed 0, two Zen 5 cores that other jobs used too, the denoiser at σ = 0.25. dds: from a clean CIFAR-10
ResNet-56 (92.7 %), 30 minutes, 4609 steps; single denoised validation images classified right: 63.9 % before, 74.8 % at minute 3,
78.3 % at 12, 78.9 % at the end. diffsmooth: from that one with `--local-sigma 0.12 --lr 0.01`, 10 minutes, 1731 steps; 35.5 %
before (one local noise), 75.2 % at minute 1.5, 74.2 % at the end. The standard error of these figures is 1.9 %. The whole curves:
benchmarks/results/zoo/training-dds.jsonl and training-diffsmooth.jsonl.
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

from diffsmooth_trt.engine import Engine, open_engine
from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state
from diffsmooth_trt.nets.classifiers import classifier_from_arch

CHUNK, POOL = 2048, 14  # images a chunk, chunks in the pool


def augment(x: Tensor) -> Tensor:
    """Random flips, and shifts by up to two pixels with reflected borders; `x` float `[N, 3, H, W]`."""
    flip = torch.rand(len(x)) < 0.5
    x[flip] = x[flip].flip(-1)
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    size = x.shape[-1]
    offsets = torch.randint(0, 5, (len(x), 2)).tolist()
    return torch.stack([padded[i, :, r : r + size, c : c + size] for i, (r, c) in enumerate(offsets)])


def denoise(engine: Engine, x: Tensor, sigma: float) -> Tensor:
    """Denoised float16 images of `x` with fresh noise; `len(x)` is a multiple of the engine's batch."""
    parts = [
        torch.from_numpy(engine.run((part + sigma * torch.randn_like(part)).numpy())) for part in x.split(engine.batch)
    ]
    return torch.cat(parts).half()


def pair_loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Cross-entropy of both draws, plus `weight` times the mean KL divergence from their average; `logits` `[2, N, K]`."""
    log_p = logits.log_softmax(-1)
    mean = log_p.exp().mean(0).clamp_min(1e-8)
    ce = F.nll_loss(log_p.flatten(0, 1), labels.repeat(2))
    kl = (mean * (mean.log() - log_p)).sum(-1).mean()
    return ce + weight * kl


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--denoiser", type=Path, required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--more")
    p.add_argument("--test", required=True, help="rows from 500 on are the validation set")
    p.add_argument("--arch", default="resnet56")
    p.add_argument("--init", type=Path, required=True)
    p.add_argument("--local-sigma", type=float, default=0.0)
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--consistency", type=float, default=5.0)
    p.add_argument("--lossless", type=float, default=0.3)
    p.add_argument("--reuse", type=float, default=3.0)
    p.add_argument("--batch", type=int, default=64, help="image pairs a step")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--pool", type=Path, help="keep the denoised pool here, and start from it when it exists")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    engine = open_engine(a.denoiser, batch=128, role="denoiser")
    sigma = float(engine.facts.sigma or 0)
    sources = Mixture.open(a.data, a.more)
    tx, ty = load(a.test, slice(500, 1012))
    valid = denoise(engine, tx.float() / 255, sigma)
    arch = classifier_from_arch(a.arch)
    net, ema = arch.module, classifier_from_arch(a.arch).module
    load_into(net, load_state(a.init), str(a.init))
    net.requires_grad_(True)  # loading assigns the tensors of the file
    ema.load_state_dict(net.state_dict())
    mean, std = (torch.tensor(v)[:, None, None] for v in (arch.mean, arch.std))
    opt = torch.optim.SGD(net.parameters(), lr=a.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    pool: list[tuple[Tensor, Tensor]] = torch.load(a.pool) if a.pool and a.pool.exists() else []

    def produce() -> tuple[Tensor, Tensor]:
        x, y = sources.draw(CHUNK, a.lossless)
        x = augment(x)
        return torch.stack([denoise(engine, x, sigma) for _ in range(2)]), y

    def forward(model: torch.nn.Module, x: Tensor) -> Tensor:
        x = x.float() + a.local_sigma * torch.randn(x.shape)
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = model((x - mean) / std).float()
        return logits

    def evaluate() -> float:
        ema.eval()
        with torch.no_grad():
            return float((forward(ema, valid).argmax(1) == ty).float().mean())

    start, step, losses, seen = time.time(), 0, [], time.time()
    print(json.dumps({"before": evaluate()}), flush=True)
    while (done := (time.time() - start) / (60 * a.minutes)) < 1:
        if len(pool) < POOL or step % max(1, int(a.reuse * CHUNK / a.batch)) == 0:
            pool = [*pool, produce()][-POOL:]
        rate = a.lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in opt.param_groups:
            group["lr"] = rate
        px, py = pool[int(torch.randint(len(pool), ()))]
        i = torch.randint(CHUNK, (a.batch,))
        x = px[:, i]
        if torch.rand(()) < 0.5:
            x = x.flip(-1)
        net.train()
        loss = pair_loss(forward(net, x.flatten(0, 1)).unflatten(0, (2, -1)), py[i], a.consistency)
        loss.backward()
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for e, n in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
                e.lerp_(n, 1 - decay) if e.is_floating_point() else e.copy_(n)
        losses.append(float(loss.detach()))
        if time.time() - seen > 90:
            seen = time.time()
            entry = {"step": step, "minutes": (seen - start) / 60, "loss": float(np.mean(losses)), "valid": evaluate()}
            print(json.dumps({k: round(v, 4) for k, v in entry.items()}), flush=True)
            losses = []
            torch.save({"state_dict": ema.state_dict()}, a.out)
    print(json.dumps({"step": step, "valid": evaluate()}), flush=True)
    torch.save({"state_dict": ema.state_dict()}, a.out)
    if a.pool:
        torch.save(pool, a.pool)


if __name__ == "__main__":
    main()
