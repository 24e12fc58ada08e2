"""A model card of a run: Markdown with the front matter that model hubs read, and every number rounded against us."""

from __future__ import annotations

import json

from ..errors import InputError
from .curves import certified_counts
from .tables import DEFAULT_RADII, Summary


def model_card(summary: Summary, radii: list[float] | None = None) -> str:
    """The card of a finished or unfinished certify run, at `radii` (ℓ2, image units; by default preset or usual ones).

    An image that the run still lacks counts as not certified, and shares are cut off after a tenth of a percent. Raises InputError
    for a run of predict, which has no radii, and for images without labels.
    """
    if not summary.certified:
        raise InputError(f"--model-card is for runs of certify, {summary.name} is one of predict: leave it out")
    if summary.asked and (summary.labels < 0).all():
        raise InputError(f"--model-card has accuracies, the images of {summary.name} have no labels: leave it out")
    at = sorted(set(radii or summary.preset or DEFAULT_RADII))
    counts, _ = certified_counts(summary.labels, summary.predicted, summary.radii, at)
    shares = [
        (radius, int(count), _percent(int(count), summary.asked)) for radius, count in zip(at, counts, strict=True)
    ]
    name = f"{summary.record.method} {summary.name}"
    lines = ["---", "library_name: diffsmooth-trt", "pipeline_tag: image-classification", "tags:"]
    lines += ["- certified-robustness", "- randomized-smoothing", "model-index:", f"- name: {json.dumps(name)}"]
    lines += ["  results:", "  - task:", "      type: image-classification", "    dataset:"]
    source = summary.record.source or "arrays"
    lines += [
        f"      name: {json.dumps(source, ensure_ascii=False)}",
        f"      type: {json.dumps(source, ensure_ascii=False)}",
    ]
    lines += ["    metrics:"]
    for radius, _, share in shares:
        lines += [
            "    - type: certified_accuracy",
            f"      name: certified accuracy at l2 {radius:g}",
            f"      value: {share}",
        ]
    return "\n".join([*lines, "---", "", *_body(summary, shares), ""])


def _percent(count: int, of: int) -> str:
    """A share in percent, cut off after one digit."""
    tenths = 1000 * count // max(of, 1)
    return f"{tenths // 10}.{tenths % 10}"


def _body(summary: Summary, shares: list[tuple[float, int, str]]) -> list[str]:
    """What people read."""
    record = summary.record
    lines = [
        f"# {summary.name}",
        "",
        f"A smoothed image classifier, certified with diffsmooth-trt: {summary.title}.",
        "",
    ]
    lines += ["| ℓ2 radius | images certified and right | certified accuracy |", "|---|---|---|"]
    lines += [f"| {radius:g} | {count} of {summary.asked} | {share} % |" for radius, count, share in shares]
    lines += ["", "## What that says", ""]
    if summary.conditional:
        lines += [
            "- Within the radius the answer cannot change, *if* the Lipschitz constant of the logits is what was assumed."
        ]
    elif record.stopping.family_wise:
        lines += [f"- All radii together are right with probability at least 1 − {summary.alpha:g} over the noise."]
    else:
        lines += [
            f"- Each radius is wrong with probability at most {summary.alpha:g} over the noise; they are not right all together."
        ]
    lines += [f"- Distances are ℓ2, in {summary.space}. Other norms, and images outside of that, are not spoken of."]
    if not summary.conditional:
        drawn = (
            "was drawn by the run"
            if record.key_drawn
            else "was given: trust it only if its giver could not choose it after the fact"
        )
        lines += [f"- The noise's key {drawn}."]
    lines += [f"- It says nothing of the {summary.missing} images that the run still lacks."] if summary.missing else []
    lines += [f"- The classifier abstained on {summary.abstentions} of {len(summary.images)} images."]
    lines += [f"- {note}" for note in record.notes]
    lines += ["", "## What was certified", "", "| part | engine | SHA-256 |", "|---|---|---|"]
    for part, values in record.classifier.engines.items():
        lines += [f"| {part} | {values['backend']} {values['precision']} | `{values.get('sha256', '')}` |"]
    lines += [
        "",
        f"Classifier id `{record.classifier.id}`. Another backend, precision or batch size is another classifier.",
        "",
    ]
    lines += ["Anybody who has the run store, the engines and the images checks it:", "", "```sh"]
    return [*lines, f"diffsmooth-trt verify {summary.name}.sqlite --fraction 0.01", "```"]
