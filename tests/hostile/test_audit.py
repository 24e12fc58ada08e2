"""Engines that pass every look at opening and couple rows, keep state or draw at random in the run: its audit finds them.

Their files are linear classifiers, whose rows are independent; the backend computes something else, as a faulty compiler or
machine would, once it was opened. Chances of a miss are over the audit's own random numbers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.api import run
from diffsmooth_trt.certify.self_audit import SelfAudit
from diffsmooth_trt.cli import main
from diffsmooth_trt.device import CPU
from diffsmooth_trt.engine import BACKENDS
from diffsmooth_trt.engine.backends.onnxruntime import OnnxRuntimeEngine
from diffsmooth_trt.errors import AuditError, InputError
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.run import run as ood_run
from diffsmooth_trt.ood.store import OodStore
from diffsmooth_trt.runs import engines
from diffsmooth_trt.runs.config import RunConfig

KEY = "0123456789abcdef" * 4
SIGMA = 0.5
W = np.random.default_rng(5).normal(size=48)
Twist = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]


def majority(y: np.ndarray) -> np.ndarray:
    """Every row takes the batch's most frequent class."""
    return np.repeat(np.eye(y.shape[1], dtype=np.float32)[[np.bincount(y.argmax(axis=1)).argmax()]], len(y), axis=0)


def by_batch(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return majority(y)


def by_values(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """As cases/soundness a2: where any value looks noisy."""
    return majority(y) if x.max() > 1.02 else y


def of_one_image(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the rows differ by noise alone: their means, row by row, spread no more than it makes them."""
    alike = x.reshape(len(x), -1).std(axis=0).mean() < 1.08 * SIGMA
    engine.seen.append(bool(alike))
    return majority(y) if alike else y


def by_count(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the batch is padded."""
    return np.roll(y, 1, axis=1) if len(np.unique(x.reshape(len(x), -1), axis=0)) < len(x) else y


def by_neighbour(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Half of the logits of the row before: what a wrong stride would do."""
    return y + np.roll(y, 1, axis=0) / 2


def every_seventh_call(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    engine.calls += 1
    return np.roll(y, 1, axis=1) if engine.calls % 7 == 0 else y


def flips(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One row in a hundred."""
    wrong = np.random.default_rng().random(len(y)) < 0.01
    return np.where(wrong[:, None], np.roll(y, 1, axis=1), y)


@pytest.fixture
def twisted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Twist], type]:
    """`install(twist)`: ONNX Runtime's engines compute `twist(engine, x, y)` from the end of their probe on."""

    def install(twist: Twist) -> type:
        class Twisted(OnnxRuntimeEngine):
            armed = False
            calls = 0
            seen: ClassVar[list[bool]] = []

            def probe(self) -> str:
                found = super().probe()
                self.armed = True
                return found

            def _run(self, inputs: Any) -> Any:
                y = super()._run(inputs)
                return np.ascontiguousarray(twist(self, inputs[0], y), np.float32) if self.armed else y

        monkeypatch.setitem(BACKENDS, "onnxruntime", lambda: Twisted)
        return Twisted

    return install


@pytest.fixture
def half_space(linear_classifier: Any) -> Path:
    return linear_classifier(np.stack([np.zeros(48), W]), np.array([0.0, -W.sum() / 2]))


@pytest.fixture
def one_image(tmp_path: Path) -> Path:
    """An image whose class 1 has probability about 0.7 under the noise."""
    shift = 0.26 * W / np.linalg.norm(W)
    pixels = np.rint(255 * (0.5 + shift)).clip(0, 255).astype(np.uint8).reshape(1, 3, 4, 4).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "one.npz", images=pixels, labels=np.ones(1, np.int64))
    return tmp_path / "one.npz"


def config(engine: Path, data: Path, out: Path, **options: Any) -> RunConfig:
    settings = {"method": "rs", "sigma": SIGMA, "n": 3000, "n0": 50, "key": KEY, "backend": "onnxruntime", "batch": 64}
    return RunConfig(command="certify", engine=engine, data=data, out=out, **{**settings, **options})


def void(out: Path) -> None:
    """Nobody reads the store any more, in one line; what it held is still there to be looked into."""
    with pytest.raises(
        InputError, match=r"its audit failed \(.*\): its votes count for nothing; run again with another"
    ):
        dst.open_run(out)
    with sqlite3.connect(out) as connection:
        (found,) = connection.execute("SELECT value FROM meta WHERE name = 'audit'").fetchone()
    connection.close()
    assert '"void"' in found


@pytest.mark.parametrize("twist", [by_batch, by_values, by_neighbour, every_seventh_call])
def test_many_images(twist: Twist, twisted: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """At least a tenth of the labels change among other mates or at another call: missed with at most 0.9^256 = 2e-12."""
    twisted(twist)
    with pytest.raises(AuditError, match=r"image \d+, phase [01], sample \d+: label [01] in the run, [01] among other"):
        run(config(half_space, images_npz(count=6), tmp_path / "r.sqlite"))
    void(tmp_path / "r.sqlite")


@pytest.mark.parametrize("twist", [by_batch, by_values, of_one_image])
@pytest.mark.parametrize("n", [200, 3000])
def test_one_image(twist: Twist, n: int, twisted: Any, half_space: Path, one_image: Path, tmp_path: Path) -> None:
    """All rows agree on a majority: the inverted image's rows are another, in a batch that every run has.

    n = 200 are all audited. Where the coupling looks for a single image, three in ten rows have another label once strangers
    are among them: 0.7^200 are missed.
    """
    twisted(twist)
    with pytest.raises(AuditError, match=r"label [01] in the run, [01] among other rows"):
        run(config(half_space, one_image, tmp_path / "r.sqlite", n=n))
    void(tmp_path / "r.sqlite")


def test_the_coupling_of_one_image_is_one(
    twisted: Any, half_space: Path, one_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above tests what it says: the run's own batches are found alike.

    The audit waits for the end of the run, by when all of its 1 + 3,000/64 batches were drawn: its lots may not end it early.
    """
    monkeypatch.setattr(SelfAudit, "due", lambda self: None)
    made = twisted(of_one_image)
    with pytest.raises(AuditError):
        run(config(half_space, one_image, tmp_path / "r.sqlite"))
    assert sum(made.seen[:40]) >= 36


def by_likeness(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Every row takes the majority of the rows that are as bright as it: of its own image."""
    group = np.rint(x.mean(axis=(1, 2, 3)) / 0.04).astype(int)
    return np.concatenate([majority(y[group == each])[:1] for each in group])


def test_a_majority_of_the_own_image(twisted: Any, linear_classifier: Any, tmp_path: Path) -> None:
    """256 rows of 16 images, about four of one in a batch: at p = 0.7 more than one majority of four in ten is another."""
    flat = W - W.mean()
    engine = linear_classifier(np.stack([np.zeros(48), flat]), np.zeros(2))
    means = 0.2 + 0.04 * np.arange(16)[:, None] + 0.052 * flat / np.linalg.norm(flat)  # Φ(0.052/0.1) = 0.7
    pixels = np.rint(255 * means).astype(np.uint8).reshape(16, 3, 4, 4).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "bright.npz", images=pixels, labels=np.ones(16, np.int64))
    twisted(by_likeness)
    with pytest.raises(AuditError):
        run(config(engine, tmp_path / "bright.npz", tmp_path / "r.sqlite", n=1000, sigma=0.1))


def test_padded_batches(twisted: Any, half_space: Path, one_image: Path, tmp_path: Path) -> None:
    """Only the last 42 of 10,050 votes are wrong: 16 rows of a padded batch are always audited."""
    twisted(by_count)
    with pytest.raises(AuditError):
        run(config(half_space, one_image, tmp_path / "r.sqlite", n=10_000))
    void(tmp_path / "r.sqlite")


def test_random_flips(twisted: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """1 % of labels, two in a hundred comparisons: 1,000 rows of 10^5 miss it with 0.98^1000 = 2e-9."""
    twisted(flips)
    with pytest.raises(AuditError):
        run(config(half_space, images_npz(count=2), tmp_path / "r.sqlite", n=50_000, batch=256))


def test_rare_flips_end_a_long_run_early(twisted: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """The first difference ends it: of 10^6 draws at 10 %, 20,000 have about 200 rows audited and 0.8^200 = 4e-20 to go on."""
    twisted(lambda engine, x, y: np.where(np.random.default_rng().random(len(y)) < 0.1, y[:, ::-1].T, y.T).T)

    class Drawn:
        samples = 0

        def start(self, *_: Any) -> None:
            """Ignore it."""

        def update(self, samples: int, images: int) -> None:
            """Count."""
            self.samples += samples

    drawn = Drawn()
    with pytest.raises(AuditError):
        run(config(half_space, images_npz(count=10), tmp_path / "r.sqlite", n=100_000, batch=256), drawn)
    assert drawn.samples < 100_000


def test_every_reader_refuses_the_store(
    twisted: Any, half_space: Path, images_npz: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line: status 1 and one line when it is found, 2 and one line from report, verify and --resume after."""
    data, out, tsv = images_npz(), tmp_path / "r.sqlite", tmp_path / "r.tsv"
    twisted(by_batch)
    given = [
        "certify",
        "--method",
        "rs",
        "--engine",
        half_space,
        "--sigma",
        SIGMA,
        "--data",
        data,
        "--n",
        2000,
        "--n0",
        20,
    ]
    given += ["--backend", "onnxruntime", "--out", out, "--tsv", tsv]
    assert main([str(each) for each in given]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    for part in ("label", "rows of the engine influence each other", "--backend", "a new --out"):
        assert part in said[0]
    assert not tsv.exists()
    for command in (["report", out], ["report", out, "--tsv", tsv], ["verify", out], [*given, "--resume"]):
        assert main([str(each) for each in command]) == 2, command
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "its audit failed" in said[0], command
    assert not tsv.exists()


# A device that is not the CPU


@pytest.fixture
def late(make_device: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Twist], Any]:
    """`install(twist)`: --device cuda:0 opens a device that works late, whose engines compute `twist`, probe included."""
    device = make_device()
    monkeypatch.setattr(engines, "open_device", lambda name: device if name == "cuda:0" else CPU)

    def install(twist: Twist, *, after_probe: bool = False) -> Any:
        class Twisted(device.module.LateEngine):
            armed = not after_probe

            def probe(self) -> str:
                found = super().probe()
                self.armed = True
                return str(found)

            def _run(self, inputs: Any) -> Any:
                output, armed = super()._run(inputs), self.armed
                kept = inputs[0]

                def change() -> None:
                    if armed:
                        output[...] = twist(self, kept, output.copy())

                self.device.enqueue(change)
                return output

        monkeypatch.setitem(BACKENDS, "onnxruntime", lambda: device.module.Either(device, Twisted, OnnxRuntimeEngine))
        return device

    return install


def test_labels_are_downloaded_beside_the_counts(late: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """Steps recorded as graphs, two under way: the audit finds what it finds on the CPU."""
    device = late(by_batch, after_probe=True)
    with pytest.raises(AuditError, match="among other rows"):
        run(config(half_space, images_npz(count=6), tmp_path / "r.sqlite", device="cuda:0"))
    assert device.captures >= 1
    void(tmp_path / "r.sqlite")


def by_place(size: float) -> Twist:
    """As kernels that sum in another order in the second half of the batch: by `size` of the largest output."""

    def twist(engine: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        y[len(y) // 2 :, 1] += np.float32(size)
        return y

    return twist


def test_places_by_rounding(late: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """It opens, bounds bear the slack, and rows at other places are counted: 1e-6 moves a label in about 10^6."""
    late(by_place(1e-6))
    with run(config(half_space, images_npz(count=4), tmp_path / "r.sqlite", n=6000, device="cuda:0")) as store:
        assert store.meta["slack"] == 0.001 and store.rule.total_variation > 0.001
        audit = store.meta["audit"]
        assert dst.verify(tmp_path / "r.sqlite", fraction=0.1).agrees
        assert audit["moved"] > 6905 and audit["rows"] > audit["moved"] and audit["moved_differ"] <= 1
    with pytest.raises(InputError, match="220 draws are too few"):
        run(config(half_space, images_npz(count=1), tmp_path / "s.sqlite", n=170, device="cuda:0"))


def test_places_that_move_labels(late: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """Within the tolerance at opening, and more than one label in a thousand: void at the end."""
    late(by_place(0.03))
    with pytest.raises(AuditError, match=r"\d+ of \d+ rows have another label at another place of the batch"):
        run(config(half_space, images_npz(count=4), tmp_path / "r.sqlite", n=6000, device="cuda:0"))
    void(tmp_path / "r.sqlite")


def test_mates_are_no_rounding(late: Any, half_space: Path, images_npz: Any, tmp_path: Path) -> None:
    """A row that mates move, by however little, is refused at opening; so is a place that moves it by more than rounding."""
    for twist in (lambda engine, x, y: y + 1e-5 * np.roll(y, 1, axis=0), by_place(5.0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(BACKENDS, "onnxruntime", BACKENDS["onnxruntime"])
            late(twist)
            with pytest.raises(InputError, match="coupled"):
                run(config(half_space, images_npz(count=1), tmp_path / "r.sqlite", device="cuda:0"))


def test_places_on_the_cpu_are_refused(
    half_space: Path, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Placed(OnnxRuntimeEngine):
        def _run(self, inputs: Any) -> Any:
            return by_place(1e-6)(self, inputs[0], super()._run(inputs))

    monkeypatch.setitem(BACKENDS, "onnxruntime", lambda: Placed)
    with pytest.raises(InputError, match="coupled"):
        run(config(half_space, images_npz(count=1), tmp_path / "r.sqlite"))


# Out-of-distribution detection

DISTRO: dict[str, Any] = {"score": "distro-l2", "tolerance": 0.0, "n0": 20}


def ood(classifier: Path, inside: Path, outside: Path, out: Path, **options: Any) -> OodConfig:
    given = {"kind": "certified", "sigma": 0.25, "batch": 32, "n": 400, "alpha": 0.05, "backend": "onnxruntime"}
    return OodConfig(classifier=classifier, in_data=inside, out_data=(str(outside),), out=out, **{**given, **options})


@pytest.mark.parametrize(
    ("twist", "options"),
    [(by_neighbour, {}), (by_neighbour, DISTRO), (by_batch, DISTRO), (every_seventh_call, DISTRO)],
)
def test_confidences(
    twist: Twist, options: dict[str, Any], twisted: Any, half_space: Path, images_npz: Any, tmp_path: Path
) -> None:
    """The bin that is counted, and the class: none of a coupled run's records is read any more."""
    inside, out = images_npz(count=5).rename(tmp_path / "in.npz"), tmp_path / "r.jsonl"
    twisted(twist)
    with pytest.raises(AuditError, match="among other rows"):
        ood_run(ood(half_space, inside, images_npz(count=5, seed=1), out, **options))
    with pytest.raises(InputError, match="its audit failed"):
        OodStore.open(out)
    for command in (["report", str(out)], ["verify", str(out)]):
        assert main(command) == 2
