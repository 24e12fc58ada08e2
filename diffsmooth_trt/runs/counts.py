"""Votes a class of a block as the text of a cell: a JSON object of the classes that have votes; up to format 3 a list of all."""

from __future__ import annotations

import json

import numpy as np

from ..dtypes import Counts
from ..files import parsed_json

OBJECTS = 4  # the first format whose cells are objects


def encoded(counts: Counts, version: int) -> str:
    """The one text that stands for the votes int64 `[classes]` in a store of format `version`.

    From format 4 on it is {"class":votes} of the classes that have votes, ascending: a text that does not grow with the classes.
    It is without blanks, as a row of more than 1 KB takes SQLite a page of 4 KB.
    """
    if version < OBJECTS:
        return json.dumps(counts.tolist())
    used = np.flatnonzero(counts)
    pairs = [f'"{label}":{votes}' for label, votes in zip(used.tolist(), counts[used].tolist(), strict=True)]
    return "{" + ",".join(pairs) + "}"  # by hand in half the time of json.dumps


def decoded(text: str, classes: int, samples: int, version: int) -> Counts:
    """The votes int64 `[classes]` of `samples` samples that stand in `text`, a new array.

    Raises TypeError or ValueError where it does not hold as many votes as samples, each for one of the classes; from format 4 on
    also where it is not the very text that `encoded` gives.
    """
    held = parsed_json(text)
    if version < OBJECTS:
        if len(held) != classes or any(type(votes) is not int or votes < 0 for votes in held) or sum(held) != samples:
            raise ValueError("they are not a number of each class, together as many as samples")
        return np.array(held, dtype=np.int64)
    if type(held) is not dict or any(type(votes) is not int or votes < 1 for votes in held.values()):
        raise ValueError("they are not numbers from 1 on by class")
    named = [int(name) for name in held]
    if sum(held.values()) != samples or not all(0 <= label < classes for label in named):
        raise ValueError("they are of other classes, or not as many as samples")
    counts = np.zeros(classes, dtype=np.int64)
    counts[named] = list(held.values())
    if encoded(counts, version) != text:  # a class twice, 07 for 7, another order: what no run writes
        raise ValueError("they are not written as a run writes them")
    return counts
