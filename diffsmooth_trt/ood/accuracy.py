"""Adversarial accuracy of in-distribution images, as robustness papers report it: AutoAttack (Croce & Hein 2020) at an ℓ∞ radius.

The attack is a library's: torchattacks or the Adversarial Robustness Toolbox, whichever is installed, on the engines' graphs in
torch. Certified accuracy is what `certify` reports.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Images
from ..errors import InputError
from ..noise import OOD
from .linf import scaled
from .model import Model, Singles, Words

LIBRARIES = {"torchattacks": "torchattacks", "art": "adversarial-robustness-toolbox"}
Labels = Any
Attack = Callable[[Singles, Labels], Singles]


@dataclass(frozen=True)
class Accuracy:
    """Shares of `images` that the engines classify right: as they are, and after the attack at `epsilon`."""

    images: int
    epsilon: float
    clean: float
    adversarial: float
    library: str


def choose_library(name: str | None = None) -> str:
    """The attack library to use: `name`, else the first installed one. Raises InputError where there is none."""
    for candidate in LIBRARIES if name is None else (name,):
        if candidate not in LIBRARIES:
            raise InputError(f"attack library {candidate!r} is unknown: use one of {', '.join(LIBRARIES)}")
        if importlib.util.find_spec(candidate) is not None:
            return candidate
    wanted = " or ".join(LIBRARIES.values()) if name is None else LIBRARIES[name]
    raise InputError(f'AutoAttack needs {wanted}, which is not installed: pip install "diffsmooth-trt[cpu,attacks]"')


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


def _attack(model: Model, epsilon: float, version: str, library: str, seed: int) -> Attack:
    import torch

    network = _torch_model(model)
    torch.manual_seed(seed)
    if library == "torchattacks":
        attack = importlib.import_module("torchattacks").AutoAttack(
            network, norm="Linf", eps=epsilon, version=version, n_classes=model.classes, seed=seed
        )
        return lambda x, y: np.asarray(
            attack(torch.from_numpy(x), torch.from_numpy(y)).detach().numpy(), dtype=np.float32
        )
    estimators = importlib.import_module("art.estimators.classification")
    estimator = estimators.PyTorchClassifier(
        network,
        torch.nn.CrossEntropyLoss(),
        model.input_shape,
        model.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    evasion = importlib.import_module("art.attacks.evasion")
    made = evasion.AutoAttack(estimator, eps=epsilon, eps_step=epsilon / 4, batch_size=model.batch)
    return lambda x, y: np.asarray(made.generate(x, np.eye(model.classes, dtype=np.float32)[y]), dtype=np.float32)


def _right(model: Model, x: Singles, labels: Labels, words: Words, key: int) -> Any:
    """Whether each image is classified right by the engines, by the mean probabilities over `draws` noises."""
    found = []
    for at in range(0, len(x), model.batch):
        count = len(x[at : at + model.batch])
        order = at + np.minimum(np.arange(model.batch), count - 1)
        full, numbers = np.ascontiguousarray(x[order]), np.ascontiguousarray(words[order])
        noisy = [model.with_noise(full, key, OOD + 2, numbers, draw) for draw in range(model.draws)] or [full]
        logits = [model.logits(images).astype(np.float64) for images in noisy]
        mean = np.mean([np.exp(each - np.logaddexp.reduce(each, axis=1)[:, None]) for each in logits], axis=0)
        found.append(mean.argmax(axis=1)[:count])
    return np.concatenate(found) == labels


def adversarial_accuracy(
    model: Model,
    data: Images,
    epsilons: Sequence[float] = (2 / 255, 8 / 255),
    *,
    library: str | None = None,
    seed: int = 0,
    key: int = 0,
) -> list[Accuracy]:
    """Clean and adversarial accuracy at each ℓ∞ radius: AutoAttack `standard`, or `rand` for models with noise in front of a
    denoiser.

    `rand` is torchattacks' only; ART has its own four attacks. Attacked images are classified by the engines. The classifier of
    a joint model is what is attacked: the detector does not change which class is the most probable. Raises InputError for ε
    that is not in (0, 1), data of another size and a missing library.
    """
    wrong = [e for e in epsilons if not 0 < e < 1]
    if wrong:
        raise InputError(f"epsilon is {wrong[0]}, expected above 0 and below 1: ℓ∞ distance in [0, 1] image units")
    chosen = choose_library(library)
    channels, height, width = model.input_shape
    images = list(data)
    if any(image.pixels.shape != (height, width, channels) for image in images):
        raise InputError(f"an image is not {(height, width, channels)} as the engines take: pass --resize and --crop")
    x, labels = scaled(images), np.array([image.label for image in images])
    words = np.array([image.index for image in images], np.uint64)
    clean, found = _right(model, x, labels, words, key), []
    for epsilon in epsilons:
        attack = _attack(model, epsilon, "rand" if model.draws else "standard", chosen, seed)
        right = clean.copy()
        if clean.any():
            low, high = x[clean] - np.float32(epsilon), x[clean] + np.float32(epsilon)
            points = np.clip(attack(x[clean], labels[clean]), np.maximum(low, 0), np.minimum(high, 1)).astype(
                np.float32
            )
            right[clean] = _right(model, points, labels[clean], words[clean], key)
        found.append(Accuracy(len(images), epsilon, float(clean.mean()), float(right.mean()), chosen))
    return found
