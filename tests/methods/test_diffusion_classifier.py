"""Diffusion classifiers against the papers' formulas written out anew, in float64, one evaluation at a time."""

from __future__ import annotations

import math
import sqlite3

import numpy as np
import pytest
from scipy import stats

import diffsmooth_trt as dst
from diffsmooth_trt.engine import open_engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.methods import METHODS, DiffusionClassifier, Rows, diffusion_classifier
from diffsmooth_trt.methods.diffusion_terms import default_drop
from diffsmooth_trt.noise import grid_law, seed_key
from diffsmooth_trt.noise.reference import grid_noise
from diffsmooth_trt.report.tables import summarise, text_table

SHAPE = (3, 4, 4)
RNG = np.random.default_rng(1)
MEANS = RNG.uniform(-0.7, 0.7, (5, 48))
SD, SIGMA = 0.5, 0.25
S_TAU = 2 * SIGMA
KEY = 99  # the run's


def ideal(x, s, y):
    """The ideal denoiser of N(mean of y, SD²); without a class, of the mean of all."""
    mean = MEANS.mean(axis=0) if y is None else MEANS[y]
    return (SD**2 * x + s**2 * mean) / (SD**2 + s**2)


def density(s):
    return stats.lognorm(s=1.2, scale=math.exp(-1.2)).pdf(s)


def epsilon(number, sample, image, steps, fresh, seed):
    word, name = (2**56 * 2 + sample * steps + number, image) if fresh else (number, 0)
    where = (KEY, 17) if fresh else (seed_key(seed), 33)
    return grid_noise(grid_law(1.0), *where, name, word, 48) / 255


def restated(name, x_tau, steps, s_max, noise, y, drop=None):
    """The logit's negative, straight from METHODS: means of posteriors, not their difference."""
    total = 0.0
    if name == "epndc":
        s, gap = np.linspace(S_TAU, s_max, steps, retstep=True)
        for i in range(drop, steps - 1):
            low, high = s[i], s[i + 1]
            x = x_tau + math.sqrt(high**2 - S_TAU**2) * noise(i - drop, steps - 1 - drop)
            p = ((high**2 - low**2) * ideal(x, high, y) + low**2 * x) / high**2
            q = ((high**2 - low**2) * x_tau + (low**2 - S_TAU**2) * x) / (high**2 - S_TAU**2)
            w = (low**2 + 0.25) / (low * 0.5) ** 2 * density(low) * gap
            w *= high**2 * (high**2 - S_TAU**2) / (4 * (high - low) ** 2 * (low**2 - S_TAU**2))
            total += w * np.mean((p - q) ** 2)
        return total
    start = ideal(x_tau, S_TAU, None) if name == "apndc" else x_tau
    s, gap = np.linspace(S_TAU if name == "apndc" else 1e-4, s_max, steps, retstep=True)
    for i in range(steps):
        x = start + s[i] * noise(i, steps)
        w = (s[i] ** 2 + 0.25) / (s[i] * 0.5) ** 2 * density(s[i]) * gap
        total += w * np.mean((ideal(x, s[i], y) - start) ** 2)
    return total


def drawn(count, seed=0):
    """Noisy images in [0, 1] units, and which draws they are."""
    rng = np.random.default_rng(seed)
    picked = MEANS[rng.integers(0, 5, count)] + SD * rng.normal(size=(count, 48))
    noisy = ((picked + 1) / 2 + SIGMA * rng.normal(size=(count, 48))).astype(np.float32).reshape(count, *SHAPE)
    return noisy, Rows(*(np.array(v, np.uint64) for v in ([1] * count, [3] * count, list(range(7, 7 + count)))), KEY)


@pytest.fixture
def opened(conditional_denoiser):
    engines = []

    def make(name="apndc", *, batch=6, null=True, sigma=SIGMA, means=MEANS, backend="onnxruntime", **options):
        path = conditional_denoiser(means, SD, null=null)
        engines.append(open_engine(path, batch=batch, role="conditional", backend=backend))
        weights = "published" if options.get("sift") == "published" else "paper"
        given = {"steps": 9, "weights": weights, **options}
        return METHODS[name].of({"engine": engines[-1]}, sigma, METHODS[name].Options(**given))

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("local_noise", ["fixed", "fresh"])
@pytest.mark.parametrize("name", ["dc", "epndc", "apndc"])
def test_losses_are_the_formulas(opened, name, local_noise):
    method = opened(name, local_noise=local_noise, classifier_seed=5, s_max=2.5)
    noisy, rows = drawn(6)
    found = method.losses(noisy, rows)
    drop = default_drop(9, "paper")
    for row in range(6):
        x_tau = 2 * noisy[row].reshape(-1).astype(np.float64) - 1
        for y in range(5):
            expected = restated(
                name, x_tau, 9, 2.5,
                lambda i, n, row=row: epsilon(i, 7 + row, 3, n, local_noise == "fresh", 5), y, drop,
            )  # fmt: skip
            assert found[row, y] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "sift"),
    [
        (name, sift)
        for name in ("dc", "epndc", "apndc")
        for sift in ("none", "published", "spread")
        if (name, sift) != ("epndc", "published")
    ],
)
def test_batches_and_order_change_no_bit(opened, name, sift):
    noisy, rows = drawn(12)
    whole = opened(name, batch=12, sift=sift, steps=20).losses(noisy, rows)
    order = np.random.default_rng(0).permutation(12)
    shuffled = rows.chosen(order)
    assert np.array_equal(opened(name, batch=12, sift=sift, steps=20).losses(noisy[order], shuffled), whole[order])
    for batch in (1, 4, 6):
        method = opened(name, batch=batch, sift=sift, steps=20)
        parts = [method.losses(noisy[i : i + batch], rows.chosen(slice(i, i + batch))) for i in range(0, 12, batch)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_full_batches(opened):
    """No padding where samples × classes × steps fill batches, whatever a step alone would fill."""
    method = opened("apndc", batch=7, steps=14)
    calls = []
    inner = method.engine.denoise
    method.engine.denoise = lambda *given: calls.append(len(given[0])) or inner(*given)
    method.labels(*drawn(7))
    assert len(calls) == 1 + 14 * 5
    assert method.evaluations == 7 * (1 + 14 * 5)


@pytest.mark.parametrize("used", [1, 3, 7])
def test_padding_is_not_evaluated(opened, used):
    method = opened("apndc", batch=7, steps=5)
    noisy, rows = drawn(7)
    whole = method.labels(noisy, rows)
    before = method.evaluations
    padded = rows.chosen(np.minimum(np.arange(7), used - 1))
    found = method.labels(noisy[np.minimum(np.arange(7), used - 1)], padded)
    assert np.array_equal(found[:used], whole[:used])
    assert (found[used:] == found[used - 1]).all()
    assert method.evaluations - before == used * (1 + 5 * 5)


def test_sifting_saves_evaluations_and_keeps_labels(opened):
    noisy, rows = drawn(60, seed=3)
    plain = opened("apndc", batch=60, steps=40)
    sifted = opened("apndc", batch=60, steps=40, sift="spread")
    same = plain.labels(noisy, rows) == sifted.labels(noisy, rows)
    assert same.mean() >= 0.95
    assert sifted.evaluations < 0.7 * plain.evaluations


def test_the_published_sift_stops_at_ten_classes(opened):
    noisy, rows = drawn(4)
    few = opened("apndc", batch=4, sift="published")
    assert np.isfinite(few.losses(noisy, rows)).all()
    assert few.evaluations == 4 * (1 + 126 * 5)
    many = opened("apndc", batch=4, sift="published", means=np.random.default_rng(2).uniform(-0.7, 0.7, (25, 48)))
    losses = many.losses(noisy, rows)
    assert (np.isfinite(losses).sum(axis=1) <= 10).all()
    assert (np.isfinite(losses).sum(axis=1) >= 1).all()
    assert many.evaluations < 4 * (1 + 50 * 25 + 126 * 10)


@pytest.mark.parametrize("name", ["dc", "apndc"])
def test_the_published_sieve_leaves_samples_alone_that_are_done(opened, name):
    """Else a sample's evaluations, and whether one of them voids it, would depend on those beside it."""
    means = np.random.default_rng(3).uniform(-0.005, 0.005, (40, 48))
    noisy, rows = drawn(6)
    whole = opened(name, batch=6, means=means, sift="published", steps=126)
    left = np.isfinite(whole.losses(noisy, rows)).sum()
    alone = opened(name, batch=1, means=means, sift="published", steps=126)
    for row in range(6):
        alone.losses(noisy[row : row + 1], rows.chosen(slice(row, row + 1)))
    assert whole.evaluations == alone.evaluations
    sieve = whole.evaluations - 126 * left - 6 * (name == "apndc")
    assert 6 * 40 < sieve < 6 * 40 * 50


@pytest.mark.parametrize("steps", [4, 70])
def test_fresh_noises_of_two_samples_have_no_word_in_common_with_a_sieve(opened, monkeypatch, steps):
    method = opened("dc", batch=2, means=np.random.default_rng(3).uniform(-0.7, 0.7, (40, 48)),
                    sift="published", steps=steps, local_noise="fresh")  # fmt: skip
    seen = []

    def words(law, key, phase, images, samples, size):
        seen.append(samples.copy())
        return grid_noise_of(law, key, phase, images, samples, size)

    grid_noise_of = diffusion_classifier.grid_noise
    monkeypatch.setattr(diffusion_classifier, "grid_noise", words)
    noisy, rows = drawn(2)
    method.labels(noisy, rows)
    first, second = np.array(seen).T
    assert max(first) < min(second)
    assert len(seen) > steps


def test_nan_losses_void_the_vote_and_are_named(opened):
    method = opened("apndc", batch=6, steps=5)
    noisy, rows = drawn(6)
    clean = method.labels(noisy, rows)
    inner = method.engine.denoise

    def broken(x, s, labels):
        y = inner(x, s, labels)
        y[(labels == 2) & (x.reshape(len(x), -1)[:, 0] > 0), 0, 0, 0] = np.nan
        return y

    method.engine.denoise = broken
    found = method.labels(noisy, rows)
    void = found == method.void
    assert 0 < void.sum() <= 6
    assert np.array_equal(found[~void], clean[~void])
    assert method.void == 5
    assert method.bins == 6
    assert "of class 2 is not finite for image 3, sample" in method.notes[0]
    assert "step" in method.notes[0]


def test_a_subset_of_the_classes(opened):
    noisy, rows = drawn(6)
    all_losses = opened("epndc").losses(noisy, rows)
    some = opened("epndc", classes=(1, 3))
    assert np.array_equal(some.losses(noisy, rows), all_losses[:, [1, 3]])
    assert set(some.labels(noisy, rows)) <= {1, 3}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("apndc", {"null": False}, "has no null class"),
        ("apndc", {"s_max": 0.5}, r"s_max is 0\.5, expected above 2·sigma = 0\.5"),
        ("epndc", {"steps": 2}, "drop_steps is 1 of steps 2"),
        ("epndc", {"drop_steps": 8}, "drop_steps is 8 of steps 9"),
        ("dc", {"sigma": 0.0, "s_max": 1e-4}, "s_max is 0.0001, expected above the lowest level"),
        ("dc", {"classes": (1, 5)}, "classes has 5, .* knows 0 to 4"),
    ],
)
def test_what_does_not_fit(opened, name, options, message):
    with pytest.raises(InputError, match=message) as error:
        opened(name, **options)
    assert "\n" not in str(error.value)


def settings(path, data, out, **options):
    given = {
        "engine": path,
        "data": data,
        "out": out,
        "method": "apndc",
        "sigma": SIGMA,
        "n0": 10,
        "n": 60,
        "key": "5" * 64,
    }
    return {**given, "steps": 6, "batch": 8, "backend": "onnxruntime", **options}


@pytest.mark.parametrize("method", ["dc", "epndc", "apndc"])
def test_runs_certify_verify_and_do_not_depend_on_the_batch(conditional_denoiser, images_npz, tmp_path, method):
    path, data = conditional_denoiser(MEANS, SD), images_npz(count=3, classes=5)
    votes = []
    for batch in (8, 3):
        out = tmp_path / f"{batch}.sqlite"
        with dst.certify(**settings(path, data, out, method=method, batch=batch)) as store:
            votes.append([store.counts(image) for image in range(3)])
            assert store.meta["classes"] == 6
            assert store.meta["void"] == 5
            each = {"dc": 6 * 5, "epndc": 4 * 5, "apndc": 6 * 5 + 1}[method]
            assert f"network evaluations a vote: {each:.1f}" in text_table([summarise(store)])
    assert votes[0] == votes[1]
    assert dst.verify(tmp_path / "8.sqlite", fraction=1.0).agrees


def test_void_votes_never_certify(conditional_denoiser, images_npz, tmp_path, monkeypatch):
    """Where most votes are void, the run abstains, says so, and has no class 0 or 5 that nobody voted for."""
    inner = DiffusionClassifier.losses

    def losses(self, noisy, rows):
        found = inner(self, noisy, rows)
        found[:, 1] = np.nan
        self.note("the loss at step 1 of class 1 is not finite")
        return found

    monkeypatch.setattr(DiffusionClassifier, "losses", losses)
    path, data = conditional_denoiser(MEANS, SD), images_npz(count=2, classes=5)
    for name, options in (("fixed", {}), ("radius", {"radius": 0.1}), ("tolerance", {"tolerance": 0.1})):
        with dst.certify(**settings(path, data, tmp_path / name, **options)) as store:
            results = list(store.results())
            assert [result.predict for result in results] == [-1, -1]
            assert [result.radius for result in results] == [0.0, 0.0]
            assert all(said != "certified" for result in results for said in result.decisions)
            assert store.meta["notes"]
            drawn_votes = sum(result.trials + 10 for result in results)
            assert f"void votes: {drawn_votes} of {drawn_votes}, counted" in text_table([summarise(store)])
    predicting = {name: value for name, value in settings(path, data, tmp_path / "p").items() if name != "n0"}
    with dst.predict(**predicting) as store:
        assert [result.predict for result in store.results()] == [-1, -1]


def test_an_interrupted_run_keeps_its_notes(conditional_denoiser, images_npz, tmp_path, monkeypatch):
    """Void votes that are on disk are named, though their run did not end; nothing is said twice."""
    inner, calls = DiffusionClassifier.losses, []

    def losses(self, noisy, rows):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        self.note("a loss is not finite")
        return np.full_like(inner(self, noisy, rows), np.nan)

    monkeypatch.setattr(DiffusionClassifier, "losses", losses)
    given = settings(conditional_denoiser(MEANS, SD), images_npz(count=2, classes=5), tmp_path / "r")
    with pytest.raises(KeyboardInterrupt):
        dst.certify(**given)
    with dst.open_run(tmp_path / "r") as store:
        assert store.meta["notes"] == ["a loss is not finite"]
    with dst.certify(**given, resume=True) as store:
        assert store.meta["notes"] == ["a loss is not finite"]
        assert [result.trials for result in store.results()] == [60, 60]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps must be 2 to 100000, got 1"),
        ({"steps": 6.5}, "steps is 6.5, expected an integer"),
        ({"drop_steps": 1.5}, "drop_steps is 1.5, expected an integer"),
        ({"classes": (0, 1.5)}, "classes takes integers"),
        ({"s_max": 0.4}, r"s_max must be above 2·sigma = 0\.5, got 0\.4"),
        ({"s_max": math.nan}, "s_max must be above"),
        ({"weights": "none"}, "weights is 'none': use one of paper, published"),
        ({"sift": "x"}, "sift is 'x'"),
        ({"sift_margin": 0.0}, "sift_margin must be above 0"),
        ({"classes": (1,)}, "classes needs two or more"),
        ({"classes": (1, 1)}, "classes needs two or more"),
        ({"classes": (-1, 1)}, "classes needs two or more"),
        ({"classes": (1, 9)}, "classes has 9"),
        ({"classifier": "c.onnx"}, "classifier is not used by method apndc"),
        ({"sigma": None}, "sigma is needed by method apndc"),
        ({"drop_steps": 0}, "drop_steps must be at least 1"),
    ],
)
def test_bad_options(conditional_denoiser, images_npz, tmp_path, options, message):
    path, data = conditional_denoiser(MEANS, SD), images_npz(count=1, classes=5)
    with pytest.raises(InputError, match=message):
        dst.certify(**settings(path, data, tmp_path / "r.sqlite", **options))
    assert not (tmp_path / "r.sqlite").exists()


def test_engines_of_other_roles_and_labels_beyond_the_classes(
    conditional_denoiser, shrinking_denoiser, images_npz, tmp_path
):
    with pytest.raises(InputError, match="conditional"):
        dst.certify(**settings(shrinking_denoiser(), images_npz(count=1), tmp_path / "r"))
    path = conditional_denoiser(MEANS, SD)
    with pytest.raises(InputError, match="the classifier has 5 classes"):
        dst.certify(**settings(path, images_npz(count=9, classes=9), tmp_path / "r"))


def test_settings_are_part_of_the_identity(opened):
    seen = {str(opened(name, **options).identity) for name, options in [
        ("dc", {}), ("apndc", {}), ("epndc", {}), ("apndc", {"steps": 10}), ("apndc", {"s_max": 2.0}),
        ("apndc", {"weights": "published"}), ("apndc", {"sift": "spread"}), ("apndc", {"sift": "published"}),
        ("apndc", {"sift": "spread", "sift_margin": 3.0}), ("apndc", {"classes": (0, 1)}),
        ("apndc", {"classifier_seed": 1}), ("apndc", {"local_noise": "fresh"}), ("epndc", {"drop_steps": 2}),
    ]}  # fmt: skip
    assert len(seen) == 13


# ---- certificates without sampling ------------------------------------------------------------------------


def lipschitz(path, data, out, **options):
    return dst.certify(
        engine=path, data=data, out=out, method="dc", certificate="lipschitz", steps=7, batch=4, backend="onnxruntime",
        **options,
    )  # fmt: skip


def test_lipschitz_certificates_are_the_margin_over_the_constant(conditional_denoiser, images_npz, tmp_path):
    path, data = conditional_denoiser(MEANS, SD), images_npz(count=6, classes=5)
    images = {image.index: image for image in dst.Images(data)}
    s, gap = np.linspace(1e-4, 3.0, 7, retstep=True)
    weights = (s**2 + 0.25) / (s * 0.5) ** 2 * density(s) * gap
    constant = (1 + math.sqrt(2 / math.pi)) * 7 * np.mean(weights / s)
    with lipschitz(path, data, tmp_path / "l.sqlite") as store:
        results = list(store.results())
        assert store.meta["lipschitz_constant"] == pytest.approx(constant, rel=1e-9)
    assert len(results) == 6
    for result in results:
        x = images[result.image].pixels.transpose(2, 0, 1).reshape(-1) / 255 * 2 - 1
        losses = [restated("dc", x, 7, 3.0, lambda i, n: epsilon(i, 0, 0, n, False, 0), y) for y in range(5)]
        first, second = np.sort(losses)[:2]
        assert result.predict == int(np.argmin(losses))
        assert result.radius == pytest.approx((second - first) / (2 * constant) / 2, rel=1e-3)
        assert result.radius <= (second - first) / (4 * constant) * (1 + 1e-3)
    with lipschitz(path, data, tmp_path / "given.sqlite", lipschitz=2 * constant) as store:
        assert [r.radius for r in store.results()] == pytest.approx([r.radius / 2 for r in results], rel=1e-9)


def test_lipschitz_certificates_are_shown_as_conditional_resumed_and_verified(
    conditional_denoiser, images_npz, tmp_path
):
    path, data, out = conditional_denoiser(MEANS, SD), images_npz(count=6, classes=5), tmp_path / "l.sqlite"
    lipschitz(path, data, out).close()
    with lipschitz(path, data, out, resume=True) as store:
        text = text_table([summarise(store)])
    assert "conditional certificates: right only if the logits are L-Lipschitz" in text
    assert "derived for ideal denoisers and infinitely many noises, not for this network" in text
    assert "probability at least" not in text
    assert dst.verify(out, fraction=1.0).agrees
    images_npz(count=6, classes=5, seed=1)
    for fraction in (1.0, 0.01):
        mismatches = dst.verify(out, fraction=fraction).mismatches
        assert sum("are not those of the run" in line for line in mismatches) == 6
    with pytest.raises(InputError, match="the engine takes"):
        lipschitz(path, images_npz(count=2, shape=(3, 8, 8)), tmp_path / "other.sqlite")
    images_npz(count=6, classes=5)
    forged = tmp_path / "forged.sqlite"
    forged.write_bytes(out.read_bytes())
    with sqlite3.connect(forged) as connection:  # one more image, as good as the best
        for table, names in (
            ("images", "label, sha256, distance"),
            ("margins", "predict, margin"),
            ("results", "predict, radius, p_lower, hits, trials"),
        ):
            connection.execute(f"INSERT INTO {table} (image, {names}) SELECT 77, {names} FROM {table} WHERE image = 0")
    connection.close()
    assert dst.verify(forged, fraction=0.01).mismatches == [
        "not asked for: the run has 1 image more (77)",
        "image 77: recorded, but --data holds no such image",
    ]
    with pytest.raises(dst.StoreError, match="has image 77, which its run was not asked for"):
        list(dst.open_run(forged).results())
    with sqlite3.connect(out) as connection:
        connection.execute("UPDATE margins SET margin = margin * 1.01 WHERE image = 2")
    connection.close()
    with pytest.raises(dst.StoreError, match="image 2 does not follow"), dst.open_run(out) as store:
        list(store.results())
    images_npz(count=6, classes=5)
    with pytest.raises(InputError, match=r"lipschitz \(run: None, asked: 3\.0\)"):
        lipschitz(path, data, out, resume=True, lipschitz=3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "apndc"}, "is for certify method dc"),
        ({"sift": "spread"}, "is for certify method dc without sift"),
        ({"sigma": 0.25}, "draws no noise: leave out sigma"),
        ({"radius": 0.25}, "draws no noise"),
        ({"family_wise": True}, "draws no noise"),
        ({"lipschitz": 0.0}, "lipschitz must be above 0, got 0.0"),
        ({"lipschitz": math.inf}, "lipschitz must be above 0"),
        ({"certificate": "magic"}, "certificate is 'magic': use one of smoothing, lipschitz"),
        ({"certificate": "smoothing", "sigma": 0.25, "lipschitz": 1.0}, "lipschitz is for certificate lipschitz"),
    ],
)
def test_bad_options_of_lipschitz_certificates(conditional_denoiser, images_npz, tmp_path, options, message):
    given = {"method": "dc", "certificate": "lipschitz", "steps": 7, "engine": conditional_denoiser(MEANS, SD)}
    with pytest.raises(InputError, match=message):
        dst.certify(**{**given, "data": images_npz(count=1), "out": tmp_path / "r", **options})
