"""The NumPy implementation against the known answers, and NumPy's generator against Random123's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import grid_law, reference


def test_numpy_is_philox_as_published(answers: dict[str, Any]) -> None:
    for row in answers["philox"]:
        counter = sum(word << 64 * place for place, word in enumerate(row["counter"]))
        before = (counter - 1) % 2**256  # NumPy counts up before it generates
        stream = np.random.Philox(counter=before, key=row["key"][0] + (row["key"][1] << 64))
        assert stream.random_raw(4).tolist() == row["words"]


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
@pytest.mark.parametrize("value", [-1, 2**128, 0.5, "1", None])
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
        reference.words(2**128 + 12345, 0, 0, 0, 4)
    assert str(2**128 + 12345) not in str(caught.value)
