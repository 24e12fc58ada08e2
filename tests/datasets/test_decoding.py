"""What an encoded image shows: turned as its EXIF says, 8 bits or refused, and what its header says without decoding."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

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


def test_suffixes_are_those_of_pictures():
    assert {".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".gif", ".tif", ".tiff", ".webp", ".avif", ".pgm"} <= suffixes()
    assert not {".h5", ".mpg", ".txt", ".eps", ""} & suffixes()
