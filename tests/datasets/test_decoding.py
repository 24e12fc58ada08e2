"""What an encoded image shows: turned as its EXIF says, 8 bits or refused, and what its header says without decoding."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from diffsmooth_trt.datasets.decoding import Header, decode, header, suffixes
from diffsmooth_trt.errors import InputError

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 10, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(kind: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_everybody_turns_them(kind, orientation):
    """huggingface/datasets#6252 and its mends: `ImageOps.exif_transpose`; the header says the size that comes out."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(kind, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode(data, "x"), shown)
    assert header(data, "x") == Header(shown.shape[:2], turned=orientation > 1)


@pytest.mark.parametrize("broken", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_data_says_nothing(broken):
    data = encoded("JPEG", exif=broken)
    np.testing.assert_array_equal(decode(data, "x"), decode(encoded("JPEG"), "x"))
    assert header(data, "x") == Header((6, 10))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("GIF", "TIFF", "DIB", "TGA", "QOI", "PCX", "SGI")),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_exact_formats_give_their_pixels(kind, options):
    data = encoded(kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, "x"), expected)
    np.testing.assert_array_equal(expected, PIXELS)
    assert header(data, "x") == Header((6, 10))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG2000"])
def test_16_bit_images_are_refused_as_they_would_be_cut(kind):
    """python-pillow/Pillow#5248: a 16-bit TIFF whose numbers come out as others."""
    for read in (decode, header):
        with pytest.raises(InputError, match="x has (pixel mode I;16|16 bits a channel)"):
            read(encoded(kind, Image.fromarray(np.full((4, 4), 1000, np.uint16))), "x")


def test_16_bit_rgb_which_pillow_cuts_in_silence_is_refused(tmp_path):
    rows = (np.arange(48, dtype="<u2") * 1000).tobytes()
    tags = [(256, 3, 4), (257, 3, 4), (258, 3, None), (259, 3, 1), (262, 3, 2), (273, 4, 14), (277, 3, 3)]
    tags += [(278, 3, 4), (279, 4, 96)]
    start = 8 + 6 + len(rows)
    entries = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        + (3 if value is None else 1).to_bytes(4, "little") + (8 if value is None else value).to_bytes(4, "little")
        for tag, kind, value in tags
    )  # fmt: skip
    data = (
        b"II*\0"
        + start.to_bytes(4, "little")
        + b"\x10\0" * 3
        + rows
        + len(tags).to_bytes(2, "little")
        + entries
        + b"\0" * 4
    )
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"  # what Pillow makes of it
    with pytest.raises(InputError, match="x has 16 bits a channel"):
        decode(data, "x")


def bmp(bits: int, palette: bytes, rows: bytes) -> bytes:
    """A BMP of 8×2 pixels with that palette."""
    colours = len(palette) // 4
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, bits, 0, len(rows), 0, 0, colours, 0) + palette + rows


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes_of_greys_are_read_right_or_refused(bits):
    """python-pillow/Pillow#9778: a palette of black and white makes mode 1, in which 4 or 8 bits a pixel are read as one."""
    row = {1: bytes([0b01010101]), 4: b"\x01" * 4, 8: b"\0\1" * 4}[bits]
    data = bmp(bits, bytes([0, 0, 0, 0, 255, 255, 255, 0]), (row + bytes(-len(row) % 4)) * 2)
    for read in (decode, header):
        if bits == 1:
            read(data, "x")
            continue
        with pytest.raises(InputError, match="x has a palette of which Pillow reads wrong pixels"):
            read(data, "x")
    if bits == 1:
        np.testing.assert_array_equal(decode(data, "x")[0, :, 0], [0, 255] * 4)
    greys = b"".join(bytes([k, k, k, 0]) for k in range(1 << bits))
    if bits == 4:
        with pytest.raises(InputError, match="reads wrong pixels"):
            decode(bmp(4, greys, b"\x01\x23\x45\x67" * 2), "x")
    if bits == 8:
        np.testing.assert_array_equal(decode(bmp(8, greys, bytes(range(16))), "x")[1, :, 2], range(8))


def test_images_cut_short_are_damaged_whatever_others_told_pillow(monkeypatch):
    """wkentaro/labelme#335: libraries set LOAD_TRUNCATED_IMAGES for the whole process, and the rest of an image is grey."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("JPEG", "PNG"):
        data = encoded(kind, PICTURE.resize((90, 90)))
        with pytest.raises(InputError, match="x is not a readable image"):
            decode(data[: 2 * len(data) // 3], "x")
        assert ImageFile.LOAD_TRUNCATED_IMAGES
        assert decode(data, "x").shape == (90, 90, 3)


def test_several_pictures_are_refused_and_previews_of_photos_are_not():
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        with pytest.raises(InputError, match="several pictures"):
            header(encoded(kind, save_all=True, append_images=[PICTURE.rotate(180)]), "x")
    assert decode(encoded("MPO", save_all=True, append_images=[PICTURE.rotate(180)]), "x").shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colour_profiles_are_said(kind):
    for space, colours in (("sRGB", ""), ("LAB", "profile Lab identity built-in")):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        assert header(encoded(kind, icc_profile=profile), "x").colours == colours
    assert header(encoded(kind, icc_profile=b"nonsense"), "x").colours == "profile without a name"


def test_gamma_is_said_unless_it_is_that_of_srgb():
    """brechtm/rinohtype#102: PNG files with a gAMA chunk, which readers treat differently."""
    plain = encoded("PNG")
    for value, colours in ((45455, ""), (100000, "gamma 1")):
        body = b"gAMA" + value.to_bytes(4, "big")
        chunk = b"\0\0\0\4" + body + zlib.crc32(body).to_bytes(4, "big")
        data = plain[:33] + chunk + plain[33:]
        assert header(data, "x").colours == colours
        np.testing.assert_array_equal(decode(data, "x"), PIXELS)


def test_headers_need_no_pixels(tmp_path):
    for kind in ("PNG", "JPEG", "BMP", "GIF"):
        data = encoded(kind)
        cut = data[: data.index(b"IDAT") + 4] if kind == "PNG" else data[: len(data) - 20]
        assert header(cut, "x") == Header((6, 10))
        (tmp_path / "x").write_bytes(cut)
        assert header(tmp_path / "x", "x") == Header((6, 10))
        with pytest.raises(InputError, match="x is not a readable image"):
            decode(cut, "x")


@pytest.mark.parametrize(("kind", "suffix"), [("DDS", ".dds"), ("ICO", ".ico")])
def test_other_formats_are_named(tmp_path, kind, suffix):
    """Pillow opens them, and does not say whether 8 bits hold them: images that cannot be used, not left out in silence."""
    assert suffix in suffixes()
    (tmp_path / f"a{suffix}").write_bytes(encoded(kind, PICTURE.resize((16, 16))))
    with pytest.raises(InputError, match=f"is not a readable image \\(a {kind} file\\): replace it by"):
        header(tmp_path / f"a{suffix}", f"a{suffix}")
    with pytest.raises(InputError, match=r"x is not a readable image \(of no known format\)"):
        header(encoded(kind, PICTURE.resize((16, 16))), "x")


def test_suffixes_are_those_of_pictures():
    assert {".psd", ".dds", ".ico"} <= suffixes()
    assert {".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".gif", ".tif", ".tiff", ".webp", ".avif", ".pgm"} <= suffixes()
    assert not {".h5", ".mpg", ".txt", ".eps", ""} & suffixes()
