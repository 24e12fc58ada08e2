"""Attacks as a page: certified, attacked and clean accuracy against the radius, between which the truth lies, and every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..report.chart_page import Chart, ChartPage, Line, Table, chart_page, falling, held
from ..report.plain_words import classifier_facts, key_words
from ..statistics.bounds import ABSTAIN, truncate
from .file import AttackFile
from .report import Shares, contradictions, percent, shares, text
from .rule import Attacked


def page(files: Sequence[AttackFile]) -> str:
    """The page of one or more attacks."""
    first, several = files[0], len(files) > 1
    return chart_page(
        ChartPage(
            files=[attack.path.name for attack in files],
            lede=f"{len(files)} attacks, side by side." if several else _lede(first),
            set="; ".join(_asked(attack, named=several) for attack in files),
            warnings=[" ".join(map(str.strip, contradictions(attack))) for attack in files if attack.contradicted],
            figures=[] if several else _figures(first),
            charts=[_chart(files)],
            tables=[_table(files), *(_images(attack, named=several) for attack in files)],
            words=_words(files),
            facts=[(f"What was attacked with what{f': {a.path.name}' * several}", _facts(a)) for a in files],
        ),
        "\n".join(map(text, files)),
    )


def _lede(attack: AttackFile) -> str:
    at, n = shares(attack, attack.radii[0]), len(attack.images)
    return (
        f"Within an ℓ2 radius of {at.epsilon:g}, {percent(at.certified, n, upwards=False)} % of {n:,} image{'s' * (n != 1)} are "
        f"certified, and the attack leaves {percent(at.attacked, n, upwards=True)} % unbroken: robust accuracy lies between."
    )


def _asked(attack: AttackFile, *, named: bool) -> str:
    budget, sigma = attack.budget, attack.record.classifier.sigma
    return (
        f"{f'{attack.path.name}: ' * named}projected gradients on {Path(attack.run).name}, σ = {sigma:g}; a radius: "
        f"{budget.restarts} × {budget.steps} gradients over {budget.draws} draws; answers by {attack.n:,} draws at α = "
        f"{attack.alpha:g} an image"
    )


def _figures(attack: AttackFile) -> list[tuple[str, str, str]]:
    at, n = shares(attack, attack.radii[0]), len(attack.images)
    return [
        (f"certified at {at.epsilon:g}", f"{percent(at.certified, n, upwards=False)} %", "at least as many are robust"),
        (f"attacked at {at.epsilon:g}", f"{percent(at.attacked, n, upwards=True)} %", "at most as many are robust"),
        ("clean", f"{percent(at.clean, n, upwards=True)} %", "right, or without an answer"),
        ("images", f"{n:,}", f"{at.tried} tried at {at.epsilon:g}"),
        ("contradictions", f"{len(attack.contradicted)}", f"of {attack.tried} certificates attacked"),
    ]


def _chart(files: Sequence[AttackFile]) -> Chart:
    """Attacked accuracy is drawn as what is shown: a radius breaks at least the images that a smaller one breaks."""
    reach, lines = 1.05 * max(max(attack.radii) for attack in files), list[Line]()
    for colour, attack in enumerate(files):
        n, at = len(attack.images), [shares(attack, epsilon) for epsilon in attack.radii]
        name = f" ({attack.path.name})" if len(files) > 1 else ""
        clean = 100 * at[0].clean / n
        steps = [(each.epsilon, 100 * each.attacked / n) for each in at]
        ends = [image.radius for image in attack.images if image.predict == image.label]
        lines += [
            Line(name=f"certified{name}", points=falling(ends, n, reach), colour=colour),
            Line(name=f"attacked{name}", points=held([(0.0, clean), *steps], reach), dots=steps, colour=colour, dash=1),
            Line(name=f"clean{name}", points=[(0.0, clean), (reach, clean)], colour=colour, dash=2),
        ]
    said = (
        "The share of images that certainly keep their right answer, and of those that the attack did not break; what an attack "
        "finds within a radius is there within every larger one."
    )
    between = (0, 1) if len(files) == 1 else None
    return Chart(
        title="Certified, attacked, clean",
        said=said,
        x="ℓ2 radius in image units",
        y="% of images",
        lines=lines,
        reach=(0.0, reach),
        between=between,
    )


def _table(files: Sequence[AttackFile]) -> Table:
    head = ["radius", "certified, %", "attacked, %", "clean, %", "tried", "broken", "abstain"]
    rows = [[attack.path.name, *_row(shares(attack, epsilon))] for attack in files for epsilon in attack.radii]
    said = "Broken ones were not wrong as they are; those that abstain are points found that have no answer."
    if len(files) == 1:
        return Table(title="At each radius", said=said, head=head, rows=[row[1:] for row in rows])
    return Table(title="At each radius", said=said, head=["file", *head], rows=rows)


def _row(at: Shares) -> list[str]:
    n = at.images
    bounds = percent(at.certified, n, upwards=False), percent(at.attacked, n, upwards=True)
    counts = at.tried, at.broken, at.abstained
    return [f"{at.epsilon:g}", *bounds, percent(at.clean, n, upwards=True), *map(str, counts)]


def _images(attack: AttackFile, *, named: bool) -> Table:
    return Table(
        title=f"Images{f': {attack.path.name}' * named}",
        said="The certificate of each image, and the nearest point that the attack found to have a wrong answer.",
        head=["image", "label", "answer", "certified radius", "wrong at a distance of", "answer there"],
        rows=[_image(attack, image) for image in attack.images],
    )


def _image(attack: AttackFile, image: Attacked) -> list[str]:
    clean = attack.rule.clean(image)
    answers = [(point.squared, attack.rule.answer(point.votes)) for point in image.points if point.votes]
    wrong = [(0, clean)] * (clean not in (ABSTAIN, image.label))
    wrong += [(squared, answer) for squared, answer in answers if answer not in (ABSTAIN, image.label)]
    squared, answer = min(wrong, default=(None, ABSTAIN))
    return [
        str(image.index),
        str(image.label),
        _class(clean),
        truncate(image.radius) if image.certified else "–",
        "–" if squared is None else f"{math.sqrt(squared) / 255:.4f}" if squared else "as it is",
        "–" if squared is None else _class(answer),
    ]


def _class(number: int) -> str:
    return "abstains" if number == ABSTAIN else str(number)


def _words(files: Sequence[AttackFile]) -> list[tuple[str, str]]:
    chance = [" ".join(map(str.strip, contradictions(attack))) for attack in files]
    return [
        (
            "What an attack shows",
            "That the smoothed classifier answers wrongly at the points that it found, not that there are no others: a stronger "
            "attack may lower the curve. Below the certified one only chance can bring it, as likely as is said under "
            "contradictions.",
        ),
        (
            "How points are judged",
            "Points are chosen by draws of their own; an answer at a point comes from fresh ones, more of them than the run "
            "took. Where they show no answer, the point counts as unbroken.",
        ),
        ("Contradictions", ". ".join(said[:1].upper() + said[1:] for said in chance) + "."),
    ]


def _facts(attack: AttackFile) -> list[tuple[str, str]]:
    return [
        ("Run", attack.run),
        *classifier_facts(attack.record.classifier, attack.record.files),
        ("Key of the attack", key_words(attack.key, attack.key_drawn)),
        ("Key of the run", key_words(attack.record.key, attack.record.key_drawn)),
        ("Seconds", ", ".join(f"{name} {value:.0f}" for name, value in attack.seconds.items())),
        ("Versions", ", ".join(f"{name} {value}" for name, value in attack.versions.items())),
    ]
