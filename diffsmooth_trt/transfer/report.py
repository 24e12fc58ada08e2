"""A transfer as text: certified accuracy of the other classifier, beside what its certificates rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import InputError
from ..runs.evidence import given_keys
from ..runs.file import UNRECORDED
from ..runs.part import SUFFIX as PART
from .file import TransferFile
from .pairs import Alone, Pairs

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


def share(part: float, whole: int) -> str:
    """A share in percent, rounded down."""
    return f"{math.floor(1000 * part / whole) / 10:.1f}"


def certified(transfer: TransferFile, radius: float, *, right: bool) -> str:
    """The share of images that are certified at `radius`, `right`: as their label; those that the run skipped are not."""
    held = sum(
        image.outcome.predict >= 0 and (image.outcome.radius or 0.0) >= radius and (image.correct or not right)
        for image in transfer.images
    )
    return share(held, transfer.counted)


def agreement(transfer: TransferFile) -> str:
    """How often the two say the same of pairs, and how often the other says the run's class where it was drawn alone."""
    pairs = [image.pairs for image in transfer.images if isinstance(image.pairs, Pairs)]
    alone = [image.pairs for image in transfer.images if isinstance(image.pairs, Alone)]
    said = []
    if pairs:
        agree, total = sum(each.agree for each in pairs), sum(each.total for each in pairs)
        said.append(f"{len(pairs)} images by pairs, of which {share(agree, total)} % agree on the run's class")
    if alone:
        hits, total = sum(each.hits for each in alone), sum(each.total for each in alone)
        said.append(
            f"{len(alone)} by {2 * transfer.pairs} draws of the other classifier alone, which prove more there: "
            f"{share(hits, total)} % say the run's class"
        )
    return "; ".join(said)


def text(transfer: TransferFile, radii: Sequence[float] | None = None) -> str:
    """What was transferred, and certified accuracy at radii; in percent, rounded down."""
    record, rule, images = transfer.record, transfer.rule, transfer.images
    at = RADII if radii is None else sorted(set(radii))
    whose = "all images together" if record.stopping.family_wise else "each image"
    lines = [
        f"{transfer.path}: certificates for {transfer.classifier.id} from {transfer.run}, a run of {record.classifier.id}",
        f"  method={record.method} sigma={record.classifier.sigma} alpha={transfer.alpha} for {whose}: {rule.of_votes:.3g} for the "
        f"run's votes, {rule.of_pairs:.3g} for {transfer.pairs} pairs",
        f"  {agreement(transfer)}",
        *(f"  {note}" for note in notes(transfer)),
    ]
    if not record.labelled:
        shares = (f"{certified(transfer, radius, right=False)} % at {radius:g}" for radius in at)
        lines.append(f"  no labels, so there is no accuracy; certified, whatever the class is: {', '.join(shares)}")
    head = ["images", *(f"acc@{radius:g}" for radius in at), "mean radius", "abstain"]
    mean = sum(image.outcome.radius or 0.0 for image in images) / transfer.counted
    abstain = transfer.counted - sum(image.outcome.predict >= 0 for image in images)
    row = [
        str(transfer.counted),
        *(certified(transfer, radius, right=True) if record.labelled else "-" for radius in at),
        f"{math.floor(1000 * mean) / 1000:.3f}",
        str(abstain),
    ]
    widths = [max(len(a), len(b)) for a, b in zip(head, row, strict=True)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in (head, row)]
    return "\n".join(lines)


def notes(transfer: TransferFile) -> list[str]:
    """What else its certificates rest on, a line each."""
    record, lines = transfer.record, []
    if record.skipped:
        lines.append(f"skipped by the run: {len(record.skipped)} that cannot be used, counted as not certified")
    if transfer.path.suffix == PART:
        lines.append("not finished: these are the images that are done, `transfer --resume` goes on with them")
    elif transfer.counted < len(record.asked):
        lines.append(f"{transfer.counted} of {len(record.asked)} images: the run was not finished")
    lines += given_keys({"the run": record.key_drawn, "the pairs": transfer.key_drawn})
    assumed = [part for part, state in transfer.rows.items() if state != "proved"]
    if assumed:
        lines.append(f"rows of {', '.join(assumed)} are assumed independent")
    if not record.has_distances:
        lines.append(UNRECORDED)
    return lines


def tsv(transfer: TransferFile) -> str:
    """The papers' columns; radii truncated, `time` 0. Raises InputError where images are missing: scripts take shares of rows."""
    from ..statistics.bounds import truncate

    record, asked = transfer.record, len(transfer.record.asked)
    if transfer.counted < asked:
        raise InputError(
            f"--tsv: {transfer.path} has {transfer.counted} of {asked} images, the shares of which mean nothing: finish the run, "
            "then transfer it"
        )
    rows = {row: f"{row}\t{label}\t-1\t0.0\t0\t0:00:00" for row, (label, _) in record.skipped.items()}
    for image in transfer.images:
        out = image.outcome
        radius = "0.0" if out.predict < 0 else truncate(out.radius or 0.0)
        rows[image.index] = f"{image.index}\t{image.label}\t{out.predict}\t{radius}\t{int(image.correct)}\t0:00:00"
    return "\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *(rows[row] for row in sorted(rows))]) + "\n"
