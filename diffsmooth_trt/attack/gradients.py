"""Gradients of the smoothed classifier's loss, by torch, over keyed draws (SmoothAdv; Salman et al. 2019, eq. 7 and 10).

The networks are the engines' ONNX graphs as torch functions in float32. What an attack finds is always judged by the engines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..dtypes import Labels, Words
from ..errors import InputError
from ..methods import Method
from ..noise import FIXED_LOCAL, LOCAL, Key, grid_law, seed_key
from ..noise.counters import ATTACK, fresh_words
from ..noise.sampler import grid_noise
from ..ood.torch_graph import TorchGraph

ROWS = 16  # of a call of the networks, whose memory grows with them; the draws of one image are never apart
MOST_DRAWS = 1024
START = np.uint64(2**62)  # the sample word of start r is this plus r

Scores = Callable[[Tensor, Words], Tensor]  # noisy [B, C, H, W] and words [3, B] → log p [B, K]


def _plain(method: Any, graphs: Mapping[str, TorchGraph], key: Key) -> Scores:
    return lambda noisy, words: torch.log_softmax(graphs["classifier"](noisy), 1)


def _denoised(method: Any, graphs: Mapping[str, TorchGraph], key: Key) -> Scores:
    return lambda noisy, words: torch.log_softmax(graphs["classifier"](graphs["denoiser"](noisy)), 1)


def _diffsmooth(method: Any, graphs: Mapping[str, TorchGraph], key: Key) -> Scores:
    def noise(shape: torch.Size, words: Words, copy: int) -> Tensor:
        if method.fresh:
            samples = fresh_words(words, method.copies, copy)
            return drawn(key, method.law.sigma, LOCAL, np.stack([words[1], samples]), shape)
        where = np.array([[0], [copy]], np.uint64)
        return drawn(seed_key(method.seed), method.law.sigma, FIXED_LOCAL, where, (1, *shape[1:]))

    def scores(noisy: Tensor, words: Words) -> Tensor:
        denoised = graphs["denoiser"](noisy)
        each = [
            torch.log_softmax(graphs["classifier"](denoised + noise(denoised.shape, words, copy)), 1)
            for copy in range(method.copies)
        ]
        return torch.logsumexp(torch.stack(each), 0) - float(np.log(method.copies))

    return scores


DIFFERENTIABLE: dict[str, Callable[[Any, Mapping[str, TorchGraph], Key], Scores]] = {
    "rs": _plain,
    "dds": _denoised,
    "diffsmooth": _diffsmooth,
}


def check_differentiable(name: str) -> None:
    """InputError for a method whose gradients are not written down."""
    if name not in DIFFERENTIABLE:
        raise InputError(f"attack has no gradients of --method {name}: it is for runs of {', '.join(DIFFERENTIABLE)}")


def drawn(key: Key, sigma: float, phase: int, words: Words, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Noise float32 of `shape` [B, …] on the grid 1/255·ℤ, of the images and samples `words` uint64 [2, B]."""
    images, samples = (np.ascontiguousarray(each) for each in words)
    steps = grid_noise(grid_law(sigma), key, phase, images, samples, int(np.prod(shape[1:])))
    return torch.from_numpy((steps.astype(np.float32) / np.float32(255)).reshape(shape))


class SmoothedLoss:
    """−log of the mean of p_c(x + δ_j) over draws j, as a function of x, whose gradient an attack follows upwards.

    Draws are those of (key, ATTACK, image, sample). Raises InputError where an engine has no graph to differentiate: compiled
    files, and nodes that `TorchGraph` does not cover.
    """

    def __init__(self, method: Method, key: Key) -> None:
        check_differentiable(method.name)
        graphs = {part: TorchGraph(engine.path) for part, engine in method.engines.items()}
        self.scores = DIFFERENTIABLE[method.name](method, graphs, key)
        self.sigma, self.key, self.rows = method.sigma, key, min(ROWS, method.batch)

    def starts(self, images: Words, number: int, shape: tuple[int, ...]) -> Tensor:
        """A direction of length 1 for start `number` of each image, float32 `[N, C, H, W]`, uniform on the sphere."""
        words = np.stack([images, np.full(len(images), START + np.uint64(number))])
        return unit(drawn(self.key, self.sigma, ATTACK, words, (len(images), *shape)))

    def gradient(self, points: Tensor, images: Words, classes: Labels, samples: Words) -> Tensor:
        """Gradients float32 `[N, C, H, W]` at points in [0, 1], of leaving `classes` int64 `[N]`, over `samples` uint64 `[D]`."""
        together, gradients = max(1, self.rows // len(samples)), []
        for low in range(0, len(points), together):
            rows = slice(low, low + together)
            gradients.append(self._gradient(points[rows], images[rows], classes[rows], samples))
        return torch.cat(gradients)

    def _gradient(self, points: Tensor, images: Words, classes: Labels, samples: Words) -> Tensor:
        draws = len(samples)
        words = np.stack(
            [
                np.full(len(images) * draws, ATTACK, np.uint64),
                np.repeat(images, draws),
                np.tile(samples, len(images)),
            ]
        )
        x = points.detach().clone().requires_grad_(True)
        noise = drawn(self.key, self.sigma, ATTACK, words[1:], (len(images) * draws, *points.shape[1:]))
        with torch.enable_grad():
            scores = self.scores(x.repeat_interleave(draws, 0) + noise, words)
            of_class = scores.gather(1, torch.from_numpy(np.repeat(classes, draws))[:, None]).reshape(-1, draws)
            (raw,) = torch.autograd.grad(-torch.logsumexp(of_class, 1).sum(), x)
        finite: Tensor = torch.nan_to_num(raw)
        return finite


def unit(rows: Tensor) -> Tensor:
    """Each row `[N, …]` divided by its ℓ2 length; a row of zeros stays."""
    units: Tensor = rows / rows.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (rows.dim() - 1))
    return units
