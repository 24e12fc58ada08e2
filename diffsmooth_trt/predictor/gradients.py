"""Gradients of the soft vote, by torch, on the very noise that the engines see.

The networks are the engines' ONNX graphs as torch functions in float32 (`ood.torch_graph`); values are the engines' within their
precision. Images go through twice: first for the mean, then for the gradient of each vote in it, a batch at a time, so that memory
does not grow with the number of votes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..dtypes import Floats32, Floats64, Labels, Words
from ..errors import InputError
from ..ood.torch_graph import TorchGraph
from .soft_vote import DiffSmoothPredictor

Outputs = Callable[[Tensor], Tensor]  # log p [N, K] → what is differentiated


def published(log_mean: Tensor) -> Tensor:
    """`published_log_probabilities` in torch, with its gradient."""
    top = torch.nn.functional.one_hot(log_mean.argmax(1), log_mean.shape[1]).bool()
    rest = torch.log1p(-torch.exp(log_mean.masked_fill(top, -1.0).clamp(max=float(np.log(0.5)))))
    of_top = torch.logsumexp(log_mean.masked_fill(top, -torch.inf), 1, keepdim=True)
    return torch.log_softmax(log_mean - torch.where(top, of_top, rest), 1)


def _chosen(classes: list[int], sign: int) -> Outputs:
    return lambda log_mean: sign * published(log_mean)[:, classes]


class Gradients:
    """The predictor as a differentiable function of images float32 `[N, C, H, W]` in [0, 1], numbers uint64 `[N]`.

    Raises InputError where an engine has no graph to differentiate: compiled files, conditional denoisers, and nodes that
    `TorchGraph` does not cover.
    """

    def __init__(self, predictor: DiffSmoothPredictor) -> None:
        self.predictor = predictor
        self.denoiser: TorchGraph | None = None
        if predictor.denoiser is not None:
            if predictor.denoiser.facts.role == "conditional":
                raise InputError(
                    f"{predictor.denoiser.name} is a conditional denoiser, through which there are no gradients: give one that was "
                    "exported with --sigma"
                )
            self.denoiser = TorchGraph(predictor.denoiser.path)
        self.classifier = TorchGraph(predictor.classifier.path)
        fitting = predictor.fitting
        self.rows = None if fitting.rows is None else torch.from_numpy(fitting.rows)
        self.columns = None if fitting.columns is None else torch.from_numpy(fitting.columns)

    def log_mean(self, values: Floats32, images: Words) -> Floats64:
        """log p, float64 `[N, K]`, by torch."""
        with torch.no_grad():
            return np.stack([self._log_mean(row, number).numpy() for row, number in zip(values, images, strict=True)])

    def of_loss(self, values: Floats32, images: Words, labels: Labels) -> Floats32:
        """The gradient of each image's cross-entropy −log p_y in the published log-probabilities, float32 `[N, C, H, W]`."""
        gradients = [
            self._gradients(row, number, _chosen([int(label)], -1))[0]
            for row, number, label in zip(values, images, labels, strict=True)
        ]
        return np.stack(gradients)

    def of_classes(self, values: Floats32, images: Words, classes: list[list[int]]) -> Floats32:
        """The gradients of published log-probabilities, float32 `[N, M, C, H, W]`, of M `classes` of each image."""
        gradients = [
            self._gradients(row, number, _chosen(chosen, 1))
            for row, number, chosen in zip(values, images, classes, strict=True)
        ]
        return np.stack(gradients)

    def _batches(self, number: np.uint64) -> Iterator[tuple[Words, int]]:
        """The draws of an image in batches, and each local noise of theirs."""
        options = self.predictor.options
        for start in range(0, options.num_samples, self.predictor.batch):
            samples = np.arange(start, min(start + self.predictor.batch, options.num_samples), dtype=np.uint64)
            words = self.predictor.words(np.full(len(samples), number, np.uint64), samples)
            for copy in range(options.local_vote):
                yield words, copy

    def _votes(self, image: Tensor, words: Words, copy: int) -> Tensor:
        """Logarithms of softmaxes float64 `[B, K]`, differentiable in `image` [C, H, W]: noise is added as the engines' is."""
        predictor = self.predictor
        x = image.expand(words.shape[1], *image.shape)
        noisy = x if predictor.law is None else x + torch.from_numpy(predictor.noise(tuple(x.shape), words))
        fitted = noisy if self.denoiser is None else self.denoiser(noisy)
        if self.rows is not None and self.columns is not None:
            fitted = self.rows @ fitted @ self.columns.T
        noise = predictor.local_noise(tuple(fitted.shape), words, copy)
        scores: Tensor = self.classifier((fitted + torch.from_numpy(noise)).clamp(0, 1))
        return torch.log_softmax(scores.double(), 1)

    def _log_mean(self, image: Floats32, number: np.uint64) -> Tensor:
        x, total, votes = torch.from_numpy(image), None, 0
        for words, copy in self._batches(number):
            log_sum = torch.logsumexp(self._votes(x, words, copy), 0)
            total = log_sum if total is None else torch.logaddexp(total, log_sum)
            votes += words.shape[1]
        if total is None:
            raise InputError("there are no votes")
        return total - float(np.log(votes))

    def _gradients(self, image: Floats32, number: np.uint64, outputs: Outputs) -> Floats32:
        """Gradients float32 `[M, C, H, W]` of M outputs of one image's log p."""
        with torch.no_grad():
            log_mean = self._log_mean(image, number)
        log_mean = log_mean.requires_grad_(True)
        wanted = outputs(log_mean[None])[0]
        by_class = torch.stack([torch.autograd.grad(each, log_mean, retain_graph=True)[0] for each in wanted])  # [M, K]
        options = self.predictor.options
        votes = options.num_samples * options.local_vote
        total = torch.zeros(len(wanted), *image.shape)
        for words, copy in self._batches(number):
            x = torch.from_numpy(image.copy()).requires_grad_(True)
            logs = self._votes(x, words, copy)
            share = torch.exp(logs.detach() - log_mean.detach()) / votes  # ∂ log p_c / ∂ a vote's log-softmax
            for row, weights in enumerate(by_class):
                total[row] += torch.autograd.grad(logs, x, weights * share, retain_graph=row + 1 < len(by_class))[0]
        return total.numpy()
