"""Whoever wants a better report than the run: each attack ends refused, or shown as what it is."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.certify import loop
from diffsmooth_trt.cli import main
from diffsmooth_trt.noise.counters import KEY_DIGITS
from diffsmooth_trt.report.tables import summarise, text_table

KEY = "0123" * (KEY_DIGITS // 4)
TABLES = ("results", "decisions", "blocks", "images", "timing")
EASY, HARD = 250, 102  # of the first pixel; the boundary is between 100 and 101


@pytest.fixture
def options(linear_classifier, tmp_path):
    """Class 0 where the first channel's first pixel is above 100.5, on 3×2×2."""
    w = np.eye(12)[0]
    engine = linear_classifier(np.stack([w, -w]), np.array([-1, 1]) * 100.5 / 255, shape=(3, 2, 2))
    return {
        "engine": engine, "method": "rs", "sigma": 0.25, "backend": "onnxruntime", "threads": 1, "batch": 512, "n": 1000,
        "key": KEY, "data": tmp_path / "images.npz", "out": tmp_path / "run.sqlite",
    }  # fmt: skip


def images(path: Path, *first: float, shape: tuple[int, int] = (2, 2)) -> None:
    pixels = np.full((len(first), *shape, 3), 128, np.uint8)
    pixels[:, 0, 0, 0] = first
    np.savez(path, images=pixels, labels=np.zeros(len(first), np.int64))


def edit(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Status and all that a command prints."""
    status = main([str(each) for each in arguments])
    found = capsys.readouterr()
    return status, found.out + found.err


def row(text: str) -> dict[str, str]:
    """The last row of a report by its head."""
    lines = [line.split() for line in text.splitlines() if not line.startswith("  95% interval  ")]
    return dict(zip(next(line for line in lines if line[:2] == ["run", "images"]), lines[-1], strict=True))


@pytest.fixture
def finished(options):
    """Ten easy images, then ten hard ones, which abstain."""
    images(options["data"], *[EASY] * 10, *[HARD] * 10)
    dst.certify(**options).close()
    return options["out"]


def drop(path: Path, condition: str) -> None:
    with sqlite3.connect(path) as connection:
        chosen = [image for (image,) in connection.execute(f"SELECT image FROM results WHERE {condition}")]
    connection.close()
    assert chosen
    edit(path, *(f"DELETE FROM {table} WHERE image IN ({', '.join(map(str, chosen))})" for table in TABLES))


def test_failures_taken_out(finished, capsys):
    status, text = said(capsys, "report", finished)
    assert (status, row(text)["acc@0"]) == (0, "50.0%")
    drop(finished, "predict != 0")
    status, text = said(capsys, "report", finished)
    assert (row(text)["images"], row(text)["acc@0"]) == ("10/20", "50.0–100.0%") and "95% interval" not in text
    status, text = said(capsys, "verify", finished, "--fraction", "1")
    assert status == 1 and "missing: 10 of 20 images have no result (10, 11, 12, 13, 14, 15, 16, 17, 18, 19)" in text
    status, text = said(capsys, "report", finished, "--tsv", finished.with_suffix(".tsv"))
    assert status == 2 and "has 10 of 20 images" in text and not finished.with_suffix(".tsv").exists()


@pytest.mark.parametrize("config", [{}, {"max": 10}])
def test_failures_taken_out_and_the_count_made_to_fit(finished, capsys, config):
    """With --max in the configuration too it is an honest run of the first ten, and its title says so."""
    drop(finished, "predict != 0")
    edit(finished, "UPDATE meta SET value = '10' WHERE name = 'images'")
    with dst.open_run(finished) as store:
        changed = {**store.meta["config"], **config}
    edit(finished, f"UPDATE meta SET value = '{json.dumps(changed)}' WHERE name = 'config'")
    status, text = said(capsys, "verify", finished, "--fraction", "1", "--unfinished")
    assert status == (0 if config else 1)
    assert ("images: recorded 10, here 20" in text) is not bool(config)
    assert ("; --max 10" in said(capsys, "report", finished)[1]) is bool(config)


def test_failures_taken_out_of_the_middle_and_the_others_moved_up(options, capsys):
    images(options["data"], EASY, HARD, EASY, HARD, EASY)
    dst.certify(**options).close()
    out = options["out"]
    drop(out, "predict != 0")
    edit(out, "UPDATE meta SET value = '3' WHERE name = 'images'")
    status, text = said(capsys, "report", out)
    assert status == 1 and "has image 4, which its run was not asked for" in text
    for table in TABLES:
        edit(out, *(f"UPDATE {table} SET image = {new} WHERE image = {old}" for old, new in ((2, 1), (4, 2))))
    assert said(capsys, "report", out)[0] == 0  # nothing in the file says otherwise
    status, text = said(capsys, "verify", out)
    assert status == 1 and "image 1: pixels in --data are not those that the run used" in text


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM blocks WHERE image = 12", "does not have the blocks that its run asks for"),
        ("UPDATE results SET predict = 0, radius = 0.5 WHERE image = 12", "image 12 does not follow from its votes"),
        (
            "INSERT INTO results SELECT 20, predict, radius, p_lower, hits, trials FROM results WHERE image = 0",
            "image 20",
        ),
    ],
)
def test_results_that_nothing_stands_behind(finished, capsys, statement, words):
    edit(finished, statement)
    for command in ("report", "verify"):
        status, text = said(capsys, command, finished)
        assert status == 1 and words in text


@pytest.mark.parametrize("column", ["label = 1", "sha256 = 'ab'"])
def test_other_labels_and_pixels_in_the_store(finished, capsys, column):
    edit(finished, f"UPDATE images SET {column} WHERE image = 12")
    status, text = said(capsys, "verify", finished)
    assert status == 1 and "image 12: " in text


class Stop(Exception):
    pass


class StopAt:
    """Progress that ends the run once so many images are finished."""

    def __init__(self, images: int) -> None:
        self.left = images

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        pass

    def update(self, samples: int, images: int) -> None:
        self.left -= images
        if self.left <= 0:
            raise Stop


def test_stopped_when_it_looks_best(options, monkeypatch, capsys):
    """Images finish in the order of their difficulty: what an unfinished run shows has to hold what the finished one does."""
    rng = np.random.default_rng(0)
    images(options["data"], *np.where(rng.random(60) < 0.5, 130, EASY))
    settings = {**options, "n": 20_000, "radius": [0.12], "resume": True}
    monkeypatch.setattr(loop, "COMMIT_SECONDS", 0.0)
    shown = []
    for limit in (15, 15, None):
        with contextlib.suppress(Stop):
            dst.certify(**settings, progress=StopAt(limit or 10**9)).close()
        status, text = said(capsys, "report", options["out"])
        shown.append(row(text)["acc@0.12"])
        assert status == 0 and ("95% interval" in text) is (limit is None)
    *ranges, final = shown
    assert "–" not in final
    for each in ranges:
        low, high = (float(end) for end in each.rstrip("%").split("–"))
        assert low <= float(final.rstrip("%")) <= high and high - low > 10


def test_the_best_of_two_spaces(options, linear_classifier, tmp_path, capsys):
    """Upscaled images have larger distances, and larger radii, which are not those of the small ones."""
    runs = []
    for name, size in (("small", 2), ("big", 16)):
        d = 3 * size * size
        w = np.ones(d) / math.sqrt(d)
        t = math.sqrt(d) * 124 / 255
        engine = linear_classifier(np.stack([w, -w]), np.array([-t, t]), shape=(3, size, size))
        images(options["data"], *[128] * 6)
        runs.append(tmp_path / f"{name}.sqlite")
        resize = {} if size == 2 else {"resize": size}
        dst.certify(**{**options, "engine": engine, "out": runs[-1]}, **resize).close()
    status, text = said(capsys, "report", *runs, "--envelope")
    assert status == 2 and len(text.splitlines()) == 1 and "(image 0 has other pixels)" in text
    status, text = said(capsys, "report", *runs)
    assert "; ℓ2 in [0, 1]^(3×2×2)\n" in text and "; ℓ2 in [0, 1]^(3×16×16) after --resize 16\n" in text


def test_an_envelope_of_relabelled_images(finished, capsys):
    other = finished.with_name("other.sqlite")
    shutil.copy(finished, other)
    edit(other, "UPDATE images SET label = 1 WHERE image = 3")
    status, text = said(capsys, "report", finished, other, "--envelope")
    assert status == 2 and "(image 3 has another label)" in text


def test_an_image_given_off_the_grid_towards_the_boundary(options, capsys):
    """Rounding takes it away from there: its certificate may not."""
    pixels = np.full((4, 2, 2, 3), 128.0)
    pixels[:, 0, 0, 0] = [110.51, 109.51, 101.6, 101.51]
    np.savez(options["data"], images=pixels / 255, labels=np.zeros(4, np.int64))
    with pytest.raises(dst.InputError, match="off the 8-bit grid"):
        dst.certify(**options)
    with dst.certify(**{**options, "n": 50_000}, quantise=True) as store:
        for result, level in zip(store.results(), pixels[:, 0, 0, 0], strict=True):
            assert result.radius < (level - 100.5) / 255
        text = text_table([summarise(store)])
    assert "rounded: 4 images, by up to 0.0019 (ℓ2)" in text and "(--quantise)" in text


def test_the_distance_left_out(options, load_beside, capsys):
    """A store made to look as if an older version had written it says what its radii are about; one without --quantise has none."""
    np.savez(options["data"], images=np.full((2, 2, 2, 3), 128.4) / 255, labels=np.zeros(2, np.int64))
    dst.certify(**options, quantise=True).close()
    out = options["out"]
    load_beside("old_stores.py").as_format_2(out)
    status, text = said(capsys, "report", out)
    assert status == 1 and "does not follow from its votes" in text
    edit(out, "DELETE FROM results")
    with dst.RunStore.open(out, write=True) as store:
        for image in (0, 1):
            store.add_result(image, store.rule.outcome(store.votes(image)))
        store.commit()
    for command in ("report", "verify"):
        status, text = said(capsys, command, out)
        assert status == 0 and "radii are about the rounded images, the distance was not recorded" in text
    status, text = said(capsys, "report", out, "--tsv", out.with_suffix(".tsv"))
    assert "its distance from the given one was not recorded" in out.with_suffix(".tsv").read_text()
    edit(
        out, "UPDATE meta SET value = replace(value, '\"quantise\": true', '\"quantise\": false') WHERE name = 'config'"
    )
    status, text = said(capsys, "verify", out)
    assert status == 2 and "off the 8-bit grid" in text


def meta(out: Path, **changed: object) -> None:
    """Put down other values in a store's meta, and take out those that are None."""
    for name, value in changed.items():
        edit(out, f"DELETE FROM meta WHERE name = '{name}'")
        if value is not None:
            edit(out, f"INSERT INTO meta VALUES ('{name}', '{json.dumps(value)}')")


@pytest.mark.parametrize("slack", [-0.45, 0.3, 1e-6])
def test_votes_that_places_are_said_to_move(finished, capsys, slack):
    """Less than none raises every bound; much of it lets every replayed vote be another."""
    meta(finished, slack=slack)
    for command in ("report", "verify"):
        status, text = said(capsys, command, finished)
        assert status and f"slack {slack}" in text and "restore it from a copy" in text


def test_a_class_of_abstentions_that_the_method_has_not(finished, capsys):
    meta(finished, void=1)
    status, text = said(capsys, "verify", finished)
    assert status == 1 and "void: recorded 1, here None" in text


def test_rows_said_to_be_proved(finished, capsys, monkeypatch):
    """An engine without a proof, in a store that says it has one."""
    assert said(capsys, "verify", finished)[0] == 0
    monkeypatch.setattr("diffsmooth_trt.engine.opening._probed", unproved)
    status, text = said(capsys, "verify", finished)
    assert status == 1 and "rows: those of the classifier are recorded as proved independent, here they are not" in text


def unproved(engine):
    engine.identity["probe"], engine.rows = engine.probe(), "assumed"
    return engine
