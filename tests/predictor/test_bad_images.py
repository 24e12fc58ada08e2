"""Images of `soft-predict` that cannot be used, names of classes, and what is said of the data before it begins."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffsmooth_trt.cli import main


def encoded(row: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(row).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def command(linear_classifier, tmp_path: Path) -> list[str]:
    """Of five images the second's header and the fourth's pixels are damaged; labels are names."""
    cells = [encoded(row) for row in range(5)]
    cells[1], cells[3] = b"nonsense", cells[3][:-30]
    columns = {"image": [{"bytes": cell, "path": None} for cell in cells], "label": ["ant", "bee", "cat", "ant", "bee"]}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    path = linear_classifier(np.random.default_rng(0).normal(0, 1, (3, 48)), np.zeros(3))
    how = [
        "--denoising-sigma",
        "0",
        "--num-samples",
        "1",
        "--backend",
        "onnxruntime",
        "--batch",
        "8",
        "--key",
        "ab" * 32,
    ]
    return ["soft-predict", "--classifier", str(path), "--data", str(tmp_path / "d.parquet"), *how]


def test_bad_images_are_refused_by_name_or_count_as_wrong(command, tmp_path, capsys):
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "d.parquet row 1 is not a readable image" in said and "--bad-images skip goes on without" in said
    table, values = tmp_path / "p.tsv", tmp_path / "p.json"
    assert main([*command, "--bad-images", "skip", "--tsv", str(table), "--json", str(values)]) == 0
    out, err = capsys.readouterr()
    assert "of 5 images" in out and "skipped: 2 images that cannot be used, counted as wrong (image 1: " in out
    assert [line.split("\t")[0] for line in table.read_text().splitlines()[1:]] == ["0", "2", "4"]
    assert list(json.loads(values.read_text())["skipped"]) == ["1", "3"]
    assert "note: skipped: 1 images that cannot be used (image 1: " in err  # the other is seen when it is reached
    assert "note: labels: by the rank of each class (0 = ant, 1 = bee, 2 = cat)" in err


def test_a_class_map_says_what_names_are(command, tmp_path, capsys):
    """The remedy for names that nothing says works here as in `certify`."""
    (tmp_path / "map.csv").write_text("name,class\nant,2\nbee,1\ncat,0\n")
    values = tmp_path / "p.json"
    given = [*command, "--bad-images", "skip", "--class-map", str(tmp_path / "map.csv"), "--json", str(values)]
    assert main(given) == 0
    assert [row["label"] for row in json.loads(values.read_text())["images"]] == [2, 0, 1]
    assert "rank" not in capsys.readouterr().err
    assert main([*given[:-1], str(tmp_path / "map.csv")]) == 2
    assert "--json" in capsys.readouterr().err  # a map is no output
