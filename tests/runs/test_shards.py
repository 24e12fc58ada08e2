"""Shards of a run, merged in any order, are the store that one machine writes; status; runs that stop in time."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.certify import loop
from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError, Stopped, StoreError
from diffsmooth_trt.runs.shard import Shard, shared_key

KEY = "ab" * 32
W = np.random.default_rng(2).normal(size=48)
# Whatever differs between two runs of one configuration and key is in `timing` and in these.
OWN = {"audit", "notes", "evaluations", "files", "key_source", "shard", "versions"}
TABLES = ("images", "blocks", "results", "decisions", "margins", "partial", "audit")


def contents(path: Path) -> dict[str, Any]:
    """All of a store that is a function of configuration and key."""
    with sqlite3.connect(path) as connection:
        found: dict[str, Any] = {t: sorted(connection.execute(f"SELECT * FROM {t}").fetchall()) for t in TABLES}
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    connection.close()
    return {**found, "meta": {name: value for name, value in meta.items() if name not in OWN}}


@pytest.fixture
def asked(linear_classifier: Any, images_npz: Any) -> dict[str, Any]:
    engine = linear_classifier(np.stack([np.zeros(48), W]), np.array([0.0, -W.sum() / 2]))
    settings = {"method": "rs", "sigma": 0.5, "n": 1200, "n0": 30, "batch": 64, "backend": "onnxruntime"}
    return {"engine": engine, "data": images_npz(count=7), **settings}


def drawn(asked: dict[str, Any], folder: Path, of: int, **options: Any) -> list[Path]:
    """The shards, each a finished run."""
    made = []
    for number in range(1, of + 1):
        made.append(folder / f"{number}-{of}.sqlite")
        dst.certify(
            **asked, **{"key_file": folder / "key.txt", **options}, shard=f"{number}/{of}", out=made[-1]
        ).close()
    return made


@pytest.mark.parametrize(
    "how",
    [{}, {"radius": (0.2, 0.5)}, {"tolerance": 0.05}, {"family_wise": True, "radius": 0.3}, {"skip": 2, "max": 3}],
)
def test_merged_in_any_order_they_are_the_whole_run(asked: Any, how: Any, tmp_path: Path) -> None:
    key, first = shared_key(tmp_path / "key.txt")
    assert first
    with dst.certify(**asked, **how, key=key.hex, out=tmp_path / "whole.sqlite") as store:
        whole = list(store.results())
    shards = drawn(asked, tmp_path, 3, **how)
    for number, order in enumerate(itertools.permutations(shards)):
        with dst.merge(order, tmp_path / f"all{number}.sqlite") as merged:
            results = list(merged.results())
            assert [vars(r) | {"seconds": 0} for r in results] == [vars(r) | {"seconds": 0} for r in whole]
            assert merged.record.shard is None and merged.record.audit["rows"] >= 256
        assert contents(tmp_path / f"all{number}.sqlite") == contents(tmp_path / "whole.sqlite")
    assert dst.verify(tmp_path / "all0.sqlite", fraction=1).agrees
    assert dst.verify(shards[1], fraction=1).agrees


def test_the_key_is_drawn_once(tmp_path: Path) -> None:
    """Sixteen shards that begin at once draw under one key, and one of them says that it drew it."""
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: shared_key(tmp_path / "key.txt"), range(16)))
    assert len({key for key, _ in found}) == 1 and sum(first for _, first in found) == 1
    assert (tmp_path / "key.txt").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["key.txt"]


def test_unfinished_and_missing_shards(asked: Any, tmp_path: Path, capsys: Any) -> None:
    """A merged run that lacks images says so, and goes on where it was."""
    shards = drawn(asked, tmp_path, 3)
    out = tmp_path / "all.sqlite"
    with pytest.raises(InputError, match=r"^shard 2/3 is missing of 3: give all runs, or pass unfinished=True"):
        dst.merge([shards[0], shards[2]], out)
    assert main(["merge", str(shards[2]), str(shards[0]), "--unfinished", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "5/7" in said and "is not finished: 5 of 7 images; `certify --resume` goes on with it" in said
    dst.certify(**asked, out=out, resume=True).close()
    dst.merge(shards, tmp_path / "whole.sqlite").close()
    assert contents(out) == contents(tmp_path / "whole.sqlite")


def test_what_is_not_to_be_merged(asked: Any, tmp_path: Path) -> None:
    shards, out = drawn(asked, tmp_path, 2), tmp_path / "all.sqlite"
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = drawn(asked, other, 2)
    longer = drawn({**asked, "n": 1300}, tmp_path, 4)
    dst.certify(**asked, out=tmp_path / "whole.sqlite").close()
    before = out.exists()
    for runs, message in (
        ([], r"merge takes the run stores of shards, got \[\]"),
        (str(shards[0]), r"merge takes the run stores of shards, got '.*'"),
        ([shards[0], shards[0]], r"is shard 1/2, and so is .*1-2.sqlite: give each shard once"),
        ([shards[0], elsewhere[1]], r"is a shard of another run than .*: key \(draw all shards under one key_file\)"),
        (
            [shards[0], longer[1]],
            r"is a shard of another run than .*config.n \(.*1-2.sqlite: 1200, .*2-4.sqlite: 1300\)",
        ),
        ([shards[0], tmp_path / "whole.sqlite"], r"is no shard that this version made: give runs of `certify --shard`"),
        ([shards[0], tmp_path / "no.sqlite"], "does not exist"),
    ):
        with pytest.raises(InputError, match=message) as error:
            dst.merge(runs, out)
        assert "\n" not in str(error.value) and out.exists() == before
    with sqlite3.connect(shards[1]) as connection:
        connection.execute("UPDATE results SET radius = radius + 1")
    connection.close()
    with pytest.raises(StoreError, match="does not follow from its votes"):
        dst.merge(shards, out)
    assert not out.exists()
    with pytest.raises(InputError, match="^out .* is also run .*, which it would destroy"):
        dst.merge(shards, shards[0])
    out.touch()
    with pytest.raises(InputError, match="exists: give another name"):
        dst.merge(shards, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "4/3"}, r"^shard must be 1/3 to 3/3, got 4/3: parts are numbered from 1"),
        ({"shard": "0/3"}, r"^shard must be 1/3"),
        ({"shard": "1"}, r"^shard takes a part and their number like 2/3, got '1'"),
        ({"shard": "-1/3"}, "^shard takes a part"),
        (
            {"shard": "1/3", "key_file": None},
            r"^shard 1/3 needs the key .*: give key_file key.txt, which the first one makes",
        ),
        ({"shard": "1/3", "key": KEY}, "^key and key_file are two ways"),
        ({"shard": "1/3", "tsv": "r.tsv"}, "^tsv is for whole runs"),
        ({"stop_after": 0.0}, "^stop_after must lie between 0 and 1e.06, got 0.0: give hours"),
    ],
)
def test_options_that_cannot_be(asked: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        dst.certify(**asked, **{"key_file": tmp_path / "key.txt", **options}, out=tmp_path / "r.sqlite")
    assert not (tmp_path / "r.sqlite").exists() and not (tmp_path / "key.txt").exists()


def test_key_files_that_are_none(asked: Any, tmp_path: Path) -> None:
    path = tmp_path / "key.txt"
    for content in (b"", b"ab", b"\xff" * 64, b"g" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^key_file .*(cannot be read as text|expected 64 hexadecimal digits)"):
            dst.certify(**asked, key_file=path, out=tmp_path / "r.sqlite")
    assert not (tmp_path / "r.sqlite").exists()


def test_a_shard_is_resumed_as_the_same_shard(asked: Any, tmp_path: Path) -> None:
    (first, _) = drawn(asked, tmp_path, 2)
    asked |= {"key_file": tmp_path / "key.txt", "out": first, "resume": True}
    for shard in (None, "2/2", "1/3"):
        with pytest.raises(InputError, match=r"differs in shard \(run: 1/2, asked: "):
            dst.certify(**asked, shard=shard)
    dst.certify(**asked, shard="1/2").close()


def test_parts_of_rows() -> None:
    rows = range(0, 700, 7)
    for of in (1, 2, 3, 99, 100, 101):
        parts = [Shard(number, of).rows(rows) for number in range(1, of + 1)]
        assert sorted(row for part in parts for row in part) == list(rows)


def test_a_run_stops_in_time(asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """After `--stop-after` all votes drawn so far are kept, and resuming ends as an undisturbed run does."""
    dst.certify(**asked, key=KEY, out=tmp_path / "whole.sqlite").close()
    out, ticks = tmp_path / "r.sqlite", itertools.count()
    flags = [part for name, value in {**asked, "key": KEY, "out": out}.items() for part in (f"--{name}", str(value))]
    with monkeypatch.context() as patched:
        patched.setattr(loop.time, "monotonic", lambda: next(ticks) / 10)  # every look at the clock takes a tenth
        assert main(["certify", *flags, "--stop-after", str(4 / 3600)]) == 3
    error = capsys.readouterr().err
    assert "stopped in time, " in error and "keeps all votes: go on with --resume" in error
    assert len(error.splitlines()) == 1
    found = dst.status(out)
    assert 0 < found.samples < 7 * 1230 and found.done < found.asked == 7 and found.live is False
    assert main(["certify", *flags, "--resume"]) == 0
    assert contents(out) == contents(tmp_path / "whole.sqlite")
    with monkeypatch.context() as patched, pytest.raises(Stopped, match="go on with resume=True"):
        patched.setattr(loop.time, "monotonic", lambda: next(ticks) / 10)
        dst.certify(**asked, key=KEY, out=tmp_path / "s.sqlite", stop_after=1 / 3600)


def test_status_of_a_live_run(asked: Any, tmp_path: Path, capsys: Any) -> None:
    """A process writes; `status` reads beside it; the process is killed; `status` knows."""
    out = tmp_path / "r.sqlite"
    flags = [part for name, value in {**asked, "n": 10**8, "out": out}.items() for part in (f"--{name}", str(value))]
    program = "import sys; from diffsmooth_trt.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", program, "certify", *flags], stderr=subprocess.PIPE) as process:
        for _ in range(1200):
            if out.exists() and dst.status(out).samples:
                break
            time.sleep(0.05)
        live = dst.status(out)
        assert live.live is True and live.samples > 0 and live.done == 0 and live.asked == 7
        assert "being written" in live.lines()[0]
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert main(["status", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["live"] is False and said["samples"] >= live.samples and said["left"] is None
    assert main(["status", str(out)]) == 0
    assert "go on with it: the same command and --resume" in capsys.readouterr().out


def test_status_of_what_is_no_run(asked: Any, tmp_path: Path, capsys: Any) -> None:
    for path in (tmp_path / "no.sqlite", Path(zoo.IMAGES)):
        assert main(["status", str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    (path,) = drawn(asked, tmp_path, 1)
    assert "finished" in dst.status(path).lines()[0] and ", shard 1/1" in dst.status(path).lines()[0]
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'audit'", (json.dumps({"void": "image 3 differs"}),))
    connection.close()
    found = dst.status(path)
    assert found.failed == "image 3 differs" and "FAILED: image 3 differs" in "\n".join(found.lines())
    assert os.path.exists(path)
