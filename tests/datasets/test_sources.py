"""Data as it comes: shards, saved data sets, tars, and rows without labels."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images

PIXELS = np.random.default_rng(4).integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 0, 2, 1]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def table(rows: range, labels: list[object] | None = LABELS, names: list[str] | None = None) -> pa.Table:
    cells = {"image": [{"bytes": png(PIXELS[row]), "path": None} for row in rows]}
    if labels is not None:
        cells["label"] = [labels[row] for row in rows]
    made = pa.table(cells)
    if names is None:
        return made
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def check(images: Images, labels: list[int] | None = LABELS) -> None:
    got = list(images)
    assert [image.index for image in got] == list(images.rows)
    for image in got:
        np.testing.assert_array_equal(image.pixels, PIXELS[image.index])
        assert image.label == (-1 if labels is None else labels[image.index])
    assert [image.label for image in got] == list(images.labels())
    assert images.labelled == (labels is not None)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for number, rows in enumerate((range(3), range(3, 4), range(4, 7))):
        pq.write_table(table(rows), folder / "data" / f"test-{number:05d}-of-00003.parquet", row_group_size=2)
    return folder


def test_shards_are_one_table(shards):
    for path in (shards, shards / "data", shards / "data" / "test-*.parquet"):
        check(Images(path))
        check(Images(path, skip=3))
        check(Images(path, skip=2, limit=2))
    assert Images(shards).identity == Images(shards / "data" / "*.parquet").identity


def test_shards_that_are_missing_or_of_several_splits_are_refused(shards):
    (shards / "data" / "train-00000-of-00001.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds the splits test, train, expected one: give '.*data/test\*\.parquet'"):
        Images(shards)
    remedy = shards / "data" / "test*.parquet"
    check(Images(remedy))
    (shards / "data" / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match=r"holds 2 files of 3 that test has: fetch the others"):
        Images(remedy)
    pq.write_table(pa.table({"image": [b""], "label": ["x"]}), shards / "data" / "test-00001-of-00003.parquet")
    with pytest.raises(InputError, match="has other columns than"):
        Images(remedy)


def test_memory_does_not_grow_with_a_group_of_rows(tmp_path):
    """apache/arrow#36001: a file that pandas writes has all its rows in one group, which PyArrow reads whole unless it is told."""
    rng = np.random.default_rng(0)
    cells = [{"bytes": rng.bytes(3000), "path": None} for _ in range(6000)]
    pq.write_table(pa.table({"image": cells, "label": [0] * 6000}), tmp_path / "one.parquet")
    del cells
    source, before, most = Images(tmp_path / "one.parquet").source, pa.total_allocated_bytes(), 0
    for _ in source.headers(range(6000)):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 9e6 < 18e6 < (tmp_path / "one.parquet").stat().st_size


def test_a_saved_data_set_is_read_where_it_lies(tmp_path):
    """The layout of `Dataset.save_to_disk`: Arrow streams, state.json, dataset_info.json."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for number, rows in enumerate((range(4), range(4, 7))):
        made = table(rows)
        with pa.OSFile(str(folder / f"data-{number:05d}-of-00002.arrow"), "wb") as file:
            with pa.ipc.new_stream(file, made.schema) as stream:
                stream.write_table(made, max_chunksize=3)
    files = [{"filename": f"data-{number:05d}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "x"}))
    features = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    check(Images(folder))
    check(Images(folder, skip=2))
    assert Images(folder).source.names == ("a", "b", "c")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "saved"]}))
    with pytest.raises(InputError, match="holds the splits train, saved, expected one data set: give .*saved$"):
        Images(tmp_path)
    state = {"_data_files": files, "_indices_data_files": [{"filename": "i.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="flatten_indices"):
        Images(folder)
    for damage in ("{", "{}", "[]"):
        (folder / "state.json").write_text(damage)
        with pytest.raises(InputError, match="is not the state of a saved data set"):
            Images(folder)


def test_rows_of_a_damaged_arrow_file_are_refused(tmp_path):
    """Its offsets are not those of texts and bytes: reading them would end the process."""
    made = table(range(4))
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
        stream.write_table(made)
    whole = (tmp_path / "data.arrow").read_bytes()
    offsets = made["image"].combine_chunks().field("bytes").buffers()[1].to_pybytes()[:20]
    assert whole.count(offsets) == 1
    (tmp_path / "data.arrow").write_bytes(whole.replace(offsets, offsets[:4] + b"\xff" * 4 + offsets[8:]))
    with pytest.raises(InputError, match="data.arrow is not a readable Arrow stream"):
        list(Images(tmp_path))


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def samples(rows: range, label: str = "cls") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for row in rows:
        found[f"s/{row:03d}.png"] = png(PIXELS[row])
        found[f"s/{row:03d}.{label}"] = (
            str(LABELS[row]).encode() if label == "cls" else json.dumps({"label": LABELS[row], "caption": "x"}).encode()
        )
    return found


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_tars_are_read_where_they_lie(tmp_path, kind):
    tar_of(tmp_path / "test-000000.tar", samples(range(4), kind))
    last = {
        name if row < 6 else name.upper(): cell
        for row in range(4, 7)
        for name, cell in samples(range(row, row + 1), kind).items()
    }
    tar_of(tmp_path / "test-000001.tar", {**last, "s/notes.txt": b"hello"})
    for path in (tmp_path, tmp_path / "test-*.tar", tmp_path / "test-{000000..000001}.tar"):
        check(Images(path))
        check(Images(path, skip=3))
    assert Images(tmp_path).source.left_out == ("left out: 1 files in it (s/notes.txt)",)
    with pytest.raises(InputError, match=r"names .*test-000002\.tar, which is not there"):
        Images(tmp_path / "test-{000000..000002}.tar")


def test_odd_tars_are_refused_in_one_line(tmp_path):
    half = samples(range(3))
    del half["s/001.cls"]
    cases = {
        "half": (tar_of(tmp_path / "half.tar", half), "row 1 has no label, others have"),
        "two": (tar_of(tmp_path / "two.tar", {"a.png": png(PIXELS[0]), "a.jpg": b"x"}), "two images of sample a"),
        "none": (tar_of(tmp_path / "none.tar", {"a.txt": b"x"}), "holds no images"),
        "json": (tar_of(tmp_path / "json.tar", {"a.png": b"", "a.json": b"{"}), "not a readable, uncompressed tar"),
    }
    (tmp_path / "cut.tar").write_bytes(b"nonsense" * 100)
    cases["cut"] = (tmp_path / "cut.tar", "not a readable, uncompressed tar")
    for path, message in cases.values():
        with pytest.raises(InputError, match=message) as error:
            Images(path)
        assert "\n" not in str(error.value)


def test_labels_of_a_tar_whose_files_lie_apart_are_not_lost(tmp_path):
    """ray-project/ray#65044: consecutive files are a sample, so labels that come later would belong to nothing."""
    images, labels = ({n: c for n, c in samples(range(7)).items() if n.endswith(end)} for end in ("png", "cls"))
    with pytest.raises(
        InputError, match=r"has the label of s/000 apart from its image.*make it again by `tar --sort=name`"
    ):
        Images(tar_of(tmp_path / "a.tar", {**images, **labels}))
    tar_of(tmp_path / "b.tar", {**samples(range(7)), "s/gone.cls": b"1"})  # an image that its maker could not fetch
    check(Images(tmp_path / "b.tar"))
    assert Images(tmp_path / "b.tar").source.left_out == ("left out: 1 labels alone in it (s/gone)",)


def test_files_that_macos_puts_beside_others_part_no_sample(tmp_path):
    """coreruleset/coreruleset#3839: macOS's tar has ._name in front of every name."""
    doubled = {
        each: content
        for name, content in samples(range(7)).items()
        for each, content in ((name.replace("/", "/._"), b"x"), (name, content))
    }
    images = Images(tar_of(tmp_path / "a.tar", doubled))
    check(images)
    assert images.source.left_out[0].startswith("left out: 14 files in it (s/._000.png, ")


def test_links_in_a_tar_are_counted(tmp_path):
    """bestouff/genext2fs#21: GNU tar writes the second of two hard links without its bytes."""
    path = tar_of(tmp_path / "a.tar", samples(range(7)))
    with tarfile.open(path, "a") as tar:
        entry = tarfile.TarInfo("s/again.png")
        entry.type, entry.linkname = tarfile.LNKTYPE, "s/000.png"
        tar.addfile(entry)
    check(Images(path))
    assert Images(path).source.left_out == ("left out: 1 links, which hold no bytes, in it (s/again.png)",)


@pytest.mark.parametrize(("said", "label"), [("3", 3), ("3.0", 3), ('"3"', 3), ('"1_0"', "1_0"), ('"cat"', "cat")])
def test_a_label_of_a_sample_is_a_number_or_a_name(tmp_path, said, label):
    content = {"a.png": png(PIXELS[0]), "a.json": f'{{"label": {said}}}'.encode()}
    source = Images(tar_of(tmp_path / "a.tar", content)).source
    assert (source.names or tuple(source.numbers))[0] == label


@pytest.mark.parametrize("said", ["3.7", "true", "[1]", "{}"])
def test_other_labels_of_a_sample_are_refused(tmp_path, said):
    content = {"a.png": png(PIXELS[0]), "a.json": f'{{"label": {said}}}'.encode()}
    with pytest.raises(InputError, match="expected a class number or a name"):
        Images(tar_of(tmp_path / "a.tar", content))


def test_rows_without_labels_have_none(tmp_path):
    pq.write_table(table(range(7), None), tmp_path / "none.parquet")
    pq.write_table(table(range(7), [-1] * 7), tmp_path / "minus.parquet")
    np.savez(tmp_path / "a.npz", images=PIXELS)
    tar_of(tmp_path / "a.tar", {f"{row}.png": png(PIXELS[row]) for row in range(7)})
    for name in ("none.parquet", "minus.parquet", "a.npz", "a.tar"):
        check(Images(tmp_path / name), None)


def test_label_columns_of_names_are_names(tmp_path):
    names = ["cat", "ant", "bee", "bee", "ant", "cat", "bee"]
    pq.write_table(table(range(7), names), tmp_path / "names.parquet")
    images = Images(tmp_path / "names.parquet")
    assert (images.source.names, images.source.ranked) == (("ant", "bee", "cat"), True)
    assert list(images.labels()) == [2, 0, 1, 1, 0, 2, 1]
    tar_of(
        tmp_path / "a.tar",
        {f"{r}.{e}": d for r in range(7) for e, d in (("png", png(PIXELS[r])), ("cls", names[r].encode()))},
    )
    assert list(Images(tmp_path / "a.tar").labels()) == [2, 0, 1, 1, 0, 2, 1]


def test_grey_images_take_the_channels_that_are_asked_for(tmp_path):
    grey = PIXELS[..., :1]
    np.savez(tmp_path / "grey.npz", images=grey, labels=LABELS)
    for image, pixels in zip(Images(tmp_path / "grey.npz", channels=3), grey, strict=True):
        np.testing.assert_array_equal(image.pixels, np.repeat(pixels, 3, axis=2))
    pq.write_table(
        pa.table({"image": [{"bytes": png(p[..., 0]), "path": None} for p in grey], "label": LABELS}),
        tmp_path / "g.parquet",
    )
    for image, pixels in zip(Images(tmp_path / "g.parquet", channels=1), grey, strict=True):
        np.testing.assert_array_equal(image.pixels, pixels)
    np.savez(tmp_path / "colour.npz", images=PIXELS, labels=LABELS)
    with pytest.raises(InputError, match="the image has colours, channels 1 is for grey ones"):
        list(Images(tmp_path / "colour.npz", channels=1))


def test_the_distance_of_a_grey_image_counts_every_channel(tmp_path):
    floats = np.full((1, 2, 2, 1), 0.5, np.float64)  # half a step from both neighbours
    np.savez(tmp_path / "f.npz", images=floats, labels=[0])
    (one,) = Images(tmp_path / "f.npz", quantise=True)
    (three,) = Images(tmp_path / "f.npz", quantise=True, channels=3)
    assert three.distance == pytest.approx(one.distance * np.sqrt(3))
    assert three.distance >= 0.5 / 255 * np.sqrt(12)
