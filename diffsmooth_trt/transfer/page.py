"""Transfers as a page: certified accuracy of the other classifier beside the run's own, and every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..report.chart_page import Chart, ChartPage, Line, Table, chart_page, falling
from ..report.page_data import exactly_less
from ..report.plain_words import classifier_facts, key_words
from ..statistics.bounds import truncate
from .file import TransferFile, Transferred
from .pairs import Alone
from .report import RADII, notes, share, text

LEAST = 0.1  # of a chart's axis


def page(files: Sequence[TransferFile], radii: Sequence[float] | None = None) -> str:
    """The page of one or more transfers. radii: those of the tables, by default `RADII`."""
    first, several = files[0], len(files) > 1
    at = RADII if radii is None else sorted(set(radii))
    return chart_page(
        ChartPage(
            files=[transfer.path.name for transfer in files],
            lede=f"{len(files)} transfers, side by side." if several else _lede(first, at),
            set="; ".join(_asked(transfer, named=several) for transfer in files),
            warnings=[said for transfer in files for said in _warnings(transfer)],
            figures=[] if several else _figures(first, at),
            charts=[_chart(files)],
            tables=[_table(files, at), *(_images(transfer, named=several) for transfer in files)],
            words=_words(),
            facts=[(f"What was transferred to what{f': {t.path.name}' * several}", _facts(t)) for t in files],
        ),
        "\n".join(text(each, radii) for each in files),
    )


def _right(transfer: TransferFile, image: Transferred) -> bool:
    """Whether an answer counts: as the label, and without labels any."""
    return image.outcome.predict >= 0 and (image.correct or not transfer.record.labelled)


def _radii(transfer: TransferFile) -> list[float]:
    """Radii of the right answers."""
    return [image.outcome.radius or 0.0 for image in transfer.images if _right(transfer, image)]


def _run_radii(transfer: TransferFile) -> list[float] | None:
    """Those of the run, from its votes; None of a run of preset radii."""
    found = []
    for image in transfer.images:
        radius = transfer.rule.run_radius(image.evidence)
        if radius is None:
            return None
        if radius > 0 and (image.chosen == image.label or not transfer.record.labelled):
            found.append(radius)
    return found


def _share(radii: Sequence[float], at: float, images: int) -> str:
    """Of the images, those with a radius of `at` or more."""
    return share(sum(radius >= at for radius in radii), images)


def _mean(radii: Sequence[float], images: int) -> str:
    return f"{math.floor(1000 * sum(radii) / images) / 1000:.3f}"


def _lede(transfer: TransferFile, at: Sequence[float]) -> str:
    n, radius = transfer.counted, next((r for r in at if r > 0), at[0])
    kept = sum(each >= radius for each in _radii(transfer))
    which = "right answer" if transfer.record.labelled else "answer"
    whose = "all of them together" if transfer.record.stopping.family_wise else "each"
    return (
        f"Of {n:,} image{'s' * (n != 1)}, {kept:,} keep their {which} by the other classifier under every change of ℓ2 length "
        f"below {radius:g}, {whose} with probability {exactly_less(transfer.alpha)} over the noise."
    )


def _asked(transfer: TransferFile, *, named: bool) -> str:
    return (
        f"{f'{transfer.path.name}: ' * named}from {Path(transfer.run).name} to {transfer.classifier.id}, σ = "
        f"{transfer.record.classifier.sigma:g}, {transfer.pairs:,} pairs of draws an image at α = {transfer.alpha:g}"
    )


def _warnings(transfer: TransferFile) -> list[str]:
    return [f"{transfer.path.name}: {note}." for note in notes(transfer)]


def _figures(transfer: TransferFile, at: Sequence[float]) -> list[tuple[str, str, str]]:
    n, radius = transfer.counted, next((r for r in at if r > 0), at[0])
    mine, own = _radii(transfer), _run_radii(transfer)
    draws, agree = (sum(getattr(image.pairs, name) for image in transfer.images) for name in ("total", "agree"))
    return [
        (
            f"certified at {radius:g}",
            f"{_share(mine, radius, n)} %",
            "" if own is None else f"the run: {_share(own, radius, n)} %",
        ),
        (
            "average certified radius" if transfer.record.labelled else "mean radius",
            _mean(mine, n),
            "" if own is None else f"the run: {_mean(own, n)}",
        ),
        ("images", f"{n:,}", ""),
        ("abstentions", str(n - sum(image.outcome.predict >= 0 for image in transfer.images)), ""),
        ("labels that agree", f"{share(agree, draws)} %", f"of {draws:,} draws"),
    ]


def _chart(files: Sequence[TransferFile]) -> Chart:
    by_file = [(_radii(transfer), _run_radii(transfer)) for transfer in files]
    reach = 1.08 * max([LEAST, *(radius for mine, own in by_file for radius in [*mine, *(own or [])])])
    lines = []
    for colour, (transfer, (mine, own)) in enumerate(zip(files, by_file, strict=True)):
        n, name = transfer.counted, f" ({transfer.path.name})" if len(files) > 1 else ""
        lines.append(Line(name=f"the other classifier{name}", points=falling(mine, n, reach), colour=colour))
        if own is not None:
            said = f"the run, by its votes at α = {transfer.rule.of_run:.3g}{name}"
            lines.append(Line(name=said, points=falling(own, n, reach), colour=colour, dash=1))
    labelled = all(transfer.record.labelled for transfer in files)
    which = "that are answered right" if labelled else "whose answer is certified, and right where there are labels"
    return Chart(
        title="Certified accuracy" if labelled else "Certified answers",
        said=f"The share of images {which}, with at least this radius.",
        x="ℓ2 radius in image units",
        y="% of images",
        lines=lines,
        reach=(0.0, reach),
    )


def _table(files: Sequence[TransferFile], at: Sequence[float]) -> Table:
    rows = []
    for transfer in files:
        n = transfer.counted
        for name, radii in ((transfer.path.name, _radii(transfer)), (Path(transfer.run).name, _run_radii(transfer))):
            if radii is not None:
                rows.append([name, *(_share(radii, radius, n) for radius in at), _mean(radii, n)])
    labelled = all(transfer.record.labelled for transfer in files)
    head = ["file", *(f"at {radius:g}" for radius in at), "ACR" if labelled else "mean radius"]
    said = (
        "Certified accuracy in percent." if labelled else "Certified answers, right where there are labels, in percent."
    )
    return Table(title="At each radius", said=said, head=head, rows=rows)


def _images(transfer: TransferFile, *, named: bool) -> Table:
    return Table(
        title=f"Images{f': {transfer.path.name}' * named}",
        said="What each certificate follows from: pairs in which only the run's classifier said the class, or draws of the other.",
        head=["image", "label", "answer", "radius", "the run's", "draws"],
        rows=[_image(transfer, image) for image in transfer.images],
        text=(0, 5),
    )


def _image(transfer: TransferFile, image: Transferred) -> list[str]:
    out, own, pairs = image.outcome, transfer.rule.run_radius(image.evidence), image.pairs
    drawn = (
        f"{pairs.hits:,} of {pairs.total:,} alone say the class"
        if isinstance(pairs, Alone)
        else f"{pairs.f_alone:,} of {pairs.total:,} pairs differ"
    )
    return [
        str(image.index),
        str(image.label) if transfer.record.labelled else "–",
        "abstains" if out.predict < 0 else str(out.predict),
        truncate(out.radius or 0.0) if out.predict >= 0 else "–",
        truncate(own) if own else "–",
        drawn,
    ]


def _words() -> list[tuple[str, str]]:
    return [
        (
            "What is claimed",
            "The certificates are of the other classifier, smoothed: of int8 engines for example, from a run of fp32 ones.",
        ),
        (
            "What it follows from",
            "Where the run's classifier says a class and both agree, the other one says it too. The run's votes bound the first, "
            "a few draws that both see bound the second, and α is split between them. Where votes are nearly unanimous, draws of "
            "the other one alone prove more, and take their place.",
        ),
        (
            "What it rests on",
            "What the run rests on, and the same of the other classifier's engines. `diffsmooth-trt verify` draws a share of the "
            "pairs again.",
        ),
    ]


def _facts(transfer: TransferFile) -> list[tuple[str, str]]:
    other = [
        (f"Other: {name[:1].lower()}{name[1:]}", said)
        for name, said in classifier_facts(transfer.classifier, transfer.files)
    ]
    run = [(f"Run: {name[:1].lower()}{name[1:]}", said) for name, said in _of_run(transfer)]
    return [
        *other,
        *run,
        ("Key of the pairs", key_words(transfer.key, transfer.key_drawn)),
        (
            "α",
            f"{transfer.alpha:g}: {transfer.rule.of_votes:.3g} for the votes, {transfer.rule.of_pairs:.3g} for the pairs",
        ),
        ("Versions", ", ".join(f"{name} {value}" for name, value in transfer.versions.items())),
    ]


def _of_run(transfer: TransferFile) -> list[tuple[str, str]]:
    record = transfer.record
    return [*classifier_facts(record.classifier, record.files), ("Key", key_words(record.key, record.key_drawn))]
