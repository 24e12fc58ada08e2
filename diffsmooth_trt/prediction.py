"""What a diffusion network predicts, as coefficients of its denoiser (Karras et al. 2022, section 5 and table 1).

In [-1, 1] units, for an image x with Gaussian noise of level s, the denoiser of a network F is
D(x; s) = skip·x + out·F(scale·x, t(s)), where t(s) is the network's own name for the noise level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

# epsilon: the noise (Ho et al. 2020); v_prediction (Salimans & Ho 2022); sample: the clean image; edm: as EDM mixes the two
PREDICTIONS = ("epsilon", "v_prediction", "sample", "edm")

Level = TypeVar("Level", float, "Tensor")


def coefficients(prediction: str, s: Level, sigma_data: float = 0.5) -> tuple[Level | float, Level | float, Level]:
    """(skip, out, scale) at noise levels `s` > 0: a number or a torch tensor, and so is the answer.

    `sigma_data` is the standard deviation of the data that EDM networks were trained for.
    """
    if prediction == "edm":
        variance = s**2 + sigma_data**2
        return sigma_data**2 / variance, s * sigma_data * variance**-0.5, variance**-0.5
    scale = (1 + s**2) ** -0.5
    if prediction == "epsilon":
        return 1.0, -s, scale
    if prediction == "v_prediction":
        return scale**2, -s * scale, scale
    if prediction == "sample":
        return 0.0, 1.0, scale
    raise ValueError(f"prediction {prediction!r} is unknown: use one of {', '.join(PREDICTIONS)}")
