"""The run store: one writer, nothing derived from counts that cannot be, edits noticed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.runs.config import RunConfig
from diffsmooth_trt.runs.resume import open_store
from diffsmooth_trt.runs.store import RunStore


@pytest.fixture
def finished(linear_classifier, images_npz, tmp_path):
    weights = np.random.default_rng(0).normal(size=(2, 48))
    options = {
        "engine": linear_classifier(weights, np.zeros(2)), "data": images_npz(count=3), "out": tmp_path / "run.sqlite",
        "method": "rs", "sigma": 0.5, "n": 1500, "n0": 20, "key": "ab" * 32, "backend": "onnxruntime",
    }  # fmt: skip
    dst.certify(**options).close()
    return options


def edit(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def read(path: Path) -> list[dst.Result]:
    with dst.open_run(path) as store:
        return list(store.results())


def test_results_follow_from_votes(finished):
    results = read(finished["out"])
    assert [result.trials for result in results] == [1500] * 3
    assert results[0].p_lower is not None


def test_last_digits_may_differ(finished):
    before = read(finished["out"])
    edit(finished["out"], "UPDATE results SET radius = radius * (1 + 1e-12), p_lower = p_lower * (1 + 1e-12)")
    assert read(finished["out"]) == before


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE results SET radius = radius * 1.0001 WHERE image = 1", "image 1 does not follow from its votes"),
        ("UPDATE results SET radius = 'much' WHERE image = 1", "damaged values"),
        ("UPDATE results SET radius = 9.5 WHERE image = 1", "image 1 does not follow from its votes"),
        ("UPDATE results SET predict = 1 - predict WHERE image = 1", "image 1 does not follow"),
        (
            "UPDATE blocks SET counts = '{\"1\":1000}' WHERE image = 1 AND phase = 1 AND start = 0",
            "image 1 does not follow",
        ),
        (
            "UPDATE blocks SET counts = '{\"1\":100000}' WHERE image = 1 AND phase = 1 AND start = 0",
            "impossible votes",
        ),
        ("UPDATE blocks SET counts = '[1000]' WHERE image = 1 AND phase = 1 AND start = 0", "impossible votes"),
        ("UPDATE blocks SET counts = 'x' WHERE image = 1", "damaged values"),
        ("UPDATE blocks SET stop = 700 WHERE image = 1 AND phase = 1 AND start = 0", "does not have the blocks"),
        ("DELETE FROM blocks WHERE image = 1 AND phase = 1 AND start = 1000", "does not have the blocks"),
    ],
)
def test_edits_are_noticed(finished, statement, message):
    edit(finished["out"], statement)
    with pytest.raises(StoreError, match=message) as error:
        read(finished["out"])
    assert "run.sqlite" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "row",
    ["0, 1, 0, 500, '{\"1\":400}'", "0, 1, 0, 5000, '{\"1\":5000}'", '0, 1, 0, 500, \'{"0":9,"2":491}\''],
)
def test_damaged_parts_are_noticed(finished, row):
    for table in ("results", "blocks"):
        edit(finished["out"], f"DELETE FROM {table} WHERE image = 0")
    edit(finished["out"], f"INSERT INTO partial VALUES ({row})")
    with pytest.raises(StoreError, match="impossible votes|ends at sample"):
        dst.certify(**finished, resume=True)


def test_no_result_from_incomplete_counts(finished):
    edit(finished["out"], "DELETE FROM results")
    edit(finished["out"], "UPDATE blocks SET counts = '{\"1\":100}', stop = 100 WHERE phase = 1 AND start = 0")
    with pytest.raises(StoreError, match="does not have the blocks"):
        dst.certify(**finished, resume=True)


@pytest.mark.parametrize(
    ("statement", "values", "message"),
    [
        ("UPDATE meta SET value = '99' WHERE name = 'format'", (), "store format 99, this version reads up to 4"),
        ("UPDATE meta SET value = '{' WHERE name = 'format'", (), "damaged in its table meta"),
        ("UPDATE meta SET value = '{' WHERE name = 'config'", (), "damaged"),
        ("DELETE FROM meta WHERE name = 'key'", (), "lacks key"),
        ("DROP TABLE meta", (), "not a run store"),
    ],
)
def test_damaged_meta(finished, statement, values, message):
    edit(finished["out"], statement, *values)
    for call in (lambda: read(finished["out"]), lambda: dst.certify(**finished, resume=True)):
        with pytest.raises((InputError, StoreError), match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_damaged_meta_of_the_right_form_is_a_difference(finished):
    for name, value in (("key", 5), ("classifier", []), ("config", {})):
        before = sqlite3.connect(finished["out"])
        (old,) = before.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        before.close()
        edit(finished["out"], "UPDATE meta SET value = ? WHERE name = ?", json.dumps(value), name)
        with pytest.raises(InputError, match="differs in|damaged"):
            dst.certify(**finished, resume=True)
        edit(finished["out"], "UPDATE meta SET value = ? WHERE name = ?", old, name)


def test_one_writer_at_a_time(finished):
    with (
        RunStore.open(finished["out"], write=True),
        pytest.raises(InputError, match="being written by another process"),
    ):
        dst.certify(**finished, resume=True)
    assert len(read(finished["out"])) == 3
    dst.certify(**finished, resume=True).close()


def test_readers_see_a_live_run(finished):
    with RunStore.open(finished["out"], write=True) as writer:
        writer.add_image(77, 0, "x")
        assert len(read(finished["out"])) == 3
        writer.commit()
        assert len(read(finished["out"])) == 3


HALF_WRITTEN = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = DELETE").fetchone()
connection.execute("PRAGMA cache_size = 2")  # pages go to the file before the end
connection.execute("BEGIN")
connection.execute("UPDATE blocks SET counts = '[9, 9]'")
connection.execute("CREATE TABLE many AS SELECT hex(randomblob(4000)) FROM blocks, blocks, blocks")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_left_half_written_is_undone_by_whoever_reads(finished):
    before = read(finished["out"])
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(finished["out"])], check=False)
    assert finished["out"].with_name("run.sqlite-journal").stat().st_size
    assert read(finished["out"]) == before


def test_create_never_replaces(finished):
    with dst.open_run(finished["out"]) as store:
        record = store.record
    before = finished["out"].read_bytes()
    with pytest.raises(InputError, match="exists: pass resume=True"):
        RunStore.create(finished["out"], record)
    assert finished["out"].read_bytes() == before
    with pytest.raises(StoreError, match="cannot be written"):
        RunStore.create(finished["out"].parent / "no" / "run.sqlite", record)


def test_a_run_that_appeared_meanwhile_is_not_taken_over(finished):
    """Engines take long to open: without --resume, a store that another run finished in that time is still refused."""
    config = RunConfig(command="certify", **finished)
    with dst.open_run(finished["out"]) as store:
        record = store.record
    with pytest.raises(InputError, match="exists: pass resume=True"):
        open_store(config.output, record)
    open_store(config.changed(resume=True).output, record).close()


def test_data_that_changed_where_nothing_was_drawn_is_gone_on_with_and_other_data_refused(finished):
    edit(finished["out"], "DELETE FROM results WHERE image > 0")
    edit(finished["out"], "DELETE FROM blocks WHERE image > 0")
    edit(finished["out"], "DELETE FROM timing WHERE image > 0")
    edit(finished["out"], "DELETE FROM images WHERE image > 0")
    with np.load(finished["data"]) as archive:
        images, labels = archive["images"], archive["labels"]
    images[2] = 255 - images[2]
    np.savez(finished["data"], images=images, labels=labels)
    with dst.certify(**finished, resume=True) as store:
        assert len(list(store.results())) == len(images)
        assert len(store.record.data_before) == 1
    assert dst.verify(finished["out"], fraction=1).agrees
    images[2] = 255 - images[2]
    np.savez(finished["data"], images=images, labels=labels)
    with pytest.raises(InputError, match="image 2 differs from the one in"):
        dst.certify(**finished, resume=True)
    with dst.open_run(finished["out"]) as store:
        assert len(store.record.data_before) == 1
    np.savez(finished["data"], images=images[:-1], labels=labels[:-1])
    with pytest.raises(InputError, match="differs in .*images"):
        dst.certify(**finished, resume=True)


def test_outputs_never_destroy_inputs(finished, tmp_path):
    link = tmp_path / "link.tsv"
    link.symlink_to(finished["data"])
    before = {path: path.read_bytes() for path in (finished["data"], finished["engine"], finished["out"])}
    for change in (
        {"tsv": finished["data"]},
        {"tsv": link},
        {"tsv": finished["out"], "resume": True},
        {"out": finished["data"], "resume": True},
        {"out": finished["engine"], "resume": True},
        {"out": tmp_path, "resume": True},
        {"tsv": tmp_path, "resume": True},
        {"tsv": tmp_path / "no" / "a.tsv", "resume": True},
    ):
        with pytest.raises(InputError, match="^(tsv|out) "):
            dst.certify(**{**finished, **change})
    assert {path: path.read_bytes() for path in before} == before
