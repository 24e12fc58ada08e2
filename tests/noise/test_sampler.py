"""The compiled implementation: equal to the reference bit for bit, however the work is cut up."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from Crypto.Cipher import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffsmooth_trt import _core
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import NOISE_VERSION, grid_law, reference, sampler, selftest

LAW = grid_law(0.25)
KEY = 0x0F1E2D3C4B5A69788796A5B4C3D2E1F0112233445566778899AABBCCDDEEFF00
WORD = st.integers(0, 2**64 - 1)

variants = pytest.mark.parametrize("variant", sampler.variants())


def words(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


def by_reference(
    phases: NDArray[np.uint64], images: NDArray[np.uint64], samples: NDArray[np.uint64], count: int
) -> NDArray[np.int32]:
    rows = zip(phases.tolist(), images.tolist(), samples.tolist(), strict=True)
    return np.stack([reference.grid_noise(LAW, KEY, *row, count) for row in rows])


def test_both_halves_are_of_one_version(answers: dict[str, Any]) -> None:
    assert _core.noise_version == NOISE_VERSION
    assert answers["noise_version"] == NOISE_VERSION


def test_portable_variant_is_always_there() -> None:
    assert sampler.variants()[-1] == "portable"
    assert sampler.instruction_set() == sampler.variants()[0]


def bits32(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u4").tolist()


def bits64(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u8").tolist()


def test_blocks_are_xchacha20_as_published(answers: dict[str, Any]) -> None:
    for row in answers["chacha20"]:
        assert _core.chacha20(bits32(row["key"]), *bits64(row["nonce"])) == bits32(row["bytes"])
    for row in answers["hchacha20"]:
        assert _core.hchacha20(bits32(row["key"]), *bits64(row["nonce"])) == bits32(row["bytes"])
    for row in answers["xchacha20"]:
        subkey = _core.hchacha20(bits32(row["key"]), *bits64(row["nonce"][:16]))
        assert _core.chacha20(subkey, 0, *bits64(row["nonce"][16:])) == bits32(row["bytes"])


@variants
def test_rows_are_an_independent_librarys_keystream(variant: str) -> None:
    """PyCryptodome's XChaCha20, seen through a table that gives each word's upper and lower bits."""
    place, count = (1, 2**40 + 3, 2**63 + 9), 1095
    nonce = b"".join(word.to_bytes(8, "little") for word in place)
    stream = ChaCha20.new(key=KEY.to_bytes(32, "big"), nonce=nonce).encrypt(bytes(8 * count))
    expected = np.frombuffer(stream, "<u8")
    np.testing.assert_array_equal(reference.words(KEY, *place, count), expected)
    for above in (0, 1):
        law = selftest.probe_law(expected, above)
        made = sampler.grid_noise(law, KEY, place[0], words(place[1]), words(place[2]), count, variant=variant)[0]
        column = (expected >> np.uint64(64 - law.column_bits)).astype(np.intp)
        last = expected[[np.flatnonzero(column == c)[-1] for c in column]]  # whose bits the column's threshold holds
        own = expected < last if above == 0 else expected <= last
        np.testing.assert_array_equal(made, np.where(own, law.primary[column], law.alias[column]))


@variants
def test_noise_and_pixels_are_the_known_ones(answers: dict[str, Any], variant: str) -> None:
    pixels = np.array([answers["pixels"]], np.uint8)
    out = np.empty(pixels.shape, np.float32)
    for row in answers["noise"]:
        law, stream = grid_law(row["sigma"]), answers["streams"][row["stream"]]
        head = (law, stream["key"], stream["phase"])
        place = (words(stream["image"]), words(stream["sample"]))
        assert sampler.grid_noise(*head, *place, len(row["k"]), variant=variant).tolist() == [row["k"]]
        sampler.noisy_images(*head, pixels, *place, out, variant=variant)
        assert out.view(np.uint32).tolist() == [row["image_bits"]]


@variants
@pytest.mark.parametrize("sigma", [0.01, 0.12, 1.0, 4.0])
def test_long_rows_equal_the_reference(sigma: float, variant: str) -> None:
    law = grid_law(sigma)
    made = sampler.grid_noise(law, KEY, 1, words(5), words(6), 100_003, variant=variant)
    np.testing.assert_array_equal(made[0], reference.grid_noise(law, KEY, 1, 5, 6, 100_003))


@variants
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([0, 1, 2, 2**63]), WORD, WORD), min_size=1, max_size=5),
    count=st.integers(1, 2100),
    threads=st.integers(0, 5),
)
def test_any_shape_equals_the_reference(
    variant: str, rows: list[tuple[int, int, int]], count: int, threads: int
) -> None:
    phases, images, samples = (words(*column) for column in zip(*rows, strict=True))
    made = sampler.grid_noise(LAW, KEY, phases, images, samples, count, threads, variant=variant)
    assert made.shape == (len(rows), count)
    np.testing.assert_array_equal(made, by_reference(phases, images, samples, count))


@variants
@settings(max_examples=10, deadline=None)
@given(threads=st.integers(1, 9), order=st.permutations(range(7)), cut=st.integers(0, 7))
def test_threads_order_and_packing_change_nothing(variant: str, threads: int, order: list[int], cut: int) -> None:
    # 7 × 40,001 coordinates: more than one unit a row and more than one thread's worth.
    phases, images, samples = (
        words(0, 1, 0, 1, 2, 0, 1),
        np.arange(7, dtype=np.uint64),
        words(9, 8, 7, 6, 5, 4, 3),
    )
    whole = sampler.grid_noise(LAW, KEY, phases, images, samples, 40_001, 1)
    parts = [
        sampler.grid_noise(LAW, KEY, phases[part], images[part], samples[part], 40_001, threads, variant=variant)
        for part in (np.array(order[:cut], np.intp), np.array(order[cut:], np.intp))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


@variants
@pytest.mark.parametrize("dimension", [1, 63, 3072, 20_011])
def test_noisy_images_are_exact_quotients(variant: str, dimension: int) -> None:
    generator = np.random.default_rng(dimension)
    pixels = generator.integers(0, 256, (3, dimension), dtype=np.uint8)
    rows = np.array([2, 0, 0, 1, 2], np.int64)
    images, samples = rows.astype(np.uint64), np.arange(5, dtype=np.uint64)
    out = np.full((5, dimension), np.nan, np.float32)
    sampler.noisy_images(LAW, KEY, 1, pixels, images, samples, out, rows=rows, variant=variant)
    k = by_reference(np.ones(5, np.uint64), images, samples, dimension)
    np.testing.assert_array_equal(out, (pixels[rows] + k).astype(np.float32) / np.float32(255))
    assert dimension < 1000 or (out.min() < 0 and out.max() > 1)  # never clipped


@variants
def test_added_noise_is_float32_arithmetic(variant: str) -> None:
    generator = np.random.default_rng(1)
    values = generator.random((2, 3, 16, 17), dtype=np.float32)
    values[0, 0, 0, :3] = [np.inf, -0.0, np.nan]
    images, samples = words(1, 2), words(3, 4)
    k = by_reference(words(16, 16), images, samples, 3 * 16 * 17).reshape(values.shape)
    expected = values + k.astype(np.float32) / np.float32(255)
    out = np.empty_like(values)
    sampler.add_noise(LAW, KEY, 16, images, samples, values, out, variant=variant)
    np.testing.assert_array_equal(out, expected)
    turned = np.array([1, 0], np.int64)
    sampler.add_noise(LAW, KEY, 16, images, samples, values[::-1].copy(), out, rows=turned, variant=variant)
    np.testing.assert_array_equal(out, expected)
    sampler.add_noise(LAW, KEY, 16, images, samples, values, values, variant=variant)
    np.testing.assert_array_equal(values, expected)


def test_calls_from_many_threads_do_not_meet() -> None:
    images, samples = np.arange(4, dtype=np.uint64), np.arange(4, dtype=np.uint64)
    expected = sampler.grid_noise(LAW, KEY, 1, images, samples, 30_000)
    made: list[NDArray[np.int32]] = []
    callers = [
        threading.Thread(target=lambda: made.append(sampler.grid_noise(LAW, KEY, 1, images, samples, 30_000, 2)))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(made) == 8
    assert all(np.array_equal(one, expected) for one in made)


def test_no_rows_are_no_work() -> None:
    assert sampler.grid_noise(LAW, KEY, 1, words(), words(), 5).shape == (0, 5)


IMAGES, SAMPLES = words(0, 1), words(2, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": -1}, InputError, "key is outside"),
        ({"key": 2**256}, InputError, "key is outside"),
        ({"key": 0.5}, InputError, "key is of type float"),
        ({"phase": -1}, InputError, "phase is -1"),
        ({"phase": 2**64}, InputError, "phase is"),
        ({"phase": words(1)}, ValueError, r"phase has shape \(1,\), expected \(2,\)"),
        ({"phase": np.array([1, 1])}, TypeError, "phase has dtype int64, expected a NumPy array of uint64"),
        ({"images": [0, 1]}, TypeError, "images is of type list"),
        ({"images": np.array([0, 1])}, TypeError, "images has dtype int64"),
        ({"images": IMAGES.astype(">u8")}, TypeError, "images has dtype >u8"),
        ({"images": words(0, 1).reshape(1, 2)}, ValueError, r"images has shape \(1, 2\)"),
        ({"images": words(0, 1, 2, 3)[::2]}, ValueError, "images is not contiguous"),
        ({"samples": words(1)}, ValueError, r"samples has shape \(1,\)"),
        ({"count": 0}, InputError, "count is 0"),
        ({"count": -4}, InputError, "count is -4"),
        ({"count": 1.0}, InputError, "count is 1.0"),
        ({"threads": -1}, InputError, "threads is -1"),
        ({"variant": "mmx"}, ValueError, "variant is 'mmx'"),
    ],
)
def test_wrong_arguments_of_grid_noise(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "key": KEY,
        "phase": 1,
        "images": IMAGES,
        "samples": SAMPLES,
        "count": 8,
        **change,
    }
    with pytest.raises(error, match=message) as caught:
        sampler.grid_noise(LAW, **arguments)
    assert "\n" not in str(caught.value)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


PIXELS, OUT = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"pixels": PIXELS.astype(np.int16)},
            TypeError,
            "pixels has dtype int16, expected a NumPy array of uint8",
        ),
        ({"pixels": PIXELS.transpose(0, 2, 1)}, ValueError, "pixels is not contiguous"),
        ({"pixels": PIXELS.reshape(2, 4, 3)}, ValueError, "out has shape"),
        ({"pixels": PIXELS[:1]}, ValueError, "pixels has 1 rows, expected 2"),
        ({"out": OUT.astype(np.float64)}, TypeError, "out has dtype float64"),
        ({"out": OUT.reshape(2, 12)}, ValueError, "out has shape"),
        ({"out": np.zeros((3, 3, 4), np.float32)}, ValueError, "out has shape"),
        ({"out": read_only(OUT.copy())}, ValueError, "out is read-only"),
        ({"out": None}, TypeError, "out is of type NoneType"),
        ({"rows": np.array([0, 2])}, ValueError, r"rows\[1\] is 2, expected 0 to 1"),
        ({"rows": np.array([-1, 0])}, ValueError, r"rows\[0\] is -1"),
        ({"rows": np.array([0])}, ValueError, "rows has shape"),
        ({"rows": np.array([0.0, 1.0])}, TypeError, "rows has dtype float64"),
        ({"rows": [0, 1]}, TypeError, "rows is of type list"),
    ],
)
def test_wrong_arguments_of_noisy_images(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"pixels": PIXELS, "images": IMAGES, "samples": SAMPLES, "out": OUT, **change}
    with pytest.raises(error, match=message) as caught:
        sampler.noisy_images(LAW, KEY, 1, **arguments)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_of_add_noise() -> None:
    values = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(TypeError, match="values has dtype float64"):
        sampler.add_noise(LAW, KEY, 16, IMAGES, SAMPLES, values.astype(np.float64), OUT.copy())
    with pytest.raises(InputError, match="out is values while rows"):
        sampler.add_noise(LAW, KEY, 16, IMAGES, SAMPLES, values, values, rows=np.array([1, 0]))
    both = np.zeros((3, 3, 4), np.float32)
    with pytest.raises(InputError, match="out overlaps values"):
        sampler.add_noise(LAW, KEY, 16, IMAGES, SAMPLES, both[:2], both[1:])
