"""Tables, TSV, figures, pages and progress, from outcomes written by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.files import write_atomically
from diffsmooth_trt.report.figures import FORMATS, draw, write_figure
from diffsmooth_trt.report.html import page
from diffsmooth_trt.report.progress import ProgressBar
from diffsmooth_trt.report.tables import Summary, envelope, percent, summarise, text_table
from diffsmooth_trt.report.tsv import HEADER, tsv_line, write_tsv
from diffsmooth_trt.runs.record import RunRecord
from diffsmooth_trt.runs.store import Result
from diffsmooth_trt.statistics.bounds import binomial_lower, binomial_upper

Row = tuple[int, int, int, float | None]  # image, label, predict, radius
ROWS: list[Row] = [(0, 0, 0, 0.0), (3, 1, 1, 0.5), (7, 2, 2, 0.75), (9, 2, -1, 0.0), (12, 1, 0, 2.0), (13, 1, 1, 0.25)]
ENGINE = {"sha256": "0123456789abcdef" * 4, "backend": "onnxruntime", "precision": "fp32"}
RunMaker = Callable[..., "Run"]


@dataclass
class Run:
    """What reports read of a run store: a real one has only the outcomes that follow from its votes."""

    path: Path
    record: RunRecord
    rows: Sequence[Row]
    decisions: Sequence[tuple[str, ...]] = ()
    pixels: str = "pixels of image"
    moved: float = 0.0

    def void_votes(self) -> int:
        return 0

    def known_images(self) -> dict[int, tuple[int, str, float]]:
        return {image: (label, f"{self.pixels} {image}", self.moved) for image, label, _, _ in self.rows}

    def results(self) -> Iterator[Result]:
        said = self.decisions or [()] * len(self.rows)
        for (image, label, predict, radius), each in sorted(zip(self.rows, said, strict=True)):
            p_lower = None if radius is None else 0.5
            yield replace(result(image, label, predict, radius, p_lower, 900, 1000, 1.5), decisions=each)


def result(
    image: int, label: int, predict: int, radius: float | None, p_lower: float | None, hits: int, trials: int, s: float
) -> Result:
    return Result(
        image=image, label=label, predict=predict, radius=radius, p_lower=p_lower, hits=hits, trials=trials, seconds=s
    )


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    def make(
        rows: Sequence[Row] = ROWS,
        *,
        name: str = "run",
        command: str = "certify",
        key_source: str = "drawn",
        identity: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        decisions: Sequence[tuple[str, ...]] = (),
        **meta: Any,
    ) -> Run:
        config: dict[str, Any] = {"command": command, "method": "dds", "n": 1000, "alpha": 0.001}
        if command == "certify":
            config["n0"] = 100
        part = {"id": "feedfacefeedface", "method": "dds", "sigma": 0.25, "denoiser": ENGINE, "classifier": ENGINE}
        facts = {"config": config, "classifier": part | (identity or {}), "key": "0" * 64, "key_source": key_source}
        config |= settings or {}
        facts |= {"data": "0" * 64, "images": max(len(rows), 1), "classes": 3, "law": "", "total_variation": 0.0}
        facts |= {"versions": {}, "format": 3}
        return Run(tmp_path / f"{name}.sqlite", RunRecord.from_meta(facts | meta), rows, decisions)

    return make


def summary_of(run: Run) -> Summary:
    return summarise(run)  # type: ignore[arg-type]


def table(text: str) -> list[dict[str, str]]:
    """The rows of a text table by column; whatever stands above its head is skipped."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:2] == ["run", "images"])
    head, *rows = [line.split() for line in lines[start:] if not line.startswith("  95% interval  ")]
    return [dict(zip(head, row, strict=True)) for row in rows]


# ---- tables ---------------------------------------------------------------------------------------------


def test_a_certify_run_as_text(make_run: RunMaker) -> None:
    """Six images, four correct with radii 0, ¼, ½, ¾: wrong ones and abstentions count in every denominator."""
    (row,) = table(text_table([summary_of(make_run())]))
    assert row == {
        "run": "run", "images": "6", "acc@0": "66.6%", "acc@0.25": "50.0%", "acc@0.5": "33.3%", "acc@0.75": "16.6%",
        "acc@1": "0.0%", "ACR": "0.2500", "abstain": "1", "samples/image": "1100", "seconds/image": "1.50",
    }  # fmt: skip


def test_the_lines_above_the_table_say_what_was_run(make_run: RunMaker) -> None:
    text = text_table([summary_of(make_run())])
    assert "run: certify dds, sigma=0.25, n0=100, n=1000, alpha=0.001; ℓ2 in [0, 1] a pixel\n" in text
    assert "classifier id feedfacefeedface" in text
    assert "denoiser 0123456789ab (onnxruntime fp32)" in text
    assert "each radius is right with probability at least" in text


def test_a_predict_run_has_an_accuracy_and_no_radii(make_run: RunMaker) -> None:
    path = make_run([(0, 1, 1, None), (1, 1, 0, None), (2, 1, -1, None)], command="predict")
    text = text_table([summary_of(path)])
    (row,) = table(text)
    assert row["accuracy"] == "33.3%"
    assert row["abstain"] == "1"
    assert row["samples/image"] == "1000"
    assert not any(column.startswith(("acc@", "ACR")) for column in row)
    assert "each is the smoothed classifier's with probability" in text
    assert "n0" not in text


def test_certify_and_predict_runs_side_by_side(make_run: RunMaker) -> None:
    runs = [summary_of(make_run(name="c")), summary_of(make_run([(0, 1, 1, None)], name="p", command="predict"))]
    for order in (runs, runs[::-1]):
        rows = {row["run"]: row for row in table(text_table(order, [0.0, 0.5]))}
        assert rows["c"]["acc@0.5"] == "33.3%"
        assert {rows["p"][column] for column in ("acc@0", "acc@0.5", "ACR")} == {"-"}
        assert (rows["c"]["accuracy"], rows["p"]["accuracy"]) == ("-", "100.0%")
        assert rows["p"]["abstain"] == "0"


@pytest.mark.parametrize(("source", "noted"), [("given", True), ("drawn", False)])
def test_a_given_key_is_noted_and_a_drawn_one_is_not(make_run: RunMaker, source: str, noted: bool) -> None:
    summary = summary_of(make_run(key_source=source))
    for text in (text_table([summary]), page([summary])):
        assert ("key was given" in text) is noted


def test_columns_are_aligned(make_run: RunMaker) -> None:
    runs = [summary_of(make_run(name=name)) for name in ("a", "a-much-longer-name")]
    head, *rows = text_table(runs).splitlines()[-5:]
    assert {len(row) for row in rows[::2]} == {len(head)}
    assert {len(row) for row in rows[1::2]} == {head.index("acc@1") + len("acc@1")}


@pytest.mark.parametrize(
    ("count", "images", "shown"),
    [(0, 3, "0.0%"), (3, 3, "100.0%"), (2, 3, "66.6%"), (29, 100, "29.0%"), (57, 100, "57.0%"), (9, 10_000, "0.0%"),
     (10**12 - 1, 10**12, "99.9%"), (10**10 - 1, 10**10, "99.9%")],
)  # fmt: skip
def test_percentages_round_down_but_keep_what_is_exact(count: int, images: int, shown: str) -> None:
    assert percent(count, images) == shown


def test_a_percentage_of_counted_images_is_never_above_the_count() -> None:
    for images in (*range(1, 130), 500, 997, 1000, 9999, 10_000):
        for correct in {0, 1, images // 3, images // 2, images - 1, images}:
            shown = Decimal(percent(correct, images).rstrip("%"))
            exact = Decimal(100 * correct) / images
            assert shown <= exact < shown + Decimal("0.1")


def test_radii_in_the_head_keep_all_their_digits(make_run: RunMaker) -> None:
    (row,) = table(text_table([summary_of(make_run())], [0.0, 0.12345678, 1e-7, 1.0, 1234567.0]))
    heads = [column for column in row if column.startswith("acc@")]
    assert heads == ["acc@0", "acc@0.12345678", "acc@0.0000001", "acc@1", "acc@1234567"]


def test_intervals_of_accuracy_are_exact_and_rounded_outward(make_run: RunMaker) -> None:
    """Three of six images at 0.25: the exact 95 % interval is 11.8–88.2 %, which alpha lowers a little."""
    text = text_table([summary_of(make_run())], [0.25, 1.0])
    (line,) = [line for line in text.splitlines() if line.startswith("  95% interval  ")]
    low, high = line.split()[2].split("–")
    exact = 100 * (binomial_lower(3, 6, 0.025) - 0.001) / (1 - 0.001), 100 * binomial_upper(3, 6, 0.025)
    assert float(low) <= exact[0] < float(low) + 0.1
    assert float(high) - 0.1 < exact[1] <= float(high)
    assert line.split()[3] == "0.0–46.0"


PRESET = [("certified", "refuted"), ("refuted", "refuted"), ("certified", "certified"), ("certified", "undecided")]


def preset_run(make_run: RunMaker, **options: Any) -> Summary:
    rows: list[Row] = [(0, 1, 1, 0.25), (1, 1, -1, 0.0), (2, 1, 1, 0.5), (3, 0, 1, 0.25)]
    settings = {"radius": [0.25, 0.5], "n": 5000, **options.pop("settings", {})}
    return summary_of(make_run(rows, settings=settings, decisions=PRESET, **options))


def test_a_run_with_preset_radii_shows_those(make_run: RunMaker) -> None:
    text = text_table([preset_run(make_run)])
    (row,) = table(text)
    assert [column for column in row if column.startswith("acc@")] == ["acc@0.25", "acc@0.5"]
    assert (row["acc@0.25"], row["acc@0.5"], row["ACR"]) == ("50.0%", "25.0%", "-")
    assert "radius 0.25: 3 certified, 1 refuted, 0 undecided" in text
    assert "radius 0.5: 1 certified, 2 refuted, 1 undecided" in text
    assert "radius 0.25, 0.5, n up to 5000" in text
    assert "acc@0 " in text_table([preset_run(make_run), summary_of(make_run())])  # a run without presets has them all
    (found,) = shown(page([preset_run(make_run)]))["runs"]
    assert found["rows"]["decisions"] == [list(said) for said in PRESET] and found["preset"] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "per-image certificates"),
        ({"family_wise": True}, "family-wise certificates (Holm): the radii of all 4 images are right together"),
    ],
)
def test_the_kind_of_guarantee_is_said(make_run: RunMaker, settings: dict[str, Any], said: str) -> None:
    summary = preset_run(make_run, settings=settings)
    for text in (text_table([summary]), page([summary])):
        assert said in text


def test_bonferroni_tolerance_and_extension_are_said(make_run: RunMaker) -> None:
    settings = {"family_wise": True, "tolerance": 0.05, "n": 5000}
    text = text_table([summary_of(make_run(settings=settings, extended_from=[1000, 2000]))])
    assert "family-wise certificates (Bonferroni)" in text
    assert "tolerance 0.05, n up to 5000" in text
    assert "n was raised later, from 1000, 2000" in text


def test_the_envelope_takes_the_best_right_radius_and_adds_up_alpha(make_run: RunMaker) -> None:
    a = summary_of(make_run([(0, 1, 1, 0.25), (1, 1, 0, 0.75), (2, 2, -1, 0.0)], name="a"))
    b = summary_of(make_run([(0, 1, 1, 0.5), (1, 1, 1, 0.0), (2, 2, 0, 1.0)], name="b", settings={"alpha": 0.002}))
    best = envelope([a, b])
    assert best.radii.tolist() == [0.5, 0.0, 0.0]
    assert best.predicted.tolist() == [1, 1, -1]
    assert 0.003 <= best.alpha < 0.003001
    text = text_table([a, b], [0.0, 0.5], enveloped=True)
    assert "right together with probability 1 − 0.003" in text
    assert {row["run"]: row["acc@0.5"] for row in table(text)} == {"a": "0.0%", "b": "33.3%", "envelope": "33.3%"}


def test_an_envelope_is_of_certify_runs_on_the_same_images(make_run: RunMaker) -> None:
    run = summary_of(make_run())
    others = (
        summary_of(make_run([(0, 1, 1, 0.5)], name="b")),
        summary_of(replace(make_run(name="c"), pixels="others")),
        summary_of(make_run([(0, 1, 1, None)], name="d", command="predict")),
        summary_of(make_run(name="e", settings={"family_wise": True})),
        replace(summary_of(make_run(name="f")), name="f", record=replace(run.record, lipschitz_constant=1.0)),
    )
    for other in others:
        with pytest.raises(InputError, match="envelope=True") as error:
            envelope([run, other])
        assert other.name in str(error.value)


def test_an_unfinished_run_shows_what_it_may_end_as(make_run: RunMaker) -> None:
    """Four of six images right, of ten asked for: 40–80 %, whatever the missing ones are; no interval."""
    summary = summary_of(make_run(images=10))
    text = text_table([summary])
    (row,) = table(text)
    assert (row["images"], row["acc@0"], row["acc@0.25"], row["acc@1"]) == (
        "6/10",
        "40.0–80.0%",
        "30.0–70.0%",
        "0.0–40.0%",
    )
    assert (row["ACR"], row["abstain"]) == ("≥0.1499", "1–5")
    assert "95%" not in text and "97.5%" not in text and "UNFINISHED: 6 of 10 images" in text
    assert "no confidence interval, as images finish in the order of their difficulty" in text
    (drawn,) = shown(page([summary]))["runs"]
    assert "UNFINISHED: 6 of 10 images" in drawn["title"] and drawn["missing"] == 4
    assert (drawn["curve"]["low"][0], drawn["curve"]["high"][0]) == (40.0, 80.0) and "finished" in drawn["curve"][
        "kind"
    ]
    assert "UNFINISHED: 6 of 10 images" in draw([summary], "svg").decode()
    predictions = make_run([(0, 1, 1, None), (1, 1, 0, None), (2, 1, -1, None)], command="predict", images=7)
    (row,) = table(text_table([summary_of(predictions)]))
    assert (row["images"], row["accuracy"], row["abstain"]) == ("3/7", "14.2–71.5%", "1–5")
    finished = text_table([summary_of(make_run())])
    assert "nfinished" not in finished and "95% interval" in finished


def test_an_unfinished_run_by_holms_procedure_may_end_with_all_certified(make_run: RunMaker) -> None:
    """Each certified image raises the level of the others: undecided ones may follow."""
    rows = [(image, 1, predict, 0.25 * predict) for image, predict in enumerate([1, 1, -1])]
    rows = [(image, 1, predict, max(radius, 0.0)) for image, _, predict, radius in rows]
    settings = {"radius": [0.25], "family_wise": True}
    said = [("certified",), ("certified",), ("undecided",)]
    for family_wise, shown, abstain in ((True, "50.0–100.0%", "0–2"), (False, "50.0–75.0%", "1–2")):
        run = make_run(rows, settings={**settings, "family_wise": family_wise}, decisions=said, images=4)
        (row,) = table(text_table([summary_of(run)]))
        assert (row["acc@0.25"], row["abstain"]) == (shown, abstain)
        assert draw([summary_of(run)], "png").startswith(MAGIC["png"])


def test_the_tsv_of_an_unfinished_run_is_refused(make_run: RunMaker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tsv: .*run.sqlite has 6 of 10 images, .*resume=True"):
        write_tsv(tmp_path / "run.tsv", make_run(images=10))  # type: ignore[arg-type]
    assert names(tmp_path) == set()


def test_radii_on_a_condition_say_so_in_every_row(make_run: RunMaker, tmp_path: Path) -> None:
    """Whoever reads the columns by name still can."""
    runs = {
        "only if the logits are 21.5-Lipschitz in [-1, 1] units (derived for ideal denoisers)": make_run(
            settings={"lipschitz": None}, lipschitz_constant=21.5
        ),
        "about the rounded image, its distance from the given one was not recorded": make_run(
            settings={"quantise": True}, format=2
        ),
    }
    for condition, run in runs.items():
        write_tsv(tmp_path / "run.tsv", run)  # type: ignore[arg-type]
        with (tmp_path / "run.tsv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert list(rows[0]) == [*HEADER.split("\t"), "condition"]
        assert {row["condition"] for row in rows} == {condition}
        assert [float(row["radius"]) for row in rows] == [row[3] for row in ROWS]


def test_the_title_says_where_distances_are_measured(make_run: RunMaker) -> None:
    settings = {"resize": 32, "crop": 32, "quantise": True, "skip": 20, "max": 500}
    run = make_run(settings=settings, shape=[3, 32, 32])
    space = "[0, 1]^(3×32×32) after --resize 32 --crop 32 (--quantise)"
    assert summary_of(run).title.endswith(f"alpha=0.001; ℓ2 in {space}; --skip 20; --max 500")
    picture = draw([summary_of(run)], "svg").decode()
    assert f"ℓ2 radius in {space}".replace("--", "- -") in picture and space in page([summary_of(run)])
    other = summary_of(make_run(name="other", shape=[3, 4, 4]))
    assert "ℓ2 radius, each run's in its own space" in draw([summary_of(run), other], "svg").decode()
    predicted = make_run([(0, 1, 1, None)], command="predict", settings={"resize": 8}, shape=[3, 8, 8])
    assert summary_of(predicted).title.endswith("; images in [0, 1]^(3×8×8) after --resize 8")


def test_rounded_images_are_said(make_run: RunMaker) -> None:
    text = text_table([summary_of(replace(make_run(settings={"quantise": True}), moved=0.01234))])
    assert "rounded: 6 images, by up to 0.0123 (ℓ2); every radius is about the image as given" in text
    text = text_table([summary_of(make_run(settings={"quantise": True}, format=2))])
    assert "radii are about the rounded images, the distance was not recorded" in text
    assert "rounded" not in text_table([summary_of(make_run(settings={"quantise": True}))])


def test_an_envelope_names_what_differs_and_what_it_is(make_run: RunMaker) -> None:
    first = summary_of(make_run(name="a"))
    for other, what in (
        (replace(make_run(name="b"), pixels="resized"), "image 0 has other pixels"),
        (make_run([(0, 1, 0, 0.0), *ROWS[1:]], name="b"), "image 0 has another label"),
        (make_run(ROWS[1:], name="b"), "image 0 is in one of them only"),
        (replace(make_run(name="b"), moved=0.01), "image 0 has another distance"),
    ):
        with pytest.raises(InputError, match=rf"b and a are not of the same images \({what}") as error:
            envelope([first, summary_of(other)])
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="takes finished runs, b is not"):
        envelope([first, summary_of(make_run(name="b", images=9))])
    text = text_table([first, summary_of(make_run(name="b", data="the same images elsewhere"))], enveloped=True)
    assert "it picks a classifier for each image by its label, so it is no certificate of one classifier" in text


def test_how_an_interval_is_to_be_read(make_run: RunMaker) -> None:
    alone = text_table([summary_of(make_run(settings={"alpha": 0.1}))])
    assert "its lower end is lowered by alpha" in alone
    assert "of these 6 certificates at most 2 are wrong with probability 97.5%" in alone
    together = text_table([summary_of(make_run(settings={"alpha": 0.1, "family_wise": True}))])
    assert "lowered" not in together and "with probability 97.5% less alpha" in together
    (line, *_) = [line for line in together.splitlines() if line.startswith("  95% interval  ")]
    (lowered, *_) = [line for line in alone.splitlines() if line.startswith("  95% interval  ")]
    ends = [[float(end) for end in each.split()[2].split("–")] for each in (line, lowered)]
    assert ends[0][1] == ends[1][1] and ends[1][0] == pytest.approx((ends[0][0] - 10) / 0.9, abs=0.2)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_fresh_local_noise_under_a_public_seed_has_no_guarantee(make_run: RunMaker, noise: str, version: int) -> None:
    text = text_table([summary_of(make_run(identity={"local_noise": noise, "noise_version": version}))])
    assert ("f is random" in text) is (noise == "fresh")
    assert ("NO guarantee" in text) is (noise == "fresh" and version == 1)
    assert ("each radius is right" in text) is not (noise == "fresh" and version == 1)
    assert ("made against it" in text) is (version == 1)


def test_the_average_radius_rounds_down(make_run: RunMaker) -> None:
    (row,) = table(text_table([summary_of(make_run([(0, 1, 1, 0.99999), (1, 1, 1, 0.99999)]))]))
    assert row["ACR"] == "0.9999"
    third = math.nextafter(0.2, 0)
    (row,) = table(text_table([summary_of(make_run([(i, 1, 1, third) for i in range(3)]))]))
    assert row["ACR"] == "0.1999"


def test_a_run_without_finished_images_is_refused(make_run: RunMaker) -> None:
    with pytest.raises(InputError, match=r"run\.sqlite has no finished images"):
        summary_of(make_run([]))


def test_radii_that_are_no_distances_are_refused(make_run: RunMaker) -> None:
    summary = summary_of(make_run())
    for radius in (-0.25, math.nan, math.inf):
        with pytest.raises(InputError, match="^radii to report"):
            text_table([summary], [0.0, radius])


# ---- TSV ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radius", "shown"),
    [(0.2499999, "0.249999"), (math.nextafter(0.25, 0), "0.249999"), (0.25, "0.250000"), (0.0, "0.000000"),
     (1e-7, "0.000000"), (0.999999999, "0.999999"), (1e-300, "0.000000"), (12.3456789, "12.345678")],
)  # fmt: skip
def test_radii_are_truncated(radius: float, shown: str) -> None:
    fields = tsv_line(result(4, 1, 1, radius, 0.6, 9, 10, 61.25)).split("\t")
    assert fields == ["4", "1", "1", shown, "1", "0:01:01.250000"]
    assert Decimal(shown) <= Decimal(radius)


def test_abstentions_wrong_answers_and_predictions() -> None:
    assert tsv_line(result(0, 1, -1, 0.0, 0.4, 5, 10, 0.0)) == "0\t1\t-1\t0.0\t0\t0:00:00"
    assert tsv_line(result(1, 1, 0, 0.5, 0.9, 9, 10, 0.0)) == "1\t1\t0\t0.500000\t0\t0:00:00"
    assert tsv_line(result(2, 1, 1, None, None, 9, 10, 0.0)) == "2\t1\t1\t0.0\t1\t0:00:00"


def test_the_file_has_a_header_and_a_line_an_image_in_order(make_run: RunMaker, tmp_path: Path) -> None:
    write_tsv(tmp_path / "run.tsv", make_run(ROWS[::-1]))  # type: ignore[arg-type]
    text = (tmp_path / "run.tsv").read_text(encoding="utf-8")
    head, *lines = text.splitlines()
    assert head == HEADER == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    assert text.endswith("\n")
    assert [int(line.split("\t")[0]) for line in lines] == [row[0] for row in ROWS]
    assert [line.split("\t")[4] for line in lines] == ["1", "1", "1", "0", "0", "1"]


# ---- whole or not at all --------------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writing_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    for text in ("first, and longer", "σ"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(tmp_path) == {"a.tsv"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: RunMaker
) -> None:
    summary = summary_of(make_run())
    writers: dict[str, Callable[[Path], None]] = {
        "a.tsv": lambda path: write_atomically(path, "new"),
        "a.png": lambda path: write_figure(path, [summary]),
    }

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in writers:
        (tmp_path / name).write_text("old")
    before = names(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    for name, write in writers.items():
        with pytest.raises(StoreError, match=rf"{re.escape(name)} cannot be written \(No space left on device\)"):
            write(tmp_path / name)
        assert (tmp_path / name).read_text() == "old"
    assert names(tmp_path) == before


def test_a_folder_in_the_way_or_missing(tmp_path: Path, make_run: RunMaker) -> None:
    summary = summary_of(make_run())
    (tmp_path / "folder.png").mkdir()
    before = names(tmp_path)
    for path in (tmp_path / "folder.png", tmp_path / "none" / "a.png"):
        with pytest.raises(StoreError, match="cannot be written"):
            write_atomically(path, "text")
        with pytest.raises(StoreError, match="cannot be written"):
            write_figure(path, [summary])
    assert names(tmp_path) == before


# ---- figures and pages ----------------------------------------------------------------------------------

MAGIC = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_figure_is_of_the_kind_its_suffix_says(make_run: RunMaker, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curve{suffix}"
    write_figure(path, [summary_of(make_run())])
    assert path.read_bytes().startswith(MAGIC[suffix[1:]])
    assert names(tmp_path) == {path.name}


def test_a_figure_of_another_kind_or_of_predictions_is_refused(make_run: RunMaker, tmp_path: Path) -> None:
    certified, predicted = make_run(), make_run([(0, 1, 1, None)], name="p", command="predict")
    for name in ("c.bmp", "c", "c.png.gz"):
        with pytest.raises(InputError, match="figure"):
            write_figure(tmp_path / name, [summary_of(certified)])
    with pytest.raises(InputError, match="predict runs have no radii"):
        write_figure(tmp_path / "c.png", [summary_of(predicted)])
    assert names(tmp_path) == set()


def test_a_figure_of_abstentions_only(make_run: RunMaker) -> None:
    assert draw([summary_of(make_run([(0, 1, -1, 0.0)]))], "png").startswith(MAGIC["png"])


ODD_NAMES = ["$x$", "a$\\frac$b", "_hidden", "__", "\udcff", "雪\U0001f600", "\u05d0\u0628", "a\nb", "\x01"]


@pytest.mark.parametrize("kind", MAGIC)
def test_odd_names_are_in_the_legend_as_they_are(make_run: RunMaker, kind: str) -> None:
    """They may neither raise nor warn, which is an error here; the SVG has each text once more as a comment."""
    summaries = [summary_of(make_run(name=name)) for name in ODD_NAMES]
    picture = draw(summaries, kind)
    assert picture.startswith(MAGIC[kind])
    if kind == "svg":
        text = picture.decode()
        assert all(f"<!-- {summary.name} ({summary.title}) -->" in text for summary in summaries)


def test_names_that_no_encoding_takes_are_escaped(make_run: RunMaker) -> None:
    summary = summary_of(make_run(name="a\udcff\n\x01ß"))
    assert summary.name == r"a\udcff\n\x01ß"
    for text in (text_table([summary]), page([summary])):
        assert summary.name in text.encode("utf-8").decode("utf-8")


def shown(text: str) -> dict[str, Any]:
    """What a page's script draws."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def test_a_page_has_every_image_and_refers_to_nothing_outside(make_run: RunMaker) -> None:
    rows = [*ROWS[:5], (13, 1, 1, 0.2499999)]
    text = page([summary_of(make_run(rows))])
    assert "default-src 'none'; img-src data:" in text
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, which nothing is fetched by
    assert not re.search(r"<(link|iframe|img|object|embed)\b|\bsrc=|@import|url\(", text)
    found = shown(text)["runs"][0]["rows"]
    assert found["image"] == [row[0] for row in rows]
    assert found["answer"] == [row[2] for row in rows]
    assert found["radius"] == [row[3] for row in rows]
    assert found["shown"] == ["0.000000", "0.500000", "0.750000", "0.000000", "2.000000", "0.249999"]


def test_a_page_of_predictions_has_no_curve(make_run: RunMaker) -> None:
    found = shown(page([summary_of(make_run([(0, 1, 1, None)], command="predict"))]))
    assert found["runs"][0]["curve"] is None and found["runs"][0]["shares"] == []
    assert found["lede"] == ["The smoothed classifier is right on 100.0% of 1 image."]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<", "a&b\"'<b>", "--><script>x<!--", "]]><script>x", "</script>", "a\u2028b{{data}}"]
)
def test_run_names_are_escaped_in_pages(make_run: RunMaker, name: str) -> None:
    text = page([summary_of(replace(make_run(), path=Path(name.replace("/", "\u2215") + ".sqlite")))])
    assert "alert(1)<" not in text and "<b>" not in text and "<!--" not in text and "<script>x" not in text
    assert text.lower().count("<script") == 2 == text.lower().count("</script")
    assert (
        shown(text)["runs"][0]["name"] == summary_of(replace(make_run(), path=Path(name.replace("/", "\u2215")))).name
    )


# ---- progress -------------------------------------------------------------------------------------------


def test_nothing_is_shown_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("certify") as progress:
        progress.start(images=3, finished=1, samples=300, drawn=100)
        progress.update(samples=100, images=1)
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_images_and_counts_what_the_store_held(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("certify") as progress:
        progress.start(images=4, finished=1, samples=400, drawn=100)
        progress.update(samples=100, images=1)
        assert progress.bar is not None
        assert (progress.bar.n, progress.bar.total) == (200, 400)
        progress.bar.refresh()
    assert "certify" in stream.getvalue()
    assert "2/4 images" in stream.getvalue()


def test_progress_that_never_started_closes() -> None:
    with ProgressBar("predict") as progress:
        progress.update(samples=1, images=0)


def test_summaries_are_in_image_order_and_typed(make_run: RunMaker) -> None:
    summary = summary_of(make_run(ROWS[::-1]))
    assert summary.images.tolist() == [row[0] for row in ROWS]
    assert summary.labels.tolist() == [row[1] for row in ROWS]
    assert summary.predicted.dtype == np.int64
    assert summary.radii.dtype == np.float64
    assert summary.abstentions == 1
