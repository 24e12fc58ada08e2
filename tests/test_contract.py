"""What users and their scripts rely on stays as it is, byte for byte: tests/data/make_contract.py says what, and writes it anew."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
PINNED = {path.name: path.read_text(encoding="utf-8") for path in sorted((DATA / "contract").glob("*.txt"))}
PYTHON = PINNED.pop("python.txt").strip()


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    contract: dict[str, str] = runpy.run_path(str(DATA / "make_contract.py"))["contract"]()
    return contract


@pytest.mark.parametrize("name", PINNED)
def test_it_is_what_was_promised(name: str, made: dict[str, str]) -> None:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if name.startswith(("help", "statuses")) and here != PYTHON:
        pytest.skip(f"argparse of Python {here} words help and errors in its own way, {PYTHON} wrote the pinned one")
    assert made[name] == PINNED[name]


def test_nothing_is_left_out(made: dict[str, str]) -> None:
    assert sorted(made) == sorted(PINNED)
