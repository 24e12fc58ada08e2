"""What the published code of noised diffusion classifiers (Chen et al. 2024) computes, restated without the package.

A restatement gets a network D(x `[B, C, H, W]`, s `[B]`, labels `[B]`), a noisy image in [0, 1] units and the noises. Its indices
are the published code's: S levels make S − 1 entries of `timesteps`, `dt` and `p`.
"""

from __future__ import annotations

import math

import numpy as np


def lists(lowest, steps):
    """timesteps, dt and p of the published constructor."""
    s = np.linspace(lowest, 3, steps)
    levels = s[:-1]
    p = 1 / (levels * 1.2 * math.sqrt(2 * math.pi)) * np.exp(-((np.log(levels) + 1.2) ** 2) / 2 * 1.2**2)
    return levels, s[1:] - s[:-1], p


def column(values):
    return np.asarray(values)[:, None, None, None]


def noised(x, noises, levels):
    """What the network is asked: float32, as in the published code."""
    return x.astype(np.float32) + noises.astype(np.float32) * column(levels).astype(np.float32)


def published(name, net, x, steps, sigma, noise, y, null):
    """The loss of class y of one image x `[C, H, W]`; `noise(i)` is that of evaluation i. apndc denoises with label `null`."""
    tau, now = 2 * sigma, ((np.asarray(x, np.float64) - 0.5) * 2)[None]
    levels, dt, p = lists(1e-4 if name == "dc" else tau, steps)
    if name == "apndc":
        now = net(now, [tau], [null])
    count = 5 if name == "epndc" else 0
    low, high = levels[count:-1], levels[count + 1 :]
    weighed = low if name == "epndc" else high
    weight = (weighed**2 + 0.25) / (weighed * 0.5) ** 2 * p[count : count + len(low)] * dt[count : count + len(low)]
    noises, labels = np.stack([noise(i) for i in range(len(low))]), np.full(len(low), y)
    if name != "epndc":
        answer = net(noised(now, noises, high), high, labels)
        return float(np.sum(weight * np.mean((answer - now) ** 2, axis=(1, 2, 3))))
    weight = weight * high**2 * (high**2 - tau**2) / 4 / (high - low) ** 2 / (low**2 - tau**2)
    moved = noised(now, noises, np.sqrt(high**2 - tau**2)).astype(np.float64)
    answer = net(moved, high, labels)
    p_mean = (column(high**2 - low**2) * answer + column(low**2) * moved) / column(high**2)
    q_mean = (column(high**2 - low**2) * now + column(low**2 - tau**2) * moved) / column(high**2 - tau**2)
    return float(np.sum(weight * np.mean((p_mean - q_mean) ** 2, axis=(1, 2, 3))))


def sifted(name, net, x, steps, sigma, noise, classes):
    """Sift-and-refine: what it leaves, and the refined losses of those. `noise(i)`: 50 of the sieve, then 126."""
    tau, now = 2 * sigma, ((np.asarray(x, np.float64) - 0.5) * 2)[None]
    lowest, threshold = (1e-4, 5e-4) if name == "dc" else (tau, 5e-5)
    if name == "apndc":
        now = net(now, [0.5], [classes])  # its one_step_denoise is called without a level
    dt = (3 - lowest) / (steps - 1)

    def losses(levels, y, first):
        p = 1 / (levels * 1.2 * math.sqrt(2 * math.pi)) * np.exp(-((np.log(levels) + 1.2) ** 2) / 2 * 1.2**2)
        weight = (levels**2 + 0.25) / (levels * 0.5) ** 2 * p * dt
        x = noised(now, np.stack([noise(first + i) for i in range(len(levels))]), levels)
        return weight * np.mean((net(x, levels, np.full(len(levels), y)) - now) ** 2, axis=(1, 2, 3))

    candidates, total = list(range(classes)), np.zeros(classes)
    for i, level in enumerate(np.linspace(lowest, 3, 50)):
        if len(candidates) <= 10:
            break
        for y in candidates:
            total[y] += losses(np.array([level]), y, i)[0]
        best = min(total[y] for y in candidates)
        dropped = [y for y in candidates if total[y] - best > threshold]
        total[dropped] += 999
        candidates = [y for y in candidates if y not in dropped]
    if len(candidates) > 10 and name == "apndc":
        candidates = sorted(np.argsort(total, kind="stable")[:10].tolist())
    return candidates, {y: losses(np.linspace(lowest, 3, 126), y, 50).mean() for y in candidates}
