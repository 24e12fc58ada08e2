"""Which kind of data set a path is."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .arrays import open_cifar, open_npz
from .base import Source, reading, some
from .folder import SPLITS, FolderSource
from .tables import STATE, open_parquet, open_saved
from .tars import TarSource

FORMATS = (
    "a parquet file or several ('DIR/test-*.parquet'), an image folder, a folder saved by datasets, WebDataset .tar files, an "
    ".npz or CIFAR binary .bin files"
)
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def files_at(path: Path) -> list[Path]:
    """What lies at `path`: itself, or the files that a pattern with * ? [ ] or {000..011} means; nothing where nothing does."""
    if os.path.exists(path):  # also of a name too long to be one, which Path.exists raises for
        return [path]
    text = str(path)
    match = RANGE.search(text)
    if match is None:
        return sorted(map(Path, glob.glob(text)))
    low, high = int(match[1]), int(match[2])
    numbers = (str(number).zfill(len(match[1])) for number in range(low, min(high, low + 10**6) + 1))
    named = [Path(RANGE.sub(number, text, count=1)) for number in numbers]
    missing = [str(each) for each in named if not each.is_file()]
    if missing and len(missing) < len(named):
        raise InputError(
            f"{path} names {some(missing)}, which is not there: restore it, or give the range that is there"
        )
    return [] if missing else named


def open_source(path: Path, quantise: bool) -> Source:
    """The data set at `path`. Raises InputError for what is none, in one line with a remedy."""
    with reading(path, "readable"):
        files = files_at(path)
        if not files:
            raise InputError(f"{path} does not exist: give {FORMATS}")
        if len(files) == 1 and files[0].is_dir():
            return _open_folder(files[0])
        kinds = sorted({file.suffix for file in files})
        if len(kinds) > 1:
            raise InputError(f"{path} means files of several kinds ({some(kinds)}): give one kind, like '*{kinds[0]}'")
        if kinds == [".parquet"]:
            return open_parquet(path, _of_one_split(path, files))
        if kinds == [".tar"]:
            return TarSource(path, _of_one_split(path, files))
        if kinds == [".bin"]:
            return open_cifar(path, files)
        if kinds == [".npz"] and len(files) == 1:
            return open_npz(path, quantise)
    raise InputError(f"{path} is of no known kind: give {FORMATS}")


def _open_folder(path: Path) -> Source:
    if (path / STATE).is_file() or (path / "dataset_dict.json").is_file():
        return open_saved(path)
    for folder in (path, path / "data"):  # of a repository of the Hugging Face Hub
        for suffix in (".parquet", ".tar"):
            files = sorted(file for file in folder.glob(f"[!.]*{suffix}") if file.is_file())
            if files:
                shards = _of_one_split(folder, files)
                return open_parquet(path, shards) if suffix == ".parquet" else TarSource(path, shards)
    files = sorted(file for file in path.glob("[!.]*.bin") if file.is_file())
    binaries = [file for file in files if "test" in file.stem] or files
    return open_cifar(path, binaries) if binaries else FolderSource(path)


def _of_one_split(path: Path, files: Sequence[Path]) -> Sequence[Path]:
    """The files, if they are all those of one split; else InputError."""
    shards = {file: SHARD.fullmatch(file.stem) for file in files}
    splits = sorted({match[1] for match in shards.values() if match})
    named = {word for file in files for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLITS}
    if len(splits) > 1 or len(named) > 1:
        split = splits[0] if len(splits) > 1 else sorted(named)[0]
        folder = path if path.is_dir() else files[0].parent
        raise InputError(
            f"{path} holds the splits {some(splits if len(splits) > 1 else sorted(named))}, expected one: give "
            f"'{folder / split}*{files[0].suffix}'"
        )
    for match in shards.values():
        if match and len(splits) == 1 and int(match[3]) != sum(map(bool, shards.values())) and len(files) > 1:
            raise InputError(
                f"{path} holds {len(files)} files of {int(match[3])} that {match[1]} has: fetch the others, or give one file"
            )
    return files
