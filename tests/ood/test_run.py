"""The command as users call it: every kind, resuming, order of the AUROCs, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import helper

from diffsmooth_trt import zoo
from diffsmooth_trt.certify.progress import NoProgress
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import EngineFacts, open_engine
from diffsmooth_trt.errors import EngineError, InputError
from diffsmooth_trt.ood import model as model_module
from diffsmooth_trt.ood import sets
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.graph_file import load_graph
from diffsmooth_trt.ood.interval import IntervalGraph
from diffsmooth_trt.ood.linf import BallRunner
from diffsmooth_trt.ood.model import Model
from diffsmooth_trt.ood.report import versions_of
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.store import OodStore

SHAPE = (3, 4, 4)


@pytest.fixture(scope="module")
def classifier(linear_classifier):
    return linear_classifier(np.random.default_rng(0).normal(0, 0.5, (5, 48)), np.zeros(5))


@pytest.fixture
def files(classifier, shrinking_denoiser, small_detector, image_set):
    return {
        "classifier": classifier,
        "engine": shrinking_denoiser(0.25),
        "detector": small_detector(),
        "in-data": image_set("inside", 12, 120, 256),
    }


def call(files, out, *more, data=("generated:uniform", "generated:smooth"), drop=()):
    given = [part for name, path in files.items() if name not in drop for part in (f"--{name}", str(path))]
    common = ["--batch", "8", "--key", "ab" * 32, "--out", str(out), "--backend", "onnxruntime"]
    return main(["ood", *given, "--out-data", *map(str, data), *common, *more])


def kind_options(kind):
    return ("--kind", kind, *(("--n", "200") if kind == "certified" else ()))


def refused(capsys, files, out, words, *more, **options):
    assert call(files, out, *more, **options) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1, error
    assert not out.exists()


@pytest.mark.parametrize("kind", ["clean", "guaranteed", "certified", "adversarial"])
def test_every_kind_of_a_joint_model_behind_a_denoiser(files, tmp_path, capsys, kind):
    if kind == "adversarial":
        pytest.importorskip("torch")
    out, table, figure = (tmp_path / f"run.{suffix}" for suffix in ("jsonl", "json", "png"))
    assert call(files, out, *kind_options(kind), "--json", str(table), "--figure", str(figure)) == 0
    text = capsys.readouterr().out
    assert "average AUROC/AUPR/FPR" in text and kind in text
    found = json.loads(table.read_text())
    names = {"clean": 1, "guaranteed": 2, "adversarial": 3, "certified": 10}
    assert len(found["metrics"]) == names[kind]
    for row in found["metrics"]:
        assert set(row["sets"]) == {"generated:uniform", "generated:smooth", "average"}
        assert all(0 <= value <= 1 for metrics in row["sets"].values() for value in metrics.values())
    assert figure.read_bytes()[:4] == b"\x89PNG"
    lines = out.read_text().splitlines()
    assert len([line for line in lines if '"audit"' not in line]) == 1 + 36
    assert (len(lines) > 37) == (kind == "certified")


@pytest.mark.parametrize(("score", "kind", "expected"), [
    ("energy", "clean", 1), ("reject", "guaranteed", 2), ("softmax", "guaranteed", 2), ("energy", "adversarial", 2),
])  # fmt: skip
def test_plain_classifiers_and_their_scores(files, tmp_path, score, kind, expected):
    """A linear classifier is its own interval graph."""
    if kind == "adversarial":
        pytest.importorskip("torch")
    config = OodConfig(
        files["classifier"],
        files["in-data"],
        ("generated:lowfreq",),
        tmp_path / "r.jsonl",
        kind=kind,
        score=score,
        batch=8,
    )
    with run(config) as store:
        assert len(versions_of(store, (0.0,))) == expected


def test_guaranteed_below_adversarial_below_clean(files, tmp_path):
    """Image by image and as AUROC, for joint models with and without a denoiser; the runtime refuses anything else."""
    pytest.importorskip("torch")
    for drop in ((), ("engine",)):
        out = tmp_path / f"{len(drop)}.jsonl"
        assert call(files, out, "--kind", "adversarial", "--epsilon", "0.05", drop=drop) == 0
        with OodStore.open(out) as store:
            for record in store.of_set(1) + store.of_set(2):
                assert record["score"] <= record["attacked"] <= record["bound"]
            assert any(record["attacked"] > record["score"] for record in store.of_set(1))
            clean, adversarial, guaranteed = (version.measured() for version in versions_of(store, (0.0,)))
            for name in clean:
                assert guaranteed[name].auroc <= adversarial[name].auroc <= clean[name].auroc
            for record in store.of_set(1):
                record["attacked"] = record["score"] - 0.5
            with pytest.raises(EngineError, match="cannot be"):
                versions_of(store, (0.0,))


def test_a_bound_below_the_score_stops_the_run(files, tmp_path, monkeypatch):
    from diffsmooth_trt.ood import linf

    monkeypatch.setattr(linf, "upper_bounds", lambda model, graph, x, epsilon: np.zeros(len(x)))
    config = OodConfig(
        files["classifier"], files["in-data"], ("generated:uniform",), tmp_path / "r.jsonl",
        detector=files["detector"], kind="guaranteed", batch=8,
    )  # fmt: skip
    with pytest.raises(EngineError, match="above its guaranteed bound"):
        run(config)


def test_recorded_bounds_are_the_interval_bounds(files, tmp_path, monkeypatch):
    """Nothing raises them to what was found: a score above its bound by the last digit stops the run."""
    from diffsmooth_trt.ood import linf

    config = OodConfig(
        files["classifier"], files["in-data"], ("generated:uniform",), tmp_path / "r.jsonl",
        detector=files["detector"], kind="guaranteed", batch=8,
    )  # fmt: skip
    with run(config) as store:
        scores = np.array([record["score"] for record in store.of_set(1)])
    monkeypatch.setattr(linf, "upper_bounds", lambda model, graph, x, epsilon: np.nextafter(scores[: len(x)], 0))
    config.out.unlink()
    with pytest.raises(EngineError, match="above its guaranteed bound"):
        run(config)


def test_averages_of_equal_scores_are_not_raised_by_rounding(files, tmp_path):
    config = OodConfig(
        files["classifier"], files["in-data"], ("generated:uniform",), tmp_path / "r.jsonl",
        engine=files["engine"], draws=30, batch=4,
    )  # fmt: skip
    model = Model(config)
    try:
        model.logits = lambda x: np.tile(np.float32([2, 0, 0.3, 0, -1]), (4, 1))
        words = np.arange(4, dtype=np.uint64)
        assert (model.scores(np.zeros((4, *SHAPE), np.float32), 0, 0, words) <= model.score.of(model.logits(0))).all()
    finally:
        model.close()


@pytest.mark.parametrize("kind", ["guaranteed", "certified"])
def test_a_cut_off_run_goes_on_to_the_same_records(files, tmp_path, capsys, kind):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert call(files, whole, *kind_options(kind)) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    for keep in (5, 20):
        cut.write_bytes(b"".join(lines[:keep]) + lines[keep][: len(lines[keep]) // 2])
        assert call(files, cut, *kind_options(kind), "--resume") == 0
        with OodStore.open(whole) as first, OodStore.open(cut) as second:
            assert first.records == second.records
    assert call(files, cut, *kind_options(kind)) == 2
    assert "--resume" in capsys.readouterr().err
    assert call(files, cut, *kind_options(kind), "--seed", "1", "--resume") == 2
    assert "differs in config.seed" in capsys.readouterr().err


def test_an_interrupted_run_keeps_its_records(files, tmp_path, monkeypatch):
    seen = []

    def stop(self, number, images):
        if number == 1:
            raise KeyboardInterrupt
        seen.append(number)
        return original(self, number, images)

    original = BallRunner._records
    monkeypatch.setattr(BallRunner, "_records", stop)
    out = tmp_path / "r.jsonl"
    assert call(files, out) == 3
    with OodStore.open(out) as store:
        assert len(store.records) == 12 and not store.finished()
    monkeypatch.undo()
    assert call(files, out, "--resume") == 0


@pytest.mark.parametrize("score", ["softmax", "distro-l2"])
def test_long_images_are_recorded_one_by_one(files, tmp_path, score):
    """At a fixed n an image fills batches alone: a kill loses that image's draws, not those of a group."""

    class Stop(NoProgress):
        def update(self, samples: int, images: int) -> None:
            if images:
                raise KeyboardInterrupt

    config = OodConfig(
        files["classifier"], files["in-data"], ("generated:uniform",), tmp_path / "r.jsonl",
        sigma=0.25, kind="certified", score=score, n0=20, tolerance=0.0, n=2000, batch=8,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run(config, Stop())
    with OodStore.open(config.out) as store:
        assert len(store.records) == 1


def test_draws_are_averaged_over_keyed_noise(files, tmp_path):
    scores = {}
    for draws in (0, 1, 1, 4):
        out = tmp_path / f"{len(scores)}-{draws}.jsonl"
        out.unlink(missing_ok=True)
        assert call(files, out, "--draws", str(draws)) == 0
        with OodStore.open(out) as store:
            found = [record["score"] for record in store.of_set(0)]
        assert scores.setdefault(draws, found) == found
    assert scores[0] != scores[1] != scores[4]


def test_overlapping_sets_are_warned_of(files, image_set, tmp_path, capsys):
    pixels = np.load(files["in-data"])["images"]
    other = tmp_path / "other.npz"
    np.savez(other, images=np.concatenate([pixels[:3], 255 - pixels]), labels=np.zeros(15, np.int64))
    assert call(files, tmp_path / "r.jsonl", data=[other]) == 0
    said = capsys.readouterr()
    assert "3 of 15 images of other.npz are also in inside.npz" in said.err and "warning" in said.out


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_probabilities_instead_of_logits_are_warned_of(files, linear_classifier, tmp_path, capsys, backend):
    weights = np.random.default_rng(0).normal(0, 0.5, (5, 48))
    for softmax in (False, True):
        given = {**files, "classifier": linear_classifier(weights, np.zeros(5), softmax=softmax)}
        assert call(given, tmp_path / f"{softmax}.jsonl", "--backend", backend, drop=("detector",)) == 0
        assert ("gives probabilities" in capsys.readouterr().err) == softmax


def test_sets_of_one_file_name_stay_apart(files, image_set, tmp_path):
    """Three files called inside.npz, one of them in-distribution, and one called average."""
    others = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        others.append(folder / ("average" if number == 2 else "inside.npz"))
        others[-1].write_bytes(image_set(f"other{number}", 5 + number, 10 * number).read_bytes())
    others[2] = others[2].rename(tmp_path / "2" / "average.npz")
    assert sets._distinct(["a", "a", "a (2)", "average", "a"]) == ["a", "a (2)", "a (2) (2)", "average (2)", "a (3)"]
    out, table = tmp_path / "r.jsonl", tmp_path / "r.json"
    assert call(files, out, "--kind", "certified", "--n", "50", "--json", str(table), data=others) == 0
    found = json.loads(table.read_text())
    names = ["inside.npz", "inside.npz (2)", "inside.npz (3)", "average.npz"]
    assert [entry["name"] for entry in found["sets"]] == names
    assert set(found["mean_draws"]) == set(names)
    assert set(found["metrics"][0]["sets"]) == {*names[1:], "average"}


def test_images_of_another_size_are_refused(files, image_set, tmp_path, capsys):
    large = image_set("large", 4, shape=(3, 8, 6))
    refused(capsys, files, tmp_path / "r.jsonl", "pass --resize 4 --crop 4", data=[large])
    assert call(files, tmp_path / "r.jsonl", "--resize", "4", "--crop", "4", data=[large]) == 0
    refused(capsys, files, tmp_path / "g.jsonl", "pass --channels 3", data=[image_set("grey", 4, shape=(1, 4, 4))])


def test_bad_arguments_are_refused(files, small_detector, tmp_path, capsys, image_set):
    out = tmp_path / "r.jsonl"
    for more, words in (
        (("--kind", "certified", "--radius", "0"), "--radius must lie between 0"),
        (("--kind", "certified", "--radius", "-1"), "--radius must lie between 0"),
        (("--kind", "certified", "--radii", "0.1,-0.5"), "--radii must be 0 or more, got -0.5"),
        (("--kind", "guaranteed", "--epsilon", "0"), "--epsilon must lie between 0 and 1"),
        (("--kind", "certified", "--score", "energy"), "is unbounded"),
        (("--score", "energy"), "--detector makes a joint model"),
        (("--score", "distro-l2"), "is for --kind certified"),
        (("--temperature", "nan", "--score", "softmax"), "--temperature must be above 0"),
        (("--kind", "certified", "--alpha", "1"), "--alpha must lie between 0 and 1"),
        (("--max", "0"), "--max must be an integer"),
        (("--kind", "clean", "--epsilon", "0.1"), "--epsilon is for --kind guaranteed, adversarial, got clean"),
        (
            ("--kind", "certified", "--draws", "2"),
            "--draws is for --kind clean, guaranteed, adversarial, got certified",
        ),
        (("--figure", "roc.bmp"), "use one of .png"),
    ):
        refused(capsys, files, out, words, *more)
    refused(capsys, files, out, "more than once", data=["generated:uniform"] * 2)
    refused(capsys, files, out, "is unknown: use one of generated:uniform", data=["generated:gauss"])
    refused(capsys, files, out, "does not exist", data=[tmp_path / "none.parquet"])
    empty = tmp_path / "empty.npz"
    np.savez(empty, images=np.zeros((0, 4, 4, 3), np.uint8), labels=np.zeros(0, np.int64))
    refused(capsys, files, out, "holds no images", data=[empty])
    refused(capsys, {**files, "detector": small_detector(1.0)}, out, "above 0 in its last layer")
    refused(capsys, {**files, "detector": files["classifier"]}, out, "export detector")
    refused(capsys, {**files, "detector": zoo.DETECTOR}, out, "export them for images of one size")
    refused(capsys, files, out, "needs --detector", "--kind", "guaranteed", drop=("detector",))
    refused(capsys, files, out, "--sigma is needed", "--kind", "certified", drop=("engine", "detector"))


@pytest.mark.parametrize("kind", ["clean", "certified"])
def test_finished_runs_are_reported_again_without_their_files(files, tmp_path, capsys, kind):
    out, figure = tmp_path / "r.jsonl", tmp_path / "f.svg"
    assert call(files, out, *kind_options(kind), "--radii", "0,0.5") == 0
    printed = capsys.readouterr().out
    assert main(["report", str(out), "--radii", "0.5,0", "--figure", str(figure)]) == 0
    assert capsys.readouterr().out == printed and figure.exists()
    for more, words in ((("--tsv", "t.tsv"), "--tsv is for runs of certify"), ((str(out),), "reported alone"),
                        (("--radii", "-1"), "0 or more"), (("--figure", str(out)), "destroy")):  # fmt: skip
        assert main(["report", str(out), *more]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


def test_graphs_that_are_not_there_are_refused_in_one_line(tmp_path):
    """Compiled engines and damaged files, where signs, bounds and gradients need a graph."""
    compiled = tmp_path / "d.pt2"
    compiled.write_bytes(b"PK not a graph")
    damaged = tmp_path / "d.onnx"
    damaged.write_bytes(b"not a graph")
    for path, words in ((compiled, "need the graph of d.pt2"), (damaged, "is not a readable ONNX file")):
        with pytest.raises(InputError, match=words):
            load_graph(path, "bounds")
        with pytest.raises(InputError, match=words):
            IntervalGraph(path)


def test_only_bounds_need_a_graph_that_they_cover(files, write_graph, tmp_path, capsys):
    """A detector with a batch norm: its signs are checked, and the kinds that bound nothing through it run."""
    values = {name: np.ones(3, np.float32) for name in ("scale", "shift", "mean", "var")}
    nodes = [
        helper.make_node("BatchNormalization", ["x", *values], ["n"], "norm"),
        helper.make_node("Flatten", ["n"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    for sign in (-1, 1):
        weights = {**values, "w": np.full((48, 1), 0.01 * sign, np.float32)}
        path = write_graph(tmp_path / f"{sign}.onnx", nodes, weights, [1], EngineFacts("detector", SHAPE), SHAPE, "B")
        given, out = {**files, "detector": path}, tmp_path / f"{sign}.jsonl"
        if sign > 0:
            refused(capsys, given, out, "above 0 in its last layer")
        else:
            assert call(given, out) == 0
            refused(capsys, given, tmp_path / "g.jsonl", "norm (BatchNormalization)", "--kind", "guaranteed")


def test_bounded_engines_run_on_the_cpu(files, tmp_path, monkeypatch):
    """Whatever --device says: the detector of guaranteed and adversarial runs, and a classifier that is bounded itself."""
    monkeypatch.setattr(model_module, "open_device", lambda name: name)
    for kind, drop, where in (
        ("guaranteed", (), {"denoiser": "cuda:0", "classifier": "cuda:0", "detector": "cpu"}),
        ("adversarial", (), {"denoiser": "cuda:0", "classifier": "cuda:0", "detector": "cpu"}),
        ("guaranteed", ("engine", "detector"), {"classifier": "cpu"}),
        ("clean", (), {"denoiser": "cuda:0", "classifier": "cuda:0", "detector": "cuda:0"}),
    ):
        seen = {}

        def opened(path, *, role, device, seen=seen, **options):
            seen[role] = device
            return open_engine(path, role=role, device="cpu", **options)

        monkeypatch.setattr(model_module, "open_engine", opened)
        used = {name: files[name] for name in ("engine", "detector") if name not in drop}
        config = OodConfig(
            files["classifier"], files["in-data"], ("generated:uniform",), tmp_path / "r.jsonl",
            kind=kind, device="cuda:0", batch=4, **used,
        )  # fmt: skip
        Model(config).close()
        assert seen == where


def test_other_files_are_refused_as_runs(files, tmp_path, capsys):
    out = tmp_path / "r.jsonl"
    out.write_text("idx\tlabel\n")
    assert call(files, out, "--resume") == 2
    assert "is not a run of" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot be read"):
        OodStore.open(tmp_path / "none.jsonl")
