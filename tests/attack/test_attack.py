"""Attacks: gradients against differences, balls on the grid, half-spaces whose radius is known, and certificates that are false."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

import diffsmooth_trt as dst
from diffsmooth_trt.certify.rules import Conditions
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.images import Images
from diffsmooth_trt.methods import METHODS
from diffsmooth_trt.noise import FIXED_LOCAL, LOCAL, Key, grid_law, seed_key
from diffsmooth_trt.noise.counters import ATTACK, fresh_words
from diffsmooth_trt.noise.sampler import grid_noise

torch = pytest.importorskip("torch", reason="gradients are torch's")

from diffsmooth_trt.attack import run as attack_run  # noqa: E402
from diffsmooth_trt.attack.file import AttackFile  # noqa: E402
from diffsmooth_trt.attack.gradients import SmoothedLoss  # noqa: E402
from diffsmooth_trt.attack.pgd import on_grid_within, project, squared  # noqa: E402
from diffsmooth_trt.attack.report import shares  # noqa: E402
from diffsmooth_trt.attack.rule import Attacked, AttackRule, Point  # noqa: E402
from diffsmooth_trt.attack.run import AttackConfig, attack  # noqa: E402
from diffsmooth_trt.engine import open_engine  # noqa: E402

RNG = np.random.default_rng(7)
KEY = "ab" * 32
SIGMA = 0.5
WEIGHTS = RNG.normal(size=(2, 48)) / 7
WEIGHTS -= WEIGHTS.mean(axis=1, keepdims=True)  # the edge passes through grey: images are 0 to 0.9 from it
BIAS = np.array([0.0, 0.05])
RADII = (0.05, 0.15, 0.3, 0.6)


# Gradients


def noise(phase: int, key: Any, sigma: float, image: int, samples: Any) -> Any:
    images = np.full(len(samples), image, np.uint64)
    return grid_noise(grid_law(sigma), key, phase, images, np.asarray(samples, np.uint64), 48) / 255


@pytest.mark.parametrize("method", ["rs", "dds", "diffsmooth", "fresh"])
def test_gradients_are_differences_of_the_mean_over_the_keyed_draws(
    method: str, linear_classifier: Any, shrinking_denoiser: Any
) -> None:
    """An independent restatement in float64; central differences along 5 directions, to 1 %."""
    weights, bias, image, samples = RNG.normal(size=(4, 48)), RNG.normal(size=4), 9, np.arange(3, 8)
    name, key = "diffsmooth" if method == "fresh" else method, Key.parse(KEY)
    how: dict[str, Any] = {"backend": "onnxruntime", "batch": 4}
    opened = {"engine": open_engine(linear_classifier(weights, bias), role="classifier", **how)}
    if method != "rs":
        opened = {
            "engine": open_engine(shrinking_denoiser(SIGMA), role="denoiser", **how),
            "classifier": opened["engine"],
        }
    given = {"local_noise": "fresh"} if method == "fresh" else {}
    options = METHODS[name].Options(**given)
    made = METHODS[name].of(opened, SIGMA, options)

    def loss(x: Any) -> float:
        noisy = x + noise(ATTACK, key, SIGMA, image, samples)
        if method == "rs":
            return -float(logsumexp(log_softmax(noisy @ weights.T + bias, 1)[:, 2]))
        denoised = made.engines["denoiser"].run_on_host(
            np.resize(noisy, (8, 48))[:4].reshape(4, 3, 4, 4).astype(np.float32)
        )
        more = made.engines["denoiser"].run_on_host(
            np.resize(noisy[4:], (4, 48)).reshape(4, 3, 4, 4).astype(np.float32)
        )
        clean = np.concatenate([denoised, more])[:5].reshape(5, 48)
        if method == "dds":
            return -float(logsumexp(log_softmax(clean @ weights.T + bias, 1)[:, 2]))
        found = []
        for copy in range(options.m):
            if method == "fresh":
                words = np.stack([np.full(5, ATTACK), np.full(5, image), samples]).astype(np.uint64)
                local = noise(LOCAL, key, options.local_sigma, image, fresh_words(words, options.m, copy))
            else:
                local = noise(FIXED_LOCAL, seed_key(0), options.local_sigma, 0, [copy])
            found.append(log_softmax((clean + local) @ weights.T + bias, 1)[:, 2])
        return -float(logsumexp(np.concatenate(found)))

    x = RNG.uniform(0.2, 0.8, 48)
    point = torch.from_numpy(x.reshape(1, 3, 4, 4).astype(np.float32))
    found = SmoothedLoss(made, key).gradient(
        point, np.array([image], np.uint64), np.array([2]), samples.astype(np.uint64)
    )
    gradient, step = found.numpy().reshape(-1), 1e-2
    for direction in RNG.normal(size=(5, 48)) / 7:
        expected = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        assert gradient @ direction == pytest.approx(expected, abs=0.01 * float(np.linalg.norm(gradient)))
    made.close()


# Balls on the grid


def test_points_on_the_grid_fill_the_ball_and_never_leave_it() -> None:
    for epsilon in (0.01, 0.25, 0.5, 3.0):
        centre = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        away = RNG.normal(size=centre.shape)
        point = np.clip(centre / 255 + epsilon * away / np.linalg.norm(away), 0, 1).astype(np.float32)
        found = on_grid_within(centre, point, epsilon)
        assert Fraction(squared(found, centre), 255**2) <= Fraction(epsilon) ** 2
        if 0.1 < epsilon < 1:
            assert squared(found, centre) > 0.9 * (255 * epsilon) ** 2


def test_projections_lie_in_the_ball_and_in_the_cube() -> None:
    centres = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = project(centres + torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2)), centres, 0.3)
    assert float((found - centres).flatten(1).norm(dim=1).max()) <= 0.3 * (1 + 1e-6)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


# Half-spaces, whose radii are known


@pytest.fixture(scope="module")
def engine(linear_classifier: Any) -> Path:
    found: Path = linear_classifier(WEIGHTS, BIAS)
    return found


@pytest.fixture
def certified(engine: Path, images_npz: Any, tmp_path: Path) -> Any:
    def make(**options: Any) -> Path:
        out = tmp_path / "run.sqlite"
        given: dict[str, Any] = {"n0": 50, "n": 1000, "alpha": 0.001, "key": KEY, "backend": "onnxruntime", **options}
        with dst.certify(engine=engine, method="rs", sigma=SIGMA, data=images_npz(16), out=out, **given):
            return out

    return make


def config(run: Path, **more: Any) -> AttackConfig:
    given: dict[str, Any] = {
        "n": 4000,
        "radii": RADII,
        "steps": 3,
        "key": Key.parse("cd" * 32),
        "out": run.with_name("a.json"),
        **more,
    }
    return AttackConfig(run=run, **given)


def truth(run: Path) -> dict[int, float]:
    """How far each image is from the half-space's edge."""
    with dst.open_run(run) as store:
        data = store.record.files["data"]
    normal = (WEIGHTS[1] - WEIGHTS[0]).astype(np.float32).astype(np.float64)
    length = float(np.linalg.norm(normal))
    return {
        image.index: abs(float(normal @ (image.pixels.transpose(2, 0, 1).reshape(-1) / 255) + BIAS[1])) / length
        for image in Images(str(data))
    }


def test_half_spaces_break_beyond_their_radius_and_never_within(certified: Any, load_beside: Any) -> None:
    run = certified()
    made, edges = attack(config(run, kept=run.with_name("a.npz"))), truth(run)
    never = beyond = 0
    for image in made.images:
        clean, edge = made.rule.clean(image), edges[image.index]
        for point in image.points:
            if point.epsilon < edge:
                assert point.votes is None or made.rule.answer(point.votes) in (-1, clean)
                never += 1
        for epsilon in RADII:
            if clean == image.label and epsilon > 1.3 * edge + 0.08:
                assert made.rule.broken(image, epsilon)
                beyond += 1
    assert never >= 10 and beyond >= 4 and not made.contradicted and made.tried >= 5
    for before, after in itertools.pairwise(RADII):
        assert shares(made, before).attacked >= shares(made, after).attacked
    for epsilon in RADII:
        found = shares(made, epsilon)
        assert found.certified <= found.attacked <= found.clean <= found.images == 16
    again = AttackFile.read(made.path)
    assert again.images == made.images and again.radii == RADII and not again.key_drawn
    with np.load(run.with_name("a.npz")) as kept:
        points = [(image.index, point.epsilon) for image in made.images for point in image.points]
        assert list(zip(kept["index"].tolist(), kept["epsilon"].tolist(), strict=True)) == points
        assert Images(run.with_name("a.npz")).labels
    assert not made.path.with_name("a.contradictions.npz").exists()
    the_page_has_its_numbers(made, load_beside("chart_pages.py"))


def the_page_has_its_numbers(made: AttackFile, pages: Any) -> None:
    """The curves at every attacked radius, the accuracies of the table, and for each image the nearest wrong point."""
    assert main(["report", str(made.path), "--html", str(made.path.with_suffix(".html"))]) == 0
    data = pages.embedded(made.path.with_suffix(".html"))
    (chart,), (at_radii, images) = data["charts"], data["tables"]
    certified, attacked, clean = (line["points"] for line in chart["lines"])
    for epsilon, row in zip(RADII, at_radii["rows"], strict=True):
        found = shares(made, epsilon)
        assert pages.height(certified, epsilon, until=True) == pytest.approx(100 * found.certified / 16)
        assert pages.height(attacked, epsilon) == pytest.approx(100 * found.attacked / 16)
        assert clean[0][1] == pytest.approx(100 * found.clean / 16)
        assert [float(cell) for cell in row[1:4]] == pytest.approx(
            [100 * n / 16 for n in (found.certified, found.attacked, found.clean)], abs=0.1
        )
    for image, row in zip(made.images, images["rows"], strict=True):
        wrong = [e for e in RADII if made.rule.broken(image, e)]
        assert (row[4] == "–") == (not wrong)
        assert (row[4] == "as it is") == (made.rule.clean(image) not in (-1, image.label))
        assert row[4] in ("–", "as it is") or float(row[4]) <= wrong[0] + 1e-4


def test_a_false_certificate_is_contradicted_and_the_evidence_is_kept(
    certified: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certificates at α = 0.9999 are false more often than not: their bounds are above what was counted."""
    run = certified(n0=50, n=100, alpha=0.9999)
    edges, out = truth(run), run.with_name("a.json")
    with dst.open_run(run) as store:
        false = {each.image: each for each in store.results() if each.predict >= 0 and each.radius > edges[each.image]}
    radius = max(each.radius - edges[each.image] for each in false.values())
    worst = next(each for each in false.values() if each.radius - edges[each.image] == radius)
    argv = [
        "attack",
        str(run),
        "--radius",
        str(worst.radius - 1e-6),
        "--n",
        "20000",
        "--alpha",
        "0.01",
        "--out",
        str(out),
    ]
    assert main(argv) == 1
    said = capsys.readouterr().out
    assert "CONTRADICTED: certificates of" in said and f"image {worst.image}: certified as {worst.predict}" in said
    evidence = out.with_name("a.contradictions.npz")
    assert f"evidence: {evidence}" in said
    made = AttackFile.read(out)
    with np.load(evidence) as kept:
        assert kept["index"].tolist() == [image.index for image, _ in made.contradicted]
        for pixels, (image, point) in zip(kept["images"], made.contradicted, strict=True):
            original = next(each for each in Images(made.record.files["data"]) if each.index == image.index)
            assert squared(pixels, original.pixels) == point.squared
            assert np.sqrt(point.squared) / 255 > edges[image.index] - 1e-9  # the half-space really ends before
    with dst.predict(
        engine=made.record.files["engine"],
        method="rs",
        sigma=SIGMA,
        data=evidence,
        n=20000,
        key=KEY,
        backend="onnxruntime",
    ) as found:  # what the message proposes
        answers = [result.predict for result in found.results()]
    assert all(answer not in (image.predict,) for answer, (image, _) in zip(answers, made.contradicted, strict=True))
    assert main(["report", str(out), "--figure", str(out.with_name("a.png"))]) == 0
    assert "CONTRADICTED" in capsys.readouterr().out and out.with_name("a.png").stat().st_size > 5000


def test_the_same_key_finds_the_same_points(certified: Any) -> None:
    run = certified()
    first = attack(config(run, max=4, radii=(0.3,)))
    first.path.unlink()
    assert attack(config(run, max=4, radii=(0.3,))).images == first.images and len(first.images) == 4


# What follows from the votes


class Record:
    """What the rule asks of a run's record."""

    def __init__(self, stopping: Stopping) -> None:
        self.stopping, self.classes = stopping, 3
        self.conditions = Conditions(sigma=SIGMA)


def image(**more: Any) -> Attacked:
    given = {
        "index": 0,
        "label": 1,
        "sha256": "",
        "distance": 0.0,
        "predict": 1,
        "radius": 0.5,
        "clean": None,
        "points": (),
    }
    return Attacked(**{**given, **more})


def point(epsilon: float, square: int, votes: dict[int, int] | None) -> Point:
    return Point(epsilon=epsilon, squared=square, sha256="", selection={}, votes=votes)


def test_an_attack_that_ended_early_goes_on(certified: Any, load_beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, and makes the file and the points of one that was left alone; what was begun otherwise is refused."""
    monkeypatch.setattr(attack_run, "TOGETHER", 4)
    interrupting = load_beside("interrupting.py").Interrupting
    run = certified()
    whole = attack(config(run, kept=run.with_name("a.npz"), key=Key.parse(KEY)))
    files = [run.with_name(name) for name in ("b.json", "b.json.part", "b.json.part.npz", "b.npz")]
    again = config(run, out=files[0], kept=files[3], key=Key.parse(KEY))
    with pytest.raises(KeyboardInterrupt):
        attack(again, interrupting(1))
    assert [file.exists() for file in files] == [False, True, True, False]
    assert len(AttackFile.read(files[1]).images) == 4
    with pytest.raises(
        InputError, match=r"b.json.part keeps what was done of out .*b.json: pass resume=True to go on with it"
    ):
        replace(again)
    for changes, name in (
        ({"radii": (0.1,)}, "radius"), ({"steps": 11}, "steps"), ({"n": 2001}, "n"), ({"alpha": 0.01}, "alpha"),
        ({"key": Key.parse("cd" * 32)}, "key"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"b.json.part was begun with another {name}: "):
            attack(replace(again, resume=True, **changes))
    stopping = interrupting(1)
    with pytest.raises(KeyboardInterrupt):
        attack(replace(again, resume=True, key=None), stopping)
    assert stopping.began == 4 and len(AttackFile.read(files[1]).images) == 8
    points = files[2].read_bytes()
    files[2].unlink()
    with pytest.raises(InputError, match=r"b.json.part.npz does not hold the points of .*: remove both to start anew"):
        attack(replace(again, resume=True))
    files[2].write_bytes(points)
    made = attack(replace(again, resume=True, key=None))
    assert [file.exists() for file in files] == [True, False, False, True]
    assert made.images == whole.images and made.key == whole.key and not made.key_drawn
    with np.load(files[3]) as found, np.load(run.with_name("a.npz")) as wanted:
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert attack(replace(again, resume=True)).images == whole.images  # it is finished
    with pytest.raises(InputError, match=r"is finished with 16 images: give another out for 5"):
        attack(replace(again, resume=True, max=5))
    with pytest.raises(InputError, match=r"is finished, and its points were kept in .*b.npz: leave images out, or"):
        attack(replace(again, resume=True, kept=run.with_name("c.npz")))


def test_what_lies_in_the_way_of_an_attack_that_goes_on_is_not_overwritten(
    certified: Any, load_beside: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of points that is not its own, a part that is damaged; and its own points, where the last write failed."""
    monkeypatch.setattr(attack_run, "TOGETHER", 4)
    run = certified()
    foreign, out = run.with_name("mine.npz"), run.with_name("b.json")
    foreign.write_bytes(b"mine")
    asked: dict[str, Any] = {"out": out, "key": Key.parse(KEY), "max": 12, "radii": (0.3,)}
    with pytest.raises(InputError, match=r"^images .*mine.npz exists: give another name"):
        config(run, **asked, kept=foreign, resume=True)
    with pytest.raises(KeyboardInterrupt):
        attack(config(run, **asked), load_beside("interrupting.py").Interrupting(2))
    for changes, message in (
        ({"kept": foreign}, r"^images .*mine.npz exists: give another name"),
        ({"max": 4}, r"b.json.part has 8 images already, got 4: give as many, or another out"),
    ):
        with pytest.raises(InputError, match=message):
            attack(config(run, **{**asked, **changes}, resume=True))
    assert foreign.read_bytes() == b"mine"
    assert main(["report", str(out.with_name("b.json.part"))]) == 0
    assert "not finished: these are the images that are done, `attack --resume` goes on" in capsys.readouterr().out
    part, points = out.with_name("b.json.part"), run.with_name("b.npz")
    with monkeypatch.context() as patch:
        real = AttackFile.write
        patch.setattr(AttackFile, "write", lambda made: real(made) if made.path == part else fails())
        with pytest.raises(StoreError, match="no space"):
            attack(config(run, **asked, kept=points, resume=True))
    assert points.exists() and not out.exists() and len(AttackFile.read(part).images) == 12
    made = attack(config(run, **asked, kept=points, resume=True))
    assert len(made.images) == 12 and points.exists() and not part.exists()
    part.write_bytes(b"{")
    out.unlink()
    with pytest.raises(InputError, match=r"^.*b.json.part is damaged \(.*\): remove it to start anew"):
        attack(config(run, **asked, kept=points, resume=True))


def fails() -> None:
    raise StoreError("no space")


def test_only_another_class_inside_the_radius_contradicts() -> None:
    rule = AttackRule(Record(Stopping(n=100)), (0.5,), 1000, 0.001)  # type: ignore[arg-type]
    edge = 255**2 // 4  # below (255/2)²: inside a radius of ½
    for given, against in (
        (point(0.5, edge, {0: 900, 1: 100}), True),
        (point(0.5, edge + 1, {0: 900, 1: 100}), False),
        (point(0.5, edge, {0: 500, 1: 500}), False),
        (point(0.5, edge, {1: 900, 0: 100}), False),
        (point(0.5, edge, None), False),
    ):
        assert bool(rule.contradictions(image(points=(given,)))) == against
    moved = image(points=(point(0.5, edge, {0: 900, 1: 100}),), distance=0.01)
    assert not rule.contradictions(moved) and rule.broken(moved, 0.5) and not rule.broken(moved, 0.4)
    assert rule.alpha == pytest.approx(0.0005)
    assert rule.chance(100, 1) == pytest.approx(1 - (1 - 0.002) ** 100)
    family = AttackRule(Record(Stopping(n=100, family_wise=True)), (0.5,), 1000, 0.001)  # type: ignore[arg-type]
    assert family.chance(100, 1) == pytest.approx(0.001 + 1 - 0.999**100)
    assert family.chance(100, 2) < family.chance(100, 1) < 1


def test_files_whose_votes_cannot_be_are_not_read(certified: Any) -> None:
    made = attack(config(certified(), max=6))
    text = made.path.read_text(encoding="utf-8")

    def refused(change: Any) -> None:
        values = json.loads(text)
        change(values)
        made.path.write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises((StoreError, InputError)) as error:
            AttackFile.read(made.path)
        assert "\n" not in error.value.message

    pointed = next(i for i, each in enumerate(made.images) if each.points)
    for change in (
        lambda v: v["images"][pointed]["points"][0].update(squared=10**9),
        lambda v: v["images"][pointed]["points"][0].update(votes={"0": 1}),
        lambda v: v["images"][pointed]["points"][0].update(epsilon=0.2),
        lambda v: v["images"][0].update(label="0"),
        lambda v: v["images"].reverse(),
        lambda v: v.update(n=100),
        lambda v: v.update(format=2),
        lambda v: v.pop("select"),
    ):
        refused(change)


# Bad input


WRONG: list[tuple[list[str], str]] = [
    (["--n", "1000"], "--n 1000 is not above the run's 1000 draws"),
    (["--radius", "0"], "--radius must lie between 0 and"),
    (["--radius", "nan"], "--radius must lie between 0 and"),
    (["--steps", "0"], "--steps must be an integer of 1"),
    (["--draws", "0"], "--draws must be an integer of 1 to 1024"),
    (["--alpha", "2"], "--alpha must lie between 0 and 1, got 2.0"),
    (["--max", "0"], "--max must be an integer of 1"),
    (["--images", "a.png"], "--images a.png has suffix '.png'"),
    (["--classifier", "c.onnx"], "--classifier"),
    (["--engine", "no.onnx"], "--engine no.onnx does not exist"),
    (["--key", "ab"], "--key takes 64 hexadecimal digits"),
]


def test_values_that_cannot_be_are_one_line(certified: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = certified()
    for options, said in WRONG:
        assert main(["attack", str(run), "--out", str(run.with_name("a.json")), *options]) == 2
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1 and not run.with_name("a.json").exists(), line


def test_runs_that_cannot_be_attacked_are_one_line(
    engine: Path, images_npz: Any, conditional_denoiser: Any, certified: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given: dict[str, Any] = {"data": images_npz(2), "n": 20, "backend": "onnxruntime"}
    names = {name: tmp_path / f"{name}.sqlite" for name in ("predict", "dc", "lipschitz")}
    with dst.predict(engine=engine, method="rs", sigma=SIGMA, out=names["predict"], **given):
        pass
    run, out, denoiser = certified(), tmp_path / "a.json", conditional_denoiser(np.array([[-0.3] * 48, [0.3] * 48]))

    def refused(path: Path, said: str) -> None:
        assert main(["attack", str(path), "--out", str(out)]) == 2
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1, line

    refused(names["predict"], "attack needs a run of certify with votes, this one is of predict")
    refused(tmp_path / "no.sqlite", "does not exist")
    with dst.certify(
        engine=denoiser,
        method="dc",
        sigma=SIGMA,
        out=names["dc"],
        **given,
    ):
        pass
    refused(names["dc"], "attack has no gradients of --method dc: it is for runs of rs, dds, diffsmooth")
    with dst.certify(
        engine=denoiser, method="dc", certificate="lipschitz", out=names["lipschitz"], data=given["data"],
        backend="onnxruntime",
    ):  # fmt: skip
        pass
    refused(names["lipschitz"], "this one is of --certificate lipschitz")
    ood = tmp_path / "ood.jsonl"
    ood.write_text("{}\n")
    refused(ood, "")
    out.write_text("{}")
    refused(run, f"--out {out} exists")
    out.unlink()
    attack(config(run, max=1))
    assert main(["report", str(out), "--tsv", str(tmp_path / "x")]) == 2
    assert "--tsv is for runs of certify" in capsys.readouterr().err
    assert main(["report", str(out), str(run)]) == 2
    assert f"got {out} of `attack`, {run} of `certify`: call it once for each command" in capsys.readouterr().err
    assert main(["report", str(out), str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    out.unlink()
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(run, "attack needs gradients, which are torch's")
