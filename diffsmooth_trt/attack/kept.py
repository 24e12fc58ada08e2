"""Points that an attack found, as an `.npz` that `--data` takes: asked for, or kept as they contradict certificates."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, shortened
from ..files import write_atomically
from ..grid import Pixels
from .rule import Attacked, Point

Found = tuple[Attacked, Point, Pixels]


def of_contradictions(out: Path) -> Path:
    """Where an attack with the file `out` keeps the points that contradict certificates, in any case."""
    return out.with_name(f"{out.stem}.contradictions.npz")


def keep(points: Sequence[Found], path: Path | None) -> None:
    """Write points to `path`; nothing where there are none, or no path. Raises StoreError where that fails."""
    if points and path is not None:
        write_atomically(path, archive(points))


def archive(points: Sequence[Found]) -> bytes:
    """An `.npz`: `images` and `labels`; `index` are the images' rows in the run's data, `epsilon` the radii."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        images=np.stack([pixels for _, _, pixels in points]),
        labels=np.array([image.label for image, _, _ in points], np.int64),
        index=np.array([image.index for image, _, _ in points], np.int64),
        epsilon=np.array([point.epsilon for _, point, _ in points]),
    )
    return file.getvalue()


def kept_points(path: Path) -> Mapping[tuple[int, float], Pixels]:
    """The points in an `.npz` of an attack, uint8 `[H, W, C]`, by row in the run's data and radius. InputError for other files."""
    if not path.is_file():
        raise InputError(f"--images {path} does not exist: give what attack --images wrote")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            images, index, epsilon = (np.asarray(file[name]) for name in ("images", "index", "epsilon"))
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise InputError(
            f"--images {path} holds no points of an attack ({shortened(error)}): give what attack --images wrote"
        ) from None
    fits = images.ndim == 4 and index.shape == epsilon.shape == images.shape[:1]
    if not fits or images.dtype != np.uint8 or index.dtype.kind != "i" or epsilon.dtype.kind != "f":
        raise InputError(f"--images {path} holds no points of an attack: give what attack --images wrote")
    return dict(zip(zip(index.tolist(), epsilon.tolist(), strict=True), images, strict=True))
