"""Runs by Ray's workers write the store that one process writes, whatever happens to workers."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.cli import main
from diffsmooth_trt.distributed import ray_pool, steps
from diffsmooth_trt.distributed.files import EngineFiles, cache
from diffsmooth_trt.errors import EngineError, InputError

KEY = "c1" * 32
W = np.random.default_rng(4).normal(size=48)
TABLES = ("images", "blocks", "results", "decisions", "partial", "audit")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of four processors on this machine, which the runs of these tests find and share."""
    ray = pytest.importorskip("ray")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # so that memory is given back, and a limit of it is met
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


def contents(path: Path) -> dict[str, Any]:
    with sqlite3.connect(path) as connection:
        found: dict[str, Any] = {t: sorted(connection.execute(f"SELECT * FROM {t}").fetchall()) for t in TABLES}
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    connection.close()
    own = ("audit", "notes", "evaluations")
    return {**found, "meta": {name: value for name, value in meta.items() if name not in own}}


@pytest.fixture
def asked(linear_classifier: Any, images_npz: Any) -> dict[str, Any]:
    engine = linear_classifier(np.stack([np.zeros(48), W]), np.array([0.0, -W.sum() / 2]))
    settings = {"method": "rs", "sigma": 0.5, "n": 1500, "n0": 30, "batch": 64, "backend": "onnxruntime", "threads": 1}
    return {"engine": engine, "data": images_npz(count=8), "key": KEY, **settings}


@pytest.mark.parametrize(
    ("workers", "how"), [(2, {}), (4, {"radius": (0.2, 0.5), "n": 20_000}), (2, {"tolerance": 0.05})]
)
def test_the_store_of_one_process(cluster: Any, asked: Any, workers: int, how: Any, tmp_path: Path) -> None:
    asked |= how
    dst.certify(**asked, out=tmp_path / "one.sqlite").close()
    with dst.certify(**asked, out=tmp_path / "many.sqlite", ray="local", workers=workers) as store:
        assert store.record.audit["rows"] >= 256 and not store.record.notes
    assert contents(tmp_path / "many.sqlite") == contents(tmp_path / "one.sqlite")


def test_methods_of_two_engines_and_fresh_noise(
    cluster: Any, asked: Any, shrinking_denoiser: Any, linear_classifier: Any, tmp_path: Path
) -> None:
    """By predict, begun by one process and finished by two workers."""
    asked |= {"classifier": asked["engine"], "engine": shrinking_denoiser(0.5), "sigma": None, "method": "diffsmooth"}
    asked |= {"m": 2, "local_noise": "fresh", "n": 600}
    del asked["n0"]
    dst.predict(**asked, out=tmp_path / "one.sqlite").close()
    dst.predict(**asked, max=3, out=tmp_path / "part.sqlite").close()
    with sqlite3.connect(tmp_path / "part.sqlite") as connection:  # as if it had been asked for all of them
        for name in ("config", "images"):
            with sqlite3.connect(tmp_path / "one.sqlite") as whole:
                (value,) = whole.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            whole.close()
            connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
    connection.close()
    dst.predict(**asked, out=tmp_path / "part.sqlite", resume=True, ray="local", workers=2).close()
    assert contents(tmp_path / "part.sqlite") == contents(tmp_path / "one.sqlite")


def test_large_pictures_are_sent_once(
    cluster: Any, asked: Any, linear_classifier: Any, images_npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the store is that of one process: rows of a batch, of a batch between two images, and of audits of many images."""
    shape = (3, 112, 112)
    weights = np.random.default_rng(4).normal(size=(2, int(np.prod(shape))))
    asked |= {"engine": linear_classifier(weights, np.zeros(2), shape=shape), "data": images_npz(count=4, shape=shape)}
    dst.certify(**asked, out=tmp_path / "one.sqlite").close()
    put: list[int] = []
    real = ray_pool.Pictures._of

    def of(self: Any, pixels: Any) -> Any:
        put.extend([] if id(pixels) in self.kept else [id(pixels)])
        return real(self, pixels)

    monkeypatch.setattr(ray_pool.Pictures, "_of", of)
    dst.certify(**asked, out=tmp_path / "many.sqlite", ray="local", workers=2).close()
    assert len(put) == 4
    assert contents(tmp_path / "many.sqlite") == contents(tmp_path / "one.sqlite")


def test_pictures_apart_and_whole_again() -> None:
    """Two of three batches share a large picture; small ones, and those of few rows, go along. Few are kept."""
    large, small = np.arange(ray_pool.LARGE, dtype=np.uint8), np.arange(48, dtype=np.uint8)
    block, put = Block(0, 2, 0, 1000), list[Any]()
    pictures = ray_pool.Pictures(lambda pixels: put.append(pixels) or pixels)  # type: ignore[func-returns-value]
    other = large[::-1].copy()
    for rows in (
        [(large, 64)],
        [(large, 32), (other, 32)],
        [(large, 60), (other, 4)],
        [(small, 64)],
        [(other, 1)] * 64,
    ):
        at, spans = 0, []
        for pixels, count in rows:
            spans.append(Span(block, pixels, at, at + count, 7))
            at += count
        light, given = pictures.apart(spans)
        assert [bool(span.pixels.size) for span in light] == [
            pixels is small or 2 * count < at for pixels, count in rows
        ]
        for span, again in zip(spans, ray_pool.with_pictures(light, given), strict=True):
            assert np.array_equal(span.pixels, again.pixels) and replace(again, pixels=span.pixels) == span
    assert [each is large for each in put] == [True, False]
    for _ in range(2 * ray_pool.PICTURES):
        pictures.apart([Span(block, large.copy(), 0, 64, 0)])
    assert len(pictures.kept) == ray_pool.PICTURES


def processes() -> list[int]:
    """The processes of our own actors: Ray's node, which this process started, started them."""

    def parent(process: int | str) -> int:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])

    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            actor = folder.name.isdigit() and b"ray::Actor" in (folder / "cmdline").read_bytes()
            if actor and parent(parent(folder.name)) == os.getpid():
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_that_are_killed_or_stand_still(
    cluster: Any, asked: Any, what: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three, in the middle of a run: no vote is lost or counted twice."""
    monkeypatch.setattr(steps, "PATIENCE", 0.5)
    asked |= {"n": 20_000}
    dst.certify(**asked, out=tmp_path / "one.sqlite").close()
    hit: list[int] = []

    class Hitting:
        drawn = 0

        def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None: ...

        def update(self, samples: int, images: int) -> None:
            self.drawn += samples
            if self.drawn > (len(hit) + 1) * 20_000 and len(hit) < 2:
                left = [process for process in processes() if process not in hit]
                os.kill(left[0], what)
                hit.append(left[0])

    out = tmp_path / "many.sqlite"
    try:
        with dst.certify(**asked, out=out, ray="local", workers=3, progress=Hitting()) as store:
            notes = store.record.notes
    finally:
        for process in hit:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGCONT)
    assert len(hit) == 2
    assert bool(notes) == (what is signal.SIGKILL)
    assert contents(out) == contents(tmp_path / "one.sqlite")


@pytest.fixture
def starve(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`starve(most)`: up to so many workers get no more memory than they have and ROOM, once they have opened their engines."""
    most, hit, real = 0, set[int](), ray_pool.RayPool.send

    def send(self: Any, worker: int, ticket: int, spans: Any) -> None:
        if worker not in hit and len(hit) < most:
            hit.add(worker)
            process = self.ray.get(self.actors[worker].__ray_call__.remote(lambda _: os.getpid()))
            said = Path(f"/proc/{process}/status").read_text().split("VmData:")[1]
            limit = int(said.split()[0]) * 1024 + ROOM
            resource.prlimit(process, resource.RLIMIT_DATA, (limit, limit))
        real(self, worker, ticket, spans)

    def start(now: int) -> None:
        nonlocal most
        most = now
        hit.clear()

    monkeypatch.setattr(ray_pool.RayPool, "send", send)
    return start


ROOM = 4 << 20  # for what Ray does; a batch takes three times as much


def test_workers_that_run_out_of_memory(
    cluster: Any, asked: Any, linear_classifier: Any, images_npz: Any, starve: Callable[[int], None], tmp_path: Path
) -> None:
    """One costs its batches alone. Where each does that comes, the run ends in one line, and goes on where there is more."""
    shape = (3, 32, 32)
    weights = np.random.default_rng(4).normal(size=(2, 3072))
    asked |= {"engine": linear_classifier(weights, np.zeros(2), shape=shape), "data": images_npz(count=3, shape=shape)}
    asked |= {"n": 2000, "batch": 1000}
    dst.certify(**asked, out=tmp_path / "one.sqlite").close()
    starve(1)
    with dst.certify(**asked, out=tmp_path / "many.sqlite", ray="local", workers=2) as store:
        assert store.record.notes == ("a worker ran out of memory; what it had was drawn by others",)
    assert contents(tmp_path / "many.sqlite") == contents(tmp_path / "one.sqlite")
    starve(1000)
    out = tmp_path / "none.sqlite"
    with pytest.raises(EngineError, match=r"^3 workers ran out of memory with one batch \(Unable to allocate") as error:
        dst.certify(**asked, out=out, ray="local", workers=2)
    assert "\n" not in str(error.value) and "go on with resume=True and fewer workers" in str(error.value)
    dst.certify(**asked, out=out, resume=True).close()
    assert contents(out) == contents(tmp_path / "one.sqlite")


def test_a_signal_ends_a_run_by_workers_in_order(asked: Any, tmp_path: Path) -> None:
    """SIGTERM, which Ray has a handler of its own for: exit status 3, one line, and all votes kept."""
    pytest.importorskip("ray")
    out = tmp_path / "r.sqlite"
    flags = [part for name, value in {**asked, "n": 10**7, "out": out}.items() for part in (f"--{name}", str(value))]
    program = "import sys; from diffsmooth_trt.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", program, "certify", *flags, "--device", "cpu,cpu"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(2400):
            if out.exists() and dst.status(out).samples:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 3 and "go on with --resume" in errors and len(errors.splitlines()) == 1, errors
    assert dst.status(out).samples > 0


def test_errors_of_workers_are_those_of_the_engine(
    cluster: Any, asked: Any, linear_classifier: Any, tmp_path: Path
) -> None:
    other = linear_classifier(np.full((2, 48), 3e38), np.zeros(2))
    with pytest.raises(EngineError, match="returned NaN or infinity") as error:
        dst.certify(**{**asked, "engine": other}, out=tmp_path / "r.sqlite", ray="local", workers=1)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="exported for batches of|the run asks for|batch"):
        fixed = linear_classifier(np.stack([np.zeros(48), W]), np.zeros(2), batch=8)
        dst.certify(**{**asked, "engine": fixed}, out=tmp_path / "s.sqlite", ray="local", workers=1)
    assert not (tmp_path / "s.sqlite").exists()


def test_what_workers_lack(cluster: Any) -> None:
    pool = object.__new__(ray_pool.RayPool)
    pool.ray = cluster

    @cluster.remote(num_cpus=0)
    def opens() -> None:
        raise ModuleNotFoundError("No module named 'openvino'")

    with pytest.raises(
        InputError, match=r"^a worker lacks a package \(No module named 'openvino'\): install on its machine"
    ):
        pool._got(opens.remote())


def test_another_kind_of_machine_is_refused(
    cluster: Any, asked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second worker that is ready says that it is another classifier."""
    real, seen = ray_pool.RayPool._take, threading.Event()

    def take(self: Any, number: int, actor: Any, facts: Any) -> None:
        seen.set()
        parts = {**facts.classifier.parts, "id": "0" * 16, "sigma": 0.75}
        real(self, number, actor, type(facts)(**{**vars(facts), "classifier": type(facts.classifier)(parts)}))

    monkeypatch.setattr(ray_pool.RayPool, "_take", take)
    with pytest.raises(InputError, match=r"different classifiers: sigma \(first worker: 0.5, another: 0.75\)"):
        dst.certify(**{**asked, "n": 400_000}, out=tmp_path / "r.sqlite", ray="local", workers=2)
    assert seen.is_set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray": "local", "batch": "auto"}, "^batch auto is for one worker, there are several"),
        ({"workers": 2}, "^workers is for ray: give ray local"),
        ({"ray": "local", "workers": 0}, "^workers must be an integer of 1 to"),
        ({"ray": "local", "engine": "no.onnx"}, "^engine no.onnx does not exist"),
    ],
)
def test_options_that_cannot_be(asked: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        dst.certify(**{**asked, **options}, out=tmp_path / "r.sqlite")
    assert not (tmp_path / "r.sqlite").exists()


def test_a_run_without_ray_says_what_is_missing(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    flags = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    assert main(["certify", *flags, "--ray", "local", "--out", str(tmp_path / "r.sqlite")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'diffsmooth-trt[ray]'" in error and len(error.splitlines()) == 1


def test_files_on_their_way(linear_classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is used where it lies; elsewhere its content is fetched once; other content than was sent is refused."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = linear_classifier(np.zeros((2, 48)), np.zeros(2))
    files, fetched = EngineFiles.of(path), []

    def fetch(sha: str) -> bytes:
        fetched.append(sha)
        return path.read_bytes()

    assert files.here(fetch) == path and not fetched
    away = EngineFiles(str(tmp_path / "no such folder"), files.name, files.parts)
    copy = away.here(fetch)
    assert copy.read_bytes() == path.read_bytes() and copy.is_relative_to(cache())
    assert away.here(fetch) == copy and fetched == list(files.parts.values())
    copy.write_bytes(b"edited")
    with pytest.raises(InputError, match="arrived with another SHA-256"):
        away.here(lambda sha: b"something else")
    assert away.here(fetch).read_bytes() == path.read_bytes()
    cache().chmod(0o777)
    with pytest.raises(InputError, match="is another user's, or open to others"):
        away.here(fetch)
    assert time.time() > 0
