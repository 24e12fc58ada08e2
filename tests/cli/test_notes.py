"""What is to be known of the data is said before anything is drawn from it: as lines, or as events."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffsmooth_trt.cli import main
from diffsmooth_trt.report.progress import ProgressBar
from diffsmooth_trt.stages import note

TURNED = "turned: 1 images, as their EXIF orientation says"
TEXT = "labels: sub-folders of numbers are the classes of those numbers; "


@pytest.fixture
def command(linear_classifier, tmp_path: Path) -> list[str]:
    """A folder of twelve numbers, with a picture on its side, one that is none, and a file that is no image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(12):
        (tmp_path / "d" / str(k)).mkdir(parents=True)
        picture = Image.fromarray(np.full((4, 4, 3), 20 * k, np.uint8))
        picture.save(tmp_path / "d" / str(k) / "a.png", **({"exif": exif} if k == 3 else {}))
    (tmp_path / "d" / "4" / "a.png").write_bytes(b"nonsense")
    (tmp_path / "d" / "5" / "a.txt").write_bytes(b"x")
    engine = linear_classifier(np.zeros((12, 48)), np.arange(12.0))
    how = [
        "--method",
        "rs",
        "--sigma",
        "0.25",
        "--n",
        "60",
        "--alpha",
        "0.01",
        "--batch",
        "20",
        "--backend",
        "onnxruntime",
    ]
    return [
        "--engine",
        str(engine),
        "--data",
        str(tmp_path / "d"),
        "--bad-images",
        "skip",
        "--out",
        str(tmp_path / "r.sqlite"),
        *how,
    ]


@pytest.mark.parametrize("name", ["certify", "predict"])
def test_notes_come_before_the_first_draw(command, capsys, name):
    assert main([name, *command, "--json"]) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert 0 <= kinds.index("note") < kinds.index("progress") and kinds.count("note") == 4 and err == ""
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes[:2] == ["left out: 1 files that are no images of a class (5/a.txt)", TURNED]
    assert notes[2].startswith(TEXT) and notes[3].startswith("skipped: 1 images that cannot be used (image 6: ")


def test_notes_are_lines_on_the_error_stream_and_in_reports(command, tmp_path, capsys):
    assert main(["predict", *command, "--quiet"]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 4 and all(line.startswith("diffsmooth-trt: note: ") for line in lines)
    assert f"diffsmooth-trt: note: {TURNED}" in lines
    assert main(["report", str(tmp_path / "r.sqlite")]) == 0
    again, err = capsys.readouterr()
    assert TURNED in out and TURNED in again and TEXT in again and err == ""


def test_a_note_stands_above_the_bar_and_nobody_has_to_listen(capsys):
    note("into nowhere")
    with ProgressBar("x") as bar:
        bar.start(1, 0, 1, 0)
        note("here")
    assert capsys.readouterr() == ("", "diffsmooth-trt: note: here\n")
