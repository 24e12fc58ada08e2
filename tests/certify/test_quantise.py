"""Images off the grid: what is said is about them, not about the pixels that they are rounded to."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import diffsmooth_trt as dst
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.rules import CERTIFIED, REFUTED, Conditions, LipschitzRule, RadiusRule, Rule, Votes
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.cli import main
from diffsmooth_trt.noise.counters import KEY_DIGITS
from diffsmooth_trt.statistics.bounds import less_distance, normal_cdf_lower, prediction, prediction_at
from diffsmooth_trt.statistics.sequential import looks

SHAPE = (3, 4, 4)
D = 48
SIGMA = 0.1
KEY = "5eed" * (KEY_DIGITS // 4)
STEP = math.sqrt(D) / 255  # all pixels by one


@pytest.fixture
def options(linear_classifier, tmp_path):
    """A half-space whose boundary is 0.05 below the image of 128s: class 0 above it."""
    w = np.ones(D) / math.sqrt(D)
    t = math.sqrt(D) * 128 / 255 - 0.05
    engine = linear_classifier(np.stack([w, -w]), np.array([-t, t]))
    return {
        "engine": engine, "method": "rs", "sigma": SIGMA, "backend": "onnxruntime", "n": 20_000, "batch": 512, "threads": 1,
        "key": KEY, "out": tmp_path / "run.sqlite", "data": tmp_path / "images.npz",
    }  # fmt: skip


def images(path: Path, *levels: float) -> None:
    """One image each, all its pixels level/255."""
    values = np.array(levels).reshape(-1, 1, 1, 1) / 255 * np.ones((1, 4, 4, 3))
    np.savez(path, images=values, labels=np.zeros(len(levels), np.int64))


def results(command: str = "certify", **options) -> list[dst.Result]:
    with getattr(dst, command)(**options) as store:
        return list(store.results())


def test_no_radius_reaches_beyond_the_boundary_and_predictions_agree_within_it(options):
    """Levels are 128 less 0.49, 0.3, 0.1, 0 and −0.4 steps; the true distances to the boundary are of these, not of 128."""
    levels = [127.51, 127.7, 127.9, 128.0, 128.4]
    images(options["data"], *levels)
    found = results(**options, quantise=True)
    with dst.open_run(options["out"]) as store:
        recorded = [store.known(result.image)[2] for result in found]
    for level, result, distance in zip(levels, found, recorded, strict=True):
        assert distance == pytest.approx(abs(level - 128) / 255 * math.sqrt(D), rel=1e-9, abs=1e-15)
        assert 0 < result.radius < 0.05 + (level - 128) * STEP + (0 if level <= 128 else -2 * (level - 128) * STEP)
    images(options["data"], *(128 - 0.51 * k for k in range(4)))
    answers = results("predict", **{**options, "out": options["out"].with_name("p.sqlite")}, quantise=True)
    assert {result.predict for result in answers} <= {0, -1} and answers[0].predict == 0


def test_where_nothing_is_left_it_abstains(options):
    images(options["data"], 127.0, 126.55)  # pixels 127: 0.023 from the boundary; 126.55 is 0.012 away from them
    near, far = results(**options, quantise=True)
    assert near.predict == 0 and 0 < near.radius < 0.05 - STEP
    assert 0 < far.radius < 0.05 - 1.45 * STEP
    images(options["data"], 126.51)
    for command in ("certify", "predict"):
        (only,) = results(
            command, **{**options, "n": 100, "out": options["out"].with_name(f"{command}.sqlite")}, quantise=True
        )
        assert (only.predict, only.radius or 0.0) == (-1, 0.0)


@pytest.mark.parametrize("extra", [{"radius": (0.02, 0.045)}, {"tolerance": 0.05}, {"family_wise": True}])
def test_other_kinds_of_certificates(options, extra, tmp_path):
    images(options["data"], 127.6, 128.0)
    moved, exact = results(**options, quantise=True, **extra)
    assert exact.radius > 0.02 and 0 < moved.radius < 0.05 - 0.4 * STEP
    if "radius" in extra:
        assert moved.decisions[0] == exact.decisions[0] == CERTIFIED and moved.radius >= 0.02
        assert moved.decisions[1] != CERTIFIED
    assert dst.verify(options["out"], fraction=1).agrees


def test_a_preset_radius_is_decided_for_itself_and_the_distance():
    """The same votes certify r + D on the grid whenever they certify r at distance D; up to σ/1024 is lost, no more."""
    asked = Stopping(n0=1, n=1000, alpha=0.05, radius=(0.1,))
    rule, rng, seen = RadiusRule(asked, Conditions(sigma=SIGMA)), np.random.default_rng(3), set()
    for distance in (1e-9, 0.01234, 0.05):
        exact = RadiusRule(replace(asked, radius=(0.1 + distance,)), Conditions(sigma=SIGMA))
        above = RadiusRule(replace(asked, radius=(0.1 + distance + SIGMA / 1024 + 1e-12,)), Conditions(sigma=SIGMA))
        for p in normal_cdf_lower(1.0 + distance / SIGMA) + np.array([-0.1, -0.03, 0.0, 0.05, 0.1]):
            for _ in range(20):
                hits = rng.binomial(np.diff([0, *looks(1000)]), min(p, 1)).cumsum().tolist()
                said = rule.decide(hits, 0, distance)
                seen.add(said[0])
                assert said != (CERTIFIED,) or exact.decide(hits) == (CERTIFIED,)
                assert above.decide(hits) != (CERTIFIED,) or said == (CERTIFIED,)
    assert {CERTIFIED, REFUTED} <= seen
    far = rule.decide(list(looks(1000)), 0, 100.0)
    assert far == ("undecided",) or far == (REFUTED,)  # beyond what any votes certify: no error


def votes_of(rule: Rule, selection: list[int], estimation: list[int], distance: float) -> Votes:
    votes = Votes(rule.plan, 2, distance)
    votes.add(Block(0, 0, 0, sum(selection)), selection)
    votes.add(Block(0, 1, 0, sum(estimation)), estimation)
    return votes


def test_the_distance_is_taken_off_rounded_down():
    rule = Rule(Stopping(n0=10, n=1000, alpha=0.001), Conditions(sigma=0.25))
    whole = rule.outcome(votes_of(rule, [10, 0], [900, 100], 0.0))
    for distance in (1e-300, 1e-17, 0.1, whole.radius, math.nextafter(whole.radius, 0), 5.0):
        found = rule.outcome(votes_of(rule, [10, 0], [900, 100], distance))
        assert Fraction(found.radius) <= max(Fraction(0), Fraction(whole.radius) - Fraction(distance))
        assert (found.predict, found.p_lower) == (0 if found.radius > 0 else -1, whole.p_lower)
        assert found.radius == less_distance(whole.radius, distance)
    assert found.predict == -1


def test_a_lipschitz_radius_is_about_the_image_as_given():
    rule = LipschitzRule(Stopping(certificate="lipschitz"), Conditions(sigma=0.0, lipschitz_constant=2.0))
    for distance, radius, predict in ((0.0, 0.125, 1), (0.1, 0.025, 1), (0.125, 0.0, -1), (1.0, 0.0, -1)):
        votes = Votes(rule.plan, 2, distance)
        votes.margin = (1, 1.0)
        found = rule.outcome(votes)
        assert found.predict == predict and radius - 1e-16 <= found.radius <= radius


def test_a_family_of_moved_images():
    """Each image has thresholds of its own, so none is certified for more than it is alone at the family's last level."""
    asked = Stopping(n0=1, n=1000, alpha=0.05, radius=(0.1,), family_wise=True)
    rule = RadiusRule(asked, Conditions(sigma=SIGMA, images=4))
    rng, family = np.random.default_rng(1), []
    for distance in (0.0, 0.001, 0.02, 0.2):
        votes = Votes(rule.plan, 2, distance)
        votes.add(Block(0, 0, 0, 1), [1, 0])
        for size in np.diff([0, *looks(1000)]):
            hits = rng.binomial(size, 0.93)
            votes.add(Block(0, 1, 0, int(size)), [hits, size - hits])
        family.append(votes)
    said = [outcome.decisions[0] for outcome in rule.family(family)]
    assert said[:2] == [CERTIFIED, CERTIFIED] and said[3] == REFUTED
    assert [rule.outcome(votes).decisions[0] for votes in family][3] == REFUTED


# ---- predictions ----------------------------------------------------------------------------------------


def test_a_prediction_away_from_the_votes_needs_more_of_them():
    assert prediction_at([600, 400], 0.001, 0.25, 0.0) == prediction([600, 400], 0.001) == 0
    answers = [prediction_at([900, 100], 0.001, 0.25, distance) for distance in np.linspace(0, 0.5, 60)]
    last = answers.index(-1)
    assert 0 < last < 60 and answers == [0] * last + [-1] * (60 - last)
    assert prediction_at([0, 1000, 0], 0.001, 0.25, 0.5) == 1
    assert prediction_at([1000, 0], 0.001, 0.25, 100.0) == -1
    assert prediction_at([1000], 0.001, 0.25, 0.1, total_variation=1e-5) == -1  # n·TV is all of alpha
    assert prediction_at([1], 0.6, 1.0, 0.0) == -1


@pytest.mark.parametrize(("distance", "n"), [(0.0, 50), (0.1, 50), (0.1, 200), (0.3, 80)])
def test_a_wrong_prediction_is_as_rare_as_alpha_says(distance, n):
    """Exactly, over all votes of two classes at every probability that leaves class 0 wrong, and with a third class."""
    alpha, t = 0.1, stats.norm.cdf(distance / 0.25)
    answered = [prediction_at([h, n - h], alpha, 0.25, distance) for h in range(n + 1)]
    for p in np.linspace(1 - t, t, 41):
        mass = stats.binom.pmf(np.arange(n + 1), n, p)
        wrong = [answer >= 0 and (p if answer == 0 else 1 - p) <= t for answer in answered]
        assert mass[wrong].sum() <= alpha
    assert (
        max(h for h, answer in enumerate(answered) if answer == 1)
        < n / 2
        < min(h for h, answer in enumerate(answered) if answer == 0)
    )


# ---- stores ---------------------------------------------------------------------------------------------


def edit(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_verify_checks_the_distances_against_the_data(options, capsys):
    images(options["data"], 127.7, 128.0)
    results(**options, quantise=True)
    edit(options["out"], "UPDATE images SET distance = 0.0", "DELETE FROM results")
    with dst.RunStore.open(options["out"], write=True) as store:  # all of it consistent again
        for image in (0, 1):
            store.add_result(image, store.rule.outcome(store.votes(image)))
        store.commit()
        assert len(list(store.results())) == 2
    assert main(["verify", str(options["out"])]) == 1
    said = capsys.readouterr().out
    assert "image 0: recorded distance 0.0, --data has 0.008" in said and "image 1" not in said


@pytest.mark.parametrize("value", ["-0.1", "'x'", "9e999", "0.2"])
def test_distances_that_cannot_be_are_damage(options, value):
    images(options["data"], 128.0)
    results(**options)
    edit(options["out"], f"UPDATE images SET distance = {value}")
    with dst.open_run(options["out"]) as store, pytest.raises(dst.StoreError, match="distance"):
        list(store.results())


def test_older_stores_are_read_and_say_what_they_lack(options, load_beside, capsys):
    images(options["data"], 127.7)
    path = options["out"]
    (new,) = results(**options, quantise=True)
    load_beside("old_stores.py").as_format_2(path)
    edit(
        path,
        "DELETE FROM results",
        f"INSERT INTO results SELECT 0, 0, 0, 0, hits, trials FROM (SELECT {new.hits} hits, {new.trials} trials)",
    )
    with dst.open_run(path) as store:
        outcome = store.rule.outcome(store.votes(0))
    edit(path, f"UPDATE results SET radius = {outcome.radius!r}, p_lower = {outcome.p_lower!r}")
    with dst.open_run(path) as store:
        assert store.meta["format"] == 2 and not store.record.has_distances
        assert next(iter(store.results())).radius > new.radius
    assert main(["report", str(path)]) == 0
    assert "radii are about the rounded images, the distance was not recorded" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0
    assert "radii are about the rounded images, the distance was not recorded" in capsys.readouterr().out
    with pytest.raises(dst.InputError, match="resume=True .*did not record how far it moved each image"):
        dst.certify(**options, quantise=True, resume=True)


def test_older_stores_without_quantise_go_on(options, load_beside):
    np.savez(options["data"], images=np.full((2, 4, 4, 3), 128, np.uint8), labels=[0, 0])
    results(**options)
    fresh = options["out"].read_bytes()
    load_beside("old_stores.py").as_format_2(options["out"])
    edit(options["out"], *(f"DELETE FROM {table} WHERE image = 1" for table in ("results", "blocks", "images")))
    assert len(results(**options, resume=True)) == 2
    assert dst.verify(options["out"], fraction=1).agrees and fresh
