"""What a page holds, as JSON values: the page's script draws them, and computes nothing but sums of images.

Whatever is a bound is rounded here, outward: shares of images in percent with one digit, radii cut after six.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.bounds import truncate
from .curves import average_certified_radius, certified_accuracy_interval, certified_counts
from .gallery import Seen
from .paired import Pair, pair, unlike
from .plain_words import assumptions, facts
from .tables import Summary, envelope, percent, share, shown_radii

MOST_STEPS = 500  # of a curve; between them it is drawn at the lower value


def document(
    summaries: Sequence[Summary], radii: Sequence[float] | None, seen: Sequence[Seen], *, enveloped: bool
) -> dict[str, Any]:
    """All that the page shows. `seen` has what else there is of each run."""
    at = sorted(set(shown_radii(summaries) if radii is None else radii))
    certified_counts([0], [0], [0.0], at)  # InputError for what is no radius
    runs = [run(summary, at, each) for summary, each in zip(summaries, seen, strict=True)]
    if enveloped:
        best = envelope(summaries)
        runs.append({**run(best, at, Seen()), "envelope": True, "title": ENVELOPE.format(f"{best.alpha:.3g}")})
    return {
        "version": version("diffsmooth-trt"),
        "radii": at,
        "runs": runs,
        "pairs": [pair_data(summaries[0], other, at) for other in summaries[1:]],
        "lede": [lede(summary, at) for summary in summaries],
    }


ENVELOPE = (
    "an image's largest radius over the runs; all its radii are right together with probability 1 − {}; it picks a classifier "
    "for each image by its label, so it is no certificate of one classifier"
)


def run(summary: Summary, at: Sequence[float], seen: Seen) -> dict[str, Any]:
    """One run."""
    outcome = summary.truth, summary.predicted, summary.radii
    counts = certified_counts(*outcome, at)[0] if summary.certified else np.array([], np.int64)
    average = truncate(average_certified_radius(*outcome, summary.missing), 4)
    correct = int((summary.predicted == summary.labels).sum())
    return {
        "name": summary.name,
        "title": summary.title,
        "certified": summary.certified,
        "labelled": summary.labelled,
        "asked": summary.asked,
        "missing": summary.missing,
        "space": summary.space,
        "sigma": summary.record.classifier.sigma,
        "shares": [share(int(count), summary) for count in counts],
        "accuracy": share(correct, summary),
        "average": None
        if summary.preset or not summary.certified or not summary.labelled
        else ("≥ " if summary.missing else "") + average,
        "samples": f"{summary.samples.mean():,.0f}",
        "drawn": int(summary.samples.sum()),
        "seconds": f"{summary.seconds / len(summary.images):.2f}",
        "curve": curve(summary) if summary.certified else None,
        "rows": rows(summary, seen),
        "preset": list(summary.preset),
        "names": list(seen.names) if seen.names else None,
        "pictures": {str(image): list(uris) for image, uris in seen.pictures.items()},
        "left_out": list(seen.notes),
        "facts": [list(each) for each in facts(summary)],
        "notes": summary.notes,
        "assumptions": [list(each) for each in assumptions(summary)],
    }


def rows(summary: Summary, seen: Seen) -> dict[str, Any]:
    """The outcomes, a list a column."""
    radii = summary.radii.tolist()
    return {
        "image": summary.images.tolist(),
        "label": summary.labels.tolist(),
        "answer": summary.predicted.tolist(),
        "radius": radii,
        "shown": [truncate(radius) for radius in radii],
        "samples": summary.samples.tolist(),
        "votes": [[list(each) for each in several] for several in seen.votes],
        "drawn": list(seen.drawn),
        "decisions": [list(said) for said in summary.decisions] if summary.preset else [],
    }


def curve(summary: Summary) -> dict[str, Any]:
    """Where the curve falls: at `radius[i]` and below down to the one before, the share and its band in percent; last past all."""
    right = (summary.predicted == summary.truth) & (summary.predicted >= 0)
    steps = np.unique(np.concatenate([[0.0], summary.radii[right]]))
    if steps.size > MOST_STEPS:
        steps = steps[np.unique(np.linspace(0, steps.size - 1, MOST_STEPS).astype(int))]
    beyond = np.append(steps, math.nextafter(float(steps[-1]), math.inf))
    outcome = summary.truth, summary.predicted, summary.radii
    counts, images = certified_counts(*outcome, beyond, summary.missing)
    low, high = band(summary, beyond, counts, images)
    return {
        "radius": steps.tolist(),
        "share": [_floor(int(count), images) for count in counts],
        "low": low,
        "high": high,
        "kind": "range of what the finished run may show" if summary.missing else "95 % interval",
    }


def band(
    summary: Summary, at: NDArray[np.float64], counts: NDArray[np.int64], images: int
) -> tuple[list[float], list[float]]:
    """In percent, rounded outward: the 95 % interval; of an unfinished run what it may show at least and at most."""
    if summary.missing:
        most = summary.most(counts)
        return [_floor(int(n), images) for n in counts], [-(-1000 * int(n) // images) / 10 for n in most]
    outcome = summary.truth, summary.predicted, summary.radii
    low, high = certified_accuracy_interval(*outcome, at, wrong=summary.wrong)
    return [math.floor(1000 * each) / 10 for each in low], [math.ceil(1000 * each) / 10 for each in high]


def _floor(count: int, images: int) -> float:
    return 1000 * count // images / 10


def pair_data(first: Summary, second: Summary, at: Sequence[float]) -> dict[str, Any]:
    """The second run held against the first, or why it is not."""
    named = {"first": first.name, "second": second.name}
    said = unlike(first, second)
    return {**named, "said": said} if said else {**named, **_found(pair(first, second, at))}


def _found(paired: Pair) -> dict[str, Any]:
    return {
        "images": paired.images,
        "larger": paired.larger,
        "smaller": paired.smaller,
        "equal": paired.equal,
        "at": [
            {
                "radius": each.radius,
                "both": each.both,
                "only_first": each.only_first,
                "only_second": each.only_second,
                "estimate": round(100 * each.estimate, 1),
                "low": math.floor(1000 * each.low) / 10,
                "high": math.ceil(1000 * each.high) / 10,
            }
            for each in paired.differences
        ],
    }


def lede(summary: Summary, at: Sequence[float]) -> str:
    """The run's result in a sentence."""
    asked = f"{summary.asked:,} image{'s' * (summary.asked != 1)}"
    if not summary.certified and not summary.labelled:
        return f"The smoothed classifier answers {int((summary.predicted >= 0).sum()):,} of {asked}."
    if not summary.certified:
        correct = int((summary.predicted == summary.labels).sum())
        return f"The smoothed classifier is right on {percent(correct, summary.asked)} of {asked}."
    radius = next((r for r in at if r > 0), at[0])
    (count,), _ = certified_counts(summary.truth, summary.predicted, summary.radii, [radius])
    done = (
        f"Of {asked}, {len(summary.images):,} are finished; of those {count:,}"
        if summary.missing
        else f"Of {asked}, {count:,}"
    )
    if not radius:
        return f"{done} are answered {'right ' * summary.labelled}by the smoothed classifier."
    which = "right answer" if summary.labelled else "answer"
    return f"{done} keep their {which} under every change of ℓ2 length below {radius:g}{_certain(summary)}."


def _certain(summary: Summary) -> str:
    if summary.unguaranteed:
        return " — but this run carries no guarantee"
    if summary.conditional:
        return ", if the network is as smooth as was assumed"
    kind = "all of them together" if summary.record.stopping.family_wise else "each"
    return f", {kind} with probability {exactly_less(summary.alpha)} over the noise"


def exactly_less(alpha: float) -> str:
    """1 − alpha in percent, with at most four digits, rounded down."""
    rest = (100 * (1 - Decimal(repr(alpha)))).quantize(Decimal("0.0001"), ROUND_FLOOR).normalize()
    return f"{rest:f} %"
