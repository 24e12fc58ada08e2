"""The predictor's four parameters."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..noise.law import SIGMA_MIN
from ..ranges import integer

MOST_DENOISING = 0.5
LOCAL_SIGMAS = (0.06, 0.12, 0.25)
MOST_SAMPLES, MOST_VOTES = 2**20, 2**10
DEFAULT_SIGMA = 0.12


@dataclass(frozen=True, kw_only=True)
class PredictorOptions:
    """`denoising_sigma` is the noise in front of the denoiser, in image units: 0 for no denoising, None for the denoiser's own;
    `local_sigma` that in front of the classifier, which was trained with it. An image takes `num_samples` denoised draws, each
    with `local_vote` local noises. Raises InputError for values that the published predictor does not take.
    """

    denoising_sigma: float | None = None
    local_sigma: float = 0.12
    num_samples: int = 20
    local_vote: int = 5

    def __post_init__(self) -> None:
        level = self.denoising_sigma
        if level is not None and level != 0 and not SIGMA_MIN <= level <= MOST_DENOISING:
            raise InputError(
                f"--denoising-sigma must be 0 (no denoising) or lie in [{SIGMA_MIN}, {MOST_DENOISING}] (image units), got {level}"
            )
        if self.local_sigma not in LOCAL_SIGMAS:
            raise InputError(
                f"--local-sigma must be one of {', '.join(map(str, LOCAL_SIGMAS))}, which classifiers are trained with, "
                f"got {self.local_sigma}"
            )
        integer("num-samples", self.num_samples, 1, MOST_SAMPLES)
        integer("local-vote", self.local_vote, 1, MOST_VOTES)
