"""Images of `ood` that cannot be used: refused before the run, or skipped and ranked against us; and what is said of the data."""

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
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.report import text_report, versions_of
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.sets import open_sets
from diffsmooth_trt.ood.store import OodStore
from diffsmooth_trt.ood.verify import verify

DAMAGED = b"\x89PNG\r\n\x1a\nnonsense"


def table(path: Path, seed: int, bad: tuple[int, ...] = (), count: int = 6) -> Path:
    """Random images, of which `bad` are damaged, one in its header and the others in their pixels."""
    cells = []
    for row in range(count):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng([seed, row]).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(out, "PNG")
        whole = out.getvalue()
        cells.append(whole if row not in bad else DAMAGED if row == bad[0] else whole[:-30])
    pq.write_table(pa.table({"image": [{"bytes": cell, "path": None} for cell in cells], "label": [0] * count}), path)
    return path


@pytest.fixture
def files(linear_classifier, tmp_path):
    classifier = linear_classifier(np.random.default_rng(0).normal(0, 1, (5, 48)), np.zeros(5))
    return {
        "classifier": classifier,
        "in_data": table(tmp_path / "in.parquet", 0, (1, 4)),
        "out_data": (str(table(tmp_path / "out.parquet", 1, (2,))), "generated:permuted"),
        "batch": 8,
        "backend": "onnxruntime",
        "key": "ab" * 32,
    }


@pytest.mark.parametrize("kind", ["clean", "certified"])
def test_bad_images_are_refused_by_name_or_ranked_against_us(files, tmp_path, kind):
    asked = {**files, "kind": kind, "out": tmp_path / "r.jsonl"}
    asked |= {"n": 100, "sigma": 0.25} if kind == "certified" else {}
    with pytest.raises(
        InputError, match=r"in_data in.parquet: .*row 1 .*; bad_images skip goes on without, and counts them"
    ):
        run(OodConfig(**asked))
    assert not asked["out"].exists()
    with run(OodConfig(**asked, bad_images="skip")) as store:
        inside, outside, made = store.record.sets
        assert (inside.images, list(inside.skipped)) == (6, [1, 4])
        assert (outside.images, list(outside.skipped)) == (6, [2])
        assert (made.images, dict(made.skipped)) == (6, {})
        assert [record["row"] for record in store.of_set(0)] == [0, 2, 3, 5]
        assert store.finished()
        text = text_report(store, versions_of(store, (0.0,)))
        assert "in.parquet: skipped: 2 images that cannot be used, ranked against us (image 1: " in text
        (version, *_) = versions_of(store, (0.0,))
        scores, others = version.inside, version.outside["out.parquet"]
        against = version.measured()["out.parquet"]
    assert (
        against.auroc <= float(np.mean(scores[:, None] > others)) * 4 / 6 * 5 / 6 + 1e-12
    )  # 2 and 1 of 6 lose every pair
    with OodStore.open(asked["out"]) as again:
        assert again.record.sets == (inside, outside, made)
    assert verify(asked["out"], fraction=1).agrees
    with run(OodConfig(**asked, bad_images="skip", resume=True)) as store:
        assert store.finished()


def test_a_set_that_was_repaired_is_another_one(files, tmp_path):
    asked = {**files, "out": tmp_path / "r.jsonl", "bad_images": "skip"}
    run(OodConfig(**asked)).close()
    table(tmp_path / "in.parquet", 0, (1,))
    with pytest.raises(InputError, match="the run differs in sets"):
        run(OodConfig(**asked, resume=True))


def test_sets_without_one_usable_image_are_refused(files, tmp_path):
    table(tmp_path / "in.parquet", 0, (0, 1, 2), 3)
    with pytest.raises(InputError, match="in_data in.parquet has no image that can be used|row 0"):
        run(OodConfig(**files, out=tmp_path / "r.jsonl", bad_images="skip"))
    with pytest.raises(InputError, match="bad_images 'drop' is unknown"):
        OodConfig(**files, out=tmp_path / "r.jsonl", bad_images="drop")


def test_notes_on_the_data_are_said_before_the_first_draw(files, tmp_path, capsys):
    """Turned and skipped images, and that sets overlap: each once, on the error stream, though nothing was drawn."""
    folder = tmp_path / "photos"
    (folder / "0").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "0" / "a.png", exif=exif)
    (folder / "0" / "notes.txt").write_text("x")
    given = [
        "ood",
        "--classifier",
        str(files["classifier"]),
        "--in-data",
        str(files["in_data"]),
        "--bad-images",
        "skip",
    ]
    given += ["--out-data", str(folder), str(files["in_data"]), "--backend", "onnxruntime", "--batch", "8"]
    assert main([*given, "--out", str(tmp_path / "r.jsonl")]) == 0
    said = capsys.readouterr().err.splitlines()
    for text in (
        "in.parquet: skipped: 2 images that cannot be used",
        "photos: turned: 1 images",
        "photos: left out: 1 files that are no images of a class (0/notes.txt)",
        "4 of 4 images of in.parquet (2) are also in in.parquet",
    ):
        assert sum(line.startswith("diffsmooth-trt: note: ") and text in line for line in said) == 1, (text, said)


def test_the_data_is_looked_at_headers_first(files, tmp_path, monkeypatch):
    """Damage that a header shows is named with how many there are, before a pixel is decoded."""
    monkeypatch.setattr(Images, "read", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="row 1"):
        open_sets(OodConfig(**files, out=tmp_path / "r.jsonl"), (3, 4, 4))


def test_grey_sets_take_the_engines_channels(files, tmp_path, image_set, capsys):
    """The remedy that the refusal names works."""
    given = ["ood", "--classifier", str(files["classifier"]), "--in-data", str(image_set("in", 4)), "--out-data"]
    given += [str(image_set("grey", 4, shape=(1, 4, 4))), "--backend", "onnxruntime", "--batch", "8"]
    assert main([*given, "--out", str(tmp_path / "r.jsonl")]) == 2
    assert (
        "--out-data grey.npz: image 0 is (4, 4, 1), the engine takes (4, 4, 3): pass --channels 3"
        in capsys.readouterr().err
    )
    assert main([*given, "--out", str(tmp_path / "r.jsonl"), "--channels", "3"]) == 0
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["config"]["channels"] == 3
    assert verify(tmp_path / "r.jsonl", fraction=1).agrees
