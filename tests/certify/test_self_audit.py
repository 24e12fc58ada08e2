"""The audit that every run makes of itself: how rows are chosen, what lasts, what it costs; tests/hostile has what it finds."""

from __future__ import annotations

import importlib
import json
import math
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import diffsmooth_trt as dst
from diffsmooth_trt.api import run
from diffsmooth_trt.certify.audit_rows import Row, Seat, WaitingRows
from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.places import MOVED, SLACK, least_share, most_moved
from diffsmooth_trt.certify.rules import Conditions, PredictRule, Rule, Votes
from diffsmooth_trt.certify.self_audit import LEAST, SHARE, SPARE, STRANGE, SelfAudit
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.errors import AuditError, InputError
from diffsmooth_trt.noise import ESTIMATION, PREDICTION
from diffsmooth_trt.runs.config import RunConfig

RUNNER = importlib.import_module("diffsmooth_trt.certify.loop")
KEY = "0123456789abcdef" * 4
W = np.random.default_rng(0).normal(size=(3, 48))


def label_of(seat: Span) -> int:
    """What a sound engine says of a row: anything that depends on it alone."""
    return (seat.block.image * 7 + seat.start + int(seat.pixels[0])) % 5


def evaluated(audit: SelfAudit, seats: list[Seat] | None) -> list[Seat]:
    if seats:
        audit.compare(seats, np.array([label_of(seat) for seat in seats]))
    return seats or []


def drawn(audit: SelfAudit, images: int, samples: int, size: int = 4) -> list[list[Seat]]:
    """A run of one block an image through `audit`, to its end; the batches that it evaluated."""
    batches = []
    for image in range(images):
        pixels = np.full(size, image % 256, np.uint8)
        for start in range(0, samples, audit.batch):
            high = min(audit.batch, samples - start)
            span = Span(Block(image, ESTIMATION, 0, samples), pixels, 0, high, start)
            labels = [label_of(Span(span.block, pixels, i, i + 1, start + i)) for i in range(high)]
            audit.see([span], np.array(labels), padded=high < audit.batch)
            if seats := audit.due():
                batches.append(evaluated(audit, seats))
    while seats := audit.rest():
        batches.append(evaluated(audit, seats))
    return batches


@pytest.mark.parametrize(("images", "samples"), [(1, 3), (1, 64), (2, 100), (3, 1000), (150, 1024)])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_how_many_rows(images: int, samples: int, batch: int) -> None:
    """All rows of a small run, 256 of a larger one, else SHARE of them (false alarm 1e-9); each once."""
    audit = SelfAudit(batch)
    batches = drawn(audit, images, samples)
    rows = [seat.row for seats in batches for seat in seats if seat.row is not None]
    total = images * samples
    assert audit.found["of"] == total and audit.found["rows"] == len(rows) == len(set(rows))
    assert len(rows) >= min(LEAST, total)
    padded = images * (samples % batch > 0)
    most = max(LEAST, stats.binom.isf(1e-9, total, SHARE)) + 16 * padded
    assert len(rows) <= most
    if not padded:
        assert len(rows) >= stats.binom.ppf(1e-9, total, SHARE)
    assert all(len(seats) == batch for seats in batches)
    assert audit.found["spent"] == batch * len(batches)
    if total > 1e5 and batch == 64:  # not padded
        assert audit.found["spent"] <= 0.0155 * total  # five deviations of the share above 1.4 %


def test_rows_are_chosen_evenly() -> None:
    """Every place and time alike: chi-squared over 8 parts of the run and of the batch, false alarm 1e-6 each."""
    audit = SelfAudit(64)
    rows = [seat.row for seats in drawn(audit, 400, 640) for seat in seats if seat.row is not None]
    for parts in (np.array([row.image for row in rows]) * 8 // 400, np.array([row.place for row in rows]) // 8):
        assert stats.chisquare(np.bincount(parts, minlength=8)).pvalue > 1e-6


def test_batches_mix_images_and_places() -> None:
    """Few rows of an image and at their own place; strangers a part of each batch, and nearly all of one in eight."""
    audit = SelfAudit(64)
    batches = drawn(audit, 400, 640)
    rows = [[seat.row for seat in seats if seat.row is not None] for seats in batches]
    full = [each for each in rows if len(each) == 56]
    assert len(full) > 20
    alike = [max(Counter(row.image for row in each).values()) for each in full]
    assert np.median(alike) <= 4 and np.mean(np.array(alike) > 8) < 0.3  # a quarter does not wait
    lonely = [each for each in rows if len(each) <= 64 // STRANGE]
    assert audit.found["strange"] >= 1 and all(len({row.image for row in each}) == len(each) for each in lonely[:-1])
    assert len(lonely) / len(rows) < 0.35  # 1 in 8 of about 50: false alarm 1e-5
    moved = [seat.moved for seats in batches for seat in seats if seat.row is not None]
    assert np.mean(moved) > 0.9
    strangers = [seat for seats in batches for seat in seats if seat.row is None]
    assert all(seat.start >= 2**31 for seat in strangers)  # no draw of a run
    kinds = {tuple(seat.pixels) for seat in strangers}
    assert {(0, 0, 0, 0), (255, 255, 255, 255)} < kinds and len(kinds) > 10


def test_what_a_store_is_told() -> None:
    """Each row once when it comes and once when it goes; of one that came and went between, nothing."""
    old, new = (Row(0, 1, sample, 2, 3, 0.5) for sample in (4, 5))
    held = WaitingRows([old])
    held.add(old)
    assert held.changes() == ([], [])
    held.add(new)
    held.drop(new)
    assert held.changes() == ([], [])
    held.add(new)
    held.drop(old)
    assert held.changes() == ([new], [old]) and held.rows == {new}
    held.drop(new)
    held.add(new)
    assert held.changes() == ([], [])


def test_memory_is_bounded() -> None:
    """A run of many images holds the pixels of a batch and the reserve at most."""
    audit = SelfAudit(16)
    most = 0
    for image in range(4000):
        span = Span(Block(image, ESTIMATION, 0, 16), np.full(4, image % 256, np.uint8), 0, 16, 0)
        labels = [label_of(Span(span.block, span.pixels, i, i + 1, i)) for i in range(16)]
        audit.see([span], np.array(labels), padded=False)
        evaluated(audit, audit.due())
        most = max(most, len(audit.held.rows))
    assert most <= LEAST + SPARE + 60


def test_a_difference_is_named() -> None:
    audit = SelfAudit(4)
    pixels = np.zeros(4, np.uint8)
    audit.see([Span(Block(9, ESTIMATION, 0, 4), pixels, 0, 4, 0)], np.array([1, 1, 1, 1]), padded=False)
    seats = audit.rest()
    assert seats is not None
    labels = np.array([3 if seat.row is None else 2 for seat in seats])
    with pytest.raises(
        AuditError, match=r"image 9, phase 1, sample \d: label 1 in the run, 2 among other rows.*another"
    ):
        audit.compare(seats, labels)
    assert audit.found["void"] and audit.found["differences"][0][0] == 9


# Runs


def config(engine: Path, data: Path, out: Path, **options: Any) -> RunConfig:
    settings = {"method": "rs", "sigma": 0.5, "n": 2500, "n0": 50, "key": KEY, "backend": "onnxruntime"}
    return RunConfig(**{"command": "certify", "engine": engine, "data": data, "out": out, **settings, **options})


def waiting(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM audit").fetchone()
    connection.close()
    return int(count)


@pytest.mark.parametrize(
    "options",
    [{}, {"command": "predict", "n": 300}, {"radius": (0.25,), "n": 4000}, {"tolerance": 0.1}, {"family_wise": True}],
)
def test_clean_runs(linear_classifier: Any, images_npz: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    """No row differs, nothing is left waiting, and the report says how many rows were looked at."""
    engine, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=4, classes=3), tmp_path / "r.sqlite"
    if options.get("command") == "predict":
        options = {**options, "n0": None}
    given = config(engine, data, out, **options) if options.get("n0", 0) is not None else None
    given = given or RunConfig(
        command="predict",
        engine=engine,
        data=data,
        out=out,
        method="rs",
        sigma=0.5,
        n=300,
        key=KEY,
        backend="onnxruntime",
    )
    with run(given) as store:
        audit = store.meta["audit"]
        assert audit["rows"] >= LEAST and audit["of"] >= store.drawn() and "differences" not in audit
    assert waiting(out) == 0
    from diffsmooth_trt.report.html import page
    from diffsmooth_trt.report.tables import summarise, text_table

    with dst.open_run(out) as store:
        summary = summarise(store)
    said = f"audit: {audit['rows']} rows of {audit['of']} evaluated again, 0 differ"
    assert said in text_table([summary]) and said in page([summary])


@pytest.mark.parametrize("method", ["diffsmooth", "apndc"])
def test_methods_with_noise_of_their_own(
    method: str,
    linear_classifier: Any,
    shrinking_denoiser: Any,
    conditional_denoiser: Any,
    images_npz: Any,
    tmp_path: Path,
) -> None:
    """Fresh local noise is the row's own wherever it is evaluated."""
    options: dict[str, Any] = {"method": method, "local_noise": "fresh", "n": 120, "n0": 20}
    if method == "apndc":
        options |= {"engine": conditional_denoiser(np.random.default_rng(1).normal(size=(3, 48)), 0.4), "steps": 5}
    else:
        options |= {"engine": shrinking_denoiser(0.5), "classifier": linear_classifier(W, np.zeros(3)), "m": 2}
        options |= {"local_sigma": 0.25, "sigma": None}
    data = images_npz(count=2, classes=3)
    with run(config(options.pop("engine"), data, tmp_path / "r.sqlite", **options)) as store:
        assert store.meta["audit"]["rows"] >= LEAST


class Killed(Exception):
    pass


class Killer:
    """Progress that ends the run after so many samples, as a signal would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, *_: Any) -> None:
        """Ignore it."""

    def update(self, samples: int, images: int) -> None:
        """Count, and stop."""
        self.left -= samples
        if self.left < 0:
            raise Killed


def test_rows_that_wait_outlive_a_kill(
    linear_classifier: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on disk with the votes, are compared after the resume, and none is counted twice."""
    monkeypatch.setattr(RUNNER, "COMMIT_SECONDS", 0.0)
    engine, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=4, classes=3), tmp_path / "r.sqlite"
    for after in (3000, 2000):
        with pytest.raises(Killed):
            run(config(engine, data, out, resume=True), Killer(after))
        with dst.open_run(out) as store:
            held = store.meta["audit"]
            assert held["of"] >= store.drawn()
            assert held["rows"] + waiting(out) >= min(LEAST, held["of"])
    with run(config(engine, data, out, resume=True)) as store:
        audit = store.meta["audit"]
        assert audit["rows"] >= LEAST and audit["of"] >= 4 * 2550 and waiting(out) == 0
    assert len(json.dumps(audit)) < 500


def test_a_row_that_waited_is_held_to_its_label(
    linear_classifier: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another label on disk than the engine gives: found after the resume, whichever row it is."""
    monkeypatch.setattr(RUNNER, "COMMIT_SECONDS", 0.0)
    engine, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=2, classes=3), tmp_path / "r.sqlite"
    with pytest.raises(Killed):
        run(config(engine, data, out), Killer(600))
    assert waiting(out) > 0
    with sqlite3.connect(out) as connection:
        connection.execute("UPDATE audit SET label = 2 - label, lot = 0 WHERE label <> 1")
    connection.close()
    with pytest.raises(AuditError, match="no vote of this run counts"):
        run(config(engine, data, out, resume=True))
    with pytest.raises(InputError, match="its audit failed"):
        dst.open_run(out)


def test_stores_from_before_the_audit(linear_classifier: Any, images_npz: Any, tmp_path: Path) -> None:
    """They are reported as not audited; a resumed one says how much of it is not."""
    engine, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=2, classes=3), tmp_path / "r.sqlite"
    run(config(engine, data, out)).close()
    with sqlite3.connect(out) as connection:
        connection.execute("DROP TABLE audit")
        connection.execute("DELETE FROM meta WHERE name = 'audit'")
    connection.close()
    from diffsmooth_trt.report.tables import summarise

    with dst.open_run(out) as store:
        assert "audit: none" in summarise(store).notes
    with sqlite3.connect(out) as connection:
        connection.execute("DELETE FROM results WHERE image = 1")
        connection.execute("DELETE FROM blocks WHERE image = 1 AND phase = 1")
    connection.close()
    with run(config(engine, data, out, resume=True)) as store:
        assert any(
            line.endswith("none of the 2600 drawn before by an older version") for line in summarise(store).notes
        )
        assert store.meta["audit"]["of"] == 2500
    assert dst.verify(out, fraction=1).agrees


@pytest.mark.parametrize("value", ["[]", '{"rows": -1, "of": 2}', '{"rows": "x"}', "null"])
def test_damaged_audits(linear_classifier: Any, images_npz: Any, tmp_path: Path, value: str) -> None:
    engine, data, out = linear_classifier(W, np.zeros(3)), images_npz(count=1, classes=3), tmp_path / "r.sqlite"
    run(config(engine, data, out, n=100)).close()
    with sqlite3.connect(out) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'audit'", (value,))
    connection.close()
    with pytest.raises(InputError, match=r"damaged in its table meta \(audit\)"):
        dst.open_run(out)


# Last bits that depend on the place


def test_share_where_places_matter() -> None:
    assert least_share(SHARE, 40_000) == MOVED / 0.75 / 40_000 and least_share(SHARE, 16_000) == 1
    assert least_share(SHARE, 10**7) == SHARE
    with pytest.raises(InputError, match="100 draws are too few .* raise n or max, or use device cpu"):
        least_share(SHARE, 100)


def test_own_places_are_strict_and_others_are_counted() -> None:
    audit = SelfAudit(64, share=0.4, place_dependent=True)
    batches = drawn(audit, 30, 1024)
    rows = [seat for seats in batches for seat in seats if seat.row is not None]
    staying = sum(not seat.moved for seat in rows)
    assert audit.found["moved"] == len(rows) - staying and staying > 0.15 * len(rows)
    assert all(seat.low == seat.row.place for seat in rows if seat.row is not None and not seat.moved)
    audit.finish()
    audit.found["moved_differ"] = math.ceil(0.002 * audit.found["moved"])
    with pytest.raises(AuditError, match="have another label at another place"):
        audit.finish()
    seat = Seat(Block(0, 1, 5, 6), np.zeros(4, np.uint8), 3, 4, 5, Row(0, 1, 5, 3, 1, 0.0), moved=False)
    with pytest.raises(AuditError, match="sample 5: label 1 in the run, 2"):
        audit.compare([seat], np.array([2]))


@pytest.mark.parametrize("risk", [0.5, 0.025, 1e-6])
@pytest.mark.parametrize("votes", [1, 10, 1000, 10**6])
def test_votes_that_may_move(votes: int, risk: float) -> None:
    found, exact = most_moved(votes, SLACK, risk), int(stats.binom.isf(risk, votes, SLACK))
    assert exact <= found <= min(votes, exact + 2)
    assert most_moved(votes, 0.0, risk) == 0


def test_slack_is_taken_off_every_bound() -> None:
    """A certificate's bound falls by it; a prediction bears that many votes moved."""
    sure = Conditions(sigma=0.5, total_variation=1e-12)
    unsure = replace(sure, slack=SLACK)
    bounds = []
    for conditions in (sure, unsure):
        rule = Rule(Stopping(n0=10, n=1000, alpha=0.001), conditions)
        votes = Votes(rule.plan, 2)
        for block in rule.plan.blocks(0):
            votes.add(block, [block.stop - block.start, 0])
        bounds.append(rule.outcome(votes).p_lower)
    assert bounds[0] is not None and bounds[1] is not None
    assert SLACK * (1 - 1e-9) <= bounds[0] - bounds[1] <= SLACK * (1 + 1e-9)
    asked = Stopping(command="predict", n=1000, alpha=0.05)
    slow, plain = PredictRule(asked, unsure), PredictRule(asked, sure)
    moved = int(stats.binom.isf(0.025, 1000, SLACK))
    for first in range(500, 600):
        answers = []
        for rule in (plain, slow):
            votes = Votes(rule.plan, 2)
            votes.totals[PREDICTION] += np.array([first, 1000 - first])
            answers.append(rule.outcome(votes).predict)
        if answers[1] == 0:  # then it would at the stricter level with those votes moved
            assert answers[0] == 0
            assert stats.binomtest(first - moved, 1000).pvalue <= 0.025
    assert answers == [0, 0]
