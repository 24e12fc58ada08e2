"""apndc with a second, unconditional denoiser: what it computes, runs, and second networks that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import diffsmooth_trt as dst
from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import EngineFacts, open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.methods import METHODS, Rows

SHAPE, SIGMA = (3, 4, 4), 0.25
MEANS = np.random.default_rng(1).uniform(-0.7, 0.7, (5, 48))


@pytest.fixture(scope="module")
def averaging(tmp_path_factory, write_graph):
    """A denoiser of 8×8 images that returns them at 4×4, unclamped: 1.5 times the mean of each four pixels."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Mul", ["p", "scale"], ["y"]),
    ]
    facts = EngineFacts("denoiser", (3, 8, 8), sigma=SIGMA, output_shape=SHAPE, details={"clamped": False})
    path = tmp_path_factory.mktemp("averaging") / "averaging.onnx"
    return write_graph(path, nodes, {"scale": np.array(1.5, np.float32)}, list(SHAPE), facts, (3, 8, 8), "B")


@pytest.fixture
def opened():
    engines = []

    def make(path, second, batch=6, **options):
        engines.append(open_engine(path, batch=batch, role="conditional", backend="onnxruntime"))
        engines.append(open_engine(second, batch=batch, role="denoiser", sigma=SIGMA, backend="onnxruntime"))
        given = {"engine": engines[-2], "unconditional": engines[-1]}
        return METHODS["apndc"].of(given, SIGMA, METHODS["apndc"].Options(**{"steps": 9, **options}))

    yield make
    for engine in engines:
        engine.close()


def rows_of(count):
    return Rows(*(np.array(v, np.uint64) for v in ([1] * count, [3] * count, list(range(count)))), 99)


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("weights", ["paper", "published"])
def test_losses_are_those_of_the_second_networks_image(
    conditional_denoiser, averaging, opened, null, weights, load_beside
):
    """From images of another size, values beyond [0, 1] kept; the first network needs no null class."""
    method = opened(conditional_denoiser(MEANS, 0.5, null=null), averaging, weights=weights)
    assert method.input_shape == (3, 8, 8)
    assert set(method.engines) == {"denoiser", "unconditional"}
    noisy = np.random.default_rng(0).uniform(-0.5, 1.5, (4, 3, 8, 8)).astype(np.float32)
    found = method.losses(noisy, rows_of(4))
    assert method.evaluations == 4 * (1 + (9 if weights == "paper" else 7) * 5)
    pooled = 1.5 * noisy.reshape(4, 3, 4, 2, 4, 2).mean(axis=(3, 5))
    assert pooled.max() > 1
    dc = load_beside("published_ndc.py")
    for row in range(4):
        x = 2 * pooled[row].reshape(-1) - 1

        def net(noised, s, y, x=x):
            mean, s2 = MEANS[np.asarray(y)].reshape(-1, *SHAPE), dc.column(np.asarray(s) ** 2)
            return noised + (mean - noised) * s2 / (s2 + 0.25)

        if weights == "published":  # the sum of dc, from s_τ on
            levels, dt, p = dc.lists(2 * SIGMA, 9)
            s, p, gap = levels[1:], p[:-1], dt[0]
        else:
            s, gap = np.linspace(2 * SIGMA, 3, 9, retstep=True)
            p = np.exp(-((np.log(s) + 1.2) ** 2) / (2 * 1.2**2)) / (s * 1.2 * np.sqrt(2 * np.pi))
        weight = (s**2 + 0.25) / (s * 0.5) ** 2 * p * gap
        noises = np.stack([method.noise(rows_of(4), i)[0].reshape(SHAPE) for i in range(len(s))])
        image = x.reshape(1, *SHAPE)
        for y in range(5):
            residual = net(image + noises * dc.column(s), s, np.full(len(s), y)) - image
            expected = np.sum(weight * np.mean(residual**2, axis=(1, 2, 3)))
            assert found[row, y] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_runs_record_it_resume_and_verify(conditional_denoiser, shrinking_denoiser, images_npz, tmp_path, command):
    first, second = conditional_denoiser(MEANS, 0.5), shrinking_denoiser(SIGMA)
    given = {
        "engine": first, "unconditional": second, "method": "apndc", "sigma": SIGMA, "data": images_npz(count=3, classes=5),
        "out": tmp_path / "r.sqlite", "n": 60, "key": "5" * 64, "steps": 6, "batch": 8, "backend": "onnxruntime",
    }  # fmt: skip
    run = getattr(dst, command)
    with run(**given) as store:
        with_second = [store.counts(image) for image in range(3)]
        parts = store.record.classifier.parts
        assert parts["unconditional"]["sha256"] != parts["denoiser"]["sha256"]
        assert store.record.files["unconditional"] == str(second)
    run(**given, resume=True).close()
    assert dst.verify(tmp_path / "r.sqlite", fraction=1.0).agrees
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(second.read_bytes())
    assert dst.verify(tmp_path / "r.sqlite", fraction=1.0, unconditional=moved).agrees
    with pytest.raises(InputError, match="unconditional .* has SHA-256"):
        dst.verify(tmp_path / "r.sqlite", unconditional=first)
    with pytest.raises(InputError, match="differs in classifier"):
        run(**{**given, "unconditional": None}, resume=True)
    alone = tmp_path / "alone.sqlite"
    with run(**{**given, "unconditional": None, "out": alone}) as store:
        assert [store.counts(image) for image in range(3)] != with_second
    with pytest.raises(InputError, match="is of a run without unconditional: leave it out"):
        dst.verify(alone, unconditional=second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.5}, r"sigma 0\.25"),
        ({"role": "conditional"}, "is a conditional"),
        (
            {"shape": (3, 8, 8)},
            r"unconditional denoiser\.onnx returns images \(3, 8, 8\), conditional\.onnx takes \(3, 4, 4\)",
        ),
        ({"method": "epndc"}, "unconditional is not used by method epndc: leave it out"),
        ({"method": "dds", "more": {"classifier": "c.onnx"}}, "unconditional is not used by method dds"),
        ({"missing": True}, "absent.onnx does not exist"),
    ],
)
def test_second_networks_that_do_not_fit(
    conditional_denoiser, shrinking_denoiser, images_npz, tmp_path, options, message
):
    first = conditional_denoiser(MEANS, 0.5)
    second = shrinking_denoiser(SIGMA, shape=options.get("shape", SHAPE))
    second = first if options.get("role") else tmp_path / "absent.onnx" if options.get("missing") else second
    with pytest.raises(InputError, match=message) as error:
        dst.certify(
            engine=first, unconditional=second, method=options.get("method", "apndc"), sigma=options.get("sigma", SIGMA),
            **options.get("more", {"steps": 6}),
            data=images_npz(count=1, classes=5), out=tmp_path / "r.sqlite", n=60, backend="onnxruntime",
        )  # fmt: skip
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.sqlite").exists()


def test_a_range_that_is_no_denoisers(tmp_path, write_graph):
    """A file in [-1, 1] cannot say so and be a denoiser: its facts are refused."""
    with pytest.raises(InputError, match=r"value range \(-1\.0, 1\.0\) is not \(0\.0, 1\.0\)"):
        EngineFacts("denoiser", SHAPE, sigma=SIGMA, value_range=(-1.0, 1.0))


def test_a_null_class_that_was_not_trained_is_said(
    tmp_path, write_graph, conditional_denoiser, shrinking_denoiser, opened
):
    """EDM's networks have a null class by their architecture; where its training had label dropout, the facts say so."""
    import onnx

    from diffsmooth_trt.engine import METADATA_KEY

    source = conditional_denoiser(MEANS, 0.5)
    for details, noted in (({}, True), ({"null_class_trained": False}, True), ({"null_class_trained": True}, False)):
        model = onnx.load(source)
        facts = EngineFacts(
            "conditional", SHAPE, classes=5, family="edm", value_range=(-1.0, 1.0), details={"null_class": 5, **details}
        )
        helper.set_model_props(model, {METADATA_KEY: facts.to_json()})
        path = tmp_path / "edm.onnx"
        onnx.save(model, path)
        with open_engine(path, batch=2, role="conditional", backend="onnxruntime") as engine:
            alone = METHODS["apndc"].of({"engine": engine}, SIGMA, METHODS["apndc"].Options(steps=4))
            assert bool(alone.notes) == noted
            if noted:
                assert "was not trained without a class" in alone.notes[0] and "--unconditional" in alone.notes[0]
        assert not opened(path, shrinking_denoiser(SIGMA)).notes


def test_arrays_have_the_votes_of_a_file(conditional_denoiser, shrinking_denoiser, images_npz, tmp_path):
    first, second, data = conditional_denoiser(MEANS, 0.5), shrinking_denoiser(SIGMA), images_npz(count=3, classes=5)
    shared = {
        "unconditional": second,
        "method": "apndc",
        "sigma": SIGMA,
        "steps": 6,
        "batch": 8,
        "backend": "onnxruntime",
    }
    drawn = {"n0": 20, "n": 60, "key": "5" * 64}
    with dst.certify(engine=first, data=data, out=tmp_path / "r.sqlite", **shared, **drawn) as store:
        expected = [(result.predict, result.radius or 0.0) for result in store.results()]
    with dst.SmoothedClassifier(first, **shared) as smoothed:
        done = smoothed.certify(np.stack([image.pixels for image in dst.Images(data)]), **drawn)
    assert list(zip(done.prediction, done.radius, strict=True)) == expected
    with pytest.raises(InputError, match="^unconditional is not used by method 'dc'"):
        dst.SmoothedClassifier(first, **{**shared, "method": "dc"})


def test_bench_and_transfer_take_it(conditional_denoiser, shrinking_denoiser, images_npz, tmp_path, capsys):
    first, second, other = conditional_denoiser(MEANS, 0.5), shrinking_denoiser(SIGMA), tmp_path / "other.onnx"
    other.write_bytes(second.read_bytes())
    files = {"engine": first, "unconditional": second}
    given = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    made = ["--method", "apndc", "--sigma", str(SIGMA), "--steps", "6", "--backend", "onnxruntime"]
    assert main(["bench", *given, *made, "--batches", "4", "--rounds", "1", "--seconds", "0.01"]) == 0
    capsys.readouterr()
    run, out = tmp_path / "r.sqlite", tmp_path / "t.json"
    data = ["--data", str(images_npz(count=3, classes=5)), "--n0", "20", "--n", "200"]
    assert main(["certify", *given, *made, *data, "--out", str(run)]) == 0
    more = ["transfer", str(run), "--unconditional", str(other), "--out", str(out), "--backend"]
    assert main([*more, "onnxruntime"]) == 2
    assert "the run's own classifier" in capsys.readouterr().err
    assert main([*more, "openvino"]) == 0
    assert main(["verify", str(out), "--unconditional", str(other)]) == 0
