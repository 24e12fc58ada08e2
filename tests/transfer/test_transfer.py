"""Transferred certificates: what follows from the evidence, half-spaces whose truth is known, and files that were tampered with."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

import diffsmooth_trt as dst
from diffsmooth_trt.certify.rules import Conditions
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine.choice import EngineChoice
from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.statistics.bounds import binomial_lower, binomial_upper, radius_lower
from diffsmooth_trt.statistics.sequential import anytime_lower, looks
from diffsmooth_trt.transfer import run as transfer_run
from diffsmooth_trt.transfer.file import TransferFile
from diffsmooth_trt.transfer.page import page
from diffsmooth_trt.transfer.pairs import Alone, Pairs
from diffsmooth_trt.transfer.report import text, tsv
from diffsmooth_trt.transfer.rule import Evidence, TransferRule
from diffsmooth_trt.transfer.run import TransferConfig, transfer
from diffsmooth_trt.transfer.verify import verify

RNG = np.random.default_rng(3)
KEY, OTHER = "ab" * 32, "cd" * 32
SIGMA = 0.5
WEIGHTS = RNG.normal(size=(2, 48)) / 7
DIFFERENT = WEIGHTS + 0.01 * RNG.normal(size=(2, 48)) / 7  # the same network as rounding leaves it


class Record:
    """What the rule asks of a run's record."""

    def __init__(self, stopping: Stopping, **conditions: Any) -> None:
        self.stopping = stopping
        self.conditions = Conditions(**{"sigma": SIGMA, **conditions})
        self.void, self.images = self.conditions.void, self.conditions.images
        self.total_variation, self.slack = self.conditions.total_variation, self.conditions.slack


def rule(
    pairs: int = 1000, alpha: float = 0.01, *, stopping: Stopping | None = None, **conditions: Any
) -> TransferRule:
    return TransferRule(Record(stopping or Stopping(n=4000), **conditions), pairs, alpha)  # type: ignore[arg-type]


# What follows from the evidence


def test_the_two_shares_are_alpha_and_in_proportion_to_the_draws() -> None:
    made = rule()
    assert Fraction(made.of_votes) + Fraction(made.of_pairs) <= Fraction(0.01)
    assert made.of_votes == pytest.approx(0.002) and made.of_pairs == pytest.approx(0.008)
    family = rule(stopping=Stopping(n=4000, family_wise=True, alpha=0.01), images=50)
    assert family.of_votes == pytest.approx(0.002 / 50) and family.of_pairs == pytest.approx(0.008 / 50)


def test_a_certificate_is_the_votes_bound_less_the_pairs_and_the_variation() -> None:
    found = rule(total_variation=1e-4).outcome(Evidence(3, (3900,), 4000, 12))
    expected = binomial_lower(3900, 4000, rule().of_votes) - binomial_upper(12, 1000, rule().of_pairs) - 1e-4
    assert found.predict == 3 and found.p_lower == pytest.approx(expected, rel=1e-12) and found.p_lower <= expected
    assert found.radius == radius_lower(found.p_lower, SIGMA)
    moved = rule(total_variation=1e-4).outcome(Evidence(3, (3900,), 4000, 12, distance=0.1))
    assert moved.radius is not None and found.radius is not None and moved.radius == pytest.approx(found.radius - 0.1)


def test_more_differences_never_help() -> None:
    radii = [rule().outcome(Evidence(1, (3900,), 4000, differ)).radius or 0.0 for differ in range(0, 600, 25)]
    assert radii == sorted(radii, reverse=True) and radii[0] > 0 and radii[-1] == 0.0
    assert rule().outcome(Evidence(1, (3900,), 4000, 600)).predict == -1


def test_a_class_of_abstentions_is_never_certified() -> None:
    assert rule(void=1).outcome(Evidence(1, (4000,), 4000, 0)).predict == -1


def test_a_run_that_stopped_early_is_bounded_at_all_of_its_looks() -> None:
    stopping = Stopping(n=4000, tolerance=0.1)
    made, ends = rule(stopping=stopping), looks(4000)[:7]
    hits = tuple(end - 1 for end in ends)
    found = made.outcome(Evidence(0, hits, ends[-1], 0))
    expected = anytime_lower(np.array(hits), made.of_votes) - binomial_upper(0, 1000, made.of_pairs)
    assert found.p_lower == pytest.approx(expected)
    for wrong in ((hits, ends[-1] + 1), (hits[::-1], ends[-1]), ((), 0)):
        with pytest.raises(ValueError, match=r"looks|draws"):
            made.outcome(Evidence(0, *wrong, 0))


def test_unanimous_votes_are_followed_by_draws_of_the_other_alone() -> None:
    made = rule(200)
    assert made.draws((4000,), 4000) == (True, 400) and made.draws((2400,), 4000) == (False, 200)
    found, paired = (made.outcome(Evidence(3, (4000,), 4000, 0, alone=alone)).p_lower or 0.0 for alone in (400, None))
    assert (
        found == binomial_lower(400, 400, made.of_pairs) > paired
    )  # at the pairs' level: alpha alone would not be sound
    with pytest.raises(ValueError, match="401 hits of 400 draws"):
        made.outcome(Evidence(3, (4000,), 4000, 0, alone=401))


@pytest.mark.parametrize("law", [(0.9, 0.05), (0.6, 0.02), (0.99, 0.01)])
def test_coverage(law: tuple[float, float]) -> None:
    """Of 2,000 certificates at α = 0.05 at most 0.07 are wrong: a sound rule fails this with probability below 10^-4."""
    (p, q), cases, rng = law, 2000, np.random.default_rng(5)
    made = rule(200, 0.05, stopping=Stopping(n=500))
    hits, differ = rng.binomial(500, p, cases).tolist(), rng.binomial(200, q, cases).tolist()
    alone = [made.draws((h,), 500)[0] for h in hits]
    single = rng.binomial(400, p - q, cases).tolist()
    bounds = [
        made.outcome(Evidence(0, (h,), 500, d, alone=g if which else None)).p_lower or 0.0
        for h, d, g, which in zip(hits, differ, single, alone, strict=True)
    ]
    assert any(alone)
    assert sum(bound > p - q for bound in bounds) <= 0.07 * cases


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stopping": Stopping(command="predict")}, "needs a run of certify with votes, this one is of predict"),
        ({"stopping": Stopping(certificate="lipschitz")}, "this one is of --certificate lipschitz"),
        ({"pairs": 0}, "--n must be an integer of 1 to"),
        ({"alpha": 1.0}, "--alpha must lie between 0 and 1"),
        ({"alpha": float("nan")}, "--alpha must lie between 0 and 1"),
    ],
)
def test_runs_and_numbers_that_cannot_be_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        rule(**given)
    assert said in error.value.message and "\n" not in error.value.message


def test_pairs_are_counted_by_who_says_the_class() -> None:
    f, g = np.array([1, 1, 1, 0, 2, 0]), np.array([1, 0, 2, 1, 2, 0])
    assert Pairs.of(f, g, 1) == Pairs(both=1, f_alone=2, g_alone=1, neither=2)


# Half-spaces, whose radii are known


@pytest.fixture(scope="module")
def networks(linear_classifier: Any) -> dict[str, Path]:
    bias = np.array([0.0, 0.3])
    return {
        "f": linear_classifier(WEIGHTS, bias),
        "g": linear_classifier(DIFFERENT, bias),
        "stranger": linear_classifier(-WEIGHTS, -bias),
        "three": linear_classifier(RNG.normal(size=(3, 48)), np.zeros(3)),
    }


@pytest.fixture
def certified(networks: dict[str, Path], images_npz: Any, tmp_path: Path) -> Any:
    def make(**options: Any) -> Path:
        out = tmp_path / "run.sqlite"
        given: dict[str, Any] = {"n0": 50, "n": 3000, "alpha": 0.01, "key": KEY, "backend": "onnxruntime", **options}
        with dst.certify(engine=networks["f"], method="rs", sigma=SIGMA, data=images_npz(12), out=out, **given):
            return out

    return make


def config(run: Path, engine: Path, **more: Any) -> TransferConfig:
    given: dict[str, Any] = {"pairs": 1000, "engines": EngineChoice(backend="onnxruntime", batch=16), **more}
    return TransferConfig(**{"run": run, "out": run.with_name("t.json"), "files": {"engine": engine}, **given})


def truth(run: Path, weights: Any) -> dict[int, tuple[int, float]]:
    """Class and exact radius of each image under the half-space of `weights`."""
    images = {}
    with dst.open_run(run) as store:
        data = store.record.files["data"]
    for image in dst.open_images(str(data)):
        x = image.pixels.transpose(2, 0, 1).reshape(-1) / 255
        margin = float((weights[1] - weights[0]) @ x + 0.3)
        images[image.index] = int(margin > 0), abs(margin) / float(np.linalg.norm(weights[1] - weights[0]))
    return images


@pytest.mark.parametrize("options", [{}, {"tolerance": 0.05}, {"family_wise": True}])
def test_radii_are_below_the_true_ones_and_most_of_the_runs(
    options: dict[str, Any], certified: Any, networks: dict[str, Path], load_beside: Any
) -> None:
    run = certified(**options)
    made = transfer(
        config(run, networks["g"], key=dst.smoothed.Key.parse(OTHER))
    )  # any other is wrong of some in 1 of 10
    known = truth(run, DIFFERENT.astype(np.float32))
    with dst.open_run(run) as store:
        before = {result.image: result for result in store.results()}
    assert [image.index for image in made.images] == list(before)
    for image in made.images:
        alone = isinstance(image.pairs, Alone)  # of more draws, as it happens, than half of the run's
        if image.outcome.predict >= 0:
            assert (image.outcome.predict, image.outcome.radius) <= known[image.index]
            assert image.outcome.predict == known[image.index][0]
        assert (image.outcome.radius or 0.0) <= (before[image.index].radius or 0.0) + 1e-12 or options or alone
        own = made.rule.run_radius(image.evidence)
        assert own == pytest.approx(before[image.index].radius, rel=1e-12)
    the_page_has_both_curves(made, load_beside("chart_pages.py"))
    total = sum(image.outcome.radius or 0.0 for image in made.images)
    assert total >= 0.8 * sum(result.radius or 0.0 for result in before.values()) > 0
    again = TransferFile.read(made.path)
    assert again.images == made.images and not again.key_drawn and again.classifier == made.classifier
    assert verify(made.path, given={}, seed=1, fraction=1).agrees


def the_page_has_both_curves(made: TransferFile, pages: Any) -> None:
    assert main(["report", str(made.path), "--html", str(made.path.with_suffix(".html")), "--radii", "0.1,0.3"]) == 0
    data = pages.embedded(made.path.with_suffix(".html"))
    (chart,), (at_radii, images) = data["charts"], data["tables"]
    other, run = (line["points"] for line in chart["lines"])
    for image, row in zip(made.images, images["rows"], strict=True):
        assert float(row[3].replace("–", "0")) <= (image.outcome.radius or 0.0)
    for column, radius in enumerate((0.1, 0.3), 1):
        kept = [image.correct and (image.outcome.radius or 0.0) >= radius for image in made.images]
        assert pages.height(other, radius, until=True) == pytest.approx(100 * sum(kept) / 12)
        assert float(at_radii["rows"][0][column]) <= 100 * sum(kept) / 12
        assert float(at_radii["rows"][1][column]) == pytest.approx(pages.height(run, radius, until=True), abs=0.1)


def test_preset_radii_have_no_radius_of_the_votes_alone() -> None:
    made = rule(stopping=Stopping(n=4000, radius=0.25))
    assert made.run_radius(Evidence(0, (30,), 30, 0)) is None


def test_votes_of_pairs_do_not_depend_on_the_batch(certified: Any, networks: dict[str, Path]) -> None:
    run = certified()
    key = dst.smoothed.Key.parse(OTHER)
    first = transfer(config(run, networks["g"], key=key))
    first.path.unlink()
    second = transfer(config(run, networks["g"], key=key, engines=EngineChoice(backend="onnxruntime", batch=7)))
    assert [image.pairs for image in first.images] == [image.pairs for image in second.images]
    assert first.classifier.id != second.classifier.id


def test_a_transfer_that_ended_early_goes_on(
    certified: Any, networks: dict[str, Path], load_beside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes the file of one that was left alone; what was begun otherwise is refused."""
    monkeypatch.setattr(transfer_run, "TOGETHER", 4)
    run, key = certified(), dst.smoothed.Key.parse(OTHER)
    whole = transfer(config(run, networks["g"], key=key))
    out, part = run.with_name("b.json"), run.with_name("b.json.part")
    again = config(run, networks["g"], out=out, key=key)
    stopping = load_beside("interrupting.py").Interrupting(2)
    with pytest.raises(KeyboardInterrupt):
        transfer(again, stopping)
    assert not out.exists() and len(TransferFile.read(part).images) == 8
    with pytest.raises(
        InputError, match=r"b.json.part keeps what was done of out .*b.json: pass resume=True to go on with it"
    ):
        replace(again)
    for changes, name in (
        ({"pairs": 77}, "n"),
        ({"alpha": 0.05}, "alpha"),
        ({"key": dst.smoothed.Key.parse("ef" * 32)}, "key"),
    ):
        with pytest.raises(InputError, match=f"b.json.part was begun with another {name}: "):
            transfer(replace(again, resume=True, **changes))
    with pytest.raises(InputError, match="b.json.part was begun with another classifier: "):
        transfer(replace(again, resume=True, engines=EngineChoice(batch=2, backend="onnxruntime", threads=1)))
    assert "not finished: these are the images that are done, `transfer --resume` goes on" in text(
        TransferFile.read(part)
    )
    out.write_text("somebody's")
    with pytest.raises(InputError, match="b.json is no file of `diffsmooth-trt transfer`"):
        transfer(replace(again, resume=True))
    assert out.read_text() == "somebody's"
    out.unlink()
    made = transfer(replace(again, resume=True, key=None))
    assert made.images == whole.images and made.key == key and not made.key_drawn and not part.exists()
    assert transfer(replace(again, resume=True)).images == whole.images  # it is finished


def test_another_network_is_refused_with_the_share_that_agrees(certified: Any, networks: dict[str, Path]) -> None:
    run = certified()
    with pytest.raises(
        InputError, match=r"agree on the run's class in \d+\.\d% of draws, too rarely to certify any of"
    ):
        transfer(config(run, networks["stranger"]))
    assert not run.with_name("t.json").exists()


def test_engines_that_do_not_go_with_the_run_are_one_line(
    certified: Any, networks: dict[str, Path], shrinking_denoiser: Any
) -> None:
    run = certified()
    for engine, more, said in (
        (networks["three"], {}, "has classes 2, the other 3"),
        (shrinking_denoiser(0.5), {}, "is a denoiser, expected a classifier"),
        (networks["g"], {"pairs": 5}, "--n 5 pairs at --alpha 0.01 prove nothing even where all labels agree"),
        (networks["g"], {"given": {"engine": networks["g"]}}, "the run used"),
        (networks["g"], {"given": {"classifier": networks["g"]}}, "--from-classifier is not used by --method rs"),
    ):
        with pytest.raises(InputError) as error:
            transfer(config(run, engine, **more))
        assert said in error.value.message and "\n" not in error.value.message, error.value.message
    with pytest.raises(InputError, match="the engines make the run's own classifier"):
        transfer(config(run, networks["f"], engines=EngineChoice(backend="onnxruntime", batch=64)))


def test_another_sigma_is_refused(
    linear_classifier: Any, shrinking_denoiser: Any, images_npz: Any, tmp_path: Path
) -> None:
    out, classifier = tmp_path / "run.sqlite", linear_classifier(WEIGHTS, np.zeros(2))
    given: dict[str, Any] = {"engine": shrinking_denoiser(0.5), "classifier": classifier, "data": images_npz(2)}
    with dst.certify(**given, n0=10, n=100, out=out, backend="onnxruntime"):
        pass
    with pytest.raises(InputError, match=r"was exported for sigma 0.25, the run asks for 0.5"):
        transfer(config(out, shrinking_denoiser(0.25)))


# Files


def test_what_does_not_follow_from_the_evidence_is_not_read(certified: Any, networks: dict[str, Path]) -> None:
    made = transfer(config(certified(), networks["g"]))
    text = made.path.read_text(encoding="utf-8")

    def changed(change: Any) -> Path:
        values = json.loads(text)
        change(values)
        made.path.write_text(json.dumps(values) + "\n", encoding="utf-8")
        return made.path

    sure = next(i for i, image in enumerate(made.images) if isinstance(image.pairs, Alone))
    for change in (
        lambda v: v["images"][sure].update(radius=v["images"][sure]["radius"] + 0.01),
        lambda v: v["images"][sure].update(predict=1 - v["images"][sure]["predict"]),
        lambda v: v["images"][sure]["pairs"].update(hits=v["images"][sure]["pairs"]["hits"] + 1),
        lambda v: v["images"][sure].update(pairs={"both": 1000, "f_alone": 0, "g_alone": 0, "neither": 0}),
        lambda v: v["images"].append(v["images"][0]),
        lambda v: v["images"].clear(),
        lambda v: v["images"][sure].update(distance=-0.1),
        lambda v: v.update(alpha_of_pairs=v["alpha_of_pairs"] * 2),
    ):
        with pytest.raises(StoreError):
            TransferFile.read(changed(change))
    for change in (
        lambda v: v.update(format=9),
        lambda v: v.pop("record"),
        lambda v: v["images"][0].update(hits=["x"]),
        lambda v: v["images"][0].update(label="0"),
    ):
        with pytest.raises(InputError):
            TransferFile.read(changed(change))


def test_verify_finds_forged_pairs_and_votes(certified: Any, networks: dict[str, Path]) -> None:
    made = transfer(config(certified(n=12000), networks["g"]))
    sure = next(i for i, image in enumerate(made.images) if isinstance(image.pairs, Pairs) and image.pairs.f_alone > 0)

    def forged(**change: Any) -> Any:
        image = replace(made.images[sure], **change)
        image = replace(image, outcome=made.rule.outcome(image.evidence))
        replace(made, images=[*made.images[:sure], image, *made.images[sure + 1 :]]).write()
        return verify(made.path, given={}, seed=1, fraction=1)

    pairs = made.images[sure].pairs
    better = forged(pairs=Pairs(pairs.both + pairs.f_alone, 0, pairs.g_alone, pairs.neither))
    assert len(better.mismatches) == 1 and "recorded Pairs" in better.mismatches[0]
    votes = forged(hits=(made.images[sure].hits[0] - 1,))
    assert votes.mismatches == [f"image {made.images[sure].index}: class or votes are not the run's"]


def test_command_transfers_reports_and_verifies(
    certified: Any, networks: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, tsv = certified(), tmp_path / "g.json", tmp_path / "g.tsv"
    command = ["transfer", str(run), "--engine", str(networks["g"]), "--backend", "onnxruntime", "--n", "1000"]
    assert main([*command, "--key", OTHER, "--out", str(out), "--tsv", str(tsv)]) == 0
    said = capsys.readouterr().out
    assert "alpha=0.01 for each image" in said and "for 1000 pairs" in said and "the pairs was given, not drawn" in said
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == said
    assert main(["verify", str(out)]) == 0
    assert "pairs of 12 of 12 images" in capsys.readouterr().out
    rows = [line.split("\t") for line in tsv.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["idx", "label", "predict", "radius", "correct", "time"] and len(rows) == 13
    for arguments, hint in (
        ([*command, "--out", str(out)], "exists: give another name"),
        (["report", str(out), "--figure", str(tmp_path / "x.png")], "--figure is for runs of certify"),
        (["report", str(out), "--html", str(out)], "which it would destroy"),
        (["verify", str(out), "--unfinished"], "--unfinished is not for files of transfer"),
        (["transfer", str(tmp_path / "no.sqlite"), "--out", str(tmp_path / "x.json")], "does not exist"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert hint in error and error.count("\n") == 1


# What else may come


def test_a_table_never_replaces_what_is_read(
    certified: Any, networks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = certified()
    before = networks["f"].read_bytes(), networks["g"].read_bytes()
    command = ["transfer", str(run), "--engine", str(networks["g"]), "--backend", "onnxruntime", "--n", "300"]
    for path, option in ((networks["g"], "--engine"), (networks["f"], "the run's --engine"), (run, "RUN")):
        assert main([*command, "--out", str(run.with_name("t.json")), "--tsv", str(path)]) == 2
        line = capsys.readouterr().err
        assert f"is also {option}" in line and line.count("\n") == 1, line
    assert before == (networks["f"].read_bytes(), networks["g"].read_bytes())
    for option, said in (("--from-engine", "has SHA-256"), ("--from-classifier", "is not used by --method rs")):
        assert main([*command, "--out", str(run.with_name("t.json")), option, str(networks["g"])]) == 2
        assert f"diffsmooth-trt: {option} " in (line := capsys.readouterr().err) and said in line


def data_of(drawn: str) -> str:
    """What a page draws, as JSON."""
    return re.findall(r'id="data">(.*?)</script>', drawn, re.DOTALL)[0]


def test_without_labels_nothing_is_right(networks: dict[str, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(7).integers(0, 256, (40, 4, 4, 3), np.uint8))
    run = tmp_path / "run.sqlite"
    given: dict[str, Any] = {
        "engine": networks["f"],
        "data": tmp_path / "images.npz",
        "n0": 50,
        "n": 600,
        "out": run,
        "key": KEY,
    }
    with dst.certify(**given, method="rs", sigma=SIGMA, backend="onnxruntime"):
        pass
    made = transfer(config(run, networks["g"], pairs=300, key=dst.smoothed.Key.parse(OTHER)))
    assert any(image.outcome.predict < 0 for image in made.images)  # −1, as the labels are
    assert not any(image.correct for image in made.images)
    assert "no labels, so there is no accuracy; certified, whatever the class is: " in text(made)
    assert text(made).splitlines()[-1].split()[1:6] == ["-"] * 5
    assert all(line.split("\t")[4] == "0" for line in tsv(made).splitlines()[1:])
    drawn = page([made])
    assert "Certified answers" in drawn and not re.search(
        "Certified accuracy|right, with|average certified|-1", data_of(drawn)
    )


def test_skipped_images_count_as_not_certified(networks: dict[str, Path], tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run.sqlite"
    for label in range(2):
        (data / str(label)).mkdir(parents=True)
        for number in range(3):
            picture = PillowImage.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8))
            picture.save(data / str(label) / f"{number}.png")
    (data / "0" / "1.png").write_bytes(b"no picture")
    given: dict[str, Any] = {
        "engine": networks["f"],
        "data": data,
        "bad_images": "skip",
        "n0": 50,
        "n": 600,
        "out": run,
    }
    with dst.certify(**given, method="rs", sigma=SIGMA, backend="onnxruntime"):
        pass
    made = transfer(config(run, networks["g"], pairs=300))
    assert len(made.images) == 5 and made.counted == 6
    assert "skipped by the run: 1 that cannot be used" in text(made) and "not finished" not in text(made)
    rows = [line.split("\t") for line in tsv(made).splitlines()[1:]]
    assert [row[0] for row in rows] == list("012345") and rows[1][2:5] == ["-1", "0.0", "0"]
    right = sum(image.correct for image in made.images)
    assert text(made).splitlines()[-1].split()[:2] == ["6", f"{int(1000 * right / 6) / 10:.1f}"]
    drawn = json.loads(data_of(page([made])))
    assert drawn["tables"][0]["rows"][0][1] == f"{int(1000 * right / 6) / 10:.1f}"
    assert any("skipped by the run: 1" in said for said in drawn["warnings"])
    missing = replace(made, images=made.images[:-1])
    assert "5 of 6 images: the run was not finished" in text(missing)
    with pytest.raises(InputError, match="5 of 6 images, the shares of which mean nothing"):
        tsv(missing)
