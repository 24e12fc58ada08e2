"""The data sets of a run: one in-distribution, one or more out-of-distribution, of one image size, looked at before anything
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..certify.runner import pixel_digest
from ..data import Images
from ..errors import InputError
from .config import OodConfig
from .generated import PREFIX, GeneratedImages


@dataclass(frozen=True)
class DataSet:
    """One set: its name, its images and the digest of each, in their order."""

    name: str
    images: Images | GeneratedImages
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.digests)


def _checked(name: str, option: str, images: Images | GeneratedImages, shape: tuple[int, int, int]) -> DataSet:
    channels, height, width = shape
    digests = []
    for image in images:
        if image.pixels.shape != (height, width, channels):
            raise InputError(
                f"{option} {name}: image {image.index} is {image.pixels.shape}, the engines take {(height, width, channels)}: "
                f"pass --resize {min(height, width)} --crop {min(height, width)}, or another data set"
            )
        digests.append(pixel_digest(image))
    return DataSet(name, images, tuple(digests))


def open_sets(config: OodConfig, shape: tuple[int, int, int]) -> list[DataSet]:
    """The in-distribution set, then the others. Raises InputError for images of another size than `shape` (C, H, W)."""
    options = {"resize": config.resize, "crop": config.crop, "quantise": config.quantise, "limit": config.max}
    inside = Images(config.in_data, skip=config.skip, **options)  # type: ignore[arg-type]
    sets = [_checked(config.in_data.name, "--in-data", inside, shape)]
    channels, height, width = shape
    for name in config.out_data:
        if name.startswith(PREFIX):
            made = GeneratedImages(
                name.removeprefix(PREFIX), len(inside), (height, width, channels), config.seed, inside
            )
            sets.append(_checked(name, "--out-data", made, shape))
        else:
            given = Images(name, skip=config.skip, **options)  # type: ignore[arg-type]
            sets.append(_checked(Path(name).name, "--out-data", given, shape))
    return sets


def overlaps(sets: Sequence[DataSet]) -> list[str]:
    """A sentence for each out-of-distribution set that shares images with the in-distribution one."""
    inside = set(sets[0].digests)
    found = []
    for other in sets[1:]:
        shared = sum(digest in inside for digest in other.digests)
        if shared:
            found.append(
                f"{shared} of {len(other)} images of {other.name} are also in {sets[0].name}: an image cannot be both"
            )
    return found
