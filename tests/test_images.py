"""Image sources: the same rows by the same numbers, 8-bit pixels, one-line refusals."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from diffsmooth_trt import zoo
from diffsmooth_trt.datasets import Classes
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.grid import denoted, distance, on_grid
from diffsmooth_trt.images import FILTERS, ImageChoice, Images, decode

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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_a_float_means_is_decided_by_its_last_digits(kind):
    """Every k/255, divided or multiplied, and the floats next to the nearest; two floats away is off the grid."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    nearest = levels.astype(kind) / kind(255)
    taken = {
        "divided": nearest, "multiplied": levels.astype(kind) * (kind(1) / kind(255)),
        "above": np.nextafter(nearest, kind(2)), "below": np.nextafter(nearest, kind(-1)),
    }  # fmt: skip
    for values in taken.values():
        np.testing.assert_array_equal(on_grid(values, "x"), levels)
        assert distance(values[0], levels[0]) == 0.0
    for end in (2, -1):
        further = np.nextafter(np.nextafter(nearest, kind(end)), kind(end))
        assert not denoted(further, levels).any()
        with pytest.raises(
            InputError, match=rf"x holds {np.dtype(kind)} images off the 8-bit grid .*quantise=True pass it"
        ):
            on_grid(further, "x")
    assert on_grid(nearest.astype(f">f{nearest.itemsize}"), "x").tolist() == levels.tolist()


@pytest.mark.parametrize("step", [0.00099, 1e-3, 1e-6])
def test_nothing_is_moved_in_silence(step):
    with pytest.raises(InputError, match="off the 8-bit grid"):
        on_grid(np.full((1, 4, 4, 3), (128 - step) / 255), "x")


def test_half_precision_is_no_matter_of_last_digits():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    half = (levels / 255).astype(np.float16)
    with pytest.raises(InputError, match="float16 images off the 8-bit grid"):
        on_grid(half, "x")
    assert on_grid(half, "x", quantise=True).tolist() == levels.tolist()
    assert denoted(half, levels).ravel().tolist() == [True, *[False] * 254, True]
    assert 1e-4 < distance(half[0], levels[0]) < 16 * 2.5e-4
    with pytest.raises(InputError, match="dtype float128|dtype longdouble"):
        on_grid(levels.astype(np.longdouble) / 255, "x", quantise=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_distances_are_rounded_up(kind):
    rng = np.random.default_rng(7)
    for size, spread in ((2, 0.5), (16, 0.5), (9, 1e-4), (5, 1e-12)):
        base = rng.integers(0, 256, (size, size, 3))
        values = np.clip((base + rng.uniform(-spread, spread, base.shape)) / 255, 0, 1).astype(kind)
        pixels = on_grid(values[None], "x", quantise=True)[0]
        moved = ~denoted(values, pixels)
        exact = sum(
            (Fraction(float(x)) - Fraction(int(k), 255)) ** 2 for x, k in zip(values[moved], pixels[moved], strict=True)
        )
        found = Fraction(distance(values, pixels))
        assert exact <= found**2
        assert float(found) <= float(exact) ** 0.5 * (1 + 1e-12) + moved.sum() ** 0.5 * 2.0**-44 / 255


def test_the_distance_is_of_the_pixels_that_are_left(tmp_path):
    floats = np.full((2, 6, 6, 3), 128 / 255)
    floats[0, 2:4, 2:4] += 0.25 / 255  # 12 coordinates by a quarter of a step
    floats[0, 0, 0] += 0.4 / 255
    np.savez(tmp_path / "x.npz", images=floats, labels=[0, 1])
    (first, second) = Images(tmp_path / "x.npz", quantise=True, crop=2)
    assert (first.distance, second.distance) == (pytest.approx(0.25 * 12**0.5 / 255, rel=1e-9), 0.0)
    (whole, _) = Images(tmp_path / "x.npz", quantise=True, resize=6)
    assert whole.distance == pytest.approx((12 * 0.25**2 + 3 * 0.4**2) ** 0.5 / 255, rel=1e-9)
    resized = Images(tmp_path / "x.npz", quantise=True, resize=3)
    with pytest.raises(InputError, match="image 0 is off the 8-bit grid and resize 3 works on 8-bit pixels"):
        list(resized)
    np.savez(tmp_path / "y.npz", images=np.full((1, 6, 6, 3), 128, np.uint8), labels=[0])
    assert [image.distance for image in Images(tmp_path / "y.npz", quantise=True, resize=3)] == [0.0]


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
    for options, message in (
        ({"skip": 0}, "skip must"),
        ({"limit": 0}, "max must"),
        ({"crop": 99}, "larger than the image"),
    ):
        with pytest.raises(InputError, match=message):
            list(Images(parquet, **options))


def encoded(picture: PillowImage.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png_chunks(colour: int, bits: int, row: bytes) -> bytes:
    """A PNG of one row of two pixels, written by hand: Pillow writes no 16-bit RGB."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PICTURE = PillowImage.fromarray(PIXELS[0])
CLEAR = PICTURE.copy()
CLEAR.putalpha(254)
OPAQUE = PICTURE.copy()
OPAQUE.putalpha(255)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_chunks(2, 16, b"\x12\x34" * 6), "16 bits a channel"),
        (png_chunks(6, 16, b"\x12\x34" * 6 + b"\xff" * 4), "16 bits a channel|not a readable image"),
        (b"P6 2 1 65535\n" + b"\x12\x34" * 6, "values up to 65535"),
        (b"P6 2 1 100\n" + b"\x12" * 6, "values up to 100"),
        (b"P3 2 1 1000\n1 2 3 4 5 6\n", "values up to 1000"),
        (encoded(CLEAR), "transparent pixels"),
        (encoded(CLEAR.convert("LA")), "transparent pixels"),
        (encoded(CLEAR, "WEBP", lossless=True), "transparent pixels"),
        (encoded(PICTURE, transparency=tuple(map(int, PIXELS[0, 0, 0]))), "transparent pixels"),
        (encoded(PICTURE.convert("P"), transparency=PICTURE.convert("P").getpixel((0, 0))), "transparent pixels"),
        (encoded(PICTURE.convert("CMYK"), "JPEG"), "pixel mode CMYK"),
        (encoded(PICTURE.convert("YCbCr"), "TIFF"), "pixel mode YCbCr"),
        (encoded(PICTURE, "ICO"), "PNG, JPEG, BMP, WEBP, PPM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_8_bits_of_rgb_cannot_hold_is_refused(data, message):
    with pytest.raises(InputError, match=f"^x.*({message})") as error:
        decode(data, "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        encoded(PICTURE),
        encoded(OPAQUE),
        encoded(PICTURE, "BMP"),
        encoded(PICTURE, "PPM"),
        encoded(PICTURE, "WEBP", lossless=True),
        encoded(PICTURE, transparency=(1, 2, 3)),  # a transparent colour that no pixel has
    ],
)
def test_what_8_bits_of_rgb_hold_is_read(data):
    np.testing.assert_array_equal(decode(data, "x"), PIXELS[0])


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_grey_and_palette_images_are_read_as_rgb(mode):
    picture = PICTURE.convert(mode)
    np.testing.assert_array_equal(decode(encoded(picture), "x"), np.asarray(picture.convert("RGB")))
    assert decode(encoded(PICTURE, "JPEG"), "x").shape == PIXELS[0].shape
    assert decode(encoded(PICTURE.convert("1"), "PPM"), "x").max() == 255


CELL = {"bytes": png(PIXELS[0]), "path": None}


@pytest.mark.parametrize("labels", [[0.0, 1.5], [b"0", b"1"], [True, False]])
def test_parquet_labels_of_other_types_are_refused_on_opening(tmp_path, labels):
    pq.write_table(pa.table({"image": [CELL, CELL], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet column 'label' is .*expected integers"):
        Images(tmp_path / "a.parquet")


@pytest.mark.parametrize("cells", [["x", "y"], [1, 2], [{"path": "x"}, {"path": "y"}], [{"bytes": 1}, {"bytes": 2}]])
def test_parquet_images_of_other_types_are_refused_on_opening(tmp_path, cells):
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet column 'image' is .*expected encoded bytes"):
        Images(tmp_path / "a.parquet")


def test_parquet_rows_without_label_or_image_are_named(tmp_path):
    pq.write_table(pa.table({"image": [CELL] * 3, "label": [0, None, 1]}), tmp_path / "label.parquet")
    images = Images(tmp_path / "label.parquet")
    for read in (images, images.labels()):
        with pytest.raises(InputError, match="row 1 has no label"):
            list(read)
    assert list(Images(tmp_path / "label.parquet", skip=2).labels()) == [0, 1]
    for hole in (None, {"bytes": None, "path": "x"}):
        pq.write_table(pa.table({"image": [CELL, CELL, hole], "label": [0, 1, 2]}), tmp_path / "image.parquet")
        with pytest.raises(InputError, match="row 2 holds no image bytes"):
            list(Images(tmp_path / "image.parquet"))


def test_a_parquet_file_damaged_in_its_data_is_refused_in_one_line(parquet, tmp_path):
    column = pq.ParquetFile(parquet).metadata.row_group(0).column(0)
    data, size = bytearray(parquet.read_bytes()), column.total_compressed_size
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + size] = b"\xff" * size
    (tmp_path / "b.parquet").write_bytes(data)
    assert len(Images(tmp_path / "b.parquet")) == 7  # its footer is whole
    with pytest.raises(InputError, match=r"b\.parquet is not a readable parquet file") as error:
        list(Images(tmp_path / "b.parquet"))
    assert "\n" not in str(error.value)


def folder_of(path: Path, names: list[str]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(png(PIXELS[0]))
    return path


def test_what_is_no_class_or_no_image_does_not_move_labels_or_rows(tmp_path):
    folder = folder_of(
        tmp_path / "f", ["a/1.png", "b/1.png", "b/deep/2.PNG", ".cache/0.png", "b/.x/0.png", "b/._1.png"]
    )
    (folder / "a" / "0.png").mkdir()
    images = Images(folder)
    assert [image.label for image in images] == list(images.labels()) == [0, 1, 1]
    assert [file.name for file in images.source.files] == ["1.png", "1.png", "2.PNG"]


def test_a_class_without_images_is_refused(tmp_path):
    """Skipped, it would give every class behind it another label, where ranks are labels."""
    folder = folder_of(tmp_path / "f", ["a/1.png", "c/1.png"])
    (folder / "b.bin").mkdir()  # nor is this a CIFAR file
    images = Images(folder)
    with pytest.raises(InputError, match=r"sub-folders without images \(b\.bin\)"):
        images.match(Classes(3))
    images.match(Classes(3, ("c", "b.bin", "a")))
    assert list(images.labels()) == [2, 0]


def test_broken_links_and_devices_are_refused(tmp_path):
    folder = folder_of(tmp_path / "f", ["a/1.png"])
    (folder / "a" / "2.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"2\.png is a broken link"):
        list(Images(folder))
    left = Images(folder, bad_images="skip")
    assert [image.index for image in left] == [0]
    assert list(left.skipped) == [1]
    (folder / "a" / "2.png").unlink()
    os.mkfifo(folder / "a" / "2.png")
    with pytest.raises(InputError, match=r"2\.png is a broken link or a device"):
        list(Images(folder))


def test_an_image_that_vanished_is_named(tmp_path):
    folder = folder_of(tmp_path / "f", ["a/1.png"])
    images = Images(folder)
    (folder / "a" / "1.png").unlink()
    for read in (lambda: list(images), lambda: images.identity):
        with pytest.raises(InputError, match=r"1\.png is not a readable image"):
            read()


def test_missing_permission_is_called_so(parquet, tmp_path, monkeypatch):
    """Permissions do not bind every user that tests run as, so the system's answer is given by hand."""
    folder = folder_of(tmp_path / "f", ["a/1.png"])
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    (tmp_path / "a.bin").write_bytes(bytes(3073))
    images = Images(folder)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    def refused(read) -> None:
        with pytest.raises(InputError, match="permission denied.*read permission") as error:
            read()
        assert "again" not in str(error.value)

    monkeypatch.setattr(PillowImage, "open", forbidden)
    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    monkeypatch.setattr(pq, "ParquetFile", forbidden)
    monkeypatch.setattr(np, "fromfile", forbidden)
    refused(lambda: list(images))
    for name in ("a.npz", "a.bin", "images.parquet"):
        refused(lambda name=name: Images(tmp_path / name))
    monkeypatch.setattr(os, "scandir", forbidden)
    refused(lambda: Images(folder))
    monkeypatch.setattr(Path, "exists", forbidden)
    refused(lambda: Images(folder))


def test_npz_files_that_are_something_else(tmp_path):
    plain = tmp_path / "plain.npz"
    with plain.open("wb") as file:
        np.save(file, PIXELS)
    np.savez_compressed(tmp_path / "whole.npz", images=PIXELS, labels=LABELS)
    data = bytearray((tmp_path / "whole.npz").read_bytes())
    data[60:90] = b"\xff" * 30
    (tmp_path / "damaged.npz").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "foreign.npz", "w") as archive:
        archive.writestr("images", "text")
        archive.writestr("labels", "text")
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 4, 4, 3)), labels=np.zeros(0, np.int64))
    np.savez(tmp_path / "flat.npz", images=np.zeros((2, 0, 4, 3)), labels=np.zeros(2, np.int64))
    for name, message in (
        ("plain", "holds a single array"),
        ("damaged", r"not a readable \.npz"),
        ("foreign", "expected 'images' and 'labels'"),
        ("none", "holds no images"),
        ("flat", r"expected \[N, H, W, C\]"),
    ):
        with pytest.raises(InputError, match=rf"{name}\.npz.*{message}") as error:
            Images(tmp_path / f"{name}.npz")
        assert "\n" not in str(error.value)


def test_floats_beyond_range_are_refused_without_a_warning():
    with pytest.raises(InputError, match="outside"):
        on_grid(np.full((1, 2, 2, 3), 1e308), "x")


def test_grey_arrays_are_resized_and_cropped(tmp_path):
    np.savez(tmp_path / "grey.npz", images=PIXELS[..., :1], labels=LABELS)
    (image, *_) = Images(tmp_path / "grey.npz", resize=4, crop=3)
    assert image.pixels.shape == (3, 3, 1)
    small = np.asarray(PillowImage.fromarray(PIXELS[0, :, :, 0]).resize((5, 4), PillowImage.Resampling.BICUBIC))
    np.testing.assert_array_equal(image.pixels[:, :, 0], small[:3, 1:4])


def test_sizes_are_bounded(parquet, tmp_path):
    for name in ("resize", "crop"):
        with pytest.raises(InputError, match=f"{name} must be at most 16384 pixels, got 16385"):
            Images(parquet, **{name: 16385})
    np.savez(tmp_path / "long.npz", images=np.zeros((1, 1, 30, 1), np.uint8), labels=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="resize 1000 makes an image"):
        list(Images(tmp_path / "long.npz", resize=1000))


def test_labels_are_read_without_pixels(tmp_path):
    pq.write_table(pa.table({"img": [{"bytes": b"no image"}] * 600, "label": [*range(600)]}), tmp_path / "a.parquet")
    assert list(Images(tmp_path / "a.parquet", skip=7, limit=80).labels()) == list(range(0, 560, 7))
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    assert list(Images(tmp_path / "a.npz", skip=2).labels()) == LABELS[::2].tolist()


def test_a_file_is_identified_by_its_bytes(parquet, tmp_path):
    expected = hashlib.sha256(parquet.read_bytes()).hexdigest()
    assert Images(parquet).identity == Images(parquet, skip=3, resize=4).identity == expected
    row = bytes([1]) + bytes(3072)
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.bin").write_bytes(row * number)
        (tmp_path / str(number) / "b.bin").write_bytes(row)
    assert Images(tmp_path / "1").identity != Images(tmp_path / "2").identity
    assert Images(tmp_path / "1" / "b.bin").identity == hashlib.sha256(row).hexdigest()


def test_a_folder_is_identified_by_names_sizes_and_labels(tmp_path):
    names = ["a/1.png", "b/1.png"]
    first = Images(folder_of(tmp_path / "first", names)).identity
    assert len(first) == 64
    assert Images(folder_of(tmp_path / "same", names)).identity == first
    others = [folder_of(tmp_path / "more", [*names, "b/2.png"]), folder_of(tmp_path / "name", ["a/1.png", "b/3.png"])]
    others.append(folder_of(tmp_path / "label", [*names, "a/2.png"]))
    bigger = folder_of(tmp_path / "size", names)
    (bigger / "a/1.png").write_bytes(png(PIXELS[1]) + b" ")
    odd = folder_of(tmp_path / "odd", ["a/\udcff.png", "b/1.png"])  # a name that is no UTF-8
    found = {Images(folder).identity for folder in (*others, bigger, odd)}
    assert len(found | {first}) == 6


@pytest.mark.parametrize("mode", FILTERS)
@pytest.mark.parametrize("side", [5, 20])
def test_resize_mode_is_the_filter_of_pillow(images_npz, mode, side):
    """Smaller and larger than the images; a record has the filter where it is not the default, as older ones have none."""
    path = images_npz(count=2, shape=(3, 8, 11))
    before = next(iter(Images(path))).pixels
    choice = ImageChoice(resize=side, resize_mode=mode)
    after = next(iter(Images.chosen(path, choice))).pixels
    size = (int(side * 11 / 8), side)
    expected = PillowImage.fromarray(before).resize(size, getattr(PillowImage.Resampling, mode.upper()))
    assert np.array_equal(after, np.asarray(expected))
    assert ImageChoice.of_record(choice.recorded()) == choice
    assert ("resize_mode" in choice.recorded()) == (mode != "bicubic")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resize": 4, "resize_mode": "cubic"}, "'cubic' is unknown: use one of bicubic, bilinear"),
        ({"resize_mode": "nearest"}, "is for resize: give that too"),
    ],
)
def test_filters_that_cannot_be_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        ImageChoice(**given)
