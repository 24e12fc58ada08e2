"""Certified bounds on a model whose smoothed confidence is known exactly.

Two classes, logits ±g·(x₀ − ½) of one pixel: the confidence is |tanh(g·(x₀ − ½))|, and its mean over the grid noise of that
pixel is a finite sum. Joint models multiply it by p_in.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import grid_law
from diffsmooth_trt.ood.bounds import BINS, EDGES, bin_values, shifted_lower, shifted_upper
from diffsmooth_trt.ood.certified import bound_of, certificate_of, dense, estimate_of
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.figures import figure_of
from diffsmooth_trt.ood.report import text_report, versions_of
from diffsmooth_trt.ood.run import run

SIGMA, GAIN = 0.25, 6.0
LAW = grid_law(SIGMA)
CHANCE = np.array(LAW.weights, dtype=np.float64) / 2.0**64


@pytest.fixture(scope="module")
def known(linear_classifier):
    weights = np.zeros((2, 48))
    weights[0, 0], weights[1, 0] = GAIN, -GAIN
    return linear_classifier(weights, np.array([-GAIN / 2, GAIN / 2]))


def smoothed(level: float, shift: float = 0.0) -> float:
    """h of an image whose first pixel is level/255, moved by `shift` before rounding to the grid."""
    values = (np.rint(level + 255 * shift) + LAW.support) / 255
    return float(CHANCE @ np.abs(np.tanh(GAIN * (values - 0.5))))


def config(classifier, inside, outside, out, **options) -> OodConfig:
    given = {
        "kind": "certified",
        "sigma": SIGMA,
        "key": "c0ffee42" * 8,
        "batch": 32,
        "n": 400,
        "alpha": 0.05,
        "backend": "onnxruntime",
    }
    return OodConfig(classifier=classifier, in_data=inside, out_data=(str(outside),), out=out, **{**given, **options})


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_bounds_cover_the_smoothed_confidence(known, image_set, tmp_path, tolerance):
    """200 images a side at alpha = 0.05: wrong bounds are at most Bin(200, 0.05); fails by chance with less than 1e-6 a side."""
    inside, outside = image_set("inside", 200), image_set("outside", 200, 90, 166)
    with run(config(known, inside, outside, tmp_path / "r.jsonl", tolerance=tolerance)) as store:
        for number, path in enumerate((inside, outside)):
            pixels = np.load(path)["images"]
            records = store.of_set(number)
            assert [record["row"] for record in records] == list(range(200))
            true = np.array([smoothed(image[0, 0, 0]) for image in pixels])
            bounds = np.array([bound_of(record, store.record) for record in records])
            wrong = (bounds < true).sum() if number else (bounds > true).sum()
            assert wrong <= stats.binom.isf(1e-6, 200, 0.05)
            assert np.abs(np.array([estimate_of(record) for record in records]) - true).max() < 0.2
            drawn = [record["n"] for record in records]
            assert all(n == 400 for n in drawn) if not tolerance else np.mean(drawn) < 390


def test_bounds_hold_for_everything_within_the_radius(known, image_set, tmp_path):
    """At alpha = 1e-6 (80 images: false alarms below 1e-4) no shift of the pixel that matters passes its bound."""
    inside, outside = image_set("inside", 40), image_set("outside", 40, 100, 156)
    with run(config(known, inside, outside, tmp_path / "r.jsonl", alpha=1e-6, tolerance=0.0)) as store:
        for number, path in enumerate((inside, outside)):
            pixels = np.load(path)["images"]
            for record in store.of_set(number):
                bound, level = bound_of(record, store.record), float(pixels[record["row"]][0, 0, 0])
                for radius in (0.0, 0.1, 0.25, 0.5):
                    reached = [smoothed(level, step * radius) for step in np.linspace(-1, 1, 41)]
                    if number:
                        assert max(reached) <= shifted_upper(bound, radius, SIGMA)
                    else:
                        assert min(reached) >= shifted_lower(bound, radius, SIGMA)


def test_an_attack_stays_below_the_bound(linear_classifier, small_detector, image_set, tmp_path):
    """ℓ2 PGD on the mean confidence over 64 fixed draws; at the point that it finds, the mean of 4,000 fresh ones less Hoeffding's
    slack is at most the bound over the ball. Four images, α = 1e-6 for bounds and slack: fails by chance with less than 1e-5.
    """
    torch = pytest.importorskip("torch")
    from diffsmooth_trt.ood.torch_graph import TorchGraph

    classifier = linear_classifier(np.random.default_rng(3).normal(0, 1, (5, 48)), np.zeros(5))
    detector, inside, outside = small_detector(), image_set("inside", 4), image_set("outside", 4, 90, 166)
    head, gate = TorchGraph(classifier), TorchGraph(detector)

    def mean(x, draws, generator):
        noise = torch.from_numpy(generator.normal(0, SIGMA, (draws, *x.shape)).astype(np.float32))
        seen = torch.round(255 * (x + noise)) / 255 - (x + noise).detach() + (x + noise)  # rounds, passes gradients on
        p = torch.softmax(head(seen), 1).amax(1)
        return (torch.sigmoid(gate(seen)[:, 0]) * (5 * p - 1) / 4).mean()

    made = config(
        classifier, inside, outside, tmp_path / "r.jsonl", detector=detector, alpha=1e-6, tolerance=0.0, n=2000
    )
    rises = []
    with run(made) as store:
        for record, image in zip(store.of_set(1), np.load(outside)["images"], strict=True):
            start = torch.from_numpy((image.transpose(2, 0, 1) / 255).astype(np.float32))
            for radius in (0.1, 0.5):
                x = start.clone()
                for _ in range(15):
                    x.requires_grad_(True)
                    (gradient,) = torch.autograd.grad(mean(x, 64, np.random.default_rng(1)), x)
                    moved = x.detach() + radius / 4 * gradient / gradient.norm().clamp_min(1e-12) - start
                    x = start + moved * min(1.0, radius / float(moved.norm()))
                with torch.no_grad():
                    before, found = (float(mean(point, 4000, np.random.default_rng(2))) for point in (start, x))
                assert float((x - start).norm()) <= radius * (1 + 1e-5)
                slack = math.sqrt(math.log(1e6) / (2 * 4000))
                assert found - slack <= shifted_upper(bound_of(record, store.record), radius * (1 + 1e-5), SIGMA)
                rises.append(found - before)
    assert min(rises[1::2]) > 0.02  # the attack works


def test_counts_are_those_of_the_reference_noise(known, image_set, tmp_path):
    """Anybody can compute a record again: reference noise of (key, phase, row, sample), the model, the bins."""
    from diffsmooth_trt.noise import OOD, reference

    inside, outside = image_set("inside", 3), image_set("outside", 3)
    with run(config(known, inside, outside, tmp_path / "r.jsonl", tolerance=0.0, n=60)) as store:
        for number, path in enumerate((inside, outside)):
            for record, image in zip(store.of_set(number), np.load(path)["images"], strict=True):
                phase = OOD + 4 * number + 1
                steps = [
                    reference.grid_noise(LAW, int("c0ffee42" * 8, 16), phase, record["row"], sample, 48)[0]
                    for sample in range(60)
                ]
                u = np.abs(np.tanh(GAIN * ((float(image[0, 0, 0]) + np.array(steps)) / 255 - 0.5)))
                turned = u if number else 1 - u
                assert dense(record) @ EDGES / 60 == pytest.approx(turned.mean(), rel=0.01, abs=1e-6)
                assert (dense(record) @ EDGES / 60) >= turned.mean() - 1e-6


def test_packing_and_order_change_nothing(known, image_set, tmp_path):
    inside, outside = image_set("inside", 7), image_set("outside", 9)
    contents = []
    for batch in (8, 33):
        with run(config(known, inside, outside, tmp_path / f"{batch}.jsonl", batch=batch)) as store:
            contents.append([store.of_set(0), store.of_set(1)])
    assert contents[0] == contents[1]


def test_the_gate_only_loosens_bounds(known, small_detector, image_set, tmp_path):
    """Where the detector alone speaks, out-of-distribution bounds are no lower and in-distribution ones no higher."""
    inside, outside = image_set("inside", 10), image_set("outside", 10)
    detector = small_detector(bias=-2.0, scale=2.0)
    found = {}
    for gate in (0.0, 0.05):
        made = config(known, inside, outside, tmp_path / f"{gate}.jsonl", detector=detector, gate=gate, tolerance=0.0)
        with run(made) as store:
            found[gate] = [[(bound_of(r, store.record), estimate_of(r)) for r in store.of_set(i)] for i in (0, 1)]
    assert found[0.0] != found[0.05]  # the gate was used
    for (sure, mean), (gated, gated_mean) in zip(found[0.0][0], found[0.05][0], strict=True):
        assert gated <= sure and gated_mean >= mean - 0.06
    for (sure, mean), (gated, gated_mean) in zip(found[0.0][1], found[0.05][1], strict=True):
        assert gated >= sure and gated_mean <= mean + 0.06


def test_distro_score_counts_votes_of_both_phases(known, image_set, tmp_path):
    inside, outside = image_set("inside", 5), image_set("outside", 5)
    made = config(known, inside, outside, tmp_path / "r.jsonl", score="distro-l2", n0=20, n=100, alpha=0.01)
    with run(made) as store:
        for record in store.of_set(0) + store.of_set(1):
            assert sum(record["votes"][0]) == 20 and sum(record["votes"][1]) == 100 == record["n"]
            assert 0 <= certificate_of(record, store.record).radius <= SIGMA * stats.norm.isf(1 - 0.01 ** (1 / 100))


def test_distro_score_is_that_of_its_code(known, image_set, tmp_path):
    """Restated: p of the selected class at the image itself + √(2/π)·R; abstentions 0 at radius 0 and absent from the rest."""
    inside, outside = image_set("inside", 12, 110, 146), image_set("outside", 12, 118, 138)
    with run(
        config(known, inside, outside, tmp_path / "r.jsonl", score="distro-l2", n0=20, n=100, alpha=None)
    ) as store:
        assert store.record.asked.alpha == 0.01
        zero, half = versions_of(store, (0.0, 0.5))[:1], versions_of(store, (0.0, 0.1))[1:]
        for number, path in ((0, inside), (1, outside)):
            expected, further = [], []
            for record, image in zip(store.of_set(number), np.load(path)["images"], strict=True):
                selection, estimation = record["votes"]
                chosen = int(np.argmax(selection))
                logits = np.array([1, -1]) * GAIN * (image[0, 0, 0] / 255 - 0.5)
                p = np.exp(logits[chosen]) / np.exp(logits).sum()
                lower = stats.beta.ppf(0.01, estimation[chosen], 101 - estimation[chosen])
                radius = SIGMA * stats.norm.ppf(lower)
                if not lower >= 0.5:
                    expected.append(0.0)
                    continue
                expected.append(p + math.sqrt(2 / math.pi) * radius)
                further.append(expected[-1] if radius >= 0.1 else 0.0)
            first = zero[0].outside["outside.npz"] if number else zero[0].inside
            assert first == pytest.approx(expected, abs=1e-6)
            if half:
                second = half[0].outside["outside.npz"] if number else half[0].inside
                assert second == pytest.approx(further, abs=1e-6)
            assert 0.0 in expected


def test_sets_without_a_score_at_a_radius_are_left_out(known, image_set, tmp_path):
    """As in DISTRO's code: a set where all scores of both sides are 0 has no metrics there, and no part in the average."""
    inside, sure, weak = image_set("inside", 5, 90, 105), image_set("sure", 5, 0, 10), image_set("weak", 5, 90, 105)
    made = config(known, inside, sure, tmp_path / "r.jsonl", score="distro-l2", n0=20, n=100, alpha=None)
    with run(dataclasses.replace(made, out_data=(str(sure), str(weak)))) as store:
        found = versions_of(store, (0.0, 0.2, 0.45))  # above 0.42, n = 100 certifies nothing
        assert [version.radius for version in found] == [0.0, 0.2]
        assert not found[1].inside.any() and len(found[1].inside)
        assert [set(version.measured()) for version in found] == [
            {"sure.npz", "weak.npz", "average"},
            {"sure.npz", "average"},
        ]
        assert found[1].measured()["average"] == found[1].measured()["sure.npz"]
        row = text_report(store, found).splitlines()[2]
        assert row.split()[:2] == ["distro-l2", "0.2"] and "—" in row
        assert "DISTRO's score, for comparison: it bounds nothing" in text_report(store, found)
        assert len(figure_of(store, found).axes[2].lines) == 3
        with pytest.raises(InputError, match="^figure has nothing to show"):
            figure_of(store, versions_of(store, (0.45,))[1:])


def test_estimates_of_both_sides_are_rounded_alike():
    """The same draws counted as those of either side give the same mean, also where nearly all are 0 or 1."""
    rng = np.random.default_rng(0)
    for values in (rng.random(1000), rng.random(1000) ** 40, 1 - rng.random(1000) ** 40, np.zeros(9), np.ones(9)):
        means = []
        for number, turned in ((0, 1 - values), (1, values)):
            counts = np.bincount(bin_values(turned), minlength=BINS)
            used = np.flatnonzero(counts)
            record = {"set": number, "n": len(values), "bins": used.tolist(), "counts": counts[used].tolist()}
            means.append(estimate_of(record))
        assert means[0] == means[1] == pytest.approx(values.mean(), abs=1 / 512)


@pytest.mark.parametrize(
    "damage",
    [
        {"bins": [1, BINS]}, {"bins": [-1, 2]}, {"bins": [1, 1]}, {"bins": [1]}, {"counts": None}, {"counts": [11, -1]},
        {"counts": [4, 5]}, {"n": 0, "counts": [0, 0]}, {"bins": [0.5, 1.5]}, {"bins": [], "counts": []}, {"n": None},
    ],
)  # fmt: skip
def test_damaged_records_are_refused(damage):
    sound = {"set": 1, "row": 3, "n": 10, "bins": [1, 7], "counts": [4, 6]}
    assert dense(sound).sum() == 10
    for record in ({**sound, **damage}, {key: value for key, value in sound.items() if key not in damage}):
        with pytest.raises(InputError, match="set 1, row 3 is damaged"):
            dense(record)


def test_family_wise_is_bonferroni(known, image_set, tmp_path):
    inside, outside = image_set("inside", 5), image_set("outside", 5)
    bounds = []
    for family_wise in (False, True):
        made = config(known, inside, outside, tmp_path / f"{family_wise}.jsonl", family_wise=family_wise, tolerance=0.0)
        with run(made) as store:
            bounds.append([bound_of(record, store.record) for record in store.of_set(1)])
    assert all(loose > tight for tight, loose in zip(*bounds, strict=True))
