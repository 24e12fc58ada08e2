"""Statistics that stop early: exactly where n is small, by a second implementation or simulation where it is not.

A simulation counts wrong statements in N runs and fails where they exceed the (1 − 10^-6)-quantile of Bin(N, alpha): a false
alarm rate of at most 10^-6 a test at alpha itself, and the seeds are fixed. Larger simulations: benchmarks/bench_error_rate.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.certify.rules import (
    BOUND_SHARE,
    CERTIFIED,
    REFUTED,
    UNDECIDED,
    Conditions,
    RadiusRule,
    SequentialRule,
    ToleranceRule,
    Votes,
)
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import ESTIMATION, SELECTION
from diffsmooth_trt.statistics.bounds import ABSTAIN, binomial_lower, normal_cdf_lower, normal_cdf_upper
from diffsmooth_trt.statistics.sequential import (
    FIRST_LOOK,
    MAX_DRAWS,
    anytime_lower,
    largest_radius,
    least_hits,
    looks,
    projected_lower,
    share,
    thresholds,
)

SIGMA = 0.25
FALSE_ALARM = 1e-6

Hits = NDArray[np.int64]
Mask = NDArray[np.bool_]


def allowed(runs: int, alpha: float) -> int:
    return int(stats.binom.isf(FALSE_ALARM, runs, alpha))


def asked_for(
    n: int, alpha: float, *, images: int = 1, distance: float = 0.0, **stopping: Any
) -> tuple[Stopping, Conditions]:
    stopping = {"n0": 10, "n": n, "alpha": alpha, "family_wise": images > 1, **stopping}
    return Stopping(**stopping), Conditions(sigma=SIGMA, total_variation=distance, images=images)


def paths(p: float | NDArray[np.float64], n: int, runs: int, seed: int) -> Hits:
    """Hits [runs, looks]; p: one probability, or one a run."""
    steps = np.diff(np.array([0, *looks(n)]))
    chance = np.broadcast_to(p, (runs,))[:, None]
    return np.cumsum(np.random.default_rng(seed).binomial(steps, chance, size=(runs, len(steps))), axis=1)


def votes_of(rule: SequentialRule, hits: Iterable[int], *, whole: bool = False) -> Votes:
    """An image's votes with these hits, up to the look at which the rule stops unless `whole`."""
    votes = Votes(rule.plan, 2)
    votes.add(Block(0, SELECTION, 0, 10), [10, 0])
    before = (0, 0)
    for look in zip(looks(rule.n), map(int, hits), strict=False):
        drawn, hit = look[0] - before[0], look[1] - before[1]
        votes.add(Block(0, ESTIMATION, before[0], look[0]), [hit, drawn - hit])
        before = look
        if not whole and rule.stops(votes):
            break
    return votes


def first(yes: Mask, no: Mask) -> tuple[Mask, Mask]:
    """Which rows reach `yes` before `no`, or with it, and which reach `no` before."""
    either = yes | no
    rows = np.arange(len(either)), either.argmax(axis=1)
    return yes[rows], no[rows] & ~yes[rows]


# ---- looks and shares -----------------------------------------------------------------------------------


def test_looks_are_the_same_for_every_n() -> None:
    every = looks(10**12)
    assert every[0] == FIRST_LOOK and every[-1] == 10**12
    assert all(1.049 < after / before < 1.34 for before, after in pairwise(every))
    assert all(after / before < 1.13 for before, after in pairwise(every) if before >= 80)
    for n in (29, 30, 31, 99, 100, 101, 224, 225, 999, 1000, 12_345, 10**5, 10**7 + 1):
        assert looks(n) == tuple(draws for draws in every if draws <= n)


def test_shares_grow_and_stay_below_one() -> None:
    shares = [Fraction(share(draws)) for draws in looks(10**12)]
    assert shares[0] > 0 and shares[-1] < 1
    assert all(before < after for before, after in pairwise(shares))
    for draws, got in zip(looks(10**12), shares, strict=True):
        assert got**2 * (draws + 50_000) <= draws


# ---- least_hits -----------------------------------------------------------------------------------------


def exact_budgets(
    over: int, alpha: float, draws: Sequence[int], least: Iterable[int], most: Iterable[int] | None = None
) -> list[tuple[Fraction, Fraction]]:
    """By each look, for hits of probability over/1024: P(some H ≥ least, or ≤ most), exactly, one draw after the other; and
    the same were this look's least hits one fewer."""
    floor = [-1] * len(draws) if most is None else list(most)
    alive, drawn, crossed = [1], 0, Fraction(0)  # alive[h]·1024^-drawn is the probability of h hits, nothing crossed
    found = []
    for look, high, low in zip(draws, least, floor, strict=True):
        for _ in range(look - drawn):
            stay, move = [*(a * (1024 - over) for a in alive), 0], [0, *(a * over for a in alive)]
            alive = [a + b for a, b in zip(stay, move, strict=True)]
        drawn = look
        unit = 1024**drawn
        spared = alive[high - 1] if low < high - 1 < len(alive) else 0
        crossed += Fraction(sum(alive[high:]) + sum(alive[: low + 1]), unit)
        alive = [a if low < h < high else 0 for h, a in enumerate(alive)]
        found.append((crossed, crossed + Fraction(spared, unit)))
    return found


@pytest.mark.parametrize("alpha", [0.001, 0.05, 1e-12])
@pytest.mark.parametrize("over", [1, 340, 512, 819, 1000, 1023])
def test_least_hits_are_the_least_that_keep_their_budget_exactly(over: int, alpha: float) -> None:
    draws = looks(500)
    least = least_hits(over / 1024, alpha, 500)
    found = exact_budgets(over, alpha, draws, least.tolist())
    for look, (crossed, lower) in zip(draws, found, strict=True):
        budget = Fraction(alpha) * Fraction(share(look))
        assert crossed <= budget < lower


def float_budgets(p: float, n: int, least: Hits) -> list[tuple[float, float]]:
    """`exact_budgets` in floating point: SciPy's binomial, carried on by adding shifted copies; to 10^-9."""
    draws = looks(n)
    alive = np.zeros(n + 1)
    alive[0], drawn, crossed = 1.0, 0, 0.0
    found = []
    for look, high in zip(draws, least, strict=True):
        step = stats.binom(look - drawn, p)
        after = np.zeros(n + 1)
        span = np.flatnonzero(alive)[[0, -1]] + [0, 1]
        likely = np.arange(int(step.ppf(1e-25)), int(step.isf(1e-25)) + 1)
        for more, chance in zip(likely.tolist(), step.pmf(likely), strict=True):
            after[span[0] + more : span[1] + more] += alive[span[0] : span[1]] * chance
        drawn = look
        crossed += math.fsum(after[high:])
        found.append((crossed, crossed + after[high - 1]))
        after[high:] = 0.0
        after[after < 1e-25] = 0.0
        alive = after
    return found


@pytest.mark.parametrize("p", [0.7, 0.9987])
def test_least_hits_of_many_draws_agree_with_a_second_implementation(p: float) -> None:
    n, alpha = 10**5, 0.001
    for look, (crossed, lower) in zip(looks(n), float_budgets(p, n, least_hits(p, alpha, n)), strict=True):
        assert crossed <= alpha * share(look) * (1 + 1e-9)
        assert lower > alpha * share(look) * (1 - 1e-7)
    assert crossed > 0.9 * alpha * share(n)  # little is lost to discreteness


def test_least_hits_do_not_depend_on_n() -> None:
    for p in (0.02, 0.6, 0.9):
        longest = least_hits(p, 0.001, 10**5)
        for n in (30, 77, 1000, 10**4):
            assert np.array_equal(least_hits(p, 0.001, n), longest[: len(looks(n))])
    assert least_hits(0.5, 0.001, 29).size == 0


@pytest.mark.parametrize("alpha", [0.001, 1e-12, 1e-25, 1e-300])
@pytest.mark.parametrize("p", [5e-324, 1e-40, 1e-9, 1 - 1e-9, 1 - 2**-53])
def test_least_hits_at_the_edges_reject_only_what_is_improbable(p: float, alpha: float) -> None:
    n = 10**5
    for look, least in zip(looks(n), least_hits(p, alpha, n), strict=True):
        assert 1 <= least <= look + 1
        assert stats.binom.sf(least - 1, look, p) <= alpha


def test_least_hits_refuse_what_has_no_answer() -> None:
    for p in (0.0, 1.0, -0.1, 1.5, math.nan, math.inf):
        with pytest.raises(InputError, match=r"expected above 0 and below 1"):
            least_hits(p, 0.001, 1000)
    with pytest.raises(InputError, match=r"expected at most 10\^7"):
        least_hits(0.5, 0.001, MAX_DRAWS + 1)
    with pytest.raises(ValueError, match="read-only"):
        least_hits(0.5, 0.001, 1000)[0] = 0  # it is shared


# ---- thresholds of radii --------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.01])
def test_thresholds_allow_for_the_total_variation(distance: float) -> None:
    n, alpha = 1000, 0.01
    for radius in (1e-9, 0.1, 0.3):
        certify, refute = thresholds(radius, SIGMA, distance, alpha, n)
        assert np.all(refute < certify)
        hit = normal_cdf_upper(radius / SIGMA) + distance
        assert np.array_equal(certify, least_hits(min(hit, 1 - 1e-16), alpha, n)) or distance
        assert np.all(certify >= least_hits(hit * (1 - 1e-15), alpha, n))
        assert np.all(refute <= np.array(looks(n)) - least_hits(1 - (hit - 2 * distance) - 1e-15, alpha, n))


@pytest.mark.parametrize("alpha", [0.5, 0.001, 1e-12, 1e-24])
@pytest.mark.parametrize("n", [100, 999, 10**4, 10**5])
def test_a_radius_beyond_reach_is_refused_and_the_largest_is_accepted(n: int, alpha: float) -> None:
    for distance in (0.0, 1e-9, 0.003):
        largest = largest_radius(SIGMA, distance, alpha, n)
        assert largest > 0
        certify, _ = thresholds(largest, SIGMA, distance, alpha, n)
        assert certify[-1] <= looks(n)[-1]
        with pytest.raises(InputError, match=rf"beyond what n = {n} .* at most {largest:.4f}: raise n"):
            thresholds(1.0005 * largest + 0.0002, SIGMA, distance, alpha, n)
    assert largest_radius(SIGMA, 0.5, alpha, n) == 0.0
    assert largest_radius(SIGMA, 0.0, alpha, 29) == 0.0


@pytest.mark.parametrize("radius", [0.02, 0.25, 0.5])
def test_an_answer_is_wrong_at_most_at_its_level_exactly(radius: float) -> None:
    # probabilities on both sides of Φ(radius/σ), as close as 1/1024 gets: there each error is likeliest
    n, alpha, draws = 400, 0.05, looks(400)
    certify, refute = (each.tolist() for each in thresholds(radius, SIGMA, 0.0, alpha, n))
    below = math.floor(1024 * normal_cdf_lower(radius / SIGMA))
    nothing = [draw + 1 for draw in draws]
    assert exact_budgets(below, alpha, draws, certify)[-1][0] <= Fraction(alpha)
    wrong = exact_budgets(below + 1, alpha, draws, nothing, refute)[-1][0]
    assert 0 < wrong <= Fraction(alpha)


@pytest.mark.parametrize("distance", [0.0, 0.01])
@pytest.mark.parametrize("radius", [0.125, 0.5])
def test_wrong_answers_next_to_the_threshold_are_as_rare_as_stated(radius: float, distance: float) -> None:
    runs, n, alpha = 10_000, 10**5, 0.01
    certify, refute = thresholds(radius, SIGMA, distance, alpha, n)
    true = normal_cdf_lower(radius / SIGMA)
    too_many = paths(true + distance, n, runs, 1)  # drawn with the worst noise: the class itself is just too rare
    certified, _ = first(too_many >= certify, too_many <= refute)
    too_few = paths(true - distance, n, runs, 2)
    _, refuted = first(too_few >= certify, too_few <= refute)
    for wrong in (certified.sum(), refuted.sum()):
        assert 0.3 * alpha * runs < wrong <= allowed(runs, alpha)


# ---- anytime_lower --------------------------------------------------------------------------------------


def bound_exceeds(p: float, alpha: float, n: int) -> list[int]:
    """For each look, the least hits whose own bound exceeds p."""
    found = []
    levels = np.diff([0.0, *(share(draws) for draws in looks(n))]) * alpha * (1 - 1e-12)
    for draws, level in zip(looks(n), levels, strict=True):
        low, high = 0, draws + 1  # the bound of `low` hits does not exceed p
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if binomial_lower(middle, draws, float(level)) <= p else (low, middle)
        found.append(high)
    return found


@pytest.mark.parametrize("over", [100, 512, 900, 990])
def test_the_bound_of_all_looks_covers_exactly(over: int) -> None:
    n, alpha = 300, 0.05
    wrong = exact_budgets(over, alpha, looks(n), bound_exceeds(over / 1024, alpha, n))[-1][0]
    assert 0 < wrong <= Fraction(alpha)


def test_the_bound_of_all_looks_covers_by_simulation() -> None:
    runs, n, alpha = 10_000, 10**4, 0.05
    for p in (0.6, 0.95):
        exceeded = paths(p, n, runs, 3) >= np.array(bound_exceeds(p, alpha, n))
        assert 0 < exceeded.any(axis=1).sum() <= allowed(runs, alpha)


def test_the_bound_is_the_largest_of_the_looks() -> None:
    n, alpha = 2000, 0.001
    levels = np.diff([0.0, *(share(draws) for draws in looks(n))]) * alpha * (1 - 1e-12)
    for number, hits in enumerate(paths(np.array([0.0, 0.03, 0.5, 0.8, 0.99, 1.0]), n, 6, 4)):
        each = [
            binomial_lower(int(hit), draws, float(level))
            for hit, draws, level in zip(hits, looks(n), levels, strict=True)
        ]
        bounds = [anytime_lower(hits[:seen], alpha) for seen in range(1, len(hits) + 1)]
        assert bounds == pytest.approx(np.maximum.accumulate(each).tolist(), rel=1e-9)
        now, later = projected_lower(hits, alpha, n)
        assert now == later == pytest.approx(bounds[-1], rel=1e-9)
        assert (bounds[-1] == 0) == (number == 0)


# ---- preset radii ---------------------------------------------------------------------------------------


def test_decisions_are_gated_and_what_is_reached_first_stays() -> None:
    rule = RadiusRule(*asked_for(400, 0.05, radius=[0.1, 0.2, 0.3]))
    (yes_1, no_1), (yes_2, no_2), _ = rule.steps[0]
    top, bottom = list(looks(400)), [0] * len(looks(400))
    assert rule.decide(top) == (CERTIFIED,) * 3 and rule.decide(bottom) == (REFUTED,) * 3
    assert rule.decide([20]) == (UNDECIDED,) * 3
    assert rule.decide((yes_1 - 1).tolist())[0] != CERTIFIED and rule.decide((no_1 + 1).tolist())[0] != REFUTED
    hits = paths(normal_cdf_lower(0.8), 400, 400, 5)  # 0.2 is the true radius
    seen = set()
    for row in hits:
        said = [rule.decide(row[:k].tolist()) for k in range(1, len(row) + 1)]
        for before, after in pairwise(said):
            assert all(a in (b, UNDECIDED) for a, b in zip(before, after, strict=True))
        ranks = [{CERTIFIED: 0, UNDECIDED: 1, REFUTED: 2}[each] for each in said[-1]]
        assert ranks == sorted(ranks)
        seen.add(said[-1])
    assert len(seen) >= 3
    # a middle radius that is certified before the smaller is decided does not count, nor does a refuted smaller one
    one = RadiusRule(*asked_for(400, 0.05, radius=[0.1, 0.2]))
    one.steps = [[(yes_1 + 999, no_1 - 999), (yes_2, no_2)]]
    assert one.decide(top) == (UNDECIDED, UNDECIDED) and one.decide(bottom) == (UNDECIDED, REFUTED)
    one.steps = [[(yes_1 + 999, no_1), (yes_2, no_2 - 999)]]
    assert one.decide(bottom) == (UNDECIDED, UNDECIDED)
    # refuted at first, certified by far at last: it stays refuted
    late = [*(0 for draws in looks(100)), *(draws - 100 for draws in looks(400) if draws > 100)]
    assert late[-1] >= rule.steps[0][0][0][-1] - 99 and rule.decide(late) == (REFUTED,) * 3


@pytest.mark.parametrize("radii", [[0.2], [0.1, 0.2, 0.3]])
@pytest.mark.parametrize("side", [0, 1])
def test_anything_said_of_an_image_is_wrong_at_most_at_alpha_exactly(radii: list[float], side: int) -> None:
    # what can be wrong is the bound, and the answers on the radii next to the truth; here all of them, ungated
    n, alpha, draws = 300, 0.05, looks(300)
    rule = RadiusRule(*asked_for(n, alpha, radius=radii))
    for radius in radii:
        over = math.floor(1024 * normal_cdf_lower(radius / SIGMA)) + side
        least, most = np.array(bound_exceeds(over / 1024, alpha / BOUND_SHARE, n)), np.full(len(draws), -1)
        for asked, (certify, refute) in zip(radii, rule.steps[0], strict=True):
            if normal_cdf_lower(asked / SIGMA) > over / 1024:
                least = np.minimum(least, certify)
            else:
                most = np.maximum(most, refute)
        wrong = exact_budgets(over, alpha, draws, least.tolist(), most.tolist())[-1][0]
        assert Fraction(alpha) / 100 < wrong <= Fraction(alpha)


def test_outcomes_of_stopped_images_are_right_as_often_as_stated() -> None:
    runs, alpha, radii = 150, 0.05, [0.1, 0.2, 0.3]
    rule = RadiusRule(*asked_for(1000, alpha, radius=radii))
    true = 0.2 - 1e-9
    wrong = 0
    for hits in paths(normal_cdf_lower(true / SIGMA), 1000, runs, 6):
        votes = votes_of(rule, hits)
        said = rule.outcome(votes)
        assert said.decisions == rule.decide(votes.hits) and said.trials == looks(1000)[len(votes.hits) - 1]
        assert said.trials == 1000 or rule.stops(votes)
        assert said.radius is not None and (said.predict == ABSTAIN) == (said.radius == 0)
        certified = [r for r, each in zip(radii, said.decisions, strict=True) if each == CERTIFIED]
        assert said.radius >= max(certified, default=0.0)
        wrong += said.radius > true or said.decisions[0] == REFUTED
    assert wrong <= allowed(runs, alpha)


def test_giving_up_costs_few_decisions_and_never_comes_earlier_with_larger_n() -> None:
    """Next to the threshold, n = 10^4: of the images given up, under 3 % would have been decided (seeded; measured 0.6 %)."""
    n, threshold = 10_000, normal_cdf_lower(0.8)
    given_up = decided = 0
    for number, p in enumerate((threshold - 0.01, threshold, threshold + 0.003, threshold + 0.01)):
        short, long = (RadiusRule(*asked_for(size, 0.001, radius=[0.8 * SIGMA])) for size in (n, 10 * n))
        for hits in paths(p, n, 60, number):
            stops = [
                [rule.stops(votes_of(rule, hits[:look], whole=True)) for look in range(1, len(hits))]
                for rule in (short, long)
            ]
            assert all(earlier or not later for earlier, later in zip(*stops, strict=True))
            first = next((look for look, stop in enumerate(stops[0], 1) if stop), len(hits))
            if first < len(hits) and short.decide(hits[:first].tolist()) == (UNDECIDED,):
                given_up += 1
                decided += short.decide(hits.tolist()) != (UNDECIDED,)
    assert given_up > 50
    assert decided <= 0.03 * given_up


# ---- families of images ---------------------------------------------------------------------------------


def holm(rule: RadiusRule, hits: Hits) -> tuple[Mask, Mask, int]:
    """Which images of [images, looks] a rule with one radius certifies and refutes, and the step that it ends with."""
    step = 0
    while True:
        certify, refute = rule.steps[step][0]
        certified, refuted = first(hits >= certify, hits <= refute)
        left = max(1, len(hits) - int(certified.sum()))
        reached = max(i for i in range(len(rule.steps)) if 2**i * left**4 <= len(hits) ** 4)
        if reached == step:
            return certified, refuted, step
        assert reached > step
        step = reached


def test_greater_levels_of_holm_certify_more() -> None:
    rule = RadiusRule(*asked_for(10**4, 0.001, images=50, radius=[0.1, 0.3]))
    assert len(rule.steps) == math.floor(4 * math.log2(50)) + 1
    for lesser, greater in pairwise(rule.steps):
        for (more, refute), (less, same) in zip(lesser, greater, strict=True):
            assert np.all(less <= more) and np.array_equal(refute, same)
    level = Fraction(0.001) / 50 * 15 / 32
    for number, step in enumerate(rule.steps):  # each keeps its level: its thresholds are not below the level's own
        most = Fraction(2 ** (number / 4)) * level
        assert most <= Fraction(0.001) * 15 / 32
        assert np.all(step[0][0] >= least_hits(normal_cdf_upper(0.1 / SIGMA), float(most), 10**4))


@pytest.mark.parametrize("worst", [1, 5, 20])
def test_holm_certifies_nothing_wrong_at_its_level(worst: int) -> None:
    # 20 images, some easily certified, the others just below the threshold: these are what a wrong share would favour
    runs, images, n, alpha = 1000, 20, 10**5, 0.05
    rule = RadiusRule(*asked_for(n, alpha, images=images, radius=[0.2]))
    p = np.full(images, 0.9)
    p[:worst] = normal_cdf_lower(0.2 / SIGMA)
    hits = paths(np.tile(p, runs), n, runs * images, 7).reshape(runs, images, -1)
    wrong = more = 0
    for number, family in enumerate(hits):
        certified, refuted, step = holm(rule, family)
        bonferroni, _ = first(family >= rule.steps[0][0][0], family <= rule.steps[0][0][1])
        assert np.all(certified >= bonferroni)
        more += bool(np.any(certified > bonferroni))
        wrong += bool(certified[:worst].any())
        if number < 4:
            said = rule.family([votes_of(rule, row) for row in family])
            assert [CERTIFIED in each.decisions for each in said] == certified.tolist()
            assert [REFUTED in each.decisions for each in said] == refuted.tolist()
            assert step == 0 or worst < images
    assert wrong <= allowed(runs, alpha)
    assert worst == images or more > 0
    assert worst > 1 or wrong > 0.3 * alpha * runs  # the others' shares are used


def test_a_family_refutes_nothing_wrong_at_its_level() -> None:
    # all images a little above the threshold: nearly all are certified, but what they leave must not serve to refute the others
    # (it did at first, and about 0.7 of these families had a wrong refutation)
    runs, images, n, alpha = 15, 4000, 10**4, 0.05
    rule = RadiusRule(*asked_for(n, alpha, images=images, radius=[0.25]))
    p = normal_cdf_lower(1.0) + 0.024
    hits = paths(p, n, runs * images, 8).reshape(runs, images, -1)
    found = [holm(rule, family) for family in hits]
    assert np.mean([certified.mean() for certified, _, _ in found]) > 0.99
    assert sum(bool(refuted.any()) for _, refuted, _ in found) <= allowed(runs, alpha)


def test_an_image_that_dips_and_is_certified_stays_so_in_its_family() -> None:
    rule = RadiusRule(*asked_for(10**4, 0.05, images=2, radius=[0.25]))
    refute = rule.steps[0][0][1]
    greater = thresholds(0.25, SIGMA, 0.0, 0.05 * 15 / 16, 10**4)[1]
    dip = int(np.flatnonzero(greater > refute)[0])  # there, level alpha would refute and alpha/2 does not
    draws = np.array(looks(10**4))
    hits = np.where(np.arange(len(draws)) <= dip, refute + 1, refute[dip] + 1 + draws - draws[dip])
    hits = np.maximum.accumulate(np.maximum(hits, 0))
    votes = votes_of(rule, hits)
    assert rule.decide(votes.hits) == (CERTIFIED,)
    low = votes_of(rule, np.zeros(len(draws), np.int64))
    assert [each.decisions for each in rule.family([votes, low])] == [(CERTIFIED,), (REFUTED,)]
    assert [each.decisions for each in rule.family([votes])] == [(CERTIFIED,)]


# ---- tolerance ------------------------------------------------------------------------------------------


def test_a_stopped_radius_is_rarely_raised_by_more_than_the_tolerance() -> None:
    # measured: 11 % of 1000 images, at radii uniform between 0.02 and 0.6 (benchmarks/bench_error_rate.py)
    images, n, tolerance = 50, 10**4, 0.05
    rule = ToleranceRule(*asked_for(n, 0.001, tolerance=tolerance))
    radii = np.random.default_rng(9).uniform(0.02, 0.6, images)
    p = np.array([normal_cdf_lower(radius / SIGMA) for radius in radii])
    raised = stopped = wrong = 0
    for radius, hits in zip(radii, paths(p, n, images, 10), strict=True):
        said = rule.outcome(votes_of(rule, hits))
        whole = rule.outcome(votes_of(rule, hits, whole=True))
        assert said.radius is not None and whole.radius is not None and whole.radius >= said.radius
        stopped += said.trials < n
        raised += whole.radius > (1 + tolerance) * said.radius * (1 + 1e-9)
        wrong += whole.radius > radius
    assert stopped > images / 2
    assert raised <= 0.3 * images
    assert wrong <= allowed(images, 0.001)


def test_a_longer_run_never_stops_earlier() -> None:
    lengths = (300, 1000, 10**4, 10**6)
    for tolerance, distance in ((0.05, 0.0), (0.2, 1e-3)):
        rules = [ToleranceRule(*asked_for(n, 0.001, tolerance=tolerance, distance=distance)) for n in lengths]
        p = np.array([0.3, 0.52, 0.6, 0.8, 0.95, 0.999, 1.0])
        for hits in paths(p, lengths[-1], len(p), 11):
            votes = votes_of(rules[-1], hits[:40], whole=True)
            for seen in range(1, 41):
                votes.hits = hits[:seen].tolist()
                stops = [rule.stops(votes) for rule in rules if looks(rule.n)[-1] >= looks(10**6)[seen - 1]]
                assert stops == sorted(stops, reverse=True)
