"""What a long command keeps beside the file that it writes whole at its end: the same kind of file, of the images that are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from ..errors import InputError, StoreError
from ..images import Image, pixel_digest
from ..noise import Key

SUFFIX = ".part"
Made = TypeVar("Made")


def part_of(out: Path) -> Path:
    """Where the command that makes `out` keeps what is done."""
    return out.with_name(f"{out.name}{SUFFIX}")


def check_begun(out: Path, resume: bool) -> None:
    """InputError where what is there is in the way of a new file; with `resume` it is gone on with."""
    part = part_of(out)
    if part.exists() and not resume:
        raise InputError(f"{part} keeps what was done of --out {out}: pass --resume to go on with it, or remove it")
    if out.exists() and not resume:
        raise InputError(f"--out {out} exists: give another name")


def begun(out: Path, resume: bool) -> Path | None:
    """The file to go on with: the whole file, which is written last, or the part; None for a new one."""
    return next((path for path in (out, part_of(out)) if resume and path.exists()), None)


def read_begun(path: Path, read: Callable[[Path], Made]) -> Made:
    """What `read` makes of the file to go on with; InputError, with what helps, where that is damaged."""
    try:
        return read(path)
    except (InputError, StoreError) as error:
        if path.suffix != SUFFIX:
            raise
        raise InputError(f"{path} is damaged ({error.message}): remove it to start anew") from error


def check_done(path: Path, done: int, wanted: int, *, whole: bool) -> None:
    """InputError unless the `done` images of a whole file are those wanted, and those of a part no more than them."""
    if whole and done != wanted:
        raise InputError(f"--out {path} is finished with {done} images: give another --out for {wanted}")
    if done > wanted:
        raise InputError(f"{path} has {done} images already, got {wanted}: give as many, or another --out")


def check_same(path: Path, recorded: Mapping[str, object], asked: Mapping[str, object]) -> None:
    """InputError where the file at `path` was begun with something else than is `asked` for, by what it is called."""
    for name, value in asked.items():
        if recorded[name] != value:
            raise InputError(f"{path} was begun with another {name}: give what it was begun with, or another --out")


class Done(Protocol):
    """An image in such a file."""

    @property
    def index(self) -> int:
        """Its row in the data set."""

    @property
    def sha256(self) -> str:
        """Of its pixels, as `pixel_digest` has it."""


def check_images(path: Path, done: Sequence[Done], images: Iterator[Image]) -> None:
    """Take as many of the data's `images` as the file at `path` has `done`; InputError where they are others."""
    for each, image in zip(done, images, strict=False):
        if (each.index, each.sha256) != (image.index, pixel_digest(image)):
            raise InputError(f"{path} is of other images: give the data that it was begun with, or remove it")


def check_key(path: Path, recorded: Key, given: Key | None) -> None:
    """InputError where another key is `given` than the file at `path` was begun with."""
    if given not in (None, recorded):
        raise InputError(f"{path} was begun with another --key: leave --key out, or give another --out")
