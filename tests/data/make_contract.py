"""Writes tests/data/contract/: what users and their scripts rely on, byte for byte, of the zoo where a run is needed.

    python tests/data/make_contract.py

Change it only where a release says that it changes something. What depends on the machine or on versions is taken out: times, the
classifier's id and engines' hashes of outputs, and all but four digits of scores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import onnx

from diffsmooth_trt import zoo
from diffsmooth_trt.cli import _parser, main
from diffsmooth_trt.cli.options import Parser
from diffsmooth_trt.engine import METADATA_KEY, EngineFacts
from diffsmooth_trt.engine.record import Record

FOLDER = Path(__file__).with_name("contract")
KEY = "c0de" * 16
PAIR = ["--engine", str(zoo.DENOISER), "--classifier", str(zoo.CLASSIFIER_DDS), "--data", str(zoo.IMAGES)]
HOW = ["--backend", "onnxruntime", "--threads", "1", "--batch", "20", "--key", KEY]
RUNS = {
    "certify": ["certify", *PAIR, *HOW, "--max", "2", "--n0", "20", "--n", "100"],
    "radius": ["certify", *PAIR, *HOW, "--max", "1", "--n0", "20", "--n", "60", "--radius", "0.1"],
    "predict": ["predict", *PAIR, *HOW, "--max", "2", "--n", "60"],
}
OOD = ["ood", "--kind", "clean", "--classifier", str(zoo.CLASSIFIER_DDS), "--in-data", str(zoo.IMAGES)]
OOD += ["--out-data", "generated:uniform", "--max", "2", *HOW]
TABLES = ("images", "blocks", "results", "decisions", "margins", "partial", "audit")
OF_MACHINE = {"classifier", "versions", "files", "audit", "notes", "batch_choice"}
STATUSES = [
    ["certify"],
    ["certify", "--engine", "no.onnx", "--data", "no.npz", "--out", "r.sqlite", "--method", "rs", "--sigma", "1"],
    ["certify", *PAIR, "--n", "0", "--out", "r.sqlite"],
    ["certify", *PAIR, "--key", "ab", "--out", "r.sqlite"],
    ["report", "no.sqlite"],
    ["verify", "no.sqlite"],
    ["export"],
    ["nonsense"],
    ["--version"],
]


def helps() -> Iterator[tuple[str, str]]:
    """(command, its --help) of every command, at 120 columns."""

    def of(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
        yield name, parser.format_help()
        if isinstance(parser, Parser) and (whole := parser.format_help(everything=True)) != parser.format_help():
            yield f"{name} all", whole
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, inner in action.choices.items():
                    yield from of(inner, f"{name} {word}")

    with mock.patch.dict(os.environ, {"COLUMNS": "120"}):
        yield from of(_parser(), "diffsmooth-trt")


def called(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse's own
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def run(name: str, folder: Path) -> Iterator[str]:
    """The TSV without times, the report, and the store of a run."""
    store, tsv = folder / f"{name}.sqlite", folder / f"{name}.tsv"
    status, _, said = called([*RUNS[name], "--out", str(store), "--tsv", str(tsv)])
    assert status == 0, said
    yield re.sub(r"\t[^\t\n]*$", "\t<time>", tsv.read_text(encoding="utf-8"), flags=re.M)
    yield re.sub(
        r"\b[0-9a-f]{16}\b",
        "<id>",
        re.sub(r" +\d+\.\d\d$", " <seconds>", called(["report", str(store)])[1], flags=re.M),
    )
    with contextlib.closing(sqlite3.connect(store)) as connection:
        meta = {
            key: json.loads(value) for key, value in connection.execute("SELECT name, value FROM meta ORDER BY name")
        }
        for key, value in meta.items():
            yield f"meta {key}{'' if key in OF_MACHINE else ' ' + json.dumps(value, sort_keys=True)}\n"
        yield "classifier " + " ".join(sorted(meta["classifier"])) + "\n"
        for role in ("denoiser", "classifier"):
            yield f"classifier.{role} " + " ".join(sorted(meta["classifier"][role])) + "\n"
        for table in TABLES:
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):
                yield f"{table} {json.dumps(row)}\n"
        if name == "certify":
            yield from (
                f"{sql}\n"
                for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name")
            )


def ood(folder: Path) -> Iterator[str]:
    """The lines of a file of `ood`: names of the first, the others with scores to four digits."""
    path = folder / "ood.jsonl"
    status, _, said = called([*OOD, "--out", str(path)])
    assert status == 0, said
    first, *others = path.read_text(encoding="utf-8").splitlines()
    meta = json.loads(first)
    yield from (
        f"{name}{'' if name in OF_MACHINE else ' ' + json.dumps(value, sort_keys=True)}\n"
        for name, value in sorted(meta.items())
    )
    for line in others:
        record = json.loads(line)
        yield (
            json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}, sort_keys=True)
            + "\n"
        )


def facts() -> Iterator[str]:
    """The facts of the zoo's files, and a record."""
    for path in sorted(zoo.FOLDER.glob("*.onnx")):
        (text,) = [e.value for e in onnx.load(path, load_external_data=False).metadata_props if e.key == METADATA_KEY]
        yield f"{path.name} {text}\n"
    made = EngineFacts("denoiser", (3, 32, 32), sigma=0.25, family="guided-diffusion", output_shape=(3, 64, 64))
    source, machine = {"name": "d.onnx", "sha256": "00" * 32}, {"device": "cpu", "instruction_set": "x86_64"}
    yield Record("pt2", "11" * 32, 64, made, source, machine, {"autotune": False}).to_json()


def contract() -> dict[str, str]:
    """Every text by the name of its file."""
    texts = {f"help{name.removeprefix('diffsmooth-trt').replace(' ', '-')}.txt": text for name, text in helps()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = Path.cwd()
        os.chdir(folder)
        try:
            lines = []
            for arguments in STATUSES:
                status, out, err = called(arguments)
                shown = " ".join(part if len(part) < 40 else f"<{Path(part).name}>" for part in arguments)
                said = (
                    "<version>"
                    if arguments == ["--version"]
                    else (err or out).splitlines()[-1].replace(name, "<folder>")
                )
                lines.append(f"{shown}\n  {status} {said}\n")
            texts["statuses.txt"] = "".join(lines)
            for run_name in RUNS:
                texts[f"{run_name}.txt"] = "".join(run(run_name, folder)).replace(name, "<folder>")
            texts["ood.txt"] = "".join(ood(folder)).replace(name, "<folder>")
        finally:
            os.chdir(before)
    texts["facts.txt"] = "".join(facts())
    return {name: text.replace(str(zoo.FOLDER), "<zoo>") for name, text in texts.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    made = contract()
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for file, text in made.items():
        (FOLDER / file).write_text(text, encoding="utf-8")
    (FOLDER / "python.txt").write_text(f"{sys.version_info[0]}.{sys.version_info[1]}\n", encoding="utf-8")
