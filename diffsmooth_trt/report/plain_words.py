"""What a run is made of, and what its certificates claim and assume, in words for whoever looks at a page.

docs/assumptions.md has all of it with the reasons; these are the sentences that depend on the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..noise import Key
from ..runs.audit import audit_line
from ..runs.identity import INDEPENDENT, rows_note
from ..runs.record import ClassifierId
from .tables import Summary, chosen_of

Said = tuple[str, str]
OWN = {"id", "method", "sigma", "noise_version"}  # parts of a classifier that have lines of their own


def facts(summary: Summary) -> list[Said]:
    """What was certified with what: pairs of a name and its value."""
    record, asked, classifier = summary.record, summary.record.stopping, summary.record.classifier
    drawn = [f"n0 = {asked.n0}"] if summary.certified and asked.smoothing else []
    drawn += (
        [f"n {'up to' if summary.preset or asked.tolerance is not None else '='} {asked.n}"] if asked.smoothing else []
    )
    options = {
        name: value for name, value in classifier.parts.items() if name not in OWN and not isinstance(value, dict)
    }
    pairs = [
        ("Command", f"{asked.command} --method {classifier.method}"),
        ("Noise", f"σ = {classifier.sigma:g} in image units" if asked.smoothing else "none"),
        ("Samples an image", ", ".join(drawn) or "none"),
        ("α", f"{asked.alpha:g}"),
        ("Preset radii", ", ".join(f"{radius:g}" for radius in summary.preset)),
        ("Options of the method", ", ".join(f"{name} {value}" for name, value in options.items())),
        ("Space", f"ℓ2 in {summary.space}"),
        ("Data", _data(summary)),
        ("Key", key_words(record.key, record.key_drawn) if asked.smoothing else ""),
        *classifier_facts(classifier, record.files),
        ("Law of the noise", _law(summary)),
        ("Rows of a batch", rows_note(record.rows).removeprefix("rows: ")),
        ("Audit", audit_line(record.audit).removeprefix("audit: ")),
        ("Versions", ", ".join(f"{name} {value}" for name, value in record.versions.items())),
        ("File", f"{summary.name}, format {record.format}"),
    ]
    return [(name, value) for name, value in pairs if value]


def classifier_facts(classifier: ClassifierId, files: Mapping[str, str | None]) -> list[Said]:
    """A classifier's id and its engines, of which `files` says the paths by option."""
    engines = [(role.capitalize(), _engine(part, files, role)) for role, part in classifier.engines.items()]
    return [("Classifier id", classifier.id), *engines]


def key_words(key: Key, drawn: bool) -> str:
    """A key, and who chose it."""
    return f"{'drawn by the operating system' if drawn else 'given'}: {key.hex}"


def _data(summary: Summary) -> str:
    record = summary.record
    shard = [f"shard {record.shard}"] if record.shard is not None else []
    parts = [
        record.source or "",
        *chosen_of(record.choice),
        *shard,
        f"{record.images} images",
        f"SHA-256 {record.data}",
    ]
    return ", ".join(part for part in parts if part)


def _law(summary: Summary) -> str:
    record = summary.record
    if not record.stopping.smoothing:
        return ""
    return (
        f"version {record.classifier.noise_version}, digest {record.law}, total variation {record.total_variation:.3g}"
    )


def _engine(part: Mapping[str, Any], files: Mapping[str, str | None], role: str) -> str:
    path = files.get(role) or (files.get("engine") if role != "classifier" else None)
    name = [path.replace("\\", "/").rsplit("/", 1)[-1]] if path else []
    ran = [
        f"{part['backend']} {part['precision']}",
        *(str(part[more]) for more in ("device", "instruction_set") if more in part),
    ]
    known = [f"SHA-256 {part['sha256']}"] if "sha256" in part else []
    return ", ".join([*name, *ran, *known])


def assumptions(summary: Summary) -> list[Said]:
    """What is claimed, what that rests on, and what it is not about."""
    return [_claim(summary), *_noise(summary), *_networks(summary), *_numbers(summary), _limits(summary)]


def _claim(summary: Summary) -> Said:
    alpha = f"{summary.alpha:g}"
    if summary.unguaranteed or summary.conditional:
        return "What is claimed", _sentence(summary.guarantee)
    if not summary.certified:
        return (
            "What is claimed",
            f"Of each image: the answer is the smoothed classifier's. It may be wrong with probability {alpha}, over the noise. "
            "Nothing is said of other images near it.",
        )
    if summary.record.stopping.family_wise:
        return (
            "What is claimed",
            "The smoothed classifier gives an image's answer to everything nearer to it than its radius. That is right for all "
            f"{summary.record.images} images together, but for a probability of {alpha} over the noise.",
        )
    return (
        "What is claimed",
        "Of each image: the smoothed classifier gives its answer to everything nearer to it than its radius, whatever the networks "
        f"do. It may be wrong with probability {alpha} over the noise, for each image by itself.",
    )


def _noise(summary: Summary) -> list[Said]:
    record = summary.record
    if not record.stopping.smoothing:
        return []
    cipher = "Philox, which is no cryptographic generator" if record.classifier.noise_version == 1 else "XChaCha20"
    if record.key_drawn:
        said = "The operating system drew the key when the run began, so that whoever made the networks did not know the noise."
    else:
        said = (
            "The key was given, not drawn. Whoever gave it could have tried many and kept the best: trust it only if they could "
            "not choose it after the fact."
        )
    fresh = " The method adds noise of its own that is new for every draw." if summary.fresh else ""
    return [("The noise", f"{said} What {cipher} makes of it cannot be told from chance: that is assumed.{fresh}")]


def _networks(summary: Summary) -> list[Said]:
    proved = rows_note(summary.record.rows) == INDEPENDENT
    rows = (
        "No row of a batch has an influence on another: that is proved from the graphs."
        if proved
        else "No row of a batch has an influence on another: that is assumed; it was tried on few batches only, and not proved."
    )
    audit = audit_line(summary.record.audit).removeprefix("audit: ")
    checked = "" if summary.conditional else f" Audit of the run: {audit}."
    return [("The networks", f"{rows} The machine computes what the files say: that is assumed.{checked}")]


def _numbers(summary: Summary) -> list[Said]:
    reading = [_sentence(each) for each in (*summary.reading, *summary.rounding)]
    chosen = "Settings were chosen before the votes were seen, and this was the only run: no file can show that."
    return [("The numbers", " ".join([*reading, chosen]))]


def _limits(summary: Summary) -> Said:
    return (
        "What it is not about",
        "Labels and their worth; changes other than ℓ2 in the space of the run; what happens before the pixels. It is the smoothed "
        "classifier's certificate, not the network's alone. This page repeats what the run's file says; `diffsmooth-trt verify` "
        "draws a share of its votes again.",
    )


def _sentence(said: str) -> str:
    return f"{said[:1].upper()}{said[1:]}."
