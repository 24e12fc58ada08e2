"""The GPU's kernels: the noise of the C++ sampler to the bit, labels and votes of NumPy's.

One body of tests: on a processor always (the same source, compiled as C++), on a CUDA device where there is one.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from diffsmooth_trt.device.launch import OPTIONS, SOURCES, kernel_source, source_folder
from diffsmooth_trt.errors import NoiseError
from diffsmooth_trt.noise import LOCAL, grid_law, reference, sampler
from diffsmooth_trt.noise.counters import fresh_words

KEY = 0xF0E1D2C3B4A5968778695A4B3C2D1E0F00112233445566778899AABBCCDDEEFF
WORDS = np.array(
    [
        [0, 1, 2, 1, 2**63, 1, 0],  # phases
        [0, 5, 2**32 + 5, 2**64 - 1, 9, 5, 1],  # images
        [0, 2**33 + 7, 3, 2**64 - 1, 2**40, 2**33 + 7, 2**32],  # samples
    ],
    np.uint64,
)
ROWS = WORDS.shape[1]
SHAPES = [(1, 1, 1), (3, 1, 1), (1, 5, 7), (3, 4, 4), (3, 7, 5), (2, 33, 31), (4, 16, 16)]
FLOATS = ["fp32", "fp16", "bf16"]
STORED = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}


def bfloat(values: Any) -> Any:
    """Nearest bfloat16, ties to even, as uint16; by ml_dtypes."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def cast(values: Any, kind: str) -> Any:
    """float32 values in the storage of `kind`."""
    return bfloat(values) if kind == "bf16" else values.astype(STORED[kind])


def uncast(values: Any) -> Any:
    """Stored values as float32, exactly."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values.astype(np.float32)


class OnHost:
    """NumPy arrays, and the kernels on the processor."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def put(self, array: Any) -> Any:
        return np.array(array, order="C")

    def get(self, array: Any) -> Any:
        return array


class OnCuda:
    """CuPy arrays, and the kernels on a GPU."""

    def __init__(self) -> None:
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            pytest.skip(f"no CUDA device ({error})")
        from diffsmooth_trt.device.nvrtc import CudaKernels

        properties = cupy.cuda.runtime.getDeviceProperties(0)
        self.cupy, self.kernels = cupy, CudaKernels(f"{properties['major']}.{properties['minor']}")

    def put(self, array: Any) -> Any:
        return self.cupy.asarray(np.ascontiguousarray(array))

    def get(self, array: Any) -> Any:
        return self.cupy.asnumpy(array)


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.cuda)])
def on(request: pytest.FixtureRequest) -> Any:
    return OnHost(request.getfixturevalue("host_kernels")()) if request.param == "host" else OnCuda()


def blank(on: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array whose old values show where they are left: each byte 0xA5."""
    return on.put(np.full(np.prod((*shape, np.dtype(dtype).itemsize)), 0xA5, np.uint8).view(dtype).reshape(shape))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 63, 64, 65, 1095])
@pytest.mark.parametrize("sigma", [0.01, 0.25, 4.0])
def test_noise_is_the_reference(on: Any, count: int, sigma: float) -> None:
    law, out = grid_law(sigma), blank(on, (ROWS, count), np.int32)
    on.kernels.grid_noise(law, KEY, on.put(WORDS), out)
    rows = zip(*WORDS.tolist(), strict=True)
    expected = np.stack([reference.grid_noise(law, KEY, *row, count) for row in rows])
    np.testing.assert_array_equal(on.get(out), expected)


def test_noise_is_the_known_one(on: Any, answers: dict[str, Any]) -> None:
    for row in answers["noise"]:
        law, stream = grid_law(row["sigma"]), answers["streams"][row["stream"]]
        words = np.array([[stream["phase"]], [stream["image"]], [stream["sample"]]], np.uint64)
        out = blank(on, (1, len(row["k"])), np.int32)
        on.kernels.grid_noise(law, stream["key"], on.put(words), out)
        assert on.get(out).tolist() == [row["k"]]
        pixels, scaled = np.array([answers["pixels"]], np.uint8), blank(on, (1, len(row["k"])), np.float32)
        size = (1, pixels.size)
        on.kernels.noisy_images(
            law, stream["key"], on.put(words), on.put(pixels), on.put(np.zeros(1, np.int64)), scaled, size=size
        )
        assert on.get(scaled).view(np.uint32).tolist() == [row["image_bits"]]


def sampled(law: Any, pixels: Any, source: Any, shape: tuple[int, int, int]) -> Any:
    """The C++ sampler's noisy images, float32 [rows, C, H, W]."""
    out = np.empty((ROWS, pixels.shape[1]), np.float32)
    sampler.noisy_images(law, KEY, WORDS[0], pixels, WORDS[1], WORDS[2], out, rows=source)
    return out.reshape(ROWS, *shape)


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_noisy_images_are_the_samplers(on: Any, shape: tuple[int, int, int], kind: str, nhwc: bool) -> None:
    law, rng = grid_law(0.5), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, int(np.prod(shape))), dtype=np.uint8)
    source = rng.integers(0, 4, ROWS)
    expected = cast(sampled(law, pixels, source, shape), kind)
    expected = expected.transpose(0, 2, 3, 1) if nhwc else expected
    out = blank(on, expected.shape, STORED[kind])
    size = (shape[0], shape[1] * shape[2])
    on.kernels.noisy_images(law, KEY, on.put(WORDS), on.put(pixels), on.put(source), out, size=size, nhwc=nhwc)
    np.testing.assert_array_equal(on.get(out).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


@pytest.mark.parametrize("grid", [(1, 1), (1, 32), (3, 7), (1000, 2)])
def test_any_grid_gives_the_same_bits(host_kernels: Any, grid: tuple[int, int]) -> None:
    """Noise, local noise, labels and votes with too few and too many threads."""
    law, rng, shape = grid_law(0.25), np.random.default_rng(1), (3, 5, 3)
    pixels, source = rng.integers(0, 256, (2, 45), dtype=np.uint8), rng.integers(0, 2, ROWS)
    logits = rng.normal(size=(2, ROWS, 4)).astype(np.float32)
    found = []
    for kernels in (host_kernels(), host_kernels(grid)):
        images, local = np.empty((ROWS, *shape), np.float32), np.empty((2 * ROWS, *shape), np.float32)
        total, labels = np.empty((ROWS, 4), np.float32), np.empty(ROWS, np.int64)
        counts, flags = np.zeros((2, 4), np.int64), np.zeros(1, np.int64)
        kernels.noisy_images(law, KEY, WORDS, pixels, source, images, size=(3, 15))
        kernels.add_fresh_noise(law, 3, LOCAL, WORDS, images, local, of=2, first=0, size=(3, 15))
        kernels.soft_votes(logits, total, labels, carry=False)
        kernels.count_votes(labels, (np.arange(ROWS) % 2).astype(np.int32), counts)
        kernels.find_nonfinite(logits, 5, flags)
        found.append((images, local, total, labels, counts, flags))
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("out_kind", FLOATS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("layouts", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 7, 5), (1, 1, 3)])
def test_local_noise(
    on: Any, shape: tuple[int, int, int], layouts: tuple[bool, bool], kind: str, out_kind: str
) -> None:
    """Fixed and fresh local noise, and the bare conversion, as the CPU's path computes them in float32."""
    rng, law, size, copies = np.random.default_rng(2), grid_law(0.12), (shape[0], shape[1] * shape[2]), 3
    values = cast(rng.random((ROWS, *shape), dtype=np.float32), kind)
    given = on.put(values.transpose(0, 2, 3, 1) if layouts[0] else values)
    exact, flat = uncast(values), (ROWS, int(np.prod(shape)))
    noise = rng.normal(size=(copies, flat[1])).astype(np.float32)
    fixed = exact + noise.reshape(copies, 1, *shape)
    fresh = np.empty((copies, *flat), np.float32)
    for copy in range(copies):
        words = fresh_words(WORDS, 5, copy + 1)
        sampler.add_noise(law, 7, LOCAL, WORDS[1], words, exact.reshape(flat), fresh[copy])
    how: dict[str, Any] = {"nhwc": layouts[0], "out_nhwc": layouts[1]}
    fifth = how | {"of": 5, "first": 1, "size": size}
    for expected, call in (
        (exact, lambda out: on.kernels.add_fixed_noise(given, None, out, size, **how)),
        (fixed, lambda out: on.kernels.add_fixed_noise(given, on.put(noise), out, size, **how)),
        (fresh, lambda out: on.kernels.add_fresh_noise(law, 7, LOCAL, on.put(WORDS), given, out, **fifth)),
    ):
        wanted = cast(expected.reshape(-1, *shape), out_kind)
        wanted = np.ascontiguousarray(wanted.transpose(0, 2, 3, 1) if layouts[1] else wanted)
        out = blank(on, wanted.shape, STORED[out_kind])
        call(out)
        np.testing.assert_array_equal(on.get(out).view(np.uint8), wanted.view(np.uint8))


def exp_by_numpy(x: Any) -> Any:
    """ds_exp, step by step in NumPy's float32."""
    f = np.float32
    n = (x * f(1.44269504) + f(12582912)) - f(12582912)
    r = (x + n * f(-0.693359375)) + n * f(2.12194440e-4)
    total = np.full_like(x, f(1.9841270e-4))
    for factor in (1.3888889e-3, 8.3333333e-3, 4.1666667e-2, 1.6666667e-1, 0.5, 1.0, 1.0):
        total = total * r + f(factor)
    power = ((n.astype(np.int32) + 127).astype(np.uint32) << 23).view(np.float32)
    return np.where(x > f(-75), total * power, f(0))


def votes_by_numpy(logits: Any) -> Any:
    """The sum of softmaxes over copies, in the kernels' order."""
    total = np.zeros(logits.shape[1:], np.float32)
    for copy in uncast(logits):
        powers = exp_by_numpy(copy - copy.max(axis=1, keepdims=True))
        norm = np.zeros(len(copy), np.float32)
        for k in range(copy.shape[1]):
            norm = norm + powers[:, k]
        total = total + powers / norm[:, None]
    return total


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_soft_votes(on: Any, classes: int, kind: str) -> None:
    """Bit for bit NumPy's float32 in the same order; near SciPy's softmax; the same in one call and in several."""
    logits = cast((8 * np.random.default_rng(3).normal(size=(3, 37, classes))).astype(np.float32), kind)
    total, labels = blank(on, (37, classes), np.float32), blank(on, (37,), np.int64)
    on.kernels.soft_votes(on.put(logits), total, labels, carry=False)
    expected = votes_by_numpy(logits)
    np.testing.assert_array_equal(on.get(total), expected)
    np.testing.assert_array_equal(on.get(labels), expected.argmax(axis=1))
    np.testing.assert_allclose(expected, softmax(uncast(logits).astype(np.float64), axis=2).sum(axis=0), rtol=5e-6)
    step, last = blank(on, (37, classes), np.float32), blank(on, (37,), np.int64)
    for copy in range(3):
        on.kernels.soft_votes(on.put(logits[copy : copy + 1]), step, last if copy == 2 else None, carry=copy > 0)
    np.testing.assert_array_equal(on.get(step), expected)
    np.testing.assert_array_equal(on.get(last), on.get(labels))


def test_exp_is_close(host_library: ctypes.CDLL) -> None:
    """Within 2^-22 relatively on (-75, 0], 0 below, 1 at 0."""
    exp = host_library.host_exp
    exp.restype, exp.argtypes = ctypes.c_float, [ctypes.c_float]
    x = np.concatenate([-np.geomspace(1e-8, 74.99, 3000), [0.0]]).astype(np.float32)
    found = np.array([exp(float(value)) for value in x])
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 2**-22
    assert [exp(value) for value in (0.0, -75.0, -1e30, -np.inf)] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", FLOATS)
def test_winners_and_ties(on: Any, kind: str) -> None:
    scores = cast(np.random.default_rng(4).integers(-3, 3, (500, 7)).astype(np.float32), kind)  # full of ties
    labels = blank(on, (500,), np.int64)
    on.kernels.winners(on.put(scores), labels)
    np.testing.assert_array_equal(on.get(labels), uncast(scores).argmax(axis=1))


def test_votes_are_counted_in_64_bits(on: Any) -> None:
    rng = np.random.default_rng(5)
    labels, slots = rng.integers(0, 11, 4000), rng.integers(-1, 5, 4000).astype(np.int32)
    before = 2**32 + np.arange(55).reshape(5, 11)
    counts = on.put(before)
    on.kernels.count_votes(on.put(labels), on.put(slots), counts)
    expected = before.copy()
    np.add.at(expected, (slots[slots >= 0], labels[slots >= 0]), 1)
    np.testing.assert_array_equal(on.get(counts), expected)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(on: Any, value: float, kind: str) -> None:
    values = np.zeros(1000, np.float32)
    values[:2] = 65504, -65504
    flags = on.put(np.array([1 << 40], np.int64))
    on.kernels.find_nonfinite(on.put(cast(values, kind)), 3, flags)
    assert on.get(flags).tolist() == [1 << 40]
    values[777] = value
    on.kernels.find_nonfinite(on.put(cast(values, kind)), 3, flags)
    assert on.get(flags).tolist() == [1 << 40 | 8]


def test_halves_are_rounded_as_ieee_says(host_library: ctypes.CDLL) -> None:
    """Every half there and back; and around every half, its ties and the floats beside them, NumPy's rounding."""
    encode, load = host_library.host_encode, host_library.host_load
    encode.restype, encode.argtypes = ctypes.c_uint, [ctypes.c_float, ctypes.c_int]
    load.restype, load.argtypes = ctypes.c_float, [ctypes.c_void_p, ctypes.c_ulonglong, ctypes.c_int]
    halves = np.arange(2**16, dtype=np.uint16)
    as_floats = halves.view(np.float16).astype(np.float32)
    finite = np.isfinite(as_floats)
    read = np.array([load(halves.ctypes.data, i, 1) for i in range(2**16)], np.float32)
    np.testing.assert_array_equal(read[finite].view(np.uint32), as_floats[finite].view(np.uint32))
    assert (
        np.isnan(read[np.isnan(as_floats)]).all()
        and (read[np.isinf(as_floats)] == as_floats[np.isinf(as_floats)]).all()
    )
    ordered = np.sort(as_floats[finite & (as_floats >= 0)])[::7]
    middles = (ordered[:-1] + ordered[1:]) / 2
    around = np.concatenate(
        [ordered, middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(9e9))]
    )
    around = np.concatenate([around, -around, [65519.996, 65520.0, 65536.0, 1e-8, 2.0**-25, 3e38, np.inf]]).astype(
        np.float32
    )
    with np.errstate(over="ignore"):
        expected = around.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal([encode(float(value), 1) for value in around], expected)
    np.testing.assert_array_equal([encode(float(value), 2) for value in around], bfloat(around))
    for code, mask in ((1, 0x7C00), (2, 0x7F80)):
        word = encode(float("nan"), code)
        assert word & mask == mask and word & ~(mask | 0x8000)


def test_marks_are_written(host_kernels: Any) -> None:
    place = np.zeros(1, np.int32)
    host_kernels((2, 3)).mark(np.uint64(place.ctypes.data), 7)
    assert place[0] == 7


ARCHITECTURES = ("sm_80", "sm_90")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_nvcc_compiles_the_kernels(tmp_path: Any) -> None:
    """For sm_80, sm_90 and the newest that this nvcc knows, warnings being errors, without spilling."""
    (tmp_path / "kernels.cu").write_text(kernel_source(), encoding="utf-8")
    listed = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    newest = max((name for name in listed if name[3:].isdigit()), key=lambda name: int(name[3:]))
    for architecture in dict.fromkeys([*ARCHITECTURES, newest]):
        command = ["nvcc", f"-arch={architecture}", "-cubin", "--Werror", "all-warnings", "-Xptxas", "-v", *OPTIONS]
        made = subprocess.run(
            [*command, "-o", "k.cubin", "kernels.cu"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        assert made.stderr.count(" 0 bytes spill stores") == kernel_source().count("DS_KERNEL ds_")


def test_nvrtc_compiles_the_kernels(tmp_path: Path) -> None:
    """What a GPU's first run does, for some by name: machine code, PTX for those to come, and a file that is kept."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    from cupy_backends.cuda.libs import nvrtc

    from diffsmooth_trt.device.nvrtc import compile_kernels, kernel_file

    try:
        nvrtc.getVersion()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"NVRTC cannot be loaded ({str(error).splitlines()[0]})")
    for capability in ("8.0", "9.0"):
        code = compile_kernels(capability)
        assert code.startswith(b"\x7fELF")
        segments, sections = struct.unpack_from("<QQ", code, 32)
        size, count, section_size, section_count = struct.unpack_from("<HHHH", code, 54)
        assert len(code) == max(segments + size * count, sections + section_size * section_count)
    assert b".target sm_" in compile_kernels("99.9")
    with pytest.raises(NoiseError, match="for no GPU as old as compute capability 3.5"):
        compile_kernels("3.5")
    path = kernel_file("9.0", tmp_path / "new")
    path.write_bytes(b"kept")
    assert kernel_file("9.0", tmp_path / "new").read_bytes() == b"kept"
    (tmp_path / "file").touch()
    assert kernel_file("9.0", tmp_path / "file").read_bytes().startswith(b"\x7fELF")


def test_source_is_one_text() -> None:
    text = kernel_source()
    assert "#include" not in text.replace("// Includes", "")
    assert all((source_folder() / name).is_file() for name in SOURCES)
