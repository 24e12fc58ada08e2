"""What the tests of every implementation share: the known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ANSWERS = Path(__file__).parent.parent / "data" / "noise_known_answers.json"


@pytest.fixture(scope="session")
def answers() -> dict[str, Any]:
    """The known answers, with hexadecimal words as ints."""
    found: dict[str, Any] = json.loads(ANSWERS.read_text(encoding="utf-8"))
    for name in ("chacha20", "hchacha20", "xchacha20"):
        for row in found[name]:
            row.update({part: bytes.fromhex(text) for part, text in row.items()})
    for row in found["streams"]:
        row.update({name: int(row[name], 16) for name in ("key", "phase", "image", "sample")})
        row["words"] = [int(word, 16) for word in row["words"]]
    for row in found["noise"]:
        row["image_bits"] = [int(bits, 16) for bits in row["image_bits"]]
    return found
