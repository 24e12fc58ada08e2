"""Stores on file systems without hard links, without locks, without shared memory, or without any of them.

What a file system lacks is refused by a library in front of the system's own (support/refusing.c): real calls that fail with the
errors of dvc#6963, qsiprep#244, nipype#1370 (links, locks), charmbracelet/crush#3461 and Sonarr#2797 (SQLite's locks and log on
NFS), in a process of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffsmooth_trt import locks
from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.files import publish_new

SUPPORT = Path(__file__).resolve().parents[1] / "support"
KINDS = ["lfpm", "n", "l", "f", "p", "m", "fp"]  # n: nothing is refused


@pytest.fixture(scope="module")
def found(linear_classifier, tmp_path_factory) -> dict[str, dict[str, object]]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("refused")
    library = folder / "refusing.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SUPPORT / "refusing.c", "-ldl"], check=True)
    w = np.random.default_rng(0).normal(size=48)
    engine = linear_classifier(np.stack([w, -w]), np.zeros(2))
    np.savez(
        folder / "d.npz", images=np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8), labels=[0, 1]
    )
    command = [sys.executable, SUPPORT / "refused_runs.py", engine, folder / "d.npz", folder, *KINDS]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LD_PRELOAD": str(library)}, check=False
    )
    assert done.returncode == 0, done.stderr
    return {line["kind"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_works_and_says_what_it_cannot_promise(found, kind):
    run, notes = found[kind], " ".join(found[kind]["notes"])
    assert (run["key"], run["read"], run["images"]) == (True, True, 2 if kind == KINDS[0] else 1)
    assert "exists: pass --resume" in run["again"]
    assert "is being written by" in run["second"]
    assert ("no hard links" in notes) == ("l" in kind)
    assert ("no locks" in notes) == ("f" in kind or "p" in kind)
    assert ("shares no memory" in notes) == (kind == "m")
    assert (run["live"], run["dead"]) == (True, False)
    assert run["after"] == ["key", "r.sqlite"]
    assert (".r.sqlite.lock" in run["during"]) == ("f" in kind)


def test_a_lock_of_another_machine_is_never_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available")))
    path = tmp_path / "r.sqlite"
    path.touch()
    for said in ('{"host": "elsewhere", "pid": 1}', "", "[]"):
        locks.lock_file(path).write_text(said)
        with pytest.raises(InputError, match=r"is being written by .*\.r\.sqlite\.lock says.*remove that file"):
            locks.Lock.take(path)
        assert locks.held(path) == (None, False)
    locks.lock_file(path).unlink()
    lock = locks.Lock.take(path)
    assert locks.held(path) == (True, False)
    lock.release()
    assert [each.name for each in tmp_path.iterdir()] == ["r.sqlite"]


def test_a_new_file_never_replaces_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    (tmp_path / "draft").write_text("new")
    (tmp_path / "old").write_text("old")
    with pytest.raises(FileExistsError):
        publish_new(tmp_path / "draft", tmp_path / "old")
    assert publish_new(tmp_path / "draft", tmp_path / "made") is False
    (tmp_path / "draft").write_text("newer")
    (tmp_path / ".other.claim").touch()
    with pytest.raises(StoreError, match=r"\.other\.claim says"):
        publish_new(tmp_path / "draft", tmp_path / "other")
    assert {each.name for each in tmp_path.iterdir()} == {"draft", "old", "made", ".other.claim"}
    assert ((tmp_path / "old").read_text(), (tmp_path / "made").read_text()) == ("old", "new")
