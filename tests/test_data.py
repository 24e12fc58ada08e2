"""Image sources: the same rows by the same numbers, 8-bit pixels, one-line refusals."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from diffsmooth_trt import zoo
from diffsmooth_trt.data import Images, on_grid
from diffsmooth_trt.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 8, 10, 3), dtype=np.uint8)
LABELS = np.arange(7) % 3


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    PillowImage.fromarray(pixels, mode).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def parquet(tmp_path):
    cells = [{"bytes": png(p), "path": None} for p in PIXELS]
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": cells, "label": LABELS}), path, row_group_size=2)
    return path


def check(images: Images, rows: list[int]) -> None:
    got = list(images)
    assert [image.index for image in got] == rows
    for image in got:
        np.testing.assert_array_equal(image.pixels, PIXELS[image.index])
        assert image.label == LABELS[image.index]


def test_parquet_npz_and_folder_agree(parquet, tmp_path):
    npz = tmp_path / "images.npz"
    np.savez(npz, images=PIXELS, labels=LABELS)
    folder = tmp_path / "folder"
    for row, pixels in enumerate(PIXELS):
        (folder / f"class{LABELS[row]}").mkdir(parents=True, exist_ok=True)
        (folder / f"class{LABELS[row]}" / f"{row}.png").write_bytes(png(pixels))
    for path in (parquet, npz):
        check(Images(path), list(range(7)))
        check(Images(path, skip=3), [0, 3, 6])
        check(Images(path, skip=2, limit=2), [0, 2])
    got = list(Images(folder))
    assert [image.label for image in got] == sorted(LABELS)
    np.testing.assert_array_equal(got[0].pixels, PIXELS[0])


def test_floats_on_the_grid_are_taken_and_others_refused(tmp_path):
    assert on_grid(PIXELS.astype(np.float32) / np.float32(255), "x").dtype == np.uint8
    np.testing.assert_array_equal(on_grid(PIXELS / 255.0, "x"), PIXELS)
    off = np.full((1, 4, 4, 3), 0.5)
    with pytest.raises(InputError, match="off the 8-bit grid"):
        on_grid(off, "x")
    assert on_grid(off, "x", quantise=True)[0, 0, 0, 0] == 128
    for bad in (np.full((1, 4, 4, 3), 2.0), np.full((1, 4, 4, 3), np.nan)):
        with pytest.raises(InputError, match=r"outside \[0, 1\]"):
            on_grid(bad, "x")
    with pytest.raises(InputError, match="dtype int64"):
        on_grid(np.zeros((1, 4, 4, 3), dtype=np.int64), "x")


@pytest.mark.parametrize(("head", "last"), [(1, 9), (2, 99)])
def test_cifar_binary(tmp_path, head, last):
    rows = RNG.integers(0, 256, (3, head + 3072), dtype=np.uint8)
    rows[:, :head] = last
    path = tmp_path / "test_batch.bin"
    rows.tofile(path)
    for source in (path, tmp_path):
        images = list(Images(source))
        assert [image.label for image in images] == [last] * 3
        np.testing.assert_array_equal(images[1].pixels.transpose(2, 0, 1).ravel(), rows[1, head:])


def test_resize_and_crop_stay_on_8_bits(parquet):
    image = next(iter(Images(parquet, resize=4, crop=4)))
    assert image.pixels.shape == (4, 4, 3)
    assert image.pixels.dtype == np.uint8


def test_zoo_images():
    images = Images(zoo.IMAGES)
    assert len(images) == 100
    assert {image.pixels.shape for image in images} == {(32, 32, 3)}


def test_bad_sources(parquet, tmp_path):
    def write(name: str, data: bytes):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    wrong = tmp_path / "wrong.parquet"
    pq.write_table(pa.table({"a": [1]}), wrong)
    damaged = tmp_path / "damaged.parquet"
    pq.write_table(pa.table({"img": [{"bytes": png(PIXELS[0])[:60], "path": None}], "label": [0]}), damaged)
    deep = tmp_path / "deep.parquet"
    sixteen = png(np.zeros((4, 4), dtype=np.uint16))
    pq.write_table(pa.table({"img": [{"bytes": sixteen, "path": None}], "label": [0]}), deep)
    shapes = tmp_path / "shapes.npz"
    np.savez(shapes, images=PIXELS[0], labels=LABELS)
    names = tmp_path / "names.npz"
    np.savez(names, a=PIXELS)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, images=np.array([{}], dtype=object), labels=LABELS)
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "none.parquet", "does not exist"),
        (write("cut.parquet", parquet.read_bytes()[:200]), "not a readable parquet"),
        (wrong, "has columns a"),
        (damaged, "row 0 is not a readable image"),
        (deep, "8-bit"),
        (write("cut.npz", b"PK\x03\x04abc"), r"not a readable \.npz"),
        (shapes, r"expected \[N, H, W, C\]"),
        (names, "expected 'images' and 'labels'"),
        (pickled, "plain arrays"),
        (write("x.bin", b"123"), "not CIFAR"),
        (write("x.txt", b"123"), "no known kind"),
        (tmp_path / "empty", "holds no images"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message) as error:
            list(Images(path))
        assert "\n" not in str(error.value)
    for options, message in (({"skip": 0}, "--skip"), ({"limit": 0}, "--max"), ({"crop": 99}, "larger than the image")):
        with pytest.raises(InputError, match=message):
            list(Images(parquet, **options))
