"""Votes as texts: one text for one content, whatever else stands in a cell is refused; stores of earlier formats go on in them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.runs.counts import decoded, encoded

KEY = "ab" * 32
W = np.random.default_rng(2).normal(size=(12, 48))
OLD = Path(__file__).resolve().parents[1] / "data" / "run-format-3.sql"


def votes(**some: int) -> Any:
    """Twelve classes, of which `some` have votes: c3=5 is five for class 3."""
    counts = np.zeros(12, np.int64)
    for name, count in some.items():
        counts[int(name[1:])] = count
    return counts


def test_texts() -> None:
    assert encoded(votes(c11=3, c2=1), 4) == '{"2":1,"11":3}'
    assert encoded(votes(), 4) == "{}"
    assert encoded(votes(c1=7), 3) == "[0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"


def test_what_is_written_is_read() -> None:
    """5,000 contents in both forms, of 1 to 2,000 classes, from none to all of which have votes."""
    rng = np.random.default_rng(0)
    for number in range(5000):
        classes = int(rng.integers(1, 2001)) if number % 50 == 0 else int(rng.integers(1, 30))
        counts = rng.integers(0, 1001, classes) * (rng.random(classes) < rng.random())
        for version in (1, 3, 4):
            found = decoded(encoded(counts, version), classes, int(counts.sum()), version)
            assert found.dtype == np.int64 and np.array_equal(found, counts)
            found += 1  # its caller's own


@pytest.mark.parametrize(
    "text",
    [
        '{"2":4}', '{"2":6}', '{"2":6,"3":-1}', '{"2":5,"3":0}', '{"2":5.0}', '{"2":true,"3":4}', '{"2":"5"}',
        '{"2":null}', '{"2":[5]}', '{"12":5}', '{"-1":5}', '{"02":5}', '{"+2":5}', '{" 2":5}', '{"1_1":5}', '{"２":5}',
        '{"2.0":5}', '{"":5}', '{"x":5}', '{"2":5,"2":5}', '{"2":1,"2":5}', '{"3":4,"2":1}', '{"2": 5}', '{"2":5} ',
        '{"2":5', "[0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]", '[["2", 5]]', "5", "null", '"2"', "", "NaN", '{"2":NaN}',
        '{"2":Infinity}', '{"2":1e400}', '{"9999999999999999999999":5}', '{"2":18446744073709551621}', "[" * 100_000,
        '{"' + "1" * 5000 + '":5}', '{"2":' + "1" * 5000 + "}", "\x00", '{"2":5}\x00', 5, None, b'{"2":5}',
    ],
)  # fmt: skip
def test_other_texts_are_damage(text: Any) -> None:
    assert decoded('{"2":5}', 12, 5, 4)[2] == 5
    with pytest.raises((TypeError, ValueError)):
        decoded(text, 12, 5, 4)


@pytest.mark.parametrize(
    "text",
    ["[5]", "[0, 4]", "[0, 5, 0]", "[-1, 6]", "[0.0, 5]", "[true, 4]", "[[0], 5]", '{"1": 5}', "[0, 5", "5", "[" * 100_000, None],
)  # fmt: skip
def test_other_lists_are_damage(text: Any) -> None:
    assert decoded("[0,5]", 2, 5, 3)[1] == 5
    with pytest.raises((TypeError, ValueError)):
        decoded(text, 2, 5, 3)


def contents(path: Path) -> dict[str, Any]:
    """What a store holds, votes as numbers by class: for comparing stores of different formats."""
    with closing(sqlite3.connect(path)) as connection:
        found = {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall() for name in TABLES}
        found |= {f"{name} counts": [_numbers(row[-1]) for row in found[name]] for name in ("blocks", "partial")}
        found |= {name: [row[:-1] for row in found[name]] for name in ("blocks", "partial")}
        found["config"] = connection.execute("SELECT value FROM meta WHERE name = 'config'").fetchall()
    return found


TABLES = ("images", "blocks", "results", "decisions", "partial")


def _numbers(text: str) -> dict[int, int]:
    held = json.loads(text)
    pairs = enumerate(held) if isinstance(held, list) else ((int(name), count) for name, count in held.items())
    return {label: count for label, count in pairs if count}


def version_of(path: Path) -> tuple[int, set[str]]:
    """The format that a store says it has, and how its votes are written."""
    with closing(sqlite3.connect(path)) as connection:
        ((version,),) = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall()
        texts = connection.execute("SELECT counts FROM blocks UNION ALL SELECT counts FROM partial").fetchall()
    return int(version), {text[0] for (text,) in texts}


@pytest.fixture
def made_old(load_beside: Any) -> Callable[[Path], None]:
    """Makes of a store one that release 0.4 wrote."""
    made: Callable[[Path], None] = load_beside("old_stores.py").as_format_3
    return made


@pytest.fixture
def asked(linear_classifier: Any, images_npz: Any) -> dict[str, Any]:
    settings = {"method": "rs", "sigma": 2.0, "n": 1200, "n0": 30, "batch": 64, "backend": "onnxruntime"}
    return {"engine": linear_classifier(W, np.zeros(12)), "data": images_npz(count=4, classes=12), **settings}


def test_a_run_of_an_earlier_format_goes_on_in_it(asked: Any, made_old: Any, tmp_path: Path) -> None:
    """Read, verified, and finished by this version."""
    whole, part = tmp_path / "whole.sqlite", tmp_path / "part.sqlite"
    for out in (whole, part):
        dst.certify(**asked, key=KEY, out=out).close()
    with closing(sqlite3.connect(part)) as connection, connection:
        connection.execute("DELETE FROM results WHERE image > 1")
        connection.execute("DELETE FROM blocks WHERE image > 2 OR (image = 2 AND phase = 1)")
    made_old(part)
    assert version_of(whole) == (4, {"{"}) and version_of(part) == (3, {"["})
    done = dst.verify(part, fraction=1, unfinished=True)
    assert done.agrees and done.results == 2
    with dst.certify(**asked, key=KEY, out=part, resume=True) as store:
        assert len(list(store.results())) == 4 and store.void_votes() == 0
    assert version_of(part) == (3, {"["})
    assert contents(part) == contents(whole)
    with dst.open_run(part) as old, dst.open_run(whole) as new:
        assert [vars(r) | {"seconds": 0} for r in old.results()] == [vars(r) | {"seconds": 0} for r in new.results()]
        assert [old.counts(image) for image in range(4)] == [new.counts(image) for image in range(4)]


def test_shards_of_an_earlier_format(asked: Any, made_old: Any, tmp_path: Path) -> None:
    """Two of them keep it; with one of this version they are of this version, votes of a block in work included."""
    key = tmp_path / "key.txt"
    shards = [tmp_path / f"{number}.sqlite" for number in (1, 2)]
    for number, out in enumerate(shards, 1):
        dst.certify(**asked, key_file=key, shard=f"{number}/2", out=out).close()
    dst.certify(**asked, key=key.read_text().strip(), out=tmp_path / "whole.sqlite").close()
    shorter = tmp_path / "shorter.sqlite"  # its last block is the first part of the others'
    dst.certify(**{**asked, "n": 1100}, key=key.read_text().strip(), out=shorter).close()
    with closing(sqlite3.connect(shards[0])) as connection, connection:  # as of a run that was killed
        connection.execute("DELETE FROM results WHERE image = 2")
        connection.execute("DELETE FROM blocks WHERE image = 2 AND start = 1000")
        connection.execute("ATTACH ? AS shorter", (str(shorter),))
        last = "SELECT * FROM shorter.blocks WHERE image = 2 AND start = 1000"
        assert connection.execute(f"INSERT INTO partial {last}").rowcount == 1
    made_old(shards[0])
    dst.merge(shards, tmp_path / "mixed.sqlite").close()
    made_old(shards[1])
    dst.merge(shards, tmp_path / "old.sqlite").close()
    for name, version in (("mixed", (4, {"{"})), ("old", (3, {"["}))):
        out = tmp_path / f"{name}.sqlite"
        assert version_of(out) == version
        dst.certify(**asked, out=out, resume=True).close()
        assert version_of(out) == version
        assert contents(out) == contents(tmp_path / "whole.sqlite")
    with closing(sqlite3.connect(shards[0])) as connection, connection:
        connection.execute("UPDATE partial SET counts = '[1, 2]'")
    made_new = tmp_path / "again.sqlite"
    dst.certify(**asked, key_file=key, shard="2/2", out=made_new).close()
    with pytest.raises(dst.StoreError, match="holds damaged values"):
        dst.merge([shards[0], made_new], tmp_path / "damaged.sqlite")
    assert not (tmp_path / "damaged.sqlite").exists()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store that version 0.4 wrote."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
    return path


def test_a_store_that_version_0_4_wrote(old: Path) -> None:
    with dst.open_run(old) as store:
        found = [(r.image, r.predict, r.hits, r.trials, r.decisions) for r in store.results()]
        assert store.record.format == 3
        assert store.counts(1) == {0: [0, 11, 1, 0, 0, 0, 8, 0, 0, 0], 1: [0, 36, 2, 0, 0, 0, 31, 0, 0, 1]}
    assert found == [
        (0, 6, 66, 80, ("undecided", "undecided")),
        (1, -1, 36, 70, ("undecided", "refuted")),
        (2, 6, 65, 80, ("undecided", "undecided")),
    ]


@pytest.mark.parametrize("text", ['{"3": 5}', "[0, 5]", "[" * 100_000])
def test_damage_in_it_is_one_line(old: Path, text: str) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE blocks SET counts = ? WHERE image = 1 AND phase = 1", (text,))
    with dst.open_run(old) as store, pytest.raises(dst.StoreError, match="impossible votes") as error:
        list(store.results())
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["format", "config"])
def test_meta_that_is_nested_too_deeply_is_damage(old: Path, name: str) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = ?", ("[" * 100_000, name))
    with pytest.raises((InputError, dst.StoreError), match="damaged") as error:
        dst.open_run(old)
    assert "\n" not in str(error.value)
