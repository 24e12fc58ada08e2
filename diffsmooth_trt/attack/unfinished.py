"""What an attack found so far, kept beside its file until all of it is there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..grid import Pixels
from ..images import Image, pixel_digest
from ..noise import Key
from ..runs.part import begun, check_done, check_images, check_key, check_same, part_of, read_begun
from .file import AttackFile
from .kept import Found, keep, kept_points, of_contradictions
from .rule import Attacked

RARELY = 20.0  # what was found is kept at most so many times as long after the last time as that took, but for 10 s


def points_beside(out: Path) -> Path:
    """Where an attack that makes `out` keeps its points meanwhile."""
    return part_of(out).with_name(f"{part_of(out).name}.npz")


class Unfinished:
    """The attack `asked` for, which has no images yet, with those that `resume` finds done; `key` is the one given, if any.

    Raises InputError where another attack was begun, and where its points are not there. Where the file is there already,
    `finished` is it.
    """

    def __init__(self, asked: AttackFile, wanted: int, key: Key | None, *, resume: bool) -> None:
        self.began, self.spent = time.perf_counter(), time.process_time()
        self.file, self.images, self.found = asked, list[Attacked](), list[Found]()
        self.finished: AttackFile | None = None
        self.kept_at, self.took = 0.0, 0.0
        path = begun(asked.path, resume)
        if path is None:
            return
        before = read_begun(path, AttackFile.read)
        whole = path == asked.path
        check_same(path, _asked(before), _asked(asked))
        check_key(path, before.key, key)
        check_done(path, len(before.images), wanted, whole=whole)
        _check_outputs(asked, before, whole=whole, complete=len(before.images) == wanted)
        if whole:
            self.finished = before
            _remove_part(path)
            return
        self.images, self.found = list(before.images), _points(path, before, points_beside(asked.path))
        self.file = replace(before, path=asked.path, run=asked.run, kept=asked.kept)

    @property
    def key(self) -> Key:
        """The attack's key."""
        return self.file.key

    def skip(self, images: Iterator[Image]) -> None:
        """Take as many of the data's `images` as are done; InputError where they are others."""
        check_images(part_of(self.file.path), self.images, images)

    def add(self, image: Attacked, points: Sequence[Pixels]) -> None:
        """Take in an image with its points."""
        self.images.append(image)
        self.found += [(image, point, pixels) for point, pixels in zip(image.points, points, strict=True)]

    def _so_far(self, path: Path) -> AttackFile:
        spans = {"wall": time.perf_counter() - self.began, "cpu": time.process_time() - self.spent}
        seconds = {name: self.file.seconds.get(name, 0.0) + span for name, span in spans.items()}
        return replace(self.file, path=path, seconds=seconds, images=list(self.images))

    def keep(self) -> None:
        """Put what was found on disk, to be gone on with; not each time where that takes long."""
        if time.perf_counter() - self.kept_at < RARELY * self.took - 10:
            return
        start = time.perf_counter()
        keep(self.found, points_beside(self.file.path))  # first: the file names no point that is not there
        self._so_far(part_of(self.file.path)).write()
        self.kept_at = time.perf_counter()
        self.took = self.kept_at - start

    def finish(self) -> AttackFile:
        """Write the evidence of contradictions, the points where that was asked for, and last the file; remove what was kept."""
        self.took = 0.0
        self.keep()  # first, as it took the longest
        made = self._so_far(self.file.path)
        against = {(image.index, point.epsilon) for image, point in made.contradicted}
        keep([each for each in self.found if (each[0].index, each[1].epsilon) in against], of_contradictions(made.path))
        keep(self.found, None if made.kept is None else Path(made.kept))
        made.write()
        _remove_part(made.path)
        return made


def _remove_part(out: Path) -> None:
    for path in (part_of(out), points_beside(out)):
        path.unlink(missing_ok=True)


def _check_outputs(asked: AttackFile, before: AttackFile, *, whole: bool, complete: bool) -> None:
    """InputError for files that are in the way: only an attack whose images were all done has begun to write them."""
    points = None if asked.kept is None else Path(asked.kept)
    if whole:
        if points is not None and (asked.kept != before.kept or not points.exists()):
            where = f"kept in {before.kept}" if before.kept else "not kept"
            raise InputError(
                f"--out {asked.path} is finished, and its points were {where}: leave --images out, or give another --out"
            )
        return
    ours = complete and asked.kept == before.kept
    for option, path, may in (("--images", points, ours), ("the evidence", of_contradictions(asked.path), complete)):
        if path is not None and path.exists() and not may:
            raise InputError(f"{option} {path} exists: give another name")


def _asked(file: AttackFile) -> dict[str, object]:
    """What decides an attack, by what it is called."""
    budget = {f"--{name}": value for name, value in vars(file.budget).items()}
    return {"run": file.record.to_meta(), "--radius": file.radii, **budget, "--n": file.n, "--alpha": file.alpha}


def _points(path: Path, before: AttackFile, points: Path) -> list[Found]:
    """The points of the attack at `path`, which are kept in `points`."""
    try:
        kept = kept_points(points) if points.exists() else {}
    except InputError:
        kept = {}
    found = [
        (image, point, pixels)
        for image in before.images
        for point in image.points
        if (pixels := kept.get((image.index, point.epsilon))) is not None
        and point.sha256 == pixel_digest(Image(image.index, image.label, pixels))
    ]
    if len(found) < sum(len(image.points) for image in before.images):
        raise InputError(f"{points} does not hold the points of {path}: remove both to start anew")
    return found
