"""Tables for other programs against the runs themselves, a terminal of 40 columns, and the command's options."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.report.curves import certified_accuracy, certified_accuracy_interval
from diffsmooth_trt.report.formats import FORMATS, rows_of_images, rows_of_runs, table
from diffsmooth_trt.report.narrow import fitted_table
from diffsmooth_trt.report.tables import Summary, summarise, text_table

RUNS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "zoo"
RUN = RUNS / "dds-n10000.sqlite"  # 40 images


@pytest.fixture(scope="module")
def summary() -> Summary:
    with dst.open_run(RUN) as store:
        return summarise(store)


def test_every_format_holds_the_same_numbers(summary: Summary) -> None:
    outcome = summary.labels, summary.predicted, summary.radii
    kept = {kind: table([summary], [0.25], kind=kind, rows="runs") for kind in FORMATS}
    (found,) = json.loads(kept["json"])
    (from_csv,) = csv.DictReader(io.StringIO(kept["csv"].decode()))
    (from_parquet,) = pq.read_table(io.BytesIO(kept["parquet"])).to_pylist()
    low, high = certified_accuracy_interval(*outcome, 0.25, wrong=summary.wrong)
    expected = {
        "certified@0.25": 27,
        "accuracy@0.25": certified_accuracy(*outcome, 0.25),
        "low@0.25": low,
        "high@0.25": high,
    }
    assert {name: found[name] for name in expected} == expected
    assert from_parquet == found
    assert {name: "" if value is None else str(value) for name, value in found.items()} == from_csv
    text = next(line for line in text_table([summary], [0.25]).splitlines() if line.startswith("dds-n10000 "))
    assert text.split()[2] == "67.5%"
    assert "| dds-n10000 | 40 | 67.5% (50.8–81.5) |" in kept["markdown"].decode()
    assert r"dds-n10000 & 40 & 67.5\% (50.8--81.5) &" in kept["latex"].decode()


def test_a_row_an_image(summary: Summary) -> None:
    rows = rows_of_images([summary])
    assert [row["image"] for row in rows] == summary.images.tolist()
    assert [row["radius"] for row in rows] == summary.radii.tolist()
    assert pq.read_table(io.BytesIO(table([summary], None, kind="parquet", rows="images"))).to_pylist() == rows
    shown = table([summary], None, kind="markdown", rows="images").decode().splitlines()
    assert len(shown) == 42 and re.fullmatch(r"\| dds-n10000 \| 0 \| 3 \| 3 \| 0\.\d{6} \| yes \| 10100 \|", shown[2])


def test_an_unfinished_run_has_ranges_and_no_rows(summary: Summary) -> None:
    unfinished = replace(summary, missing=10)
    (row,) = rows_of_runs([unfinished], [0.25])
    assert (row["finished"], row["images"], row["results"], row["low@0.25"], row["high@0.25"]) == (
        False,
        50,
        40,
        0.54,
        0.74,
    )
    with pytest.raises(InputError, match="has 40 of 50 images.*resume=True"):
        rows_of_images([summary, unfinished])


def test_names_are_text_in_latex_and_markdown(summary: Summary) -> None:
    odd = replace(summary, name=r"50%_of|a\b{c}$x^2~<i>")
    assert (
        r"50\%\_of|a\textbackslash{}b\{c\}\$x\textasciicircum{}2\textasciitilde{}<i> &"
        in table([odd], [0.25], kind="latex", rows="runs").decode()
    )
    assert r"| 50%\_of\|a\\b{c}$x^2~\<i\> |" in table([odd], [0.25], kind="markdown", rows="runs").decode()


@pytest.mark.parametrize("width", [40, 60, 79])
def test_a_narrow_terminal_gets_narrow_lines_and_all_values(summary: Summary, width: int) -> None:
    wide = text_table([summary, summary])
    narrow = fitted_table([summary, summary], width=width)
    assert max(map(len, narrow.splitlines())) <= width
    for value in wide.splitlines()[-2].split() + wide.splitlines()[-1].split()[2:]:
        assert value in narrow
    assert " ".join(narrow.split()).startswith(" ".join(wide.split())[:900])
    assert fitted_table([summary, summary], width=None) == wide == fitted_table([summary, summary], width=200)


def test_the_command_asks_the_terminal() -> None:
    """A real one, of 40 columns; what is piped stays as it is."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 40, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    program = [sys.executable, "-c", "import sys; from diffsmooth_trt.cli import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen([*program, "report", str(RUN)], stdout=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # the other end is closed: all is read
            pass
    os.close(ours)
    assert process.returncode == 0
    lines = said.decode().splitlines()
    assert "acc@0.25        67.5%  50.8–81.5" in lines and max(map(len, lines)) <= 40


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(each) for each in arguments])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_tables_go_to_the_terminal_or_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, printed, _ = called(capsys, "report", RUN, "--format", "csv", "--rows", "images")
    assert (
        status == 0
        and printed.startswith("run,image,label,predict,radius,correct,samples\n")
        and len(printed.splitlines()) == 41
    )
    status, text, _ = called(capsys, "report", RUN, "--table", tmp_path / "t.csv", "--rows", "images")
    assert status == 0 and (tmp_path / "t.csv").read_text() == printed and "acc@0.25" in text
    assert called(capsys, "report", RUN, "--table", tmp_path / "t", "--format", "parquet")[0] == 0
    assert pq.read_table(tmp_path / "t").num_rows == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "parquet"], "--format parquet is no text: give --table FILE"),
        (["--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["--rows", "images"], "--rows is for tables: pass --format or --table"),
        (
            ["--table", "t.xls"],
            "--table t.xls has suffix '.xls': use one of .csv, .json, .parquet, .tex, .md, or pass --format",
        ),
        (["--noisy", "3"], "--noisy is for the page: pass --html FILE"),
        (["--html", "p.html", "--noisy", "-1"], "--noisy must be 0 or more, got -1"),
        (["--data", "d"], "--data is for the page: pass --html FILE"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed, wrong = called(capsys, "report", RUN, *options)
    assert (status, printed) == (2, "") and said in wrong and len(wrong.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_page_without_its_pictures_is_made_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.sqlite"
    shutil.copy(RUN, run)
    status, printed, said = called(capsys, "report", run, "--html", tmp_path / "p.html", "--data", tmp_path / "gone")
    assert status == 0 and "acc@0.25" in printed
    assert said.startswith(f"{tmp_path / 'p.html'}: {run}: no pictures: {tmp_path / 'gone'} does not exist: give ")
    assert len(said.splitlines()) == 1
    assert "no pictures: " in (tmp_path / "p.html").read_text()
