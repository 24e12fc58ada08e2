"""What an engine file says about itself: JSON in the ONNX metadata (key `diffsmooth_trt`) or in a file beside a plan."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ..errors import MALFORMED, InputError
from ..files import parsed_json

METADATA_KEY = "diffsmooth_trt"
VALUE_RANGES = {
    "denoiser": (0.0, 1.0),
    "classifier": (0.0, 1.0),
    "conditional": (-1.0, 1.0),
    "detector": (0.0, 1.0),
}
ROLES = tuple(VALUE_RANGES)
FORMAT = 1


@dataclass(frozen=True)
class EngineFacts:
    """Facts of one engine file.

    `role` is "denoiser" (`[B, C, H, W]` in [0, 1] → the same), "classifier" (→ logits `[B, classes]`), "detector" (→ d
    `[B, 1]`, larger = more in-distribution) or "conditional" (images `[B, C, H, W]` in [-1, 1], noise levels `[B]` in the same
    units and labels `[B]` → images); `input_shape` is (C, H, W), `output_shape` that of the images that a denoiser returns
    where it resizes them as well; `classes` counts real classes only; `sigma` is the noise level in image units that a
    denoiser was folded for, `timestep` the schedule's t*; `precision` that of the graph; `source_sha256` that of the
    checkpoint; `details` anything else, for a conditional denoiser with `null_class`, for a classifier with `class_names`.
    """

    role: str
    input_shape: tuple[int, int, int]
    classes: int | None = None
    sigma: float | None = None
    timestep: float | None = None
    schedule: str | None = None
    family: str | None = None
    precision: str = "fp32"
    value_range: tuple[float, float] = (0.0, 1.0)
    source_sha256: str | None = None
    output_shape: tuple[int, int, int] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"engine role {self.role!r} is unknown: expected one of {', '.join(ROLES)}")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise InputError(f"engine input shape {self.input_shape} is not (C, H, W)")
        if self.output_shape is not None and (
            self.role != "denoiser" or len(self.output_shape) != 3 or min(self.output_shape) < 1
        ):
            raise InputError(f"engine output shape {self.output_shape} of a {self.role} is not a denoiser's (C, H, W)")
        if self.value_range != VALUE_RANGES[self.role]:
            raise InputError(
                f"engine value range {self.value_range} is not {VALUE_RANGES[self.role]} as of every {self.role} engine: "
                "export it again"
            )
        if self.role == "conditional" and self.null_class not in (None, self.classes):
            raise InputError(
                f"engine null class {self.null_class!r} is not the label {self.classes} that follows the "
                "classes: export it again"
            )

    @property
    def denoised_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a denoiser's output."""
        return self.input_shape if self.output_shape is None else self.output_shape

    @property
    def null_class(self) -> int | None:
        """The label of a conditional denoiser that stands for "no class"; None where there is none."""
        label = self.details.get("null_class") if self.role == "conditional" else None
        return label if label is None else int(label)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by number, where the checkpoint knew them."""
        names = self.details.get("class_names")
        if not isinstance(names, list) or len(names) != self.classes:
            return None
        return tuple(names) if all(isinstance(name, str) for name in names) else None

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        if self.output_shape is None:
            del values["output_shape"]  # as in files from before there was one
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, name: str = "engine") -> EngineFacts:
        """Facts read back; `name` names the file in errors."""
        try:
            values = dict(parsed_json(text))
            version = values.pop("format")
            if version != FORMAT:
                raise InputError(
                    f"{name} carries facts of format {version}, this version reads {FORMAT}: export it again"
                )
            values["input_shape"] = tuple(int(size) for size in values["input_shape"])
            if values.get("output_shape") is not None:
                values["output_shape"] = tuple(int(size) for size in values["output_shape"])
            values["value_range"] = tuple(float(end) for end in values["value_range"])
            return cls(**values)
        except MALFORMED as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} carries unreadable facts ({error}): export it again") from None
