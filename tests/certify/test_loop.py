"""The loop: right against a closed form, the same for any packing, whole after a crash."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import diffsmooth_trt as dst
from diffsmooth_trt.api import run
from diffsmooth_trt.certify.rules import ToleranceRule
from diffsmooth_trt.noise import ESTIMATION, grid_law
from diffsmooth_trt.noise.reference import grid_noise
from diffsmooth_trt.runs.config import RunConfig

RNG = np.random.default_rng(0)
W = RNG.normal(size=48)
KEY = "0123456789abcdef" * 4
TABLES = ("meta", "images", "blocks", "partial", "results", "decisions")


@pytest.fixture
def half_space(linear_classifier):
    """Class 1 where w·(x − ½) > 0: radius of the smoothed classifier |w·(x − ½)|/‖w‖, whatever σ."""
    rows = np.stack([np.zeros(48), W])
    return linear_classifier(rows, np.array([0.0, -W.sum() / 2]))


def config(engine, data, out, **options) -> RunConfig:
    settings = {"method": "rs", "sigma": 0.5, "n": 2500, "n0": 50, "key": KEY, "backend": "onnxruntime"}
    return RunConfig(command="certify", engine=engine, data=data, out=out, **{**settings, **options})


def contents(path: Path, drop_meta: tuple[str, ...] = ("command_line", "audit")) -> dict[str, list[tuple]]:
    with sqlite3.connect(path) as connection:
        tables = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    connection.close()
    tables["meta"] = [row for row in tables["meta"] if row[0] not in drop_meta]
    return {name: sorted(rows) for name, rows in tables.items()}


def test_half_space_radii(half_space, images_npz, tmp_path):
    """40 images, n = 10^4: no certified radius exceeds the true one (false alarm ≤ 40·10^-6), and all come near."""
    data = images_npz(count=40)
    images = {image.index: image for image in dst.Images(data)}
    with run(config(half_space, data, tmp_path / "r.sqlite", n0=2000, n=10_000, alpha=1e-6)) as store:
        results = list(store.results())
    assert len(results) == 40
    certified = 0
    for result in results:
        x = images[result.image].pixels.transpose(2, 0, 1).reshape(-1) / 255 - 0.5
        margin = float(W @ x) / np.linalg.norm(W)
        if result.predict < 0:
            assert abs(margin) < 0.08  # beyond it p > 0.563, eight deviations above what n = 10^4 needs at this α
            continue
        certified += 1
        assert result.predict == int(margin > 0)
        assert result.radius <= abs(margin)
        p = norm.cdf(abs(margin) / 0.5)
        allowed = p - 10 * math.sqrt(p * (1 - p) / 10_000)  # 4.75 deviations for α, 5 for chance
        assert result.p_lower >= allowed - 1e-3
    assert certified >= 30


def test_counts_are_those_of_the_reference_noise(half_space, images_npz, tmp_path):
    """The votes of one image, drawn again with NumPy alone from key and counters."""
    data = images_npz(count=2)
    with run(config(half_space, data, tmp_path / "r.sqlite", n=400)) as store:
        counts = store.counts(1)[ESTIMATION]
    image = list(dst.Images(data))[1]
    law, pixels = grid_law(0.5), image.pixels.transpose(2, 0, 1).reshape(-1)
    steps = np.stack([grid_noise(law, int(KEY, 16), ESTIMATION, 1, sample, 48) for sample in range(400)])
    x = (pixels + steps).astype(np.float32) / np.float32(255)
    assert counts[1] == int(((x - 0.5) @ W > 0).sum())


def test_packing_order_and_batch_change_nothing(half_space, images_npz, tmp_path):
    data = images_npz(count=4)
    first = tmp_path / "a.sqlite"
    run(config(half_space, data, first)).close()
    reference = contents(first)
    assert len(reference["results"]) == 4
    for batch in (1, 7, 1000):
        out = tmp_path / f"{batch}.sqlite"
        run(config(half_space, data, out, batch=batch, n=2500)).close()
        got = contents(out)
        assert got["blocks"] == reference["blocks"]
        assert got["results"] == reference["results"]
    subset = tmp_path / "subset.sqlite"
    run(config(half_space, data, subset, skip=2)).close()
    assert set(contents(subset)["blocks"]) <= set(reference["blocks"])


def test_resume_draws_only_what_is_missing(half_space, images_npz, tmp_path):
    data = images_npz(count=3)
    whole, part = tmp_path / "whole.sqlite", tmp_path / "part.sqlite"
    for out in (whole, part):
        run(config(half_space, data, out)).close()
    with sqlite3.connect(part) as connection:
        connection.execute("DELETE FROM results WHERE image = 2")
        connection.execute("DELETE FROM blocks WHERE image = 2 AND (phase = 0 OR start = 1000)")
        connection.execute("DELETE FROM results WHERE image = 1")  # counts whole, killed before the result
    connection.close()

    class Counting:
        samples = 0

        def start(self, images: int, finished: int, samples: int, drawn: int) -> None:
            assert (images, finished, samples - drawn) == (3, 1, 1050)

        def update(self, samples: int, images: int) -> None:
            self.samples += samples

    counting = Counting()
    run(config(half_space, data, part, resume=True), counting).close()
    assert counting.samples == 1050
    assert contents(part) == contents(whole)


KILLED = """
import sys, time
from pathlib import Path
from diffsmooth_trt.api import run
from diffsmooth_trt.runs.config import RunConfig
sys.modules["diffsmooth_trt.certify.loop"].COMMIT_SECONDS = 0.0
class Slow:
    def start(self, *_): pass
    def update(self, samples, images): time.sleep(0.01); print("step", flush=True)
engine, data, out, key = sys.argv[1:]
run(RunConfig(command="certify", engine=Path(engine), data=Path(data), out=Path(out), method="rs", sigma=0.5, n=2500, n0=50,
              key=key, backend="onnxruntime", resume=True), Slow())
"""


def kill_after(steps: int, script: str, engine: Path, data: Path, out: Path) -> None:
    """Start a run and kill it after so many batches."""
    command = [sys.executable, "-c", script, str(engine), str(data), str(out), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for _ in range(steps):
            process.stdout.readline()
        process.kill()
        process.wait()


def test_kill_and_resume_gives_the_identical_store(half_space, images_npz, tmp_path):
    """kill -9 at three different moments, then a resume: the tables of an uninterrupted run."""
    data = images_npz(count=4)
    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    run(config(half_space, data, whole)).close()
    for steps in (20, 35, 50):
        kill_after(steps, KILLED, half_space, data, killed)
        with dst.open_run(killed) as store:
            assert len(list(store.results())) < 4
    assert contents(killed)["blocks"]
    assert contents(killed)["partial"]  # the block in work was not lost
    run(config(half_space, data, killed, resume=True)).close()
    assert contents(killed) == contents(whole)
    assert not contents(whole)["partial"]


def test_resume_refuses_another_configuration(half_space, linear_classifier, images_npz, tmp_path):
    data = images_npz(count=2)
    base = config(half_space, data, tmp_path / "r.sqlite", n=200, resume=True)
    run(base).close()
    before = contents(base.output.out)
    other = linear_classifier(np.stack([W, W]), np.zeros(2))
    for change, message in (
        ({"alpha": 0.01}, r"config\.alpha \(run: 0\.001, asked: 0\.01\)"),
        ({"n": 300}, r"n: a fixed n \(200\) was chosen"),
        ({"n": 100}, r"config\.n \(run: 200, asked: 100\)"),
        ({"radius": (0.25,)}, r"config\.radius \(run: None, asked: \[0\.25\]\)"),
        ({"family_wise": True}, r"config\.family_wise"),
        ({"sigma": 0.25}, r"classifier\.sigma"),
        ({"batch": 8}, r"classifier\.classifier\.batch"),
        ({"engine": other}, r"classifier\.classifier\.sha256"),
        ({"key": "ff" * 32}, "key"),
        ({"resume": False}, "exists: pass resume=True"),
    ):
        with pytest.raises(dst.InputError, match=message):
            run(base.changed(**change))
    images_npz(count=2, seed=9)  # other pixels in the same file
    with pytest.raises(dst.InputError, match="image 0 differs from the one in"):
        run(base)
    assert contents(base.output.out) == before


def test_empty_store_starts_anew_and_keys_are_drawn(half_space, images_npz, tmp_path):
    keys = []
    for name in ("a", "b"):
        out = tmp_path / name
        out.touch()
        with run(config(half_space, images_npz(count=1), out, n=50, key=None, resume=True)) as store:
            keys.append(store.meta["key"])
            assert store.meta["key_source"] == "drawn"
    assert keys[0] != keys[1]


def test_predict_abstains_near_the_boundary(linear_classifier, images_npz, tmp_path):
    coin = linear_classifier(np.stack([np.zeros(48), np.eye(48)[0]]), np.array([0.0, -0.5]))
    pixels = np.full((2, 4, 4, 3), 128, dtype=np.uint8)
    pixels[1] = 255
    np.savez(data := tmp_path / "d.npz", images=pixels, labels=np.ones(2, dtype=np.int64))
    options = {"method": "rs", "sigma": 0.5, "n": 500, "key": KEY}
    with dst.predict(engine=coin, data=data, out=tmp_path / "p.sqlite", **options) as store:
        near, far = store.results()
    assert (near.predict, far.predict) == (-1, 1)
    assert near.radius is None


def test_memory_does_not_grow_with_n_or_images(half_space, tmp_path):
    """Peak allocation of Python and NumPy; parquet sources are read a batch at a time (tests/test_data.py)."""
    peaks = []
    np.savez(
        data := tmp_path / "d.npz", images=RNG.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8), labels=np.zeros(60, int)
    )
    for name, limit, n in (("warm", 2, 100), ("small", 5, 500), ("large", 60, 5000)):
        tracemalloc.start()
        run(config(half_space, data, tmp_path / name, max=limit, n=n)).close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 300_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"n0": -1}, "n0 must be"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 1, got 1.0"),
        ({"alpha": math.nan}, "alpha"),
        ({"method": "magic"}, "use one of rs, dds, diffsmooth"),
        ({"sigma": None}, "sigma is needed"),
        ({"sigma": 9.0}, "sigma"),
        ({"method": "dds"}, "classifier is needed"),
        ({"classifier": "x.onnx"}, "classifier is not used"),
        ({"key": "xyz"}, "key takes"),
        ({"key": "0" * 63}, "key takes 64 hexadecimal digits, got 63"),
        ({"key": "0" * 65}, "key takes 64 hexadecimal digits, got 65"),
        ({"key": "0" * 32}, "key takes 64 hexadecimal digits, got 32"),
        ({"local_noise": "pink"}, "'fixed' or 'fresh'"),
        ({"classifier_seed": -1}, "classifier_seed"),
        ({"m": 0}, "m"),
    ],
)
def test_bad_options(half_space, images_npz, tmp_path, options, message):
    with pytest.raises(dst.InputError, match=message) as error:
        run(config(half_space, images_npz(count=1), tmp_path / "r.sqlite", **options))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*sqlite*"))


def test_noise_levels_that_only_diffusion_classifiers_refuse(half_space, images_npz, tmp_path):
    with run(config(half_space, images_npz(count=1), tmp_path / "r.sqlite", sigma=2.0, n=100)) as store:
        assert store.finished() == 1


def test_images_that_do_not_fit(half_space, images_npz, tmp_path):
    for options, message in (({"shape": (3, 8, 8)}, "the engine takes"), ({"classes": 9, "seed": 4}, "has 2 classes")):
        with pytest.raises(dst.InputError, match=message):
            run(config(half_space, images_npz(**options), tmp_path / f"{len(options)}.sqlite"))
    with pytest.raises(dst.InputError, match="unexpected keyword"):
        dst.certify(engine=half_space, data="x", out="y", epsilon=1)


def test_time_of_a_certificate_is_recorded(half_space, images_npz, tmp_path):
    start = time.monotonic()
    with run(config(half_space, images_npz(count=3), tmp_path / "r.sqlite")) as store:
        seconds = [result.seconds for result in store.results()]
    assert all(spent > 0 for spent in seconds)
    assert sum(seconds) < time.monotonic() - start


# ---- runs that stop early -----------------------------------------------------------------------------------


def stopping(engine, data, out, **options) -> RunConfig:
    return config(engine, data, out, **{"n": 5000, "radius": (0.1, 0.4), **options})


def test_stopping_is_a_function_of_engine_key_and_image(half_space, images_npz, tmp_path):
    """Batch size, the order and choice of images, and restarts change neither when an image stops nor what is said."""
    data = images_npz(count=8)
    for name, options in (("radius", {}), ("tolerance", {"radius": None, "tolerance": 0.1})):
        whole = tmp_path / f"{name}.sqlite"
        run(stopping(half_space, data, whole, **options)).close()
        reference = contents(whole)
        trials = {row[0]: row[-1] for row in reference["results"]}
        assert len(set(trials.values())) > 3
        assert min(trials.values()) < 500
        for batch in (1, 7, 500):
            out = tmp_path / f"{name}-{batch}.sqlite"
            run(stopping(half_space, data, out, batch=batch, **options)).close()
            got = contents(out)
            assert all(got[table] == reference[table] for table in TABLES[1:])
        for skip in (2, 3):
            out = tmp_path / f"{name}-skip-{skip}.sqlite"
            run(stopping(half_space, data, out, skip=skip, **options)).close()
            assert set(contents(out)["blocks"]) == {row for row in reference["blocks"] if row[0] % skip == 0}
            assert set(contents(out)["results"]) == {row for row in reference["results"] if row[0] % skip == 0}


class Shuffled(dst.Images):
    """The same images, in another order."""

    def __iter__(self):
        found = list(super().__iter__())
        np.random.default_rng(7).shuffle(found)
        return iter(found)


def test_the_order_of_images_changes_nothing(half_space, images_npz, tmp_path, monkeypatch):
    data = images_npz(count=8)
    run(stopping(half_space, data, tmp_path / "a.sqlite")).close()
    monkeypatch.setattr("diffsmooth_trt.runs.run.Images", Shuffled)
    run(stopping(half_space, data, tmp_path / "b.sqlite")).close()
    assert contents(tmp_path / "a.sqlite") == contents(tmp_path / "b.sqlite")


def test_decisions_are_right_and_take_few_samples(half_space, images_npz, tmp_path):
    """Half-space: the true radius is known. False alarm: 60 images at alpha = 10^-6 each."""
    data = images_npz(count=60)
    images = {image.index: image for image in dst.Images(data)}
    radii = (0.1, 0.3)
    with run(stopping(half_space, data, tmp_path / "r", radius=radii, alpha=1e-6, n0=2000, n=20_000)) as store:
        results = list(store.results())
    said = []
    for result in results:
        x = images[result.image].pixels.transpose(2, 0, 1).reshape(-1) / 255 - 0.5
        true = abs(float(W @ x)) / np.linalg.norm(W)
        for radius, decision in zip(radii, result.decisions, strict=True):
            assert decision in ({"certified", "undecided"} if true >= radius else {"refuted", "undecided"})
            said.append(decision)
        assert result.radius <= true
    assert {"certified", "refuted"} <= set(said)
    assert said.count("undecided") < 30
    assert np.mean([result.trials for result in results]) < 10_000


def test_an_extended_run_is_the_longer_run(half_space, images_npz, tmp_path):
    data = images_npz(count=8)
    for name, options in (
        ("radius", {}),
        ("tolerance", {"radius": None, "tolerance": 0.05}),
        ("family", {"family_wise": True}),
    ):
        long, short = tmp_path / f"{name}-long.sqlite", tmp_path / f"{name}-short.sqlite"
        run(stopping(half_space, data, long, n=4000, **options)).close()
        with run(stopping(half_space, data, short, n=150, **options)) as store:
            before = {result.image: result.trials for result in store.results()}
        for n in (400, 4000):
            run(stopping(half_space, data, short, n=n, resume=True, **options)).close()
        with dst.open_run(short) as store:
            assert store.meta["extended_from"] == [150, 400]
            assert any(result.trials > before[result.image] for result in store.results())
        assert contents(short, drop_meta=("extended_from", "audit")) == contents(long)
        with pytest.raises(dst.InputError, match=r"config\.n \(run: 4000, asked: 400\)"):
            run(stopping(half_space, data, short, n=400, resume=True, **options))


def test_only_n_may_change_in_an_extension(half_space, images_npz, tmp_path):
    data, out = images_npz(count=2), tmp_path / "r.sqlite"
    run(stopping(half_space, data, out, n=200)).close()
    before = contents(out)
    for change, message in (
        ({"alpha": 0.01}, r"config\.alpha"),
        ({"radius": (0.1,)}, r"config\.radius \(run: \[0\.1, 0\.4\], asked: \[0\.1\]\)"),
        ({"radius": None, "tolerance": 0.1}, r"config\.radius"),
        ({"radius": None}, r"config\.radius"),
        ({"sigma": 0.25}, r"classifier\.sigma"),
        ({"batch": 8}, r"classifier\.classifier\.batch"),
        ({"key": "ff" * 32}, "key"),
        ({"n0": 60}, r"config\.n0"),
    ):
        with pytest.raises(dst.InputError, match=message):
            run(stopping(half_space, data, out, **{"n": 5000, "resume": True, **change}))
    assert contents(out) == before


def test_kill_and_resume_of_a_stopping_run(half_space, images_npz, tmp_path):
    data = images_npz(count=6)
    options = {"radius": (0.1, 0.4), "n": 5000, "n0": 50}
    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    run(stopping(half_space, data, whole, n0=50)).close()
    script = KILLED.replace("n=2500, n0=50", f"n={options['n']}, n0=50, radius={options['radius']}")
    for steps in (12, 15, 18):
        kill_after(steps, script, half_space, data, killed)
    with dst.open_run(killed) as store:
        assert len(list(store.results())) < 6
    assert contents(killed)["blocks"]
    run(stopping(half_space, data, killed, n0=50, resume=True)).close()
    assert contents(killed) == contents(whole)
    assert not contents(whole)["partial"]


def test_family_wise_shares_alpha(half_space, images_npz, tmp_path):
    """A fixed-n run of N images at alpha is a run at alpha/N of each; a preset radius needs more hits."""
    data = images_npz(count=4)
    with run(config(half_space, data, tmp_path / "f", family_wise=True, alpha=0.004)) as family:
        together = [result.p_lower for result in family.results()]
    with run(config(half_space, data, tmp_path / "a", alpha=0.001)) as alone:
        assert together == [result.p_lower for result in alone.results()]
    with (
        run(stopping(half_space, data, tmp_path / "r")) as alone,
        run(stopping(half_space, data, tmp_path / "s", family_wise=True)) as family,
    ):
        lists = [np.array(store.meta["thresholds"]["0.1"]) for store in (alone, family)]
        assert (lists[0][:, 1] <= lists[1][:, 1]).all()
        assert (lists[0][:, 1] < lists[1][:, 1]).any()


def test_a_full_batch_has_no_padding_while_images_wait(half_space, images_npz, tmp_path):
    """Of all rows run, only the last batches may hold rows that no image needed."""
    data = images_npz(count=60)

    class Counting:
        samples = 0
        batches = 0

        def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
            assert samples is None

        def update(self, samples: int, images: int) -> None:
            self.samples += samples
            self.batches += 1

    counting = Counting()
    with run(stopping(half_space, data, tmp_path / "r", batch=50, n=1000), counting) as store:
        needed = sum(result.trials + 50 for result in store.results())
    assert counting.samples >= needed
    assert 50 * counting.batches < 1.1 * needed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": (0.0,)}, "radius must be above 0, got 0.0"),
        ({"radius": (0.5, -1.0)}, "radius must be above 0, got -1.0"),
        ({"radius": (math.nan,)}, "radius must be above 0, got nan"),
        ({"radius": ()}, "radius must be above 0, got none"),
        ({"radius": (0.5, 0.25, 0.5)}, "radius has 0.5 more than once"),
        ({"radius": ("x",)}, "radius takes numbers"),
        ({"radius": (9.0,)}, r"radius 9.0 is beyond what n = 5000 draws can certify, at most 1\.\d{4}: raise n"),
        ({"radius": None, "tolerance": 0.0}, "tolerance must lie between 0 and 1, got 0.0"),
        ({"radius": None, "tolerance": 1.0}, "tolerance must lie between 0 and 1, got 1.0"),
        ({"radius": None, "tolerance": math.nan}, "tolerance"),
        ({"tolerance": 0.1}, "tolerance and radius"),
        ({"n": 29}, "n must be 30 to 10000000 with radius, got 29"),
        ({"n": 10**8}, "n must be 30 to 10000000 with radius"),
        ({"command": "predict"}, "radius is for certify, got predict"),
        ({"command": "predict", "radius": None, "family_wise": True}, "family_wise=True is for certify"),
    ],
)
def test_bad_options_for_stopping(half_space, images_npz, tmp_path, options, message):
    with pytest.raises(dst.InputError, match=message) as error:
        settings = {"command": "certify", "n": 5000, "radius": (0.1,), **options}
        command = settings.pop("command")
        run(stopping(half_space, images_npz(count=1), tmp_path / "r.sqlite").changed(command=command, **settings))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*sqlite*"))


def test_one_radius_may_be_a_number(half_space, images_npz, tmp_path):
    with run(stopping(half_space, images_npz(count=1), tmp_path / "r.sqlite", radius=0.25)) as store:
        assert store.meta["config"]["radius"] == [0.25]


def test_edited_decisions_and_thresholds_are_noticed(half_space, images_npz, tmp_path):
    data = images_npz(count=3)
    for number, (statement, message) in enumerate(
        (
            (
                "UPDATE decisions SET decision = 'certified' WHERE decision = 'refuted'",
                "does not follow from its votes",
            ),
            ("DELETE FROM decisions", "does not follow from its votes"),
            ("UPDATE decisions SET radius = 0.3 WHERE radius = 0.4", "does not follow from its votes"),
            (
                "UPDATE meta SET value = replace(value, '30, 3', '30, 2') WHERE name = 'thresholds'",
                "do not follow from its radii",
            ),
            (
                "DELETE FROM blocks WHERE phase = 1 AND stop = (SELECT MAX(stop) FROM blocks)",
                "does not have the blocks",
            ),
            (
                "UPDATE meta SET value = replace(value, '0.4', '0.3') WHERE name = 'config'",
                "do not follow from its radii",
            ),
        )
    ):
        out = tmp_path / f"{number}.sqlite"
        run(stopping(half_space, data, out)).close()
        with sqlite3.connect(out) as connection:
            assert connection.execute(statement).rowcount
        connection.close()
        with pytest.raises(dst.StoreError, match=message), dst.open_run(out) as store:
            list(store.results())


def test_the_last_digit_of_a_library_does_not_decide_whether_a_tolerance_run_can_be_read(
    half_space, images_npz, tmp_path, monkeypatch
):
    """Where such a run stopped is what it recorded; nothing rests on it. A block that is lost is noticed all the same."""
    out = tmp_path / "r.sqlite"
    run(stopping(half_space, images_npz(count=3), out, radius=None, tolerance=0.1)).close()
    for always in (True, False):
        monkeypatch.setattr(ToleranceRule, "stops", lambda self, votes, always=always: always)
        with dst.open_run(out) as store:
            assert len(list(store.results())) == 3
    with sqlite3.connect(out) as connection:
        connection.execute(
            "DELETE FROM blocks WHERE image = 0 AND stop = (SELECT MAX(stop) FROM blocks WHERE image = 0)"
        )
    connection.close()
    with pytest.raises(dst.StoreError, match="does not follow from its votes"), dst.open_run(out) as store:
        list(store.results())
