"""The command line as a user meets it: subprocesses, exit codes, one-line errors, nothing half-written."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main

PROGRAM = Path(sys.executable).parent / "diffsmooth-trt"
W = np.random.default_rng(0).normal(size=(2, 48))


def call(*arguments: object, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def inside(tmp_path, monkeypatch, capfd):
    """`inside(*arguments)`: as `call`, in this process, whose imports are done: for what many cases have in common.

    Both streams are those of the process, so a library's own words count too.
    """

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as end:  # argparse's
            status = end.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return run


@pytest.fixture
def files(linear_classifier, shrinking_denoiser, images_npz):
    return {"engine": shrinking_denoiser(), "classifier": linear_classifier(W, np.zeros(2)), "data": images_npz()}


def flags_of(files, **changes) -> list[object]:
    merged = {**files, "n": 300, "n0": 20, "out": "run.sqlite", **changes}
    return [part for name, value in merged.items() if value is not None for part in (f"--{name}", value)]


def certify(files, cwd: Path, *more: object, **changes) -> subprocess.CompletedProcess[str]:
    return call("certify", *flags_of(files, **changes), *more, cwd=cwd)


def test_certify_report_and_resume(files, tmp_path):
    done = certify(files, tmp_path, "--tsv", "run.tsv")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "acc@0.25" in done.stdout
    assert "ACR" in done.stdout
    lines = (tmp_path / "run.tsv").read_text().splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    assert len(lines) == 6
    for line in lines[1:]:
        assert re.fullmatch(r"\d+\t\d\t(-1\t0\.0\t0|\d\t\d+\.\d{6}\t[01])\t\d+:\d\d:\d\d(\.\d+)?", line)
    again = certify(files, tmp_path)
    assert again.returncode == 2
    assert "pass --resume" in again.stderr
    resumed = certify(files, tmp_path, "--resume", "--tsv", "again.tsv")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "again.tsv").read_text() == (tmp_path / "run.tsv").read_text()
    report = call(
        "report",
        "run.sqlite",
        "--figure",
        "c.png",
        "--html",
        "r.html",
        "--tsv",
        "t.tsv",
        "--radii",
        "0,0.1",
        cwd=tmp_path,
    )
    assert report.returncode == 0, report.stderr
    assert "acc@0.1" in report.stdout
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert '"runs":[{"name":"run"' in (tmp_path / "r.html").read_text()
    assert (tmp_path / "t.tsv").read_text() == (tmp_path / "run.tsv").read_text()
    left = {"images.npz", "run.sqlite", "run.tsv", "again.tsv", "c.png", "r.html", "t.tsv"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_predict(files, tmp_path):
    flags = [part for name, value in files.items() for part in (f"--{name}", value)]
    done = call("predict", *flags, "--n", 200, "--out", "p.sqlite", "--tsv", "p.tsv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert len((tmp_path / "p.tsv").read_text().splitlines()) == 6


def test_demo_makes_its_page_without_torch(tmp_path):
    """The whole demo on two images, in a process where importing torch is an error."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from diffsmooth_trt.cli import main\n"
        "sys.exit(main(['demo', '--images', '2', '--n', '100']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"demo.html", "demo.png"}
    assert "dds" in done.stdout


@pytest.mark.parametrize(
    "command",
    [[], ["certify"], ["predict"], ["report"], ["verify"], ["demo"], ["export", "denoiser"], ["export", "classifier"]],
)
def test_help_shows_an_example(command, inside, tmp_path):
    done = inside(*command, "--help") if command else call("--help", cwd=tmp_path)
    assert done.returncode == 0
    if command:
        assert "example:\n  diffsmooth-trt" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "none.parquet"}, "none.parquet does not exist"),
        ({"engine": "none.onnx"}, "none.onnx does not exist"),
        ({"n": 0}, "--n must be"),
        ({"n": "many"}, "invalid int value"),
        ({"n0": -3}, "--n0 must be"),
        ({"alpha": 2}, "--alpha must lie between 0 and 1"),
        ({"sigma": 0.5}, "exported for sigma 0.25, the run asks for 0.5"),
        ({"classifier": None}, "--classifier is needed"),
        ({"method": "magic"}, "invalid choice"),
        ({"out": "no/such/folder/run.sqlite"}, "the folder no/such/folder does not exist"),
        ({"key": "zz"}, "--key takes"),
        ({"max": 0}, "--max must be"),
        ({"m": 3}, "--m is for --method diffsmooth, got dds"),
        ({"classifier-seed": 1}, "--classifier-seed is for --method diffsmooth, dc"),
        ({"drop-steps": 1}, "--drop-steps is for --method epndc"),
        ({"wrong": 1}, "unrecognized arguments"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(files, inside, tmp_path, changes, message):
    """In a process of its own: one that the parser refuses, one that a check of values does, one found when a file is read."""
    own = changes.keys() & {"wrong", "alpha", "sigma"}
    done = certify(files, tmp_path, **changes) if own else inside("certify", *flags_of(files, **changes))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"images.npz"}


def test_debug_shows_the_traceback(files, tmp_path):
    assert "Traceback" in certify(files, tmp_path, "--debug", n=0).stderr


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))


ALWAYS = """
import sys
from diffsmooth_trt.certify import loop
from diffsmooth_trt.cli import main
loop.COMMIT_SECONDS = -1
sys.exit(main())
"""


def test_full_disk_keeps_what_was_committed(files, tmp_path):
    """A file-size limit stands in for a full disk: the run fails with one line, and a resume ends as a whole run does.

    The first run commits each batch, so that it ends in the middle however fast the machine is.
    """
    options = {"n": 100_000, "key": "ab" * 32, "backend": "onnxruntime", "batch": 1000}
    flags = [part for name, value in {**files, **options, "out": "run.sqlite"}.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-c", ALWAYS, "certify", *map(str, flags)]
    limits = {"cwd": tmp_path, "preexec_fn": limit_file_size, "timeout": 120}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **limits)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "run store" in done.stderr
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM blocks").fetchone() > (0,)  # it ended in the middle
    connection.close()
    resumed = call("certify", *flags, "--resume", "--tsv", "a.tsv", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    whole = call(
        "certify", *[str(f).replace("run.sqlite", "whole.sqlite") for f in flags], "--tsv", "b.tsv", cwd=tmp_path
    )
    assert whole.returncode == 0
    first, second = ((tmp_path / name).read_text().splitlines() for name in ("a.tsv", "b.tsv"))
    assert [line.split("\t")[:5] for line in first] == [line.split("\t")[:5] for line in second]


def test_report_refuses_what_is_not_a_run(files, inside, tmp_path):
    (tmp_path / "text.sqlite").write_text("not a database at all, but long enough to be read as one")
    (tmp_path / "cut.sqlite").write_bytes(b"SQLite format 3\0" + os.urandom(100))
    for name, message in (
        ("none.sqlite", "does not exist"),
        ("text.sqlite", "not a run store"),
        ("cut.sqlite", "not a run store"),
    ):
        done = call("report", name, cwd=tmp_path) if name == "text.sqlite" else inside("report", name)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert inside("certify", *flags_of(files)).returncode == 0
    for arguments, message in (
        (["--figure", "c.bmp"], "use one of .png, .svg, .pdf"),
        (["--radii", "a,b"], "expected numbers"),
        (["--tsv", "no/t.tsv"], "the folder no does not exist"),
        (["--html", "run.sqlite"], "which it would destroy"),
        (["--radii", "-1"], "radii"),
        (["run.sqlite", "--tsv", "t.tsv"], "--tsv takes one run"),
    ):
        done = inside("report", "run.sqlite", *arguments)
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_zoo_fits_the_wheel():
    assert sum(path.stat().st_size for path in zoo.FOLDER.iterdir() if path.is_file()) <= 12e6


def test_interrupts_end_in_one_line(files, tmp_path):
    """SIGTERM, SIGUSR1 and SIGINT in the middle: exit 3, one line that says how to go on, and a resume that works."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        out = tmp_path / f"{number.name}.sqlite"
        flags = [
            part
            for name, value in {**files, "n": 4_000_000, "n0": 10, "out": out}.items()
            for part in (f"--{name}", value)
        ]
        with subprocess.Popen(
            [PROGRAM, "certify", *map(str, flags)],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        ) as process:
            for _ in range(600):
                if out.exists():
                    break
                time.sleep(0.05)
            time.sleep(0.3)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == 3
        assert len(stderr.splitlines()) == 1
        assert "go on with --resume" in stderr
        with dst.open_run(out) as store:
            assert list(store.results()) == []


def test_closed_and_narrow_outputs(files, tmp_path):
    assert certify(files, tmp_path).returncode == 0
    report = f"{shlex.quote(str(PROGRAM))} report run.sqlite"
    for command, expected in ((f"{report} | true", ""), (f"{report} > /dev/full", "diffsmooth-trt: No space left")):
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith(expected)
        assert len(done.stderr.splitlines()) <= 1
    narrow = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([PROGRAM, "report", "run.sqlite"], cwd=tmp_path, env=narrow, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "?2 in [0, 1]^(3×4×4)".encode("latin-1") in done.stdout


def test_huge_sizes_are_refused(files, inside):
    for name in ("n", "n0", "batch", "threads", "m"):
        done = inside("certify", *flags_of(files, **{name: 10**20}))
        assert done.returncode == 2
        assert f"--{name} must be" in done.stderr
