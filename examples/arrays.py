"""Arrays in memory: a function and a torch module are certified, no file is made.

python examples/arrays.py
"""

from __future__ import annotations

import numpy as np
import torch

import diffsmooth_trt as dst


def brightness(noisy: np.ndarray) -> np.ndarray:
    """Class 1 for bright images, 0 for dark ones: float32 [B, C, H, W] → labels [B]."""
    bright: np.ndarray = noisy.mean(axis=(1, 2, 3)) > 0.5
    return bright.astype(np.int64)


if __name__ == "__main__":
    x = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (20, 140, 250)])
    found = dst.SmoothedClassifier(brightness, classes=2, sigma=0.25).certify(x, n0=100, n=1000, alpha=0.001)
    print(found)
    print(found.prediction, found.radius.round(4), found.samples)

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 3, 10)).eval()
    smoothed = dst.SmoothedClassifier(network, sigma=0.25)
    print(smoothed)
    print(smoothed.certify(x, n0=100, n=1000, alpha=0.001))
    print(smoothed.predict(x, n=1000))
