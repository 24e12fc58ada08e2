"""Certificates without sampling: the margin of a diffusion classifier over twice a Lipschitz constant of its logits.

Chen et al. 2024 derive the constant for ideal denoisers and infinitely many noises. For a trained network it is an assumption:
every such radius is conditional on it, and is shown so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..images import Image, Images
from ..methods import DiffusionClassifier, Rows
from ..methods.diffusion_classifier import Terms
from ..noise import SELECTION
from ..runs.store import UNRECORDED, RunStore
from ..runs.verify import Verification, check_asked, check_derived, choice, to_draw
from ..statistics.bounds import ABSTAIN
from .batch import flat_pixels
from .loop import Progress, check_image, pixel_digest
from .rules import Margin


def published_constant(terms: Terms) -> float:
    """(1 + √(2/π))·Σ w_i/s_i, rounded up a little, for logits −Σ w_i·(…), in model units (Chen et al. 2024).

    Published is the mean of w_i/s_i, for logits that are means over the levels; sums on both sides give the same radius.
    """
    return (1 + math.sqrt(2 / math.pi)) * float(np.sum(terms.weights / terms.levels)) * (1 + 1e-12)


def run_margins(method: DiffusionClassifier, store: RunStore, images: Images, progress: Progress) -> None:
    """Finish every image; what the store holds is not computed again."""
    progress.start(len(images), store.finished(), None, 0)

    def left() -> Iterator[Image]:
        for image in images:
            check_image(method, store, image)
            if not store.has_result(image.index):
                yield image

    started = time.perf_counter()
    for found in margins(method, left()):
        each = (time.perf_counter() - started) / len(found)
        for image, margin in found:
            store.add_margin(image.index, margin)
            store.add_seconds(image.index, each)
            store.add_result(image.index)
        store.commit()
        started = time.perf_counter()
        progress.update(0, len(found))


def verify_margins(
    store: RunStore,
    method: DiffusionClassifier,
    images: Images,
    here: Mapping[str, Any],
    *,
    fraction: float,
    seed: int,
    unfinished: bool = False,
) -> Verification:
    """Compute the margins of a `fraction` of the images again and compare them exactly; otherwise as `verify_votes`."""
    done = Verification(store.path, seed)
    check_derived(store.meta, here, done)
    if not math.isclose(store.meta["lipschitz_constant"], here["lipschitz_constant"], rel_tol=1e-9):
        done.mismatches.append(
            f"constant: recorded {store.meta['lipschitz_constant']}, here {here['lipschitz_constant']}"
        )
    held = {store.result(image).image for image in store.images_with_results()}
    done.recorded = done.results = len(held)
    if not held:
        raise InputError(f"run store {store.path} holds no margins yet: go on with the run before verifying it")
    count = to_draw(fraction, len(held))
    order = sorted(held, key=lambda image: choice(done.seed, image, 0, 0))
    chosen = set(order[:count])

    check_asked(images.rows, sorted({*held} | {*store.known_images()} - {*images.rows}), unfinished, done)
    if not store.has_distances:
        done.notes.append(UNRECORDED)

    def same() -> Iterator[Image]:
        left = set(held)
        for image in images:
            if image.index not in left:
                continue
            left.remove(image.index)
            moved = image.distance if store.has_distances else 0.0
            if store.known(image.index) != (image.label, pixel_digest(image), moved):
                done.mismatches.append(
                    f"image {image.index}: label, pixels or distance in --data are not those of the run"
                )
            elif image.index in chosen:
                yield image
        done.mismatches += [f"image {index}: recorded, but --data holds no such image" for index in sorted(left)]

    for found in margins(method, same()):
        for image, margin in found:
            recorded = store.votes(image.index).margin
            if margin != recorded:
                done.mismatches.append(f"image {image.index}: recorded class and margin {recorded}, computed {margin}")
            done.blocks += 1
    return done


def margins(method: DiffusionClassifier, images: Iterable[Image]) -> Iterator[list[tuple[Image, Margin]]]:
    """The images' margins, a batch at a time; an image's does not depend on the others."""
    waiting = iter(images)
    while group := list(islice(waiting, method.batch)):
        pixels = np.stack([flat_pixels(image) for image in group])
        clean = (pixels.astype(np.float32) / np.float32(255)).reshape(len(group), *method.input_shape)
        numbers = np.array([image.index for image in group], np.uint64)
        rows = Rows(np.full_like(numbers, SELECTION), numbers, np.zeros_like(numbers), 0)  # noise is fixed here: no key
        losses = method.losses(clean, rows)
        yield [(image, _margin(method, row)) for image, row in zip(group, losses, strict=True)]


def _margin(method: DiffusionClassifier, losses: NDArray[np.float64]) -> Margin:
    if np.isnan(losses).any():
        return (ABSTAIN, 0.0)
    first, second = np.sort(losses)[:2]
    return int(method.candidates[np.argmin(losses)]), float(second - first)
