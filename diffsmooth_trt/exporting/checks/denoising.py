"""Whether a denoiser denoises: how far real images are from themselves with noise, and after it; and what would fit better.

A network under another schedule, another kind of prediction or another range of values than its own runs, exports and agrees with
its source; certificates of what it makes are small and nobody knows why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...dtypes import Floats32
from ...runs.denoising import SHARE, error, out_of_range, outside, useless
from ...schedule import SCHEDULES, Schedule
from ..graph.one_shot import SourceDenoiser
from ..sources.families import Family, ScheduledFamily
from .noised import VERIFICATION, noised

Others = Mapping[str, Callable[[], nn.Module]]
SAMPLES = 16
BETTER = 0.85  # of the error of the denoiser as it is: what fits so much better is said


class MinusOneToOne(nn.Module):
    """A denoiser of images in [-1, 1], given and returned in [0, 1]."""

    def __init__(self, net: nn.Module, given: bool = True) -> None:
        super().__init__()
        self.net, self.given = net, given

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(2 * x - 1 if self.given else x)
        return (y + 1) / 2


def others_of(family: Family, net: nn.Module, sigma: float) -> Others:
    """What the network could be in place of what its configuration says: of another prediction, or another schedule."""

    def changed(**values: object) -> nn.Module:
        other = copy.copy(family)
        vars(other).update(values)
        return SourceDenoiser(other, net, other.level(sigma, False))

    others: dict[str, Callable[[], nn.Module]] = {}
    if not isinstance(family, ScheduledFamily):
        return others
    for prediction in ("epsilon", "v_prediction", "sample"):
        if prediction != family.prediction:
            others[f"the prediction {prediction} instead of {family.prediction}"] = partial(
                changed, prediction=prediction
            )
    own = family.schedule
    for name in SCHEDULES:
        for steps in dict.fromkeys((own.steps, 1000, 4000)):
            if (name, steps) != (own.name, own.steps):
                schedule = Schedule(name, steps, rescale=own.rescale)
                told = f"a {name} schedule of {steps} steps instead of {own.name} of {own.steps}"
                others[told] = partial(changed, schedule=schedule)
    return others


def others_of_program(net: nn.Module) -> Others:
    """What a denoiser of one's own could be: for images in [-1, 1], on both sides or where they leave it."""
    return {
        "images in [-1, 1] in and out": lambda: MinusOneToOne(net),
        "images in [-1, 1] out": lambda: MinusOneToOne(net, given=False),
    }


@dataclass(frozen=True)
class Denoising:
    """Root mean square errors of `images` real images with noise and denoised, and the share of values far outside of [0, 1].

    `better` names what would have an error of `BETTER` times the denoiser's or less, with both, on the few images that it was
    tried on.
    """

    images: int
    before: float
    after: float
    outside: float
    better: tuple[str, float, float] | None = None

    def recorded(self) -> dict[str, Any]:
        """For the facts, to three digits."""
        values = {"images": self.images, "before": _short(self.before), "after": _short(self.after)}
        values |= {"outside": _short(self.outside)} if self.outside > SHARE else {}
        return values | ({"better": [self.better[0], *map(_short, self.better[1:])]} if self.better else {})


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def denoising(
    source: nn.Module, pixels: NDArray[np.uint8], sigma: float, count: int, others: Others | None = None
) -> Denoising | None:
    """What `source` makes of `count` of the images `pixels` uint8 `[N, C, H, W]` with noise `sigma`; None where sizes change.

    `others` are tried on a quarter of them.
    """
    rows = np.arange(count) % len(pixels)
    clean: Floats32 = pixels[rows].astype(np.float32) / np.float32(255)
    noisy = np.concatenate(list(noised(pixels, sigma, count, 1, VERIFICATION)))
    after = _outputs(source, noisy)
    if after.shape != clean.shape:
        return None
    before, all_after = error(noisy, clean), error(after, clean)
    few = slice(max(1, count // 4))
    tried = {name: error(_outputs(make(), noisy[few]), clean[few]) for name, make in (others or {}).items()}
    name, least = min(tried.items(), key=lambda each: each[1], default=("", np.inf))
    now = error(after[few], clean[few])
    better = (name, least, now) if least <= BETTER * now else None
    return Denoising(count, before, all_after, outside(after), better)


def _outputs(net: nn.Module, noisy: Floats32) -> Floats32:
    with torch.no_grad():
        return np.concatenate([net(torch.from_numpy(row[None])).numpy() for row in noisy])


def denoising_warnings(measured: Mapping[str, Any] | None) -> Iterator[str]:
    """What the user has to know of what `Denoising.recorded` says; nothing of a denoiser that denoises."""
    if not measured:
        return
    if measured["after"] >= measured["before"]:
        yield useless(measured["images"], measured["before"], measured["after"])
    if "outside" in measured:
        yield out_of_range(measured["outside"])
    if "better" in measured:
        name, other, now = measured["better"]
        yield f"with {name} the error would be {other:.3g}, it is {now:.3g}: check which it is"
