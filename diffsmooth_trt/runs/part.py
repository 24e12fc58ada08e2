"""What a long command keeps beside the file that it writes whole at its end: the same kind of file, of the images that are done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import InputError
from ..images import Image, pixel_digest
from ..noise import Key


def part_of(out: Path) -> Path:
    """Where the command that makes `out` keeps what is done."""
    return out.with_name(f"{out.name}.part")


def check_begun(out: Path, resume: bool) -> None:
    """InputError where what is there is in the way of a new file; with `resume` it is gone on with."""
    part = part_of(out)
    if part.exists() and not resume:
        raise InputError(f"{part} keeps what was done of --out {out}: pass --resume to go on with it, or remove it")
    if out.exists() and not resume:
        raise InputError(f"--out {out} exists: give another name")


def begun(out: Path, resume: bool) -> Path | None:
    """The file to go on with: the part, or where there is none the whole file; None for a new one."""
    return next((path for path in (part_of(out), out) if resume and path.exists()), None)


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
