"""The page: what it holds against the runs themselves, its pictures against the noise, paired differences exactly; in a browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from scipy import stats

import diffsmooth_trt as dst
from diffsmooth_trt.noise import ESTIMATION, grid_law
from diffsmooth_trt.noise.reference import grid_noise
from diffsmooth_trt.report.curves import certified_accuracy, certified_accuracy_interval
from diffsmooth_trt.report.gallery import Seen, _encoded, look
from diffsmooth_trt.report.html import page
from diffsmooth_trt.report.page_data import curve, document
from diffsmooth_trt.report.paired import difference, pair, unlike
from diffsmooth_trt.report.tables import Summary, summarise

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "benchmarks" / "results" / "zoo"


def summary_of(name: str) -> Summary:
    with dst.open_run(RUNS / f"{name}.sqlite") as store:
        return summarise(store)


@pytest.fixture(scope="module")
def short() -> Summary:
    return summary_of("dds-n10000")  # 40 images


@pytest.fixture(scope="module")
def long() -> Summary:
    return summary_of("dds-n1000")  # 500


# ---- numbers --------------------------------------------------------------------------------------------


def on_curve(drawn: dict[str, Any], radius: float) -> tuple[float, float, float]:
    """What the script reads off: the first step at the radius or beyond."""
    row = int(np.searchsorted(drawn["radius"], radius, side="left"))
    return drawn["share"][row], drawn["low"][row], drawn["high"][row]


@pytest.mark.parametrize("name", ["dds-n10000", "dds-n1000"])
def test_the_curve_is_the_runs_rounded_against_us(name: str) -> None:
    """At every radius: the share rounded down to a tenth, the interval outward; exact where the steps are few."""
    summary = summary_of(name)
    drawn, outcome = curve(summary), (summary.labels, summary.predicted, summary.radii)
    right = summary.radii[summary.predicted == summary.labels]
    for radius in [0.0, 0.1, 0.25, 0.5, *right[:20], *(math.nextafter(r, 9) for r in right[:20]), 0.7, 5.0]:
        share, low, high = on_curve(drawn, radius)
        exact = 100 * float(certified_accuracy(*outcome, radius))
        bounds = [100 * float(end) for end in certified_accuracy_interval(*outcome, radius, wrong=summary.wrong)]
        assert share <= exact + 1e-9 and exact - 0.1 < share
        assert low <= bounds[0] < low + 0.1 + 1e-9 and high - 0.1 - 1e-9 < bounds[1] <= high


def test_a_curve_of_many_steps_is_never_above_the_run(long: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffsmooth_trt.report.page_data.MOST_STEPS", 30)
    drawn = curve(long)
    assert len(drawn["radius"]) == 30
    for radius in np.linspace(0, 0.7, 200):
        exact = 100 * float(certified_accuracy(long.labels, long.predicted, long.radii, radius))
        assert on_curve(drawn, radius)[0] <= exact + 1e-9


def test_the_page_says_what_the_run_is(short: Summary) -> None:
    (run,) = document([short], None, [Seen()], enveloped=False)["runs"]
    facts, assumed = dict(run["facts"]), dict(run["assumptions"])
    for part in short.record.classifier.engines.values():
        assert any(part["sha256"] in value for value in facts.values())
    assert short.record.key.hex in facts["Key"] and facts["Key"].startswith("drawn by the operating system")
    assert short.record.data in facts["Data"] and facts["Classifier id"] == short.record.classifier.id
    assert "may be wrong with probability 0.001" in assumed["What is claimed"]
    assert "proved from the graphs" in assumed["The networks"] and "4265 rows of 404000" in assumed["The networks"]
    old = dict(
        document([summary_of("dds-n10000-release-0.3")], None, [Seen()], enveloped=False)["runs"][0]["assumptions"]
    )
    assert "Philox, which is no cryptographic generator" in old["The noise"] and "not proved" in old["The networks"]


# ---- paired differences ---------------------------------------------------------------------------------


def test_a_difference_counts_what_one_run_alone_certifies() -> None:
    found = difference(0.5, [True, True, False, False], [True, False, True, False])
    assert (found.both, found.only_first, found.only_second, found.estimate) == (1, 1, 1, 0.0)
    assert -1 <= found.low < 0 < found.high <= 1


@pytest.mark.parametrize("alone", [(0.05, 0.3), (0.2, 0.2), (0.6, 0.01), (0.0, 0.0)])
def test_the_interval_holds_the_difference_as_often_as_it_says(alone: tuple[float, float]) -> None:
    """Exactly, over all outcomes of 25 images; one end fails with at most half of alpha."""
    images, alpha = 25, 0.05
    law, missed = stats.multinomial(images, [*alone, 1 - sum(alone)]), [0.0, 0.0]
    for first, second in itertools.product(range(images + 1), repeat=2):
        if first + second <= images:
            one = [True] * first + [False] * (images - first)
            two = [False] * first + [True] * second + [False] * (images - first - second)
            found, mass = difference(0.0, one, two, alpha), float(law.pmf([first, second, images - first - second]))
            missed[0] += mass * (found.low > alone[1] - alone[0])
            missed[1] += mass * (found.high < alone[1] - alone[0])
    assert max(missed) <= alpha / 2


def test_runs_are_held_against_each_other_on_the_images_that_both_have(short: Summary, long: Summary) -> None:
    assert unlike(long, short) is None
    found = pair(long, short, [0.0, 0.25, 0.75])
    assert (found.images, found.larger + found.smaller + found.equal) == (40, 40)
    right = {
        s.name: {int(i): r for i, r, p, y in zip(s.images, s.radii, s.predicted, s.labels, strict=True) if p == y}
        for s in (long, short)
    }
    for each in found.differences:
        one, two = ({i for i, r in right[s.name].items() if r >= each.radius and i < 40} for s in (long, short))
        assert (each.both, each.only_first, each.only_second) == (len(one & two), len(one - two), len(two - one))


@pytest.fixture
def certify(linear_classifier: Any, shrinking_denoiser: Any, tmp_path: Path) -> Callable[..., Path]:
    """`certify(name, pixels, …)`: a run of two classes on 4×4 images."""
    weights = np.stack([np.full(48, 1.0), np.full(48, -1.0)]) / 7
    classifier = linear_classifier(weights, np.array([-3.4, 3.4]))

    def make(name: str, pixels: Any, **more: Any) -> Path:
        data = tmp_path / f"{name}.npz"
        np.savez(data, images=np.asarray(pixels, np.uint8), labels=np.zeros(len(pixels), np.int64))
        out = tmp_path / f"{name}.sqlite"
        files = {"engine": shrinking_denoiser(), "classifier": classifier, "data": data, "out": out}
        settings = {"n": 200, "n0": 20, "batch": 16, "threads": 1, "backend": "onnxruntime", "key": "5a" * 32}
        dst.certify(**{**files, **settings, **more}).close()
        return out

    return make


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3))


def read(path: Path, **how: Any) -> tuple[Summary, Seen]:
    with dst.open_run(path) as store:
        summary = summarise(store)
        return summary, look(store, summary, **how)


def test_runs_of_different_data_are_not_compared(certify: Callable[..., Path]) -> None:
    one, other, few = (read(certify(*each))[0] for each in (("a", PIXELS), ("b", PIXELS[::-1]), ("c", PIXELS[:1])))
    assert unlike(one, other) == "they are of different data (image 0 has other pixels)"
    assert unlike(one, few) is None and pair(one, few, [0.0]).images == 1
    data = document([one, other], None, [Seen(), Seen()], enveloped=False)
    assert data["pairs"][0]["said"].startswith("they are of different data") and "at" not in data["pairs"][0]


# ---- pictures -------------------------------------------------------------------------------------------


def pixels_of(uri: str) -> np.ndarray:
    with PillowImage.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_pictures_are_the_images_and_the_runs_own_first_draw(certify: Callable[..., Path]) -> None:
    summary, seen = read(certify("run", PIXELS), noisy=2)
    assert seen.notes == () and {image: len(uris) for image, uris in seen.pictures.items()} == {
        0: 3,
        1: 3,
        2: 1,
        3: 1,
        4: 1,
        5: 1,
    }
    for image, uris in seen.pictures.items():
        assert np.array_equal(pixels_of(uris[0]), PIXELS[image])
    law, key = grid_law(0.25), summary.record.key
    expected = {}
    for image in (0, 1):
        steps = grid_noise(law, key, ESTIMATION, image, 0, 48).reshape(3, 4, 4).transpose(1, 2, 0)
        noisy = ((PIXELS[image] + steps) / 255).astype(np.float32)
        denoised = np.clip(0.125 + 0.75 * noisy, 0, 1)
        expected[image] = [(PIXELS[image] / 255).astype(np.float32), noisy, denoised]
    assert {image: seen.pictures[image] for image in (0, 1)} == _encoded(expected)


def test_votes_are_the_stores(certify: Callable[..., Path]) -> None:
    path = certify("run", PIXELS)
    _, seen = read(path, noisy=0)
    with dst.open_run(path) as store:
        for image, votes, drawn in zip(range(6), seen.votes, seen.drawn, strict=True):
            counts = store.counts(image)[ESTIMATION]
            assert drawn == 200 == sum(votes for _, votes in votes)
            assert list(votes) == sorted(((c, n) for c, n in enumerate(counts) if n), key=lambda each: -each[1])


def test_what_is_not_at_hand_is_left_out_and_said(certify: Callable[..., Path], tmp_path: Path) -> None:
    path = certify("run", PIXELS)
    (tmp_path / "run.npz").rename(tmp_path / "moved.npz")
    _, seen = read(path)
    assert not seen.pictures and len(seen.votes) == 6
    (note,) = seen.notes
    assert note.startswith("no pictures: --data") and "pass --data with its new place" in note
    _, seen = read(path, data=tmp_path / "moved.npz", noisy=1)
    assert len(seen.pictures) == 6 and not seen.notes
    certify("other", [*PIXELS[:5], PIXELS[0]])
    _, seen = read(path, data=tmp_path / "other.npz")
    assert set(seen.pictures) == {0, 1, 2, 3, 4}
    assert seen.notes == ("no pictures of 1 images, whose pixels in --data are not those of the run",)


def test_another_denoiser_denoises_nothing(
    certify: Callable[..., Path], shrinking_denoiser: Any, tmp_path: Path
) -> None:
    path = certify("run", PIXELS)
    with dst.open_run(path) as store:
        engine = Path(str(store.record.files["engine"]))
    shutil.copy(shrinking_denoiser(0.5), engine)
    _, seen = read(path, noisy=1)
    assert (
        len(seen.pictures[0]) == 2 and "no denoised pictures: --engine" in seen.notes[0] and "SHA-256" in seen.notes[0]
    )
    engine.unlink()
    _, seen = read(path, noisy=1)
    assert len(seen.pictures[0]) == 2 and "is not here" in seen.notes[0]


def test_a_method_without_a_denoiser_shows_noise_only(certify: Callable[..., Path], linear_classifier: Any) -> None:
    engine = linear_classifier(np.stack([np.full(48, 1.0), np.full(48, -1.0)]), np.array([-24.0, 24.0]))
    _, seen = read(certify("run", PIXELS, engine=engine, classifier=None, method="rs", sigma=0.25), noisy=1)
    assert len(seen.pictures[0]) == 2 and seen.notes == ("no denoised pictures: method rs has no denoiser",)


def test_pictures_keep_to_their_budget() -> None:
    """Noise is what takes the most: it gets smaller and coarser."""
    noise = np.random.default_rng(0).random((8, 150, 200, 3), np.float32)
    for budget in (200_000, 40_000):
        found = _encoded({number: [each] for number, each in enumerate(noise)}, budget)
        assert sum(len(uri) for uris in found.values() for uri in uris) <= budget
        assert all(max(pixels_of(uris[0]).shape[:2]) <= 96 for uris in found.values())


def test_a_page_of_500_images_keeps_to_3_megabytes(shared: Path) -> None:
    summary, seen = read(RUNS / "dds-n1000.sqlite", data=shared / "data" / "cifar10-test.parquet", noisy=0)
    assert len(seen.pictures) == 500
    assert len(page([summary], None, [seen]).encode()) <= 3e6


# ---- in a browser ---------------------------------------------------------------------------------------


def test_a_browser_draws_the_page_without_a_complaint(
    certify: Callable[..., Path], short: Summary, tmp_path: Path, load_beside: Any
) -> None:
    one, seen = read(certify("run", PIXELS), noisy=1)
    other, _ = read(certify("again", PIXELS, n=400))
    (tmp_path / "page.html").write_text(page([one, other, short], None, [seen, Seen(), Seen()]), encoding="utf-8")
    support = load_beside("chromium.py")
    if support.found() is None:
        pytest.skip("no Chromium to open the page in")
    with support.Chromium(tmp_path) as browser:
        browser.open(tmp_path / "page.html")
        drawn = browser.value("document.documentElement.outerHTML")
        assert browser.console == []
    assert drawn.count('<li class="card') == 6 and drawn.count("<img") == 8
    for section in ("curve", "radii", "confusion", "images", "pairs", "made"):
        assert f'id="{section}"' in drawn
    found = json.loads(re.findall(r'id="data">(.*?)</script>', drawn, re.DOTALL)[0])
    for run in found["runs"]:  # what the reader sees at the first radius above 0
        assert f"{on_curve(run['curve'], 0.25)[0]:.1f} %" in drawn
    assert "No paired differences: they are of different data (image 0 has other pixels)." in drawn


def test_images_without_labels_have_certificates_and_no_accuracy(linear_classifier, tmp_path: Path) -> None:
    """Any answer counts: nothing is said to be right or wrong."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        PillowImage.new("RGB", (4, 4), (80 * number, 90, 30)).save(tmp_path / "images" / f"{number}.png")
    classifier = linear_classifier(np.random.default_rng(0).normal(size=(2, 48)), np.zeros(2))
    given = {"engine": classifier, "data": tmp_path / "images", "method": "rs", "sigma": 0.5, "n0": 20, "n": 200}
    with dst.certify(**given, out=tmp_path / "r.sqlite", backend="onnxruntime") as store:
        summary = summarise(store)
    assert summary.certified and not summary.labelled
    made = document([summary], None, [Seen()], enveloped=False)
    (run,), (said,) = made["runs"], made["lede"]
    sure = int((summary.radii >= 0.25).sum())
    assert run["labelled"] is False and run["average"] is None and run["accuracy"] is not None
    assert run["curve"]["share"][0] == math.floor(1000 * (summary.predicted >= 0).mean()) / 10
    assert f"{sure} keep their answer" in said and "right" not in said.split(",")[1]
