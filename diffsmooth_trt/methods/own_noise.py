"""MethodOptions of methods that add noise of their own, and what may be chosen of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..noise.counters import check_fresh
from .base import MethodOptions, option


@dataclass(frozen=True, kw_only=True)
class OwnNoise(MethodOptions):
    """`fixed` noise is part of f: it is drawn under the public `classifier_seed`. `fresh` noise is drawn under the run's key."""

    local_noise: str = option(
        "fixed",
        "the classifier's own noise: the same for all samples, or new for each, under the run's key (default: fixed)",
        choices=("fixed", "fresh"),
    )
    classifier_seed: int = option(0, "public seed of its fixed noise", metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.local_noise not in ("fixed", "fresh"):
            raise InputError(f"--local-noise must be 'fixed' or 'fresh', got {self.local_noise!r}")
        if not 0 <= self.classifier_seed < 2**128:
            raise InputError(f"--classifier-seed must lie in [0, 2^128), got {self.classifier_seed}")

    @property
    def fresh(self) -> bool:
        """Whether every draw has noise of its own."""
        return self.local_noise == "fresh"

    @property
    def noises(self) -> int:
        """How many noises of its own a draw takes at most."""
        return 1

    def check_run(self, *, sigma: float | None, draws: int, smoothing: bool) -> None:
        if not self.fresh:
            return
        if self.classifier_seed:
            raise InputError(
                "--classifier-seed is for --local-noise fixed, fresh noise is drawn under the run's key: leave it out"
            )
        check_fresh(draws, self.noises)
        if not smoothing:
            raise InputError(
                "--local-noise fresh makes no one function, which --certificate lipschitz needs: leave it out"
            )
