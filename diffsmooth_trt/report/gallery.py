"""What a page shows of a run besides its numbers: votes, names of classes, pictures of images, noisy and denoised ones.

All of it comes from the run's file, the data set and the denoiser that it names, where those are at hand: hashes of pixels and
files have to be the recorded ones. What is not at hand is left out, and `notes` say so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import features

from ..engine import BACKENDS, fixed_batch, open_engine
from ..errors import DiffsmoothError, InputError
from ..images import Image, flat_pixels, pixel_digest
from ..methods import METHODS
from ..noise import ESTIMATION, PREDICTION, grid_law
from ..noise.sampler import noisy_images
from ..runs.record import RunRecord, check_noise_version, naming_damage
from ..runs.reopen import check_sha256, locate, recorded_images
from ..runs.store import RunStore
from .tables import Summary

MOST_PICTURES, MOST_CLASSES = 500, 4
NOISY = 12  # images that are shown noisy and denoised
HEAVY = 256 << 20  # bytes of a denoiser from which on a page waits for it only if asked to
BUDGET = 2_000_000  # characters that the pictures of a run take
SIDES = ((96, 85), (64, 75), (48, 60), (32, 50))  # of smaller and smaller pictures: the longer side, the quality
Floats = NDArray[np.float32]
Votes = tuple[tuple[int, int], ...]  # class and votes, the most voted first


@dataclass(frozen=True)
class Seen:
    """What a page shows of one run, in the order of its summary's images.

    votes: an image's most voted classes; drawn: how many votes they are of. pictures: data URIs by image: the image and, where
    they were made, the noisy and the denoised one. names: those of the classes. notes: what is left out, and why.
    """

    votes: tuple[Votes, ...] = ()
    drawn: tuple[int, ...] = ()
    pictures: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def look(store: RunStore, summary: Summary, data: Path | None = None, noisy: int | None = None) -> Seen:
    """What there is to see of a run. data: where its images lie now, by default where they were. noisy: of how many images the
    first draw is made again, by default of 12, and denoised unless the denoiser is a large file.
    """
    votes, drawn = _votes(store, summary) if summary.record.stopping.smoothing else ((), ())
    notes: list[str] = []
    shown = summary.images[:MOST_PICTURES].tolist()
    if len(shown) < len(summary.images):
        notes.append(f"pictures of the first {len(shown)} of {len(summary.images)} images")
    try:
        with naming_damage(f"{store.path} holds values"):
            images = {image.index: image for image in _images(store, summary, set(shown), data)}
    except (DiffsmoothError, OSError) as error:
        said = str(error) if isinstance(error, OSError) else error.message
        return Seen(votes, drawn, names=class_names(summary.record), notes=(f"no pictures: {said}",))
    strange = len(set(shown) - images.keys() - summary.record.skipped.keys())
    if strange:
        notes.append(f"no pictures of {strange} images, whose pixels in --data are not those of the run")
    first = [images[image] for image in shown if image in images][: NOISY if noisy is None else noisy]
    made = _with_noise(store, summary.record, first, noisy is not None, notes) if first else {}
    pixels = {image: [_stretched(each.pixels), *made.get(image, ())] for image, each in images.items()}
    return Seen(votes, drawn, _encoded(pixels), class_names(summary.record), tuple(notes))


def class_names(record: RunRecord) -> tuple[str, ...] | None:
    """The names of a run's classes, where its record knows them: the data set's, of others the classifier's."""
    count, said = record.classes - (record.void is not None), record.class_names or ()
    known = dict(enumerate(said)) if len(said) == count else {}
    known |= {number: name for name, number in (record.matching.classes if record.matching else {}).items()}
    return tuple(known.get(number, str(number)) for number in range(count)) if known else None


def _votes(store: RunStore, summary: Summary) -> tuple[tuple[Votes, ...], tuple[int, ...]]:
    phase = ESTIMATION if summary.certified else PREDICTION
    votes: list[Votes] = []
    drawn: list[int] = []
    for image in summary.images.tolist():
        if image in summary.record.skipped:
            votes.append(())
            drawn.append(0)
            continue
        counts = store.votes(image).totals[phase]
        order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
        void = summary.record.void
        most = [(-1 if label == void else int(label), int(counts[label])) for label in order if counts[label]]
        votes.append(tuple(most))
        drawn.append(int(counts.sum()))
    return tuple(votes), tuple(drawn)


def _images(store: RunStore, summary: Summary, wanted: set[int], data: Path | None) -> Iterator[Image]:
    """Those of the `wanted` images whose pixels are the run's."""
    images = recorded_images(store.record, locate(store, "data", data))
    digests = dict(zip(summary.images.tolist(), summary.digests, strict=True))
    last = max(wanted)
    for image in images:
        if image.index in wanted and pixel_digest(image) == digests[image.index]:
            yield image
        if image.index >= last:
            return


def _with_noise(
    store: RunStore, record: RunRecord, images: list[Image], patient: bool, notes: list[str]
) -> dict[int, list[Floats]]:
    """Each image with its first draw of noise, and that denoised, float32 `[H, W, C]`; `notes` get what cannot be made."""
    if not record.stopping.smoothing:
        return {}
    try:
        check_noise_version(store.path, record.classifier)
        noisy = _noisy(record, images)
    except DiffsmoothError as error:
        notes.append(f"no noisy pictures: {error.message}")
        return {}
    pictures = {image.index: [each] for image, each in zip(images, noisy, strict=True)}
    try:
        with naming_damage(f"{store.path} holds values"):
            denoised = _denoised(store, record, noisy, patient)
    except (DiffsmoothError, OSError) as error:
        said = str(error) if isinstance(error, OSError) else error.message
        notes.append(f"no denoised pictures: {said}")
        return {image: [_laid(each) for each in made] for image, made in pictures.items()}
    for image, each in zip(images, denoised, strict=True):
        pictures[image.index].append(each)
    return {image: [_laid(each) for each in made] for image, made in pictures.items()}


def _noisy(record: RunRecord, images: list[Image]) -> Floats:
    """The images under sample 0 of the run's last phase, float32 `[N, C, H, W]`, not clipped."""
    pixels = np.stack([flat_pixels(image) for image in images])
    height, width, channels = images[0].pixels.shape
    rows = np.array([image.index for image in images], np.uint64)
    out = np.empty((len(images), channels * height * width), np.float32)
    phase = ESTIMATION if record.stopping.certifies else PREDICTION
    noisy_images(
        grid_law(record.classifier.sigma), record.key, phase, pixels, rows, np.zeros(len(images), np.uint64), out
    )
    return out.reshape(-1, channels, height, width)


def _denoised(store: RunStore, record: RunRecord, noisy: Floats, patient: bool) -> list[Floats]:
    """What the run's denoiser makes of them, computed on the CPU; none for methods without one."""
    slots = METHODS[record.method].slots if record.method in METHODS else {}
    option = next((name for name, slot in slots.items() if slot.role == "denoiser"), None)
    if option is None:
        raise InputError(f"method {record.method} has no denoiser")
    part, path = record.classifier.engines[slots[option].part], locate(store, option, None)
    if path.suffix != ".onnx":
        raise InputError(f"--{option} {path} is compiled, a page computes .onnx files only")
    if path.is_file() and path.stat().st_size > HEAVY and not patient:
        raise InputError(f"--{option} {path} has {path.stat().st_size >> 20} MiB: pass --noisy {NOISY} to wait for it")
    check_sha256(option, path, str(part["sha256"]))
    batch = fixed_batch(path) or 1
    backend = part["backend"] if part["backend"] in BACKENDS else None
    with open_engine(path, batch=batch, role="denoiser", sigma=record.classifier.sigma, backend=backend) as engine:
        made: list[Floats] = []
        for start in range(0, len(noisy), batch):
            rows = noisy[start : start + batch]
            padded = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), axis=0)])
            made += [each.copy() for each in np.asarray(engine.run(padded), np.float32)[: len(rows)]]
    return made


def _laid(image: Floats) -> Floats:
    """[C, H, W] as [H, W, C]."""
    return image.transpose(1, 2, 0)


def _stretched(pixels: NDArray[np.uint8]) -> Floats:
    return pixels.astype(np.float32) / np.float32(255)


def _encoded(pictures: Mapping[int, list[Floats]], budget: int = BUDGET) -> dict[int, tuple[str, ...]]:
    """Data URIs of pictures `[H, W, C]` in [0, 1], clipped there: as they are if small, else as small as the budget asks."""
    small = all(max(each.shape) <= SIDES[1][0] for several in pictures.values() for each in several)
    uris: dict[int, tuple[str, ...]] = {}
    for side, quality in (*([(SIDES[1][0], None)] if small else []), *SIDES):
        uris = {
            image: tuple(_uri(each, side, quality) for each in several[:1]) + _others(several[1:], side, quality)
            for image, several in pictures.items()
        }
        if sum(len(uri) for several in uris.values() for uri in several) <= budget:
            break
    return uris


def _others(pictures: list[Floats], side: int, quality: int | None) -> tuple[str, ...]:
    """Noise takes three times the bytes, and its pixels say nothing by themselves."""
    return tuple(_uri(each, side, 85 if quality is None else quality) for each in pictures)


def _uri(picture: Floats, side: int, quality: int | None) -> str:
    pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    image = PillowImage.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if max(image.size) > side:
        image.thumbnail((side, side), PillowImage.Resampling.LANCZOS)
    webp = features.check("webp")
    kind = "webp" if webp else "png" if quality is None else "jpeg"
    options = {} if kind == "png" else {"lossless": True} if quality is None else {"quality": quality}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
