"""What people and scripts see of long work: a bar on terminals, lines of JSON, or nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.report.progress import JsonLines, ProgressBar
from diffsmooth_trt.stages import listening, stage

RUN = ["--engine", str(zoo.DENOISER), "--classifier", str(zoo.CLASSIFIER_DDS), "--data", str(zoo.IMAGES), "--max", "1"]
RUN += ["--n", "40", "--batch", "10", "--backend", "onnxruntime", "--threads", "1", "--key", "ab" * 32]


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_say_stages_progress_and_result(tmp_path, capsys):
    run = tmp_path / "run.sqlite"
    assert main(["certify", *RUN, "--n0", "5", "--out", str(run), "--json"]) == 0
    output = capsys.readouterr()
    said = lines(output.out)
    assert output.err == ""
    assert {each["command"] for each in said} == {"certify"}
    stages = [each["what"] for each in said if each["event"] == "stage"]
    assert f"proving that the rows of {zoo.DENOISER.name} are independent" in stages
    assert f"loading {zoo.CLASSIFIER_DDS.name}" in stages
    progress = [each for each in said if each["event"] == "progress"]
    assert (progress[-1]["images"], progress[-1]["of"]) == (1, 1)
    assert progress[-1]["samples"] <= progress[-1]["of_samples"] == 45
    done = said[-1]
    assert (done["event"], done["images"], done["missing"], len(done["results"])) == ("done", 1, 0, 1)
    assert main(["verify", str(run), "--json", "--quiet", "--threads", "1"]) == 0
    (verified,) = lines(capsys.readouterr().out)  # quiet: no progress
    assert (verified["event"], verified["agrees"], verified["mismatches"]) == ("done", True, [])


def test_json_is_json_whatever_a_run_decides(tmp_path, capsys):
    run = tmp_path / "run.sqlite"
    assert main(["certify", *RUN, "--n0", "5", "--radius", "0.1", "--out", str(run), "--json", "--quiet"]) == 0
    (done,) = lines(capsys.readouterr().out)
    (result,) = done["results"]
    assert result["radius"] is None
    assert set(result["decisions"]) == {"0.1"}


def test_nested_stages_reach_their_listener_and_end_with_it():
    said = io.StringIO()
    with JsonLines("x", said):
        with stage("outer", 3) as advance:
            advance(1)
            with contextlib.suppress(ValueError), stage("inner"):
                raise ValueError
            advance(2)
    with stage("nobody listens") as advance:
        advance(1)
    found = lines(said.getvalue())
    assert [(each["what"], each["done"], each["of"]) for each in found if each["event"] == "stage"][:2] == [
        ("outer", 0, 3),
        ("inner", 0, None),
    ]


def test_time_left_is_what_the_rate_says(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said = io.StringIO()
    lines_ = JsonLines("x", said)
    lines_.start(10, 5, 1000, 500)  # resumed: half is there already
    now[0] += 10
    lines_.update(100, 1)
    first, second = lines(said.getvalue())
    assert first["seconds_left"] is None  # nothing is known yet
    assert second["seconds_left"] == 40.0  # 10 a second, 400 left
    lines_.start(10, 0, None, 0)
    now[0] += 10
    lines_.update(100, 1)
    assert lines(said.getvalue())[-1]["seconds_left"] is None  # depends on votes


def on_terminal(script: str, columns: int, **environment: str) -> str:
    """What a Python program writes to a terminal of so many columns as its error stream."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen([sys.executable, "-c", script], stderr=theirs, stdout=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        found = b""
        with contextlib.suppress(OSError):  # what a closed terminal gives
            while part := os.read(ours, 65536):
                found += part
        assert process.wait(60) == 0
    os.close(ours)
    return found.decode()


SCRIPT = """
import time
from diffsmooth_trt.report.progress import ProgressBar
from diffsmooth_trt.stages import stage
with ProgressBar("export", shown={shown}) as bar:
    with stage("tracing the network"):
        time.sleep(1.8)
    with stage("comparing in onnxruntime", 4) as advance:
        for _ in range(4):
            time.sleep(0.12)
            advance(1)
    bar.start(2, 0, 100, 0)
    with stage("hidden"):
        bar.update(100, 2)
"""


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_shows_stage_and_time_and_is_left_clean(columns):
    said = on_terminal(SCRIPT.format(shown=True), columns, NO_COLOR="1")
    shown = [line for line in re.split(r"[\r\n]+", said) if line.strip()]
    assert max(len(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line)) for line in shown) <= columns
    assert any("export: tracing the network, 00:01" in line for line in shown)  # time goes on in it
    assert any("export: comparing in" in line for line in shown)
    assert columns == 40 or any("left" in line and "comparing" in line for line in shown)
    assert "hidden" not in said
    assert not re.search(r"\x1b\[[0-9;]*m", said)  # no colour


def test_quiet_and_pipes_show_nothing(capsys):
    assert on_terminal(SCRIPT.format(shown=False), 80) == ""
    with ProgressBar("x") as bar:  # no terminal
        with stage("s", 1) as advance:
            advance(1)
        bar.start(1, 0, 1, 0)
        bar.update(1, 1)
    assert capsys.readouterr().err == ""
    with listening(bar), stage("after"):
        pass
