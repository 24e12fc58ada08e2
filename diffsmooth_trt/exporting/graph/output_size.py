"""A denoiser whose images leave it at the classifier's size: local noise is then drawn after the resize, as DiffSmooth's predictor
does (Zhang et al. 2023: resize, centre crop, noise, normalise), and not inside the classifier as in DDS."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import nn

from ...engine.facts import EngineFacts
from ...errors import InputError
from ...scaling import centre
from ..checks.inputs import ImageCheck
from .preprocessing import SIDES
from .resize import Resize, SourceResize, check_mode, resize_facts


@dataclass(frozen=True)
class OutputSize:
    """Resize to `resize_to`² pixels (None: leave the size), then keep the centre of `crop`² (None: all).

    `mode` is one of `resize.MODES`; `antialias` as Pillow does it, otherwise as torch's `interpolate` does.
    """

    resize_to: int | None = None
    crop: int | None = None
    mode: str = "bicubic"
    antialias: bool = True

    def __post_init__(self) -> None:
        for name, size in (("--resize-to", self.resize_to), ("--crop", self.crop)):
            if size is not None and not SIDES[0] <= size <= SIDES[1]:
                raise InputError(f"{name} must lie between {SIDES[0]} and {SIDES[1]} pixels, got {size}")
        check_mode(self.mode, self.antialias)

    def attach(
        self, module: nn.Module, check: ImageCheck, facts: EngineFacts
    ) -> tuple[nn.Module, ImageCheck, EngineFacts]:
        """A denoiser, what it is checked against and its facts, with the resize behind each; as they are without one.

        Raises InputError for conditional denoisers and for a crop larger than the image.
        """
        if self.resize_to is None and self.crop is None:
            return module, check, facts
        if facts.role != "denoiser":
            raise InputError(
                "--resize-to and --crop are for denoisers of one --sigma, got --conditional: leave them out"
            )
        channels, *sides = facts.input_shape
        to = sides[0] if self.resize_to is None else self.resize_to
        size = to if self.crop is None else self.crop
        if size > to:
            raise InputError(f"--crop {size} is larger than the image of {to} pixels: give {to} or less")
        at = centre(to, size)
        resize = Resize((sides[0], sides[1]), to, size, at, self.mode, self.antialias)
        source = nn.Sequential(check.source, SourceResize(to, size, at, self.mode, self.antialias))
        details = resize_facts(to, size, at, self.mode, self.antialias)
        return (
            nn.Sequential(module, resize),
            dataclasses.replace(check, source=source.eval()),
            dataclasses.replace(
                facts, output_shape=(channels, size, size), details={**facts.details, "resize": details}
            ),
        )
