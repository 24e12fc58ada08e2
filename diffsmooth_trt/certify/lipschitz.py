"""Certificates without sampling: the margin of a diffusion classifier over twice a Lipschitz constant of its logits.

Chen et al. 2024 derive the constant for ideal denoisers and infinitely many noises. For a trained network it is an assumption:
every such radius is conditional on it, and is shown so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np

from ..errors import Stopped
from ..images import Image, Images, flat_pixels, together
from ..methods import Method
from .ledger import Ledger
from .loop import check_image, stopped
from .progress import Progress
from .rules import Margin, Rule, Votes


def run_margins(
    method: Method, ledger: Ledger, rule: Rule, images: Images, progress: Progress, *, stop_at: float | None = None
) -> None:
    """Finish every image; what the ledger holds is not computed again. Raises Stopped once it is past `stop_at`."""
    progress.start(len(images), ledger.finished(), None, 0)

    def left() -> Iterator[Image]:
        for image in images:
            check_image(method, ledger, image)
            if not ledger.has_result(image.index):
                yield image

    started = time.perf_counter()
    for batch in margins(method, left()):
        each = (time.perf_counter() - started) / len(batch)
        for image, margin in batch:
            votes = Votes(rule.plan, method.bins, image.distance)
            votes.margin = margin
            ledger.add_margin(image.index, margin)
            ledger.add_seconds(image.index, each)
            ledger.add_result(image.index, rule.outcome(votes))
        ledger.commit()
        started = time.perf_counter()
        progress.update(0, len(batch))
        if stop_at is not None and time.monotonic() > stop_at:
            raise Stopped(stopped(ledger))


def margins(method: Method, images: Iterable[Image]) -> Iterator[list[tuple[Image, Margin]]]:
    """The images' margins, a batch at a time; an image's does not depend on the others."""
    for group in together(images, method.batch):
        pixels = np.stack([flat_pixels(image) for image in group])
        clean = (pixels.astype(np.float32) / np.float32(255)).reshape(len(group), *method.input_shape)
        values = method.margins(clean, np.array([image.index for image in group], np.uint64))
        yield list(zip(group, values, strict=True))
