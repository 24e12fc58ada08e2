"""Adversarial accuracy of in-distribution images, as robustness papers report it: AutoAttack (Croce & Hein 2020) at an ℓ∞ radius.

The attack is that of torchattacks, on the engines' graphs in torch. Certified accuracy is what `certify` reports.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..datasets import Classes
from ..dtypes import Floats32, Words
from ..errors import InputError
from ..images import Images
from ..noise import OOD, Key
from .config import OodConfig
from .linf import scaled
from .model import Model
from .sets import label_inside

LIBRARY = "torchattacks"
Labels = Any
Attack = Callable[[Floats32, Labels], Floats32]


@dataclass(frozen=True)
class Accuracy:
    """Shares of `images` that the engines classify right: as they are, and after the attack at `epsilon`."""

    images: int
    epsilon: float
    clean: float
    adversarial: float


def check_library() -> None:
    """InputError where the attack library is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise InputError(
            f'--accuracy needs {LIBRARY}, which is not installed: pip install "diffsmooth-trt[cpu,attacks]"'
        )


def _torch_model(model: Model) -> Any:
    import torch
    from torch import nn

    from .torch_graph import TorchGraph

    class Differentiable(nn.Module):
        """The classifier's logits; behind a denoiser with fresh noise in every call, as attacks on random models need."""

        def __init__(self) -> None:
            super().__init__()
            self.graphs = nn.ModuleDict({role: TorchGraph(engine.path) for role, engine in model.opened.items()})
            self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)  # libraries ask parameters for the device

        def forward(self, x: Any) -> Any:
            if "denoiser" in self.graphs:
                noise = torch.randn_like(x) * float(model.sigma or 0) if model.draws else 0.0
                x = self.graphs["denoiser"](x + noise)
            return self.graphs["classifier"](x)

    return Differentiable().eval()


def _attack(model: Model, epsilon: float, version: str, seed: int) -> Attack:
    attack = importlib.import_module(LIBRARY).AutoAttack(
        _torch_model(model), norm="Linf", eps=epsilon, version=version, n_classes=model.classes, seed=seed
    )
    return lambda x, y: np.asarray(attack(_tensor(x), _tensor(y)).detach().numpy(), dtype=np.float32)


def _tensor(values: Any) -> Any:
    """A torch tensor of an array."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def _right(model: Model, x: Floats32, labels: Labels, words: Words, key: Key) -> Any:
    """Whether each image is classified right by the engines, by the mean probabilities over `draws` noises."""
    predicted = []
    for at in range(0, len(x), model.batch):
        count = len(x[at : at + model.batch])
        order = at + np.minimum(np.arange(model.batch), count - 1)
        full, numbers = np.ascontiguousarray(x[order]), np.ascontiguousarray(words[order])
        noisy = [model.with_noise(full, key, OOD + 2, numbers, draw) for draw in range(model.draws)] or [full]
        logits = [model.logits(images).astype(np.float64) for images in noisy]
        mean = np.mean([np.exp(each - np.logaddexp.reduce(each, axis=1)[:, None]) for each in logits], axis=0)
        predicted.append(mean.argmax(axis=1)[:count])
    return np.concatenate(predicted) == labels


def adversarial_accuracy(
    model: Model,
    data: Images,
    epsilons: Sequence[float] = (2 / 255, 8 / 255),
    *,
    seed: int = 0,
    key: Key = Key(0),  # noqa: B008  (frozen)
) -> list[Accuracy]:
    """Clean and adversarial accuracy at each ℓ∞ radius: AutoAttack `standard`, or `rand` for models with noise in front of a
    denoiser.

    seed: of the attacks; its low 63 bits count. key: of the noise that engines classify by. Attacked images are classified by
    the engines. The classifier of a joint model is what is attacked: the detector does not change which class is the most
    probable. Raises InputError for ε that is not in (0, 1), data of another size and a missing library.
    """
    wrong = [e for e in epsilons if not 0 < e < 1]
    if wrong:
        raise InputError(
            f"--accuracy: epsilon is {wrong[0]}, expected above 0 and below 1: ℓ∞ distance in [0, 1] image units"
        )
    check_library()
    channels, height, width = model.input_shape
    data.check((height, width, channels))
    data.expect((height, width, channels))
    images = list(data)
    x, labels = scaled(images), np.array([image.label for image in images])
    words = np.array([image.index for image in images], np.uint64)
    clean, accuracies = _right(model, x, labels, words, key), []
    for epsilon in epsilons:
        attack = _attack(model, epsilon, "rand" if model.draws else "standard", seed % 2**63)
        right = clean.copy()
        if clean.any():
            low, high = x[clean] - np.float32(epsilon), x[clean] + np.float32(epsilon)
            points = np.clip(attack(x[clean], labels[clean]), np.maximum(low, 0), np.minimum(high, 1)).astype(
                np.float32
            )
            right[clean] = _right(model, points, labels[clean], words[clean], key)
        asked = len(images) + len(data.skipped)  # images that cannot be used are not right
        accuracies.append(Accuracy(asked, epsilon, float(clean.sum() / asked), float(right.sum() / asked)))
    return accuracies


def of_run(config: OodConfig, key: Key) -> list[Accuracy]:
    """The accuracies that a run's configuration asks for, of its in-distribution images, with the noise of its key."""
    data = Images.chosen(config.in_data, config.choice)
    model = Model(config)
    try:
        label_inside(data, config, Classes(model.classes, model.classifier.facts.class_names))
        return adversarial_accuracy(model, data, config.accuracy, seed=config.seed, key=key)
    finally:
        model.close()
