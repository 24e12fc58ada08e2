"""ℓ∞ attacks that raise the score of out-of-distribution images: APGD (Croce & Hein 2020) and PGD from three starts.

The budget `large` is that of DISTRO's code (Franco et al. 2023, after Meinke et al. 2022): APGD with 500 iterations and 5 restarts;
PGD of 200 iterations with momentum 0.9 once from lowered contrast (towards the mean, by at most ε), 4 times from uniform noise in
the ball, 4 times from normal noise of 1e-4. The steps are others than in that code. APGD looks back as its paper says (there the
intervals shrink by 3 iterations, which is 0.6 % of 500). PGD follows the gradient's sign with a size that halves where an
iteration in ten improved nothing (there: the gradient itself, with a step that grows by 1.1 and halves at every setback). Starts
are drawn by NumPy's Philox from the run's seed and the image's digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..dtypes import Floats32
from .budget import Budget

Objective = Callable[[Tensor], Tensor]  # images `[N, C, H, W]` → what is to grow, `[N]`


def _gradient(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = objective(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), torch.nan_to_num(gradient)


def _project(x: Tensor, centre: Tensor, epsilon: float) -> Tensor:
    return torch.minimum(torch.maximum(x, centre - epsilon), centre + epsilon).clamp(0, 1)


def _rows(choose: Tensor) -> Tensor:
    return choose.reshape(-1, 1, 1, 1)


def checkpoints(iterations: int) -> list[int]:
    """The iterations at which APGD looks back: 22 % of all, then intervals that shrink by 3 % to 6 % (Croce & Hein 2020, eq. 3)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [int(np.ceil(share * iterations - 1e-9)) for share in shares[1:] if share < 1]


def apgd(objective: Objective, images: Tensor, start: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The best point found `[N, C, H, W]`: momentum ¾, step 2ε, halved and gone on from the best where progress stalls (ρ = ¾)."""
    x = before = _project(start, images, epsilon)
    value, gradient = _gradient(objective, x)
    best, best_value, best_gradient = x.clone(), value.clone(), gradient.clone()
    step = torch.full_like(value, 2 * epsilon)
    improved, last, reduced = torch.zeros_like(value), best_value.clone(), torch.zeros_like(value, dtype=torch.bool)
    looks, since = set(checkpoints(iterations)), 0
    for number in range(iterations):
        ahead = _project(x + _rows(step) * gradient.sign(), images, epsilon)
        weight = 0.75 if number else 1.0
        moved = _project(x + weight * (ahead - x) + (1 - weight) * (x - before), images, epsilon)
        before, x = x, moved
        new, gradient = _gradient(objective, x)
        improved += (new > value).float()
        value, better = new, new > best_value
        best_value = torch.where(better, new, best_value)
        best = torch.where(_rows(better), x, best)
        best_gradient = torch.where(_rows(better), gradient, best_gradient)
        since += 1
        if number + 1 in looks:
            halve = (improved < 0.75 * since) | (~reduced & (best_value <= last))
            step = torch.where(halve, step / 2, step)
            x, gradient = torch.where(_rows(halve), best, x), torch.where(_rows(halve), best_gradient, gradient)
            value = torch.where(halve, best_value, value)
            reduced, last, since = halve, best_value.clone(), 0
            improved.zero_()
    return best


def pgd(objective: Objective, images: Tensor, start: Tensor, epsilon: float, steps: int) -> Tensor:
    """The best point found by sign steps with momentum 0.9, the first of size ε/2, halved after a tenth of `steps` without
    progress.
    """
    x = _project(start, images, epsilon)
    best, best_value = x.clone(), torch.full((len(x),), -torch.inf)
    velocity, size = torch.zeros_like(x), torch.full((len(x),), epsilon / 2)
    idle, patience = torch.zeros(len(x)), max(2, steps // 10)
    for _ in range(steps + 1):
        value, gradient = _gradient(objective, x)
        better = value > best_value
        best, best_value = torch.where(_rows(better), x, best), torch.where(better, value, best_value)
        idle = torch.where(better, torch.zeros_like(idle), idle + 1)
        stalled = idle >= patience
        size, idle = torch.where(stalled, size / 2, size), torch.where(stalled, torch.zeros_like(idle), idle)
        x = torch.where(_rows(stalled), best, x)
        velocity = 0.9 * velocity + gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        x = _project(x + _rows(size) * velocity.sign(), images, epsilon)
    return best


def _starts(images: Tensor, epsilon: float, seeds: list[int], budget: Budget) -> Iterator[tuple[str, Tensor]]:
    """The name and starting points of every run of the budget; each image has a generator of its own."""
    generators = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
    shape = tuple(images.shape[1:])

    def drawn(normal: bool) -> Tensor:
        noise = [g.standard_normal(shape) if normal else g.uniform(-1, 1, shape) for g in generators]
        return torch.from_numpy(np.stack(noise).astype(np.float32))

    for _ in range(budget.restarts):
        yield "apgd", images + epsilon * drawn(normal=False)
    for _ in range(budget.contrast):
        yield "pgd-contrast", images + (images.mean((1, 2, 3), keepdim=True) - images).clamp(-epsilon, epsilon)
    for _ in range(budget.uniform):
        yield "pgd-uniform", images + epsilon * drawn(normal=False)
    for _ in range(budget.normal):
        yield "pgd-normal", images + 1e-4 * drawn(normal=True)


def attacked(
    objective: Objective, images: Floats32, epsilon: float, seeds: list[int], budget: Budget
) -> Iterator[tuple[str, Floats32]]:
    """The name of every run of the budget and the images it found, float32 `[N, C, H, W]`, within `epsilon` and [0, 1].

    images: float32 in [0, 1]. seeds: one for each image, in [0, 2^128).
    """
    centre = torch.from_numpy(images)
    for name, start in _starts(centre, epsilon, seeds, budget):
        if name == "apgd":
            points = apgd(objective, centre, start, epsilon, budget.iterations)
        else:
            points = pgd(objective, centre, start, epsilon, budget.steps)
        yield name, points.numpy()
