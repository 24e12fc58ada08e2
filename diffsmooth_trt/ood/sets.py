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
from ..runs.data import look_over, say_skipped
from .config import OodConfig
from .generated import PREFIX, GeneratedImages

AVERAGE = "average"  # a column of the tables: no set's name


@dataclass(frozen=True)
class DataSet:
    """One set: its name, its images, and of those that can be used, in their order, the row, the digest and the distance that
    rounding moved it. `notes` say what is to be known of the data.
    """

    name: str
    images: Images | GeneratedImages
    rows: tuple[int, ...]
    digests: tuple[str, ...]
    distances: tuple[float, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def skipped(self) -> dict[int, str]:
        """Why rows that were asked for cannot be used."""
        given = self.images.skipped if isinstance(self.images, Images) else {}
        return {row: why for row, (_, why) in sorted(given.items())}


def _checked(
    name: str, images: Images | GeneratedImages, shape: tuple[int, int, int], option: str = "--out-data"
) -> DataSet:
    """The set, once its images are looked at, headers first. Raises InputError for ones that cannot be used, unless skipped."""
    try:
        notes = look_over(images, shape, name=name) if isinstance(images, Images) else []
        seen = [(image.index, pixel_digest(image), image.distance) for image in images]
    except InputError as error:
        raise InputError(f"{option} {name}: {error.message}") from None
    if isinstance(images, Images):
        say_skipped(images, name)
    if not seen:
        raise InputError(f"{option} {name} has no image that can be used: give another data set")
    rows, digests, distances = zip(*seen, strict=True)
    return DataSet(name, images, rows, digests, distances, tuple(f"{name}: {note}" for note in notes))


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
    sets = [_checked(names[0], inside, shape, "--in-data")]
    channels, height, width = shape
    for name, shown in zip(config.out_data, names[1:], strict=True):
        if name.startswith(PREFIX):
            made = GeneratedImages(
                name.removeprefix(PREFIX), len(inside), (height, width, channels), config.seed, inside
            )
            sets.append(_checked(shown, made, shape))
        else:
            sets.append(_checked(shown, Images.chosen(name, config.choice), shape))
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
