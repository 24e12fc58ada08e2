"""Other people's data in a run: labels that are known, images that cannot be used, and what is said of both."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import diffsmooth_trt as dst
from diffsmooth_trt.engine import METADATA_KEY, EngineFacts
from diffsmooth_trt.engine.choice import EngineChoice
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.report.gallery import class_names, look
from diffsmooth_trt.report.html import page
from diffsmooth_trt.report.tables import envelope, summarise, text_table
from diffsmooth_trt.runs.status import status
from diffsmooth_trt.transfer.run import TransferConfig, transfer
from diffsmooth_trt.transfer.verify import verify as verify_transfer

CLASSES = 12
LEVELS = 10 + 20 * np.arange(CLASSES)  # class k is a flat image of that grey
HOW = {"method": "rs", "sigma": 0.05, "n0": 20, "n": 200, "backend": "onnxruntime", "batch": 20}


@pytest.fixture(scope="module")
def engine(linear_classifier) -> Path:
    """Which of the twelve levels is nearest."""
    c = LEVELS / 255
    return linear_classifier(np.repeat((2 * c / 48)[:, None], 48, axis=1), -(c**2))


def named(engine: Path, names: list[str], path: Path) -> Path:
    """The same engine, which knows its classes' names."""
    model = onnx.load(engine)
    facts = EngineFacts("classifier", (3, 4, 4), classes=CLASSES, details={"class_names": names})
    onnx.helper.set_model_props(model, {METADATA_KEY: facts.to_json()})
    onnx.save(model, path)
    return path


def picture(k: int, size: int = 4) -> Image.Image:
    return Image.fromarray(np.full((size, size, 3), LEVELS[k], np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def folder_of(path: Path, names: dict[str, int]) -> Path:
    for name, k in names.items():
        (path / name).mkdir(parents=True)
        picture(k).save(path / name / "a.png")
    return path


def parquet(path: Path, cells: list[bytes], labels: list[int] | None = None, names: list[str] | None = None) -> Path:
    columns: dict[str, object] = {"image": [{"bytes": cell, "path": None} for cell in cells]}
    if labels is not None:
        columns["label"] = labels
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def all_right(store: dst.runs.store.RunStore, count: int) -> None:
    results = list(store.results())
    assert len(results) == count
    assert all(result.correct for result in results)


def test_labels_of_a_folder_are_classes_and_are_recorded(engine, tmp_path):
    """The kinds of repro_folder_labels: right on every image, so accuracy is 100 % or the run is refused."""
    numbers = folder_of(tmp_path / "numbers", {str(k): k for k in range(CLASSES)})
    with dst.certify(engine=engine, data=numbers, out=tmp_path / "a.sqlite", **HOW) as store:
        all_right(store, CLASSES)
        assert store.record.labels == {"by": "number", "classes": {str(k): k for k in range(CLASSES)}}
    assert dst.verify(tmp_path / "a.sqlite", fraction=1).agrees

    knowing = named(engine, [f"level {k}" for k in range(CLASSES)], tmp_path / "named.onnx")
    two = folder_of(tmp_path / "two", {"level_10": 10, "Level-2": 2})
    with dst.certify(engine=knowing, data=two, out=tmp_path / "b.sqlite", **HOW) as store:
        all_right(store, 2)
        summary = summarise(store)
        assert "labels: by the name of each class (2 = Level-2, 10 = level_10)" in text_table([summary])
        assert '"level_10"' in page([summary], seen=[look(store, summary, noisy=0)])
    assert dst.verify(tmp_path / "b.sqlite", fraction=1).agrees
    with pytest.raises(InputError, match="has 2 classes .*give class_map FILE"):
        dst.certify(engine=engine, data=two, **HOW)
    (tmp_path / "map.txt").write_text("level_10,10\nLevel-2,2\n")
    with dst.certify(
        engine=engine, data=two, class_map=tmp_path / "map.txt", out=tmp_path / "c.sqlite", **HOW
    ) as store:
        all_right(store, 2)
    (tmp_path / "map.txt").unlink()
    assert dst.verify(tmp_path / "c.sqlite", fraction=1).agrees  # the run records what the map said
    (tmp_path / "map.txt").write_text("level_10,2\nLevel-2,10\n")
    with pytest.raises(InputError, match="differs in .*labels"):
        dst.certify(
            engine=engine, data=two, class_map=tmp_path / "map.txt", out=tmp_path / "c.sqlite", resume=True, **HOW
        )


def test_label_orders_that_differ_are_mapped_in_a_run(engine, tmp_path):
    """huggingface/datasets#2457 with a folder's and a table's classes."""
    names = [f"level {k}" for k in range(CLASSES)]
    knowing = named(engine, names, tmp_path / "named.onnx")
    turned = [name.upper() for name in reversed(names)]
    data = parquet(tmp_path / "d.parquet", [encoded(picture(k)) for k in (0, 7)], [11, 4], turned)
    with dst.certify(engine=knowing, data=data, **HOW) as store:
        all_right(store, 2)
        assert store.record.labels["by"] == "name"


def test_a_users_own_file_says_what_its_classes_are_called(linear_classifier, tmp_path):
    """Metadata of Ultralytics: folders are matched by name, and images without labels are shown with names."""
    c = LEVELS / 255
    model = onnx.load(linear_classifier(np.repeat((2 * c / 48)[:, None], 48, axis=1), -(c**2), facts=False))
    names = [f"{10 * (CLASSES - k)} degrees" for k in range(CLASSES)]
    onnx.helper.set_model_props(model, {"names": str(dict(enumerate(names)))})
    onnx.save(model, tmp_path / "own.onnx")
    folder = folder_of(tmp_path / "d", {"20-degrees": 10, "100 Degrees": 2})
    with dst.certify(engine=tmp_path / "own.onnx", data=folder, **HOW) as store:
        all_right(store, 2)
        assert store.record.labels == {"by": "name", "classes": {"20-degrees": 10, "100 Degrees": 2}}
        assert class_names(store.record)[1:3] == ("110 degrees", "100 Degrees")
    parquet(tmp_path / "d.parquet", [encoded(picture(4))])
    given = {name: value for name, value in HOW.items() if name != "n0"}
    with dst.predict(engine=tmp_path / "own.onnx", data=tmp_path / "d.parquet", out=tmp_path / "r.sqlite", **given):
        pass
    with dst.open_run(tmp_path / "r.sqlite") as store:
        summary = summarise(store)
        assert class_names(store.record) == tuple(names)
        assert '"80 degrees"' in page([summary], seen=[look(store, summary, noisy=0)])


@pytest.mark.parametrize("bad", ["cmyk", "size", "damaged"])
def test_bad_images_are_known_before_the_run_or_skipped(engine, tmp_path, bad):
    """The kind of repro_bad_row_resume; damaged pixels (fizyr/keras-retinanet#855) are seen when they are reached alone."""
    rows = [encoded(picture(k)) for k in (1, 2, 3, 4)]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    broken = {
        "cmyk": encoded(picture(3).convert("CMYK"), "JPEG"),
        "size": encoded(picture(3, 5)),
        "damaged": encoded(noise)[:-30],
    }
    data = parquet(tmp_path / "d.parquet", [*rows[:2], broken[bad], rows[3]], [1, 2, 3, 4])
    given = {"engine": engine, "data": data, "out": tmp_path / "r.sqlite", **HOW}
    with pytest.raises(InputError, match=r"row 2|image 2 .*; bad_images skip goes on without"):
        dst.certify(**given)
    assert given["out"].exists() == (bad == "damaged")
    with dst.certify(**given, resume=True, bad_images="skip") as store:
        results = list(store.results())
        assert [result.predict for result in results] == [1, 2, -1, 4]
        assert [result.label for result in results] == [1, 2, 3, 4]
        assert list(store.record.skipped) == [2]
        shown = text_table([summarise(store)])
        assert "75.0%" in shown
        assert "skipped: 1 images that cannot be used, counted as not certified (image 2: " in shown
    assert status(given["out"]).done == 4
    verified = dst.verify(given["out"], fraction=1)
    assert verified.agrees
    assert any("1 images were skipped" in note for note in verified.notes)

    parquet(tmp_path / "d.parquet", rows, [1, 2, 3, 4])  # repaired: that image was not drawn from
    assert any(
        "recorded as one that cannot be used" in said for said in dst.verify(given["out"], fraction=1).mismatches
    )
    with dst.certify(**given, resume=True) as store:
        all_right(store, 4)
        assert not store.record.skipped
        assert "the data set changed during the run" in text_table([summarise(store)])
    assert dst.verify(given["out"], fraction=1).agrees


def test_skipped_images_of_shards_and_predictions_count_too(engine, tmp_path):
    rows = [encoded(picture(k)) for k in range(4)]
    rows[1] = rows[2] = b"nonsense"
    data = parquet(tmp_path / "d.parquet", rows, [0, 1, 2, 3])
    given = {"engine": engine, "data": data, "bad_images": "skip", **HOW}
    parts = []
    for part in ("1/2", "2/2"):
        parts.append(tmp_path / f"{part[0]}.sqlite")
        dst.certify(**given, out=parts[-1], shard=part, key_file=tmp_path / "key.txt").close()
    with dst.merge(parts, tmp_path / "all.sqlite") as store:
        assert [result.predict for result in store.results()] == [0, -1, -1, 3]
    assert dst.verify(tmp_path / "all.sqlite", fraction=1).agrees
    given.pop("n0")
    with dst.predict(**given, tsv=tmp_path / "p.tsv", out=tmp_path / "p.sqlite") as store:
        assert [result.correct for result in store.results()] == [True, False, False, True]
        assert "50.0%" in text_table([summarise(store)])
    lines = (tmp_path / "p.tsv").read_text().splitlines()
    assert [line.split("\t")[:5] for line in lines[1:]][1] == ["1", "1", "-1", "0.0", "0"]


def test_pages_and_transfers_take_the_runs_labels_and_leave_out_what_it_skipped(engine, tmp_path):
    folder = folder_of(tmp_path / "f", {str(k): k for k in range(CLASSES)})
    (folder / "10" / "a.png").write_bytes(b"nonsense")  # row 2: its name is before 2 as text
    out = tmp_path / "r.sqlite"
    dst.certify(engine=engine, data=folder, bad_images="skip", out=out, **HOW).close()
    with dst.open_run(out) as store:
        assert [row for row, _ in store.record.skipped.items()] == [2]
        summary = summarise(store)
        seen = look(store, summary, noisy=0)
        assert (seen.drawn[2], seen.drawn[3], seen.votes[2]) == (0, 200, ())
        assert sorted(seen.pictures) == [row for row in range(CLASSES) if row != 2]
        assert not [note for note in seen.notes if "pictures of" in note]
        assert page([summary], seen=[seen])
    engines, other = EngineChoice(backend="onnxruntime", batch=20), named(engine, ["x"] * CLASSES, tmp_path / "g.onnx")
    config = TransferConfig(run=out, out=tmp_path / "t.json", files={"engine": other}, pairs=200, engines=engines)
    assert len(transfer(config).images) == CLASSES - 1
    assert verify_transfer(tmp_path / "t.json", given={}, fraction=1, seed=1).agrees


def test_images_that_are_all_unusable_are_refused(engine, tmp_path):
    data = parquet(tmp_path / "d.parquet", [encoded(picture(k, 5)) for k in range(3)], [0, 1, 2])
    for how in ("refuse", "skip"):
        with pytest.raises(
            InputError, match=r"image 0 is \(5, 5, 3\), the engine takes \(4, 4, 3\): pass resize 4 crop 4"
        ):
            dst.certify(engine=engine, data=data, bad_images=how, **HOW)
    with dst.certify(engine=engine, data=data, resize=4, **HOW) as store:
        all_right(store, 3)
    np.savez(tmp_path / "grey.npz", images=np.full((1, 4, 4, 1), LEVELS[5], np.uint8), labels=[5])
    with pytest.raises(InputError, match=r"image 0 is \(4, 4, 1\), the engine takes \(4, 4, 3\): pass channels 3"):
        dst.certify(engine=engine, data=tmp_path / "grey.npz", **HOW)
    with dst.certify(engine=engine, data=tmp_path / "grey.npz", channels=3, **HOW) as store:
        all_right(store, 1)
        assert "--channels 3" in text_table([summarise(store)])


def test_images_without_labels_have_answers_and_no_accuracy(engine, tmp_path):
    data = parquet(tmp_path / "d.parquet", [encoded(picture(k)) for k in (5, 6)])
    with dst.certify(engine=engine, data=data, out=tmp_path / "r.sqlite", tsv=tmp_path / "r.tsv", **HOW) as store:
        assert [result.predict for result in store.results()] == [5, 6]
        summary = summarise(store)
    shown = text_table([summary])
    assert "labels: none, so there is no accuracy" in shown
    assert "certified, whatever the class is: 100.0% at 0" in shown
    assert shown.splitlines()[-1].split()[2:8] == ["-"] * 6
    assert page([summary])
    assert "the images have no labels" in (tmp_path / "r.tsv").read_text()
    with pytest.raises(InputError, match="have no labels"):
        envelope([summary])
    assert dst.verify(tmp_path / "r.sqlite", fraction=1).agrees


def test_what_is_turned_left_out_or_of_other_colours_is_said(engine, tmp_path):
    folder = folder_of(tmp_path / "f", {str(k): k for k in range(3)})
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).save(folder / "1" / "b.jpg", exif=exif)
    picture(1).save(folder / "1" / "c.jpg", icc_profile=b"x")
    (folder / "1" / "d.txt").write_text("x")
    with dst.certify(engine=engine, data=folder, **HOW) as store:
        all_right(store, 5)
        shown = text_table([summarise(store)])
    assert "turned: 1 images, as their EXIF orientation says" in shown
    assert "colours: 1 images are not sRGB (1 profile without a name)" in shown
    assert "left out: 1 files that are no images of a class (1/d.txt)" in shown
