"""What `--help` shows on screens of several widths, and Ctrl-C at any moment."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import diffsmooth_trt
from diffsmooth_trt.cli import doctor, main
from diffsmooth_trt.errors import EngineError
from diffsmooth_trt.runs.config import names

PROGRAM = Path(diffsmooth_trt.__file__).parents[1] / "diffsmooth_trt_main.py"
TWO_SCREENS = 100


def shown(command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_help_fits_two_screens_and_help_all_has_everything(command, monkeypatch, capsys):
    for columns in (80, 100):
        short = shown([command, "--help"], columns, monkeypatch, capsys)
        assert len(short.splitlines()) <= TWO_SCREENS
        whole = shown([command, "--help-all"], columns, monkeypatch, capsys)
        known = {f"--{name.replace('_', '-')}" for name in names()}
        if command == "predict":
            known -= {"--n0", "--radius", "--tolerance", "--certificate", "--lipschitz", "--family-wise"}
        explained = set(re.findall(r"^  (--[a-z0-9-]+)", whole, re.M))
        assert known <= explained
        assert known <= set(re.findall(r"--[a-z0-9-]+", short))  # named, if not explained
        assert "--shard" not in re.findall(r"^  (--[a-z0-9-]+)", short, re.M)


def test_help_fits_40_columns(monkeypatch, capsys):
    """But for words that are longer: nothing is cut, and the example is still one command."""
    for command in (["certify"], ["predict"], ["export", "denoiser"], ["ood"]):
        text = shown([*command, "--help"], 40, monkeypatch, capsys)
        example = text.split("example:\n")[1]
        assert shlex.split(example.replace("\\\n", " "))[1 : 1 + len(command)] == command
        if command == ["certify"]:
            body = text.split("\n\n", 1)[1]  # the usage is argparse's, which the user words
            assert [line for line in body.splitlines() if len(line) > 40] == []


@pytest.mark.parametrize("after", [0.1, 0.3, 0.6])
def test_ctrl_c_while_modules_are_imported_is_one_line(after, tmp_path):
    """However early: before the program's first line Python itself ends, without a word."""
    command = [sys.executable, str(PROGRAM), "demo", "--images", "100", "--n", "100000"]
    ready = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=ready) as process:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) in ((1, "diffsmooth-trt: interrupted\n"), (-signal.SIGINT, ""))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapped", [ImportError("initialization failed"), EngineError("install it")])
def test_an_import_that_dies_of_ctrl_c_is_an_interruption(wrapped, monkeypatch, capsys):
    """Compiled modules make an ImportError of any exception, and ours make advice of that."""

    def execute(arguments):
        try:
            signal.raise_signal(signal.SIGINT)  # to this thread: another one would have it handled a moment later
        except KeyboardInterrupt:
            try:
                raise ImportError("initialization failed")
            except ImportError:
                raise wrapped from None

    monkeypatch.setattr(doctor, "_doctor", execute)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        status = main(["doctor"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, capsys.readouterr().err) == (1, "diffsmooth-trt: interrupted\n")
