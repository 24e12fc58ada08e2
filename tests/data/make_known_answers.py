"""Writes noise_known_answers.json, the answers that every implementation of the noise has to give.

    python tests/data/make_known_answers.py

Philox and the pixel scaling are done here in plain Python integers and doubles, apart from the package,
NumPy's generator and the compiled code; the alias table is the package's own, checked by its own tests. The
raw Philox answers are those published with Random123 (DEShawResearch/random123, tests/kat_vectors).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from diffsmooth_trt.noise import NOISE_VERSION, GridLaw, grid_law

MASK = 2**64 - 1
OUT = Path(__file__).with_name("noise_known_answers.json")

RANDOM123 = """
0 0 0 0  0 0  16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b
ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff  ffffffffffffffff ffffffffffffffff
    87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0
243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89  452821e638d01377 be5466cf34e90c6c
    a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6
"""

# (key, phase, image, sample): small ones, words past 2^32, and keys whose high and low words both matter.
STREAMS = [
    (0, 0, 0, 0),
    (1, 1, 0, 0),
    (1 << 64, 1, 0, 0),
    (0x00112233445566778899AABBCCDDEEFF, 0, 9999, 99),
    (0xF0E1D2C3B4A5968778695A4B3C2D1E0F, 1, 2**32 + 5, 2**33 + 7),
    (2**128 - 1, 2, 2**64 - 1, 2**64 - 1),
    (0x243F6A8885A308D313198A2E03707344, 16, 3, 2**40),
    (0x0123456789ABCDEF, 17, 2**63, 1),
]
SIGMAS = [0.01, 0.12, 0.25, 0.5, 1.0, 4.0]
COUNT = 13  # three whole blocks and a part


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Return the four words of Philox4x64-10 (Salmon et al. 2011) of one counter."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & MASK, (p0 >> 64) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def stream_words(key: int, phase: int, image: int, sample: int) -> list[int]:
    """Return the first COUNT words of one stream."""
    blocks = (philox([b, sample, image, phase], [key & MASK, key >> 64]) for b in range(1, COUNT // 4 + 2))
    return [word for block in blocks for word in block][:COUNT]


def draw(law: GridLaw, word: int) -> int:
    """Return the grid value of one word."""
    rest = 64 - law.column_bits
    column, low = word >> rest, word & (2**rest - 1)
    return int(law.primary[column] if low < int(law.thresholds[column]) else law.alias[column])


def scaled(pixel: int, k: int) -> str:
    """Return the bits of float32 (pixel + k)/255; through a double, harmless as 53 ≥ 2·24 + 2."""
    return f"{int(np.float32((pixel + k) / 255).view(np.uint32)):08x}"


def main() -> None:
    """Check Philox against Random123, then write the file."""
    tokens = [int(token, 16) for token in RANDOM123.split()]
    raw = [tokens[i : i + 10] for i in range(0, len(tokens), 10)]
    for row in raw:
        assert philox(row[:4], row[4:6]) == row[6:], "Philox itself is wrong"
    pixels = [37 * i % 256 for i in range(COUNT)]
    laws, noise = [], []
    for sigma in SIGMAS:
        law = grid_law(sigma)
        laws.append(
            {
                "sigma": sigma,
                "support": len(law.weights),
                "column_bits": law.column_bits,
                "digest": law.digest,
            }
        )
        for number, stream in enumerate(STREAMS):
            k = [draw(law, word) for word in stream_words(*stream)]
            images = [scaled(pixel, value) for pixel, value in zip(pixels, k, strict=True)]
            noise.append({"sigma": sigma, "stream": number, "k": k, "image_bits": images})
    answers = {
        "noise_version": NOISE_VERSION,
        "philox": [
            {
                name: [f"{w:016x}" for w in row[a:b]]
                for name, a, b in (("counter", 0, 4), ("key", 4, 6), ("words", 6, 10))
            }
            for row in raw
        ],
        "streams": [
            {
                "key": f"{key:032x}",
                "phase": f"{phase:x}",
                "image": f"{image:x}",
                "sample": f"{sample:x}",
                "words": [f"{word:016x}" for word in stream_words(key, phase, image, sample)],
            }
            for key, phase, image, sample in STREAMS
        ],
        "laws": laws,
        "pixels": pixels,
        "noise": noise,
    }
    # One entry a line: readable, and a change shows as a change of that line.
    parts = []
    for name, value in answers.items():
        text = json.dumps(value)
        if isinstance(value, list) and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n]"
        parts.append(f'"{name}": {text}')
    OUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
