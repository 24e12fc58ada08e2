"""The NumPy implementation against the known answers and the published vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import grid_law, reference


def test_it_is_xchacha20_as_published(answers: dict[str, Any]) -> None:
    for row in answers["chacha20"]:  # whose counter is not 0: only the rounds are called directly
        state = np.concatenate([reference.CONSTANTS, *(np.frombuffer(row[n], "<u4") for n in ("key", "nonce"))])[
            :, None
        ]
        assert (reference._rounds(state) + state).astype("<u4").tobytes() == row["bytes"]
    for row in answers["hchacha20"]:
        subkey = reference.hchacha20(np.frombuffer(row["key"], "<u4"), *np.frombuffer(row["nonce"], "<u8").tolist())
        assert subkey.astype("<u4").tobytes() == row["bytes"]
    for row in answers["xchacha20"]:
        place = np.frombuffer(row["nonce"], "<u8").tolist()
        made = reference.words(int.from_bytes(row["key"], "big"), *place, 8)
        assert made.astype("<u8").tobytes() == row["bytes"]


def test_words_are_the_known_ones(answers: dict[str, Any]) -> None:
    for row in answers["streams"]:
        made = reference.words(row["key"], row["phase"], row["image"], row["sample"], len(row["words"]))
        assert made.dtype == np.uint64
        assert made.tolist() == row["words"]


def test_noise_is_the_known_one(answers: dict[str, Any]) -> None:
    for row in answers["noise"]:
        stream = answers["streams"][row["stream"]]
        place = (stream["key"], stream["phase"], stream["image"], stream["sample"])
        made = reference.grid_noise(grid_law(row["sigma"]), *place, len(row["k"]))
        assert made.dtype == np.int32
        assert made.tolist() == row["k"]


def test_a_longer_row_begins_with_the_shorter() -> None:
    law = grid_law(0.25)
    whole = reference.grid_noise(law, 7, 1, 2, 3, 1001)
    for count in (1, 3, 4, 5, 1000):
        np.testing.assert_array_equal(reference.grid_noise(law, 7, 1, 2, 3, count), whole[:count])


@pytest.mark.parametrize("name", ["key", "phase", "image", "sample"])
@pytest.mark.parametrize("value", [-1, 2**256, 0.5, "1", None])
def test_what_is_no_counter_is_refused(name: str, value: object) -> None:
    place: dict[str, Any] = {"key": 1, "phase": 1, "image": 1, "sample": 1, name: value}
    with pytest.raises(InputError, match=name):
        reference.words(**place, count=4)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_count_has_to_be_positive(count: Any) -> None:
    with pytest.raises(InputError, match="count is"):
        reference.grid_noise(grid_law(0.25), 1, 1, 1, 1, count)


def test_a_refused_key_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        reference.words(2**256 + 12345, 0, 0, 0, 4)
    assert str(2**256 + 12345) not in str(caught.value)
