"""Rewrite the tables of docs/benchmarks.md from the files in benchmarks/results/, between `<!-- name -->` and `<!-- end -->`.

    python benchmarks/tables.py [--check]

Nothing is measured here; `--check` only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from diffsmooth_trt.ood.report import shown
from diffsmooth_trt.report.curves import average_certified_radius, certified_accuracy
from diffsmooth_trt.report.tables import summarise
from diffsmooth_trt.runs.store import open_run
from diffsmooth_trt.statistics.bounds import truncate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
RADII = (0.0, 0.25, 0.5, 0.75)
OOD_RADII = (0.0, 0.1, 0.25, 0.5, 1.0)
SMOOTHED = ("certified", "certified-few", "distro-l2")
UNSMOOTHED = ("clean", "clean-plain", "timestep-zero", "guaranteed", "guaranteed-plain", "adversarial")
OOD_KINDS = (*UNSMOOTHED, "adversarial-plain", *SMOOTHED)
PLAIN = "-plain"  # without the denoiser

Column = NDArray[Any]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def noise() -> str:
    """ns a coordinate of every sampler."""
    document = json.loads((RESULTS / "noise_cpu.json").read_text())
    rows = [
        [name, f"{r['median']:.2f}", f"{r['min']:.2f}", f"{r['quartile_1']:.2f} – {r['quartile_3']:.2f}"]
        for name, r in document["results"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    note = (
        f"One core of {document['cpu']} ({document['instruction_set']}), {versions}; {document['repeats']} turns each."
    )
    return markdown(["sampler", "median", "minimum", "quartiles"], rows) + f"\n\n{note}"


def speed() -> str:
    """Samples a second of the whole certification step."""
    document = json.loads((RESULTS / "speed_cpu.json").read_text())
    rows = []
    for name, r in document["results"].items():
        rate = r["samples_per_second"]
        share = r["noise_and_count_share"]
        spread = f"{rate['min']:.0f} – {rate['max']:.0f}"
        overhead = "" if share is None else f"{100 * share:.2f} %"
        rows.append([name, r["precision"], f"{rate['median']:.0f}", spread, f"{r['times_eager']:.2f}", overhead])
    machine = document["machine"]
    note = (
        f"{machine['processors']} cores of {machine['cpu']}, torch {machine['torch']}, batch {document['batch']}; "
        f"{document['rounds']} rounds of {document['samples']} samples, in turn."
    )
    head = ["engine", "precision", "samples/s (median)", "range", "× eager", "noise and counting"]
    return markdown(head, rows) + f"\n\n{note}"


def memory() -> str:
    """Peak memory against n and images."""
    document = json.loads((RESULTS / "memory_cpu.json").read_text())
    rows = [[str(r["images"]), str(r["n"]), f"{r['peak_mib']:.0f}"] for r in document["runs"]]
    return markdown(["images", "n", "peak MiB"], rows)


def demo() -> str:
    """Seconds of the demo."""
    document = json.loads((RESULTS / "demo_cpu.json").read_text())
    seconds = document["seconds"]
    return (
        f"`make demo`, once set up: {min(seconds)} – {max(seconds)} s on {document['processors']} cores "
        f"({document['images']} images, n0 = {document['n0']}, n = {document['n']}, {len(seconds)} runs)."
    )


def attack() -> str:
    """Certified, attacked and clean accuracy of the zoo."""
    document = json.loads((RESULTS / "attack.json").read_text())
    rows = []
    for row in document["rows"]:
        shares = [100 * row[name] / row["images"] for name in ("certified", "attacked", "clean")]
        numbers = [str(row[name]) for name in ("tried", "broken", "abstained")]
        rows.append(
            [f"{row['epsilon']:g}", *(f"{share:.1f} %" for share in shares), f"{shares[1] - shares[0]:.1f}", *numbers]
        )
    head = ["ε", "certified", "attacked", "clean", "gap, points", "attacked here", "broken", "abstain"]
    run, spent, machine = document["run"], document["seconds"], document["machine"]
    against = f"{document['contradicted']} of {document['tried_certified']} certificates"
    note = (
        f"{document['rows'][0]['images']} images; the run: at most {run['n']} draws, α = {run['alpha']}; answers by "
        f"{document['n']} draws. Contradicted: {against} (chance alone "
        f"makes one or more with probability at most {document['chance']:.2f}). {spent['cpu'] / 60:.0f} minutes of processor time, "
        f"{spent['wall'] / 60:.0f} by the clock; 2 cores of {machine['cpu']} under a load of {machine['load'][2]:.0f}."
    )
    return markdown(head, rows) + f"\n\n{note}"


def releases() -> str:
    """The demo and a certificate of two checkouts, in turn."""
    document = json.loads((RESULTS / "releases_cpu.json").read_text())
    rows = []
    for name, found in document["commands"].items():
        spent, ratio = found["processor seconds"], found["ratio of processor seconds"]
        rows.append(
            [
                name,
                *(f"{spent[each]['median']:.1f}" for each in ("before", "now")),
                f"{ratio['median']:.3f} ({ratio['least']:.3f}–{ratio['most']:.3f})",
                f"{found['ratio']['median']:.2f} ({found['ratio']['least']:.2f}–{found['ratio']['most']:.2f})",
            ]
        )
    commits = document["commits"]
    head = ["command", "before, processor s", "now", "ratio", "ratio by the clock"]
    note = (
        f"Median (range) of {document['rounds']} rounds, {commits['before']} against {commits['now']}; {document['processors']} "
        f"cores of {document['cpu']}, in part with other work beside, which the clock shows; Python {document['python']}."
    )
    return markdown(head, rows) + f"\n\n{note}"


def report_page() -> str:
    """Size and time of the page of a report."""
    document = json.loads((RESULTS / "page.json").read_text())
    drawn, axe = document["drawn_in_milliseconds"], document.get("axe")
    found = (
        f"{len(axe['light']) + len(axe['dark'])} findings of axe-core {axe['file']} in light and dark"
        if axe
        else "not checked"
    )
    browser, cores = document["browser"].split(" built")[0], document["processors"]
    return (
        f"{document['images']} images of CIFAR-10: {document['bytes'] / 1e6:.1f} MB, made in {document['made_in_seconds']} s, "
        f"drawn {min(drawn)} – {max(drawn)} ms after the address was given ({len(drawn)} times; {browser}, headless, {cores} cores "
        f"that others used too); {len(document['console'])} lines in the console; {found}."
    )


def _load(document: dict[str, Any]) -> str:
    """How busy the machine was."""
    others = "" if document["load"] <= document["cores"] else ", other work beside, which the clock shows"
    return f"load {document['load']:.1f} at the end{others}"


def export_time() -> str:
    """Where the time of an export goes."""
    document = json.loads((RESULTS / "export_time.json").read_text())
    stages = sorted(document["stages"].items(), key=lambda each: -each[1][0])
    rows = [[name, f"{wall:.1f}", f"{cpu:.1f}"] for name, (wall, cpu) in stages]
    rows.append(["in all", f"{document['seconds']:.1f}", f"{document['cpu_seconds']:.1f}"])
    versions = ", ".join(f"{name} {value}" for name, value in document["versions"].items())
    note = f"{document['cores']} cores, {document['machine']}; {_load(document)}; {versions}."
    return markdown(["stage", "seconds", "processor s"], rows) + f"\n\n{note}"


def first_run() -> str:
    """The commands of README.md for one's own classifier and images, timed."""
    document = json.loads((RESULTS / "first_run.json").read_text())
    rows = [[f"`{each['command']}`", f"{each['seconds']:.1f}"] for each in document["commands"]]
    rows.append(["in all", f"{sum(each['seconds'] for each in document['commands']):.1f}"])
    note = (
        f"{document['images']} JPEG files in {document['classes']} folders; {document['checkpoint']}. {document['cores']} cores, "
        f"{document['machine']}, Python {document['python']}, {_load(document)}; wheels {document['wheels']}."
    )
    return markdown(["command", "seconds"], rows) + f"\n\n{note}"


def bench() -> str:
    """How far runs of `bench` agree that had the machine to themselves."""
    document = json.loads((RESULTS / "bench_cpu.json").read_text())
    quiet = [share <= document["loud"] for share in document["others"]]

    def cells(row: dict[str, Any], which: bool) -> str:
        rates = (r for r, q in zip(row["samples_per_second"], quiet, strict=True) if q is which)
        return " · ".join("–" if rate is None else f"{rate:.0f}" for rate in rates)

    rows = [
        [
            *(str(row["batch"]), cells(row, True)),
            *("" if row["apart"] is None else f"{100 * row['apart']:.1f} %", cells(row, False)),
        ]
        for row in document["rows"]
    ]
    machine, seconds = document["machine"], document["seconds"]
    others = ", ".join(f"{100 * share:.0f} %" for share in document["others"])
    note = (
        f"{machine['processors']} cores of {machine['cpu']}, OpenVINO bf16; {len(seconds)} runs of {min(seconds)} – "
        f"{max(seconds)} s, in which other processes took {others} of the processors."
    )
    head = ["batch", "samples/s, median of each quiet run", "apart, at most", "of the other runs"]
    return markdown(head, rows) + f"\n\n{note}"


def predictor() -> str:
    """The DiffSmooth predictor on the zoo."""
    document = json.loads((RESULTS / "predictor.json").read_text())
    rows = [
        [
            f"{row['denoising_sigma']:g}",
            str(row["num_samples"]),
            str(row["local_vote"]),
            " · ".join(map(str, row["right"])),
            " · ".join(f"{loss:.3f}" for loss in row["loss"]),
            str(row["same"]),
            f"{1000 * min(row['seconds']) / document['images']:.1f}",
        ]
        for row in document["rows"]
    ]
    head = ["denoising sigma", "samples", "local votes", "right, by key", "mean −log p", "same answer", "ms/image"]
    note = f"{document['images']} images, local sigma 0.12, two keys; 2 cores of {document['machine']['cpu']}, OpenVINO bf16."
    return markdown(head, rows) + f"\n\n{note}"


def transfer() -> str:
    """Wrong certificates by simulation, and what of the radius is kept on the zoo."""
    document = json.loads((RESULTS / "transfer.json").read_text())
    rows = [
        [
            row["run"],
            str(row["pairs"]),
            f"{row['p']:g}",
            f"{row['q']:g}",
            f"{100 * row['alone']:.0f} %",
            f"{row['wrong']} of {row['cases']}",
            f"{100 * row['interval'][0]:.2f} – {100 * row['interval'][1]:.2f} %",
        ]
        for row in (*document["simulated"], *document["stopped"])
    ]
    wrong = markdown(["run", "pairs", "P(f = c)", "P(f = c ≠ g)", "g alone", "wrong", "95 % interval"], rows)
    kept = [
        [
            row["to"],
            str(row["n"]),
            str(row["pairs"]),
            f"{100 * row['alone']:.0f} %",
            f"{100 * row['differ']:.2f} %",
            f"{row['mean_radius']:.3f}",
            f"{row['transferred']:.3f}",
            f"{100 * row['kept']:.1f} %",
            f"{row['seconds'][0]:.0f} · {row['seconds'][1]:.0f}",
        ]
        for row in document["kept"]
    ]
    head = ["to", "n", "pairs", "g alone", "f = c ≠ g", "mean radius", "transferred", "kept", "seconds: run · transfer"]
    images = document["kept"][0]["images"]
    note = (
        f"Simulated at α = {document['alpha']}, n = 2000. {images} of the zoo's images, from fp32, all in OpenVINO, α = 0.001; "
        f"2 cores of {document['machine']['cpu']}, which other processes used too."
    )
    return f"{wrong}\n\n{markdown(head, kept)}\n\n{note}"


def samples() -> str:
    """Samples that deciding one radius takes, by simulation."""
    document = json.loads((RESULTS / "samples.json").read_text())
    cases = document["cases"]
    rows = []
    for name in list(cases[0]["rules"])[:8]:
        found = [case["rules"][name] for case in cases]
        cells = [f"{r['mean']:.0f} ({r['undecided_percent']:.1f} %)" for r in found]
        rows.append([name, *cells])
    heads = [f"σ = {case['sigma']:g}, ε = {case['radius']:g}" for case in cases]
    settings = document["settings"]
    simulated = settings["repeats"] * settings["images"]
    errors = max(r["standard_error"] for case in cases for r in case["rules"].values() if "standard_error" in r)
    used = [case["rules"]["exact spending (used)"]["contradictions"] for case in cases]
    note = (
        f"Mean estimation samples an image, undecided images in brackets; {simulated} simulated images a column, standard "
        f"errors up to {errors:.0f}. Decisions of the rule used that contradict fixed n = {settings['n']} on the same votes: "
        f"{sum(used)} of {simulated * len(cases)}."
    )
    return markdown(["rule", *heads], rows) + f"\n\n{note}"


def tolerance() -> str:
    """Samples of --tolerance, and the radius that it keeps."""
    document = json.loads((RESULTS / "samples.json").read_text())
    rows = [
        [
            f"{r['sigma']:g}", f"{r['tolerance']:g}", f"{r['mean']:.0f}", f"{r['median']:.0f}",
            f"{100 * r['radius_kept_mean']:.1f} %", f"{100 * r['radius_kept_5_percent']:.1f} %",
        ]
        for r in document["tolerance"]
    ]  # fmt: skip
    head = ["σ", "--tolerance", "mean samples", "median", "radius kept, mean", "radius kept, lowest 5 %"]
    return markdown(head, rows)


def radius() -> str:
    """Certified accuracy at one radius, measured."""
    document = json.loads((RESULTS / "radius_cpu.json").read_text())
    rows = []
    for r in document["runs"]:
        said = f"{r['certified']} / {r['refuted']} / {r['undecided']}"
        loop = f"{r['eager_seconds_extrapolated'] / 3600:.1f} h"
        rows.append([
            f"{r['radius']:g}", str(r["images"]), said, f"{r['samples_mean']:.0f} ± {r['samples_standard_error']:.0f}",
            f"{r['seconds']:.0f}", loop, f"{r['times_eager']:.0f}", f"{100 * r['deciding_share']:.2f} %",
        ])  # fmt: skip
    machine = document["machine"]
    first = document["runs"][0]
    against = [r["against_fixed_n"] for r in document["runs"]]
    note = (
        f"{machine['processors']} cores of {machine['cpu']}; n up to {document['settings']['n']}, n0 = "
        f"{document['settings']['n0']}. The eager loop's time is extrapolated from its rate in the same minutes "
        f"({first['eager_samples_per_second']:.0f} samples/s, {first['eager_turns']} turns). Decisions that a fixed-n run of "
        f"10,000 other draws excludes: {sum(a['contradictions'] for a in against)} of {sum(a['images'] for a in against)}."
    )
    head = [
        "ε",
        "images",
        "certified / refuted / undecided",
        "mean samples",
        "seconds",
        "eager loop, n = 100,000",
        "× eager",
        "deciding",
    ]
    return markdown(head, rows) + f"\n\n{note}"


def _share(share: float, count: int) -> str:
    """A share of `count` in percent with its 95 % interval (Clopper–Pearson), rounded outward."""
    interval = binomtest(round(share * count), count).proportion_ci(0.95, "exact")
    return f"{100 * share:.0f} ({math.floor(100 * interval.low)}–{math.ceil(100 * interval.high)})"


def ndc() -> str:
    """Diffusion classifiers on the zoo; times only of a run that had the processors to itself."""
    document = json.loads((RESULTS / "ndc_cpu.json").read_text())
    quiet = "load" in document and max(document["load"]) <= document["processors"] + 0.5
    rows, order = [], ("apndc", "epndc", "dc")
    for r in sorted(document["rows"], key=lambda r: (r["steps"], order.index(r["method"]), -r.get("sift_margin", 99))):
        sift = r["sift"] if r["sift"] == "none" else f"{r['sift']} {r['sift_margin']:g}"
        changed = "" if r["changed"] is None else f"{100 * r['changed']:.0f} %"
        cells = [
            r["method"],
            str(r["steps"]),
            sift,
            _share(r["accuracy"], r["images"]),
            f"{r['evaluations_per_vote']:.0f}",
        ]
        rate = [f"{100 * r['share_of_bare_rate']:.0f} %", f"{10_100 * r['seconds_per_vote'] / 3600:.2f} h"]
        rows.append([*cells, changed, *(rate if quiet else [])])
    head = ["method", "steps", "sift", "right, % (95 % interval)", "evaluations a vote", "changed"]
    head += ["of the bare rate", "10,100 votes"] if quiet else []
    images, dds = document["rows"][0]["images"], document["dds"]["accuracy"]
    note = (
        f"{images} images; dds is right on {_share(dds, images)} % of the same draws. {document['processors']} cores of "
        f"{document['cpu']}, {document['precision']}, batch {document['batch']}."
    )
    if quiet:
        note += " The last columns: evaluations a second against the engine alone before and after; the time of 10,100 votes."
    else:
        note += " No times: other work had most of both processors."
    run = document.get("certified")
    if run:
        right, further = (run["certified_at"][radius] for radius in ("0.0", "0.25"))
        note += (
            f" `certify --method apndc` as above, {run['max']} images, n0 = {run['n0']}, n = {run['n']}: "
            f"{run['seconds'] / 60:.1f} minutes, {right} right, {further} of them with radius 0.25."
        )
    return markdown(head, rows) + f"\n\n{note}"


def published() -> str:
    """Labels by the published sums."""
    document = json.loads((RESULTS / "published.json").read_text())
    rows = [
        [
            r["method"], str(r["steps"]), f"{r['equal']} of {r['images']}", f"{r['worst']:.0e}",
            f"{r['otherwise_by_paper']} of {r['images']}", f"{100 * r['accuracy']:.0f} %", f"{100 * r['paper_accuracy']:.0f} %",
        ]
        for r in sorted(document["rows"], key=lambda r: (-r["steps"], r["method"]))
    ]  # fmt: skip
    head = [
        "method",
        "steps",
        "equal labels",
        "losses differ by",
        "other labels by `paper`",
        "right",
        "right by `paper`",
    ]
    note = f"{document['processors']} cores of {document['cpu']}, {document['precision']}, fresh noises."
    return markdown(head, rows) + f"\n\n{note}"


def auroc_interval(auroc: float, terms: int, alpha: float = 0.05) -> tuple[float, float]:
    """An interval for the AUROC of all images of two kinds, from `terms` images of each: right with probability 1 − α or more.

    Chernoff's bound holds for U-statistics, of as many terms as there are pairs without a common image (Hoeffding 1963, section
    5): every A with terms · KL(auroc ‖ A) ≤ ln(2/α).
    """
    limit = math.log(2 / alpha) / terms

    def divergence(a: float) -> float:
        parts = ((auroc, a), (1 - auroc, 1 - a))
        return sum(p * math.log(p / q) if q else math.inf for p, q in parts if p)

    def end(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if divergence(middle) <= limit else (inside, middle)
        return outside

    return end(auroc, 0.0), end(auroc, 1.0)


def _ood_label(kind: str, scores: str, family_wise: bool) -> str:
    """What the rows of a run are called, by what their scores are."""
    ran = kind.removesuffix("-few").removesuffix(PLAIN)
    if kind == "distro-l2" != scores:
        ran = "same draws"
    if kind == "timestep-zero":
        ran, scores = "clean", "restated, timestep 0"
    if scores.startswith("certified") and not family_wise:
        scores = "certified (estimate)"
    label = ran if ran == scores else scores if scores == f"{ran} (estimate)" else f"{ran}, {scores}"
    return f"{label}, no denoiser" if kind.endswith(PLAIN) else label


def _ood_rows(runs: dict[str, Any], order: list[str]) -> list[list[str]]:
    """A line a kind and radius: AUROC, AUPR and FPR of every set."""
    rows, names = [], [name for name in order if name != "average"]
    for kind, r in runs.items():
        for measured in r["metrics"]:
            other = measured["scores"] == "clean" and not kind.startswith("clean")
            if other or (kind in SMOOTHED and measured["radius"] not in OOD_RADII):
                continue
            label = _ood_label(kind, measured["scores"], r.get("config", {}).get("family_wise", False))
            whole = all(name in measured["sets"] for name in names)  # an average over fewer sets is another number
            cells = []
            for name in order:
                m = measured["sets"].get(name) if whole or name != "average" else None
                cells.append("" if m is None else _ood_cell(m, r["images"], name))
            rows.append([label, f"{measured['radius']:g}", str(r["images"]), *cells])
    return rows


def _ood_cell(m: dict[str, float], images: int, name: str) -> str:
    """AUROC / AUPR / FPR, of one set with the interval of its AUROC, rounded outward."""
    values = [shown(m[each], each == "fpr") for each in ("auroc", "aupr", "fpr")]
    if name != "average":  # a permuted image is made of an in-distribution one: pairs of them share images
        low, high = auroc_interval(m["auroc"], images // 2 if name == "generated:permuted" else images)
        values[0] += f" ({math.floor(100 * low)}–{math.ceil(100 * high)})"
    return " / ".join(values)


def ood() -> str:
    """Out-of-distribution detection by the zoo, every kind."""
    path = RESULTS / "ood_cpu.json"
    if not path.exists():
        return "Not measured on this version yet: `python benchmarks/bench_ood.py --data cifar10-test.parquet`."
    document = json.loads(path.read_text())
    runs = {kind: document["runs"][kind] for kind in OOD_KINDS if kind in document["runs"]}
    order = [*sorted(set(runs["clean"]["metrics"][0]["sets"]) - {"average"}), "average"]
    times = []
    for kind, r in runs.items():
        if r["seconds"]:
            drawn = ", ".join(f"{name} {mean:.0f}" for name, mean in r["mean_draws"].items())
            spent = ", ".join(f"{seconds / 60:.1f}" for seconds in r["seconds"])
            times.append(f"{kind} {spent}" + (f" (draws an image: {drawn})" if drawn else ""))
    note = (
        "AUROC (95 % interval) / AUPR / FPR at 95 % TPR, %; the interval is for all images of the two kinds, by Chernoff's bound "
        f"for U-statistics. {document['processors']} cores of {document['cpu']}, σ = {document['sigma']:g}; minutes, with other "
        f"work beside, for the in-distribution set, then each other one: {'; '.join(times)}."
    )
    if "distro-l2" in runs:
        asked = runs["distro-l2"]["config"]
        note += (
            f" Rows `distro-l2`: n = {asked['n']:,}, α = {asked['alpha']:g}; the sound bounds are of the same draws."
        )
    if "timestep-zero" in runs:
        moved = runs["timestep-zero"]["moved"]
        most = max(each["most"] for each in moved.values())
        mean = max(each["mean"] for each in moved.values())
        note += (
            f" Scores at timestep 0 are at most {_up(most)} from those of the images as they are, on average of a set at most "
            f"{_up(mean)}."
        )
    missing = [kind for kind in OOD_KINDS if kind not in runs and kind != "certified"]
    if missing:
        note += f" Not measured yet: {', '.join(missing)}."
    heads = [name.removeprefix("generated:") for name in order]
    return markdown(["scores", "radius", "images a set", *heads], _ood_rows(runs, order)) + f"\n\n{note}"


def _up(value: float) -> str:
    """Two digits behind the first zero, rounded up."""
    return f"{math.ceil(value * 10_000) / 10_000:g}"


def zoo() -> str:
    """Certified accuracy of the committed TSV files, and of run stores that have none yet."""
    rows = []
    for path in sorted((RESULTS / "zoo").glob("*.tsv")):
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        label, predict, radius = (
            np.array([float(line[key]) for line in lines]) for key in ("label", "predict", "radius")
        )
        rows.append(_accuracy_row(f"`{path.stem}`", label, predict, radius))
    for path in sorted((RESULTS / "zoo").glob("*.sqlite")):
        if not path.with_suffix(".tsv").exists():
            with open_run(path) as store:
                done = summarise(store)
            name = f"`{path.stem}`, unfinished: {len(done.labels)} of {done.asked}, the others as not certified"
            rows.append(_accuracy_row(name, done.labels, done.predicted, done.radii, done.missing))
    return markdown(["run", "images", *(f"ε = {radius:g}" for radius in RADII), "ACR", "abstentions"], rows)


def precision() -> str:
    """The zoo in each precision on the CPU."""
    document = json.loads((RESULTS / "precision_cpu.json").read_text())
    rows = []
    for name, r in document["results"].items():
        rate, accuracy = r["samples_per_second"], r.get("certified_accuracy")
        rows.append([
            name, " · ".join(r["effective"]), f"{r['bytes'] / 1e6:.1f}", f"{rate['median']:.0f}",
            f"{rate['min']:.0f} – {rate['max']:.0f}", f"{100 * r['same_labels']:.2f} %",
            "" if accuracy is None else f"{100 * accuracy['0.25']:.1f} %",
        ])  # fmt: skip
    settings, machine = document["settings"], document["machine"]
    head = ["pair", "multiplications", "MB", "samples/s (median)", "range", "labels as fp32", "certified at 0.25"]
    note = (
        f"{machine['processors']} cores of {machine['cpu']}, OpenVINO, batch {settings['batch']}; {settings['rounds']} rounds of "
        f"{settings['timed']} samples, in turn; labels of {settings['samples']} noisy images; certified accuracy on "
        f"{settings['images']} images, n = {settings['n']}, one key. Other work ran beside: it is the ratios that count."
    )
    return markdown(head, rows) + f"\n\n{note}"


def export() -> str:
    """Exports of published configurations with random weights."""
    document = json.loads((RESULTS / "export_cpu.json").read_text())
    rows = [
        [
            f"`{name}` {' '.join(r['options'])}", f"{r['parameters'] / 1e6:.1f} M", f"{r['max_difference']:.2g}",
            f"{r['seconds'] / 60:.1f}", f"{r['peak_bytes'] / 1e9:.2f} GB", f"{r['peak_over_weights']:.2f}",
            f"{sum(r['file_bytes'].values()) / 1e6:.0f} MB",
        ]
        for name, r in sorted(document.items(), key=lambda entry: entry[1]["parameters"])
    ]  # fmt: skip
    head = ["configuration", "parameters", "difference", "minutes", "peak memory", "over fp32 weights", "file"]
    machines = ", ".join(sorted({r["machine"] for r in document.values()}))
    return (
        markdown(head, rows)
        + f"\n\n2 cores of {machines}, other work beside; memory of the whole process, PyTorch included."
    )


def rtx() -> str:
    """Plans that TensorRT for RTX builds, and the labels of quantised files."""
    content = json.loads((RESULTS / "rtx.json").read_text())
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in content["small"]["results"]:
        cells.setdefault(row["form"], {}).setdefault(row["precision"], []).append(row)
    kinds = ("fp32", "fp16", "bf16", "int8", "fp8")

    def cell(rows: list[dict[str, Any]]) -> str:
        refused = [row["target"] for row in rows if "refused" in row]
        if refused:
            return f"refused: {', '.join(refused)}"
        sizes, seconds = ([row[name] for row in rows] for name in ("bytes", "seconds"))
        return f"{max(sizes) / 1e6:.1f} MB, {max(seconds):.1f} s" if rows else "–"

    small = ([name, *(cell(found.get(kind, [])) for kind in kinds)] for name, found in cells.items())
    sizes = (
        [
            row["form"],
            row["precision"],
            f"{row['bytes'] / 1e6:.0f} MB",
            f"{row['seconds']:.0f} s",
            f"{row['peak_mib'] / 1024:.1f} GiB",
        ]
        for row in content["published"]["results"]
    )
    labels = content["labels"]["results"]
    parts = ("denoiser", "classifier", "both")
    same = (
        [kind, *(f"{100 * labels['same_labels'][f'{kind} {part}']:.2f} %" for part in parts)]
        for kind in ("int8", "fp8")
    )
    machine = content["small"]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n\n".join(
        [
            f"{machine['processors']} cores of {machine['cpu']}, other work beside; {versions}.",
            markdown(["form (small, random weights)", *kinds], small),
            markdown(["published size, random weights, sm89, batch 1", "", "plan", "build", "memory at most"], sizes),
            markdown([f"labels of the fp32 zoo, {labels['samples']} noisy images", *parts], same),
        ]
    )


def headers() -> str:
    """What a run does with its images before it draws."""
    content = json.loads((RESULTS / "headers.json").read_text())
    kinds = {
        "cifar": "CIFAR, PNG in a parquet file",
        "group": "the same, all in one group of rows",
        "imagenet": "500×375 JPEG in a folder",
    }

    def cell(found: dict[str, float], digits: int) -> str:
        return f"{found['median']:.{digits}f} ({found['min']:.{digits}f}–{found['max']:.{digits}f})"

    rows = (
        [kinds[kind], f"{row['images']:,}", cell(row["open"], 2), cell(row["headers"], 2), cell(row["added_mib"], 0)]
        for kind, found in content["results"].items()
        for row in found
    )
    machine = content["machine"]
    head = ["images", "number", "open and labels, s", "headers, s", "memory, MiB"]
    said = f"{machine['processors']} cores of {machine['cpu']}, one thread, other work beside, warm disk"
    versions = f"Python {machine['python']}, Pillow {machine['pillow']}, PyArrow {machine['pyarrow']}"
    return f"{markdown(head, rows)}\n\nMedian (range) of {content['rounds']}; {said}; {versions}."


def ways() -> str:
    """Ways to quantise the zoo's denoiser."""
    document = json.loads((RESULTS / "quantisation_ways.json").read_text())
    rows = [
        [
            name, r["effective"], f"{r['mean_difference']:.2g}", f"{100 * r['same_labels']:.2f} %",
            f"{r['samples_per_second']['median']:.0f}",
            f"{r['samples_per_second']['min']:.0f} – {r['samples_per_second']['max']:.0f}",
        ]
        for name, r in document["results"].items()
    ]  # fmt: skip
    return markdown(
        ["way", "multiplications", "mean difference", "labels as fp32", "samples/s (median)", "range"], rows
    )


def _accuracy_row(name: str, labels: Column, predicted: Column, radii: Column, missing: int = 0) -> list[str]:
    classes, answers = labels.astype(int), predicted.astype(int)
    accuracy = certified_accuracy(classes, answers, radii, RADII, missing)
    shown = [f"{np.floor(float(value) * 1000 + 1e-9) / 10:.1f}" for value in accuracy]
    acr = average_certified_radius(classes, answers, radii, missing)
    return [name, str(len(labels) + missing), *shown, truncate(acr, 4), str(int((answers < 0).sum()))]


TABLES = {
    "noise": noise,
    "speed": speed,
    "memory": memory,
    "demo": demo,
    "report_page": report_page,
    "export_time": export_time,
    "first_run": first_run,
    "bench": bench,
    "predictor": predictor,
    "transfer": transfer,
    "attack": attack,
    "releases": releases,
    "samples": samples,
    "tolerance": tolerance,
    "radius": radius,
    "ndc": ndc,
    "published": published,
    "ood": ood,
    "zoo": zoo,
    "export": export,
    "precision": precision,
    "ways": ways,
    "rtx": rtx,
    "headers": headers,
}


def rewritten(text: str) -> str:
    """The page with every table made anew."""
    for name, make in TABLES.items():
        start = f"<!-- {name} -->\n"
        head, rest = text.split(start, 1)
        _, tail = rest.split("<!-- end -->", 1)
        text = f"{head}{start}{make()}\n<!-- end -->{tail}"
    return text


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--check", action="store_true")
    a = p.parse_args()
    old = PAGE.read_text()
    new = rewritten(old)
    if a.check:
        return int(old != new)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
