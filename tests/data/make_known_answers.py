"""Writes noise_known_answers.json, the answers that every implementation of the noise has to give.

    python tests/data/make_known_answers.py

XChaCha20 and the pixel scaling are done here in plain Python integers and doubles, apart from the package,
NumPy and the compiled code; the alias table is the package's own, checked by its own tests. The published
vectors are those of RFC 8439 (2.3.2 and A.1, whose 32-bit counter and 96-bit nonce are the same 16 bytes) and of
draft-irtf-cfrg-xchacha-03 (2.2.1 and the first block of A.3.2.1).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from diffsmooth_trt.noise import NOISE_VERSION, GridLaw, grid_law

MASK = 2**32 - 1
OUT = Path(__file__).with_name("noise_known_answers.json")

# Key, the state's last 16 bytes (counter and nonce), the block.
CHACHA20 = """
000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 01000000000000090000004a00000000
    10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e
    d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e
0000000000000000000000000000000000000000000000000000000000000000 00000000000000000000000000000000
    76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7
    da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586
0000000000000000000000000000000000000000000000000000000000000000 01000000000000000000000000000000
    9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed
    29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f
"""
# Key, 16 bytes of nonce, the subkey.
HCHACHA20 = """
000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 000000090000004a0000000031415927
    82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc
"""
# Key, 24 bytes of nonce, plaintext and ciphertext of the first block.
XCHACHA20 = """
808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f 404142434445464748494a4b4c4d4e4f5051525354555658
    5468652064686f6c65202870726f6e6f756e6365642022646f6c652229206973
    20616c736f206b6e6f776e2061732074686520417369617469632077696c6420
    4559abba4e48c16102e8bb2c05e6947f50a786de162f9b0b7e592a9b53d0d4e9
    8d8d6410d540a1a6375b26d80dace4fab52384c731acbf16a5923c0c48d3575d
"""

# (key, phase, image, sample): small ones, words past 2^32, and keys all of whose words matter.
STREAMS = [
    (0, 0, 0, 0),
    (1, 1, 0, 0),
    (1 << 128, 1, 0, 0),
    (0x00112233445566778899AABBCCDDEEFF0123456789ABCDEFFEDCBA9876543210, 0, 9999, 99),
    (0xF0E1D2C3B4A5968778695A4B3C2D1E0F00112233445566778899AABBCCDDEEFF, 1, 2**32 + 5, 2**33 + 7),
    (2**256 - 1, 2, 2**64 - 1, 2**64 - 1),
    (0x243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89, 16, 3, 2**40),
    (0x0123456789ABCDEF, 17, 2**63, 1),
]
SIGMAS = [0.01, 0.12, 0.25, 0.5, 1.0, 4.0]
COUNT = 27  # three whole blocks and a part


def rounds(state: list[int]) -> list[int]:
    """Return the 20 rounds of ChaCha (Bernstein 2008) of 16 words of 32 bits."""
    x = list(state)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for left in (16, 12, 8, 7):
            x[a] = (x[a] + x[b]) & MASK
            x[d] ^= x[a]
            x[d] = (x[d] << left | x[d] >> 32 - left) & MASK
            a, b, c, d = c, d, a, b

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return x


def halves(data: bytes) -> list[int]:
    """Return the little-endian 32-bit words of bytes."""
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


def joined(words: list[int]) -> bytes:
    """Return the bytes of little-endian 32-bit words."""
    return b"".join(word.to_bytes(4, "little") for word in words)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Return the subkey of a key and 16 bytes of nonce."""
    x = rounds([*halves(b"expand 32-byte k"), *halves(key), *halves(nonce)])
    return joined(x[:4] + x[12:])


def chacha20(key: bytes, place: bytes) -> bytes:
    """Return the block of a key and the state's last 16 bytes."""
    state = [*halves(b"expand 32-byte k"), *halves(key), *halves(place)]
    return joined([(a + b) & MASK for a, b in zip(state, rounds(state), strict=True)])


def keystream(key: bytes, nonce: bytes, blocks: int) -> bytes:
    """Return the first blocks of XChaCha20 with a 64-bit counter."""
    subkey = hchacha20(key, nonce[:16])
    return b"".join(chacha20(subkey, b.to_bytes(8, "little") + nonce[16:]) for b in range(blocks))


def stream_words(key: int, phase: int, image: int, sample: int) -> list[int]:
    """Return the first COUNT words of one stream."""
    nonce = b"".join(word.to_bytes(8, "little") for word in (phase, image, sample))
    made = keystream(key.to_bytes(32, "big"), nonce, COUNT // 8 + 1)
    return [int.from_bytes(made[8 * i : 8 * i + 8], "little") for i in range(COUNT)]


def vectors(text: str, lengths: tuple[int, ...]) -> list[list[bytes]]:
    """Return the published vectors of a text: fields of so many bytes each, over and over."""
    data, found = bytes.fromhex(text), []
    while data:
        row = []
        for length in lengths:
            row.append(data[:length])
            data = data[length:]
        found.append(row)
    return found


def published() -> dict[str, list[dict[str, str]]]:
    """Check this file's XChaCha20 against the published vectors, and return them."""
    plain = vectors(CHACHA20, (32, 16, 64))
    sub = vectors(HCHACHA20, (32, 16, 32))
    whole = [
        [key, nonce, bytes(a ^ b for a, b in zip(clear, secret, strict=True))]
        for key, nonce, clear, secret in vectors(XCHACHA20, (32, 24, 64, 64))
    ]
    assert all(chacha20(key, place) == block for key, place, block in plain), "ChaCha20 itself is wrong"
    assert all(hchacha20(key, nonce) == subkey for key, nonce, subkey in sub), "HChaCha20 itself is wrong"
    assert all(keystream(key, nonce, 1) == block for key, nonce, block in whole), "XChaCha20 itself is wrong"
    return {
        name: [{"key": key.hex(), "nonce": nonce.hex(), "bytes": made.hex()} for key, nonce, made in rows]
        for name, rows in (("chacha20", plain), ("hchacha20", sub), ("xchacha20", whole))
    }


def draw(law: GridLaw, word: int) -> int:
    """Return the grid value of one word."""
    rest = 64 - law.column_bits
    column, low = word >> rest, word & (2**rest - 1)
    return int(law.primary[column] if low < int(law.thresholds[column]) else law.alias[column])


def scaled(pixel: int, k: int) -> str:
    """Return the bits of float32 (pixel + k)/255; through a double, harmless as 53 ≥ 2·24 + 2."""
    return f"{int(np.float32((pixel + k) / 255).view(np.uint32)):08x}"


def main() -> None:
    """Check against the published vectors, then write the file."""
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
        **published(),
        "streams": [
            {
                "key": f"{key:064x}",
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
