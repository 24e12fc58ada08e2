"""The data sets of a run: one in-distribution, one or more out-of-distribution, of one image size, looked at before anything
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ..datasets import Classes, Matching, read_class_map
from ..errors import InputError
from ..images import Images, pixel_digest
from .config import OodConfig
from .generated import PREFIX, GeneratedImages

AVERAGE = "average"  # a column of the tables: no set's name


@dataclass(frozen=True)
class DataSet:
    """One set: its name, its images, and of each, in their order, the digest and the distance that rounding moved it."""

    name: str
    images: Images | GeneratedImages
    digests: tuple[str, ...]
    distances: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.digests)


def _checked(name: str, option: str, images: Images | GeneratedImages, shape: tuple[int, int, int]) -> DataSet:
    channels, height, width = shape
    digests, distances = [], []
    for image in images:
        if image.pixels.shape != (height, width, channels):
            size = f"pass --resize {min(height, width)} --crop {min(height, width)}, or give another data set"
            remedy = size if image.pixels.shape[2] == channels else "give a data set with that many channels"
            raise InputError(
                f"{option} {name}: image {image.index} is {image.pixels.shape}, the engines take {(height, width, channels)}: "
                f"{remedy}"
            )
        digests.append(pixel_digest(image))
        distances.append(image.distance)
    return DataSet(name, images, tuple(digests), tuple(distances))


def _distinct(names: Sequence[str]) -> list[str]:
    """`names` with " (2)", " (3)", … where one is taken by an earlier one or by the tables."""
    taken = [AVERAGE]
    for name in names:
        free = (name if number == 1 else f"{name} ({number})" for number in count(1))
        taken.append(next(each for each in free if each not in taken))
    return taken[1:]


def open_sets(config: OodConfig, shape: tuple[int, int, int]) -> list[DataSet]:
    """The in-distribution set, then the others, each with a name of its own: files of one name get " (2)", " (3)", … appended.

    Raises InputError for images of another size than `shape` (C, H, W).
    """
    inside = Images.chosen(config.in_data, config.choice)
    names = _distinct([config.in_data.name, *(n if n.startswith(PREFIX) else Path(n).name for n in config.out_data)])
    sets = [_checked(names[0], "--in-data", inside, shape)]
    channels, height, width = shape
    for name, shown in zip(config.out_data, names[1:], strict=True):
        if name.startswith(PREFIX):
            made = GeneratedImages(
                name.removeprefix(PREFIX), len(inside), (height, width, channels), config.seed, inside
            )
            sets.append(_checked(shown, "--out-data", made, shape))
        else:
            given = Images.chosen(name, config.choice)
            sets.append(_checked(shown, "--out-data", given, shape))
    return sets


def label_inside(images: Images | GeneratedImages, config: OodConfig, classes: Classes) -> Matching | None:
    """Take the labels of the in-distribution set for classes, as `certify` does; None where it is not known which is which.

    They decide nothing but `--accuracy`: InputError where that is asked for and they are not known, or are none.
    """
    if not isinstance(images, Images):
        return None
    given = None if config.class_map is None else read_class_map(config.class_map)
    try:
        matching = images.match(classes, given)
        wrong = [label for label in images.labels() if not 0 <= label < classes.count] if images.labelled else [-1]
    except InputError:
        if config.accuracy or given is not None:
            raise
        return None
    if wrong and config.accuracy:
        said = f"label {wrong[0]}, the classifier has {classes.count} classes" if images.labelled else "no labels"
        raise InputError(f"--accuracy is a share of right labels, {images.path} has {said}: give labelled --in-data")
    return matching


def overlaps(sets: Sequence[DataSet]) -> list[str]:
    """A sentence for each out-of-distribution set that shares images with the in-distribution one."""
    inside = set(sets[0].digests)
    sentences = []
    for other in sets[1:]:
        shared = sum(digest in inside for digest in other.digests)
        if shared:
            sentences.append(
                f"{shared} of {len(other)} images of {other.name} are also in {sets[0].name}: an image cannot be both"
            )
    return sentences
