"""A transfer as text: certified accuracy of the other classifier, beside the run's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .file import TransferFile, Transferred
from .pairs import Alone

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


def accuracy(images: Sequence[Transferred], radius: float) -> str:
    """The share of images that are certified as their label at `radius`, in percent, rounded down."""
    right = sum(image.correct and (image.outcome.radius or 0.0) >= radius for image in images)
    return f"{math.floor(1000 * right / len(images)) / 10:.1f}"


def text(transfer: TransferFile, radii: Sequence[float] | None = None) -> str:
    """What was transferred, and certified accuracy at radii; in percent, rounded down."""
    record, rule, images = transfer.record, transfer.rule, transfer.images
    at = RADII if radii is None else sorted(set(radii))
    draws = sum(image.pairs.total for image in images)
    agree = math.floor(1000 * sum(image.pairs.agree for image in images) / draws) / 10
    alone = sum(isinstance(image.pairs, Alone) for image in images)
    mean = sum(image.outcome.radius or 0.0 for image in images) / len(images)
    whose = "all images together" if record.stopping.family_wise else "each image"
    lines = [
        f"{transfer.path}: certificates for {transfer.classifier.id} from {transfer.run}, a run of {record.classifier.id}",
        f"  method={record.method} sigma={record.classifier.sigma} alpha={transfer.alpha} for {whose}: {rule.of_votes:.3g} for the "
        f"run's votes, {rule.of_pairs:.3g} for {transfer.pairs} pairs",
        f"  labels agree on the run's class in {agree:.1f} % of draws; {alone} of {len(images)} images, of nearly unanimous votes, "
        f"had {2 * transfer.pairs} draws of the other classifier alone",
    ]
    if len(images) < len(record.asked):
        lines.append(f"  {len(images)} of {len(record.asked)} images: the run was not finished")
    for whose, drawn in (("the run", record.key_drawn), ("the pairs", transfer.key_drawn)):
        if not drawn:
            lines.append(
                f"  the key of {whose} was given, not drawn: whoever gave it could have tried many and kept one"
            )
    assumed = [part for part, state in transfer.rows.items() if state != "proved"]
    if assumed:
        lines.append(f"  rows of {', '.join(assumed)} are assumed independent")
    head = ["images", *(f"acc@{radius:g}" for radius in at), "mean radius", "abstain"]
    abstain = sum(image.outcome.predict < 0 for image in images)
    row = [
        str(len(images)),
        *(accuracy(images, radius) for radius in at),
        f"{math.floor(1000 * mean) / 1000:.3f}",
        str(abstain),
    ]
    widths = [max(len(a), len(b)) for a, b in zip(head, row, strict=True)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in (head, row)]
    return "\n".join(lines)


def tsv(transfer: TransferFile) -> str:
    """The papers' columns; radii truncated, `time` 0."""
    from ..statistics.bounds import truncate

    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
    for image in transfer.images:
        out = image.outcome
        radius = "0.0" if out.predict < 0 else truncate(out.radius or 0.0)
        lines.append(f"{image.index}\t{image.label}\t{out.predict}\t{radius}\t{int(image.correct)}\t0:00:00")
    return "\n".join(lines) + "\n"
