"""The Adversarial Robustness Toolbox attacks the DiffSmooth predictor by its exact gradients, and what it finds is tried anew.

    python examples/with_art.py

Needs the extra `art` and torch. The attack knows the key, so it meets one function; whoever uses the predictor draws another key,
and so do we before we believe what the attack found.
"""

from __future__ import annotations

import numpy as np
from art.attacks.evasion import ProjectedGradientDescentNumpy

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.predictor import DiffSmoothPredictor
from diffsmooth_trt.predictor.art import ArtGradientPredictor

EPSILON = 0.25  # ℓ2, in units in which pixels go from 0 to 1


def opened() -> DiffSmoothPredictor:
    """The zoo's predictor under a key of its own."""
    return DiffSmoothPredictor(
        zoo.CLASSIFIER_DIFFSMOOTH, zoo.DENOISER, num_samples=2, local_vote=2, threads=1, backend="onnxruntime"
    )


if __name__ == "__main__":
    images = list(dst.open_images(zoo.IMAGES, limit=2))
    labels = np.array([image.label for image in images])
    x = np.stack([image.pixels.transpose(2, 0, 1) for image in images]).astype(np.float32) / 255  # [N, C, H, W]
    with opened() as attacked, opened() as fresh:
        attack = ProjectedGradientDescentNumpy(
            ArtGradientPredictor(attacked), norm=2, eps=EPSILON, eps_step=EPSILON / 2, max_iter=2, verbose=False
        )
        moved = attack.generate(x, labels).astype(np.float32)
        far = np.sqrt(((moved - x) ** 2).sum(axis=(1, 2, 3)))
        for name, predictor in (("the attacked key", attacked), ("a fresh key", fresh)):
            estimator = ArtGradientPredictor(predictor)
            before, after = estimator.compute_loss(x, labels), estimator.compute_loss(moved, labels)
            print(f"{name}: loss {before.round(5)}, after the attack {after.round(5)}")
    print(f"moved by {far.round(4)}, at most {EPSILON}")
