"""Which kind of data set a path is."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .arrays import open_cifar, open_npz
from .base import Source, reading
from .folder import FolderSource
from .tables import ParquetSource

FORMATS = "a parquet file, an image folder, an .npz or CIFAR binary .bin files"


def open_source(path: Path, quantise: bool) -> Source:
    with reading(path, "readable"):
        if not path.exists():
            raise InputError(f"{path} does not exist: give {FORMATS}")
        if path.is_dir():
            files = sorted(file for file in path.glob("[!.]*.bin") if file.is_file())
            binaries = [file for file in files if "test" in file.stem] or files
            return open_cifar(path, binaries) if binaries else FolderSource(path)
        if path.suffix == ".parquet":
            return ParquetSource(path)
        if path.suffix == ".npz":
            return open_npz(path, quantise)
        if path.suffix == ".bin":
            return open_cifar(path, [path])
    raise InputError(f"{path} is of no known kind: give {FORMATS}")
