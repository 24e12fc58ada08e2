"""An attack as text and as a figure: certified, attacked and clean accuracy, between which the truth lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..report.figures import blank, check_suffix, picture
from ..runs.evidence import given_keys
from ..runs.part import SUFFIX as PART
from ..statistics.bounds import ABSTAIN
from .file import AttackFile


@dataclass(frozen=True)
class Shares:
    """Of `images`, within ε: how many are `certified` as their label; how many were not shown to be wrong at the image (`clean`)
    or at any point found (`attacked`); how many were `tried`, `broken` there, and left without an answer (`abstained`)."""

    epsilon: float
    images: int
    certified: int
    attacked: int
    clean: int
    tried: int
    broken: int
    abstained: int


def shares(attack: AttackFile, epsilon: float) -> Shares:
    """The shares at ε. Certified ≤ attacked ≤ clean, but for contradictions, as an abstention shows nothing to be wrong."""
    rule, images = attack.rule, attack.images
    clean = [rule.clean(image) in (ABSTAIN, image.label) for image in images]
    broken = [rule.broken(image, epsilon) for image in images]
    here = [(image, point) for image in images for point in image.points if point.epsilon == epsilon]
    return Shares(
        epsilon,
        len(images),
        certified=sum(image.predict == image.label and image.radius >= epsilon for image in images),
        attacked=len(images) - sum(broken),
        clean=sum(clean),
        tried=len(here),
        broken=sum(broken) - (len(images) - sum(clean)),
        abstained=sum(bool(point.votes) and rule.answer(point.votes or {}) == ABSTAIN for _, point in here),
    )


def percent(part: int, whole: int, *, upwards: bool) -> str:
    """A share in percent, rounded against us."""
    tenths = (math.ceil if upwards else math.floor)(1000 * part / whole)
    return f"{tenths / 10:.1f}"


def text(attack: AttackFile) -> str:
    """What was attacked and how, the three accuracies, and contradictions."""
    record, budget, n = attack.record, attack.budget, len(attack.images)
    sigma = record.classifier.sigma
    lines = [
        f"{attack.path}: projected-gradient attack on {attack.run}, a run of {record.classifier.id}",
        f"  method={record.method} sigma={sigma} images={n}; a radius: {budget.restarts} × {budget.steps} gradients over "
        f"{budget.draws} draws, points chosen by {budget.select}",
        f"  answers by {attack.n} draws (the run: {record.stopping.n}) at alpha={attack.alpha} an image",
    ]
    lines += [f"  {said}" for said in given_keys({"the run": record.key_drawn, "the attack": attack.key_drawn})]
    if attack.path.suffix == PART:
        lines.append("  not finished: these are the images that are done, `attack --resume` goes on with them")
    if record.skipped:
        lines.append(f"  skipped by the run: {len(record.skipped)} that cannot be used, which are not among them")
    head = ["radius", "certified", "attacked", "clean", "tried", "broken", "abstain"]
    rows = []
    for each in (shares(attack, epsilon) for epsilon in attack.radii):
        accuracies = (
            percent(each.certified, n, upwards=False),
            percent(each.attacked, n, upwards=True),
            percent(each.clean, n, upwards=True),
        )
        rows.append([f"{each.epsilon:g}", *accuracies, *map(str, (each.tried, each.broken, each.abstained))])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join([*lines, *contradictions(attack)])


def contradictions(attack: AttackFile) -> list[str]:
    """What is said of contradictions: how many, each one, and how likely chance alone makes so many."""
    against, tried = attack.contradicted, attack.tried
    if not tried:
        return ["  no certified image was attacked within its radius"]
    likely = attack.rule.chance(tried, max(1, len(against)))
    of = f"{tried} certified images attacked within their radius"
    chance = f"chance alone makes {'one' if len(against) < 2 else len(against)} or more with probability at most {_up(likely)}"
    if not against:
        return [f"  no certificate is contradicted by {of}; {chance}"]
    lines = [f"  CONTRADICTED: certificates of {len(against)} of {of}; {chance}"]
    for image, point in against:
        away = math.sqrt(point.squared) / 255
        lines.append(
            f"  image {image.index}: certified as {image.predict} within {image.radius:.6f}, answered "
            f"{attack.rule.answer(point.votes or {})} at {away:.6f}"
        )
    return lines


def _up(probability: float) -> str:
    """Two digits, rounded up."""
    if probability <= 0:
        return "0"
    scale = 10.0 ** (math.floor(math.log10(probability)) - 1)
    return f"{min(1.0, math.ceil(probability / scale - 1e-9) * scale):.2g}"


def draw(files: Sequence[AttackFile], kind: str) -> bytes:
    """The three accuracies against the ℓ2 radius, one colour a file, as a picture file of `kind`."""
    figure = blank(6.4, 4.0)
    axes = figure.add_subplot()
    reach = 1.05 * max(max(attack.radii) for attack in files)
    grid = np.linspace(0.0, reach, 500)
    for number, attack in enumerate(files):
        colour, name = f"C{number}", attack.path.name.lstrip("_")
        n = len(attack.images)
        radii = np.array([image.radius for image in attack.images if image.predict == image.label])
        certified = [100 * float((radii >= epsilon).sum()) / n for epsilon in grid]
        at = [shares(attack, epsilon) for epsilon in attack.radii]
        clean = 100 * at[0].clean / n
        axes.plot(grid, np.full_like(grid, clean), color=colour, ls=":", label=f"clean ({name})")
        where, attacked = [0.0, *attack.radii], [clean, *(100 * each.attacked / n for each in at)]
        axes.plot(where, attacked, color=colour, ls="--", marker="o", label=f"attacked ({name})")
        axes.step(grid, certified, where="pre", color=colour, label=f"certified ({name})")
    axes.set(xlabel="ℓ2 radius in image units", ylabel="accuracy, %", xlim=(0, reach), ylim=(0, 100))
    axes.grid(alpha=0.3)
    for label in axes.legend(fontsize=7).get_texts():
        label.set_parse_math(False)
    return picture(figure, kind)


def write_figure(path: Path, files: Sequence[AttackFile]) -> None:
    """Write the curves to `path`, whose suffix chooses the format."""
    check_suffix(path)
    write_atomically(path, draw(files, path.suffix[1:]))
