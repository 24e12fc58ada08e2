"""Whether the denoiser of a run denoises: how far real images are from themselves with noise, and after it.

A network under another schedule, kind of prediction or range of values than its own runs like any other, and its certificates are
small. What is found changes nothing of a run; reports say it. The noise is not the run's: no vote is seen before it counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..dtypes import Floats32
from ..images import Images
from ..methods import Method

MOST = 16  # images
FAR = 0.25  # outside of [0, 1]: images are clamped, or end within a few hundredths of it
SHARE = 0.01  # of all values that may lie farther out


def error(images: Floats32, clean: Floats32) -> float:
    """The root mean square difference."""
    return float(np.sqrt(np.mean(np.square(images.astype(np.float64) - clean))))


def outside(images: Floats32) -> float:
    """The share of values far outside of [0, 1]."""
    return float(((images < -FAR) | (images > 1 + FAR)).mean())


def useless(images: int, before: float, after: float) -> str:
    """What is said of a denoiser after which the error is no smaller than before."""
    return (
        f"this is no denoiser for that noise: on {images} images the error is {after:.3g} after and {before:.3g} before (root mean "
        "square); check the configuration, --sigma and the range of values"
    )


def out_of_range(share: float) -> str:
    """What is said of a denoiser with such a `share` of values outside."""
    return (
        f"{100 * share:.0f} % of the denoised values lie more than {FAR} outside of [0, 1]: a denoiser takes and returns images in "
        "[0, 1], not in [-1, 1] or [0, 255]"
    )


def denoising_notes(method: Method, images: Images) -> Iterator[str]:
    """What the user has to know of the method's denoisers, by one batch of noisy images; nothing of those that denoise."""
    for engine in method.engines.values():
        facts = engine.facts
        if facts.role != "denoiser" or facts.denoised_shape != facts.input_shape:
            continue
        pixels = [image.pixels.transpose(2, 0, 1) for image in islice(images, min(MOST, engine.batch))]
        clean = np.stack([pixels[row % len(pixels)] for row in range(engine.batch)]).astype(np.float32) / np.float32(
            255
        )
        noise = np.random.Generator(np.random.Philox(0)).standard_normal(clean.shape, np.float32)
        noisy = clean + np.float32(method.sigma) * noise
        denoised = engine.run_on_host(noisy)
        if engine.output_nhwc:
            denoised = denoised.transpose(0, 3, 1, 2)
        before, after = error(noisy, clean), error(denoised, clean)
        if after >= before:
            yield f"{engine.name}: {useless(len(pixels), before, after)}"
        if outside(denoised) > SHARE:
            yield f"{engine.name}: {out_of_range(outside(denoised))}"
