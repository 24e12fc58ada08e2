"""A model card says of a run what its store says, and no more."""

from __future__ import annotations

import re

import pytest

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.report.model_card import model_card
from diffsmooth_trt.report.tables import summarise

PAIR = ["--engine", str(zoo.DENOISER), "--classifier", str(zoo.CLASSIFIER_DDS), "--data", str(zoo.IMAGES), "--max", "3"]
HOW = ["--n", "60", "--batch", "20", "--backend", "onnxruntime", "--threads", "1", "--key", "ab" * 32, "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "run.sqlite"
    assert main(["certify", *PAIR, *HOW, "--n0", "10", "--out", str(path)]) == 0
    return path


def test_numbers_are_the_runs_and_rounded_against_us(run, tmp_path, capsys):
    card = tmp_path / "card.md"
    assert main(["report", str(run), "--model-card", str(card), "--radii", "0,0.1,9"]) == 0
    text = card.read_text(encoding="utf-8")
    with dst.open_run(run) as store:
        results, record = list(store.results()), store.record
    for radius in (0, 0.1, 9):
        right = sum(each.correct and each.radius >= radius for each in results)
        share = int(1000 * right / 3) / 10
        assert f"| {radius:g} | {right} of 3 | {share:.1f} % |" in text
        assert f"name: certified accuracy at l2 {radius:g}\n      value: {share:.1f}\n" in text
    assert text.startswith("---\nlibrary_name: diffsmooth-trt\n")
    assert record.classifier.id in text
    for engine in record.classifier.engines.values():
        assert engine["sha256"] in text
    assert "was given: trust it only if" in text
    assert "ab" * 32 not in text  # the key
    assert re.search(r"wrong with probability at most 0.001 ", text)


def test_what_has_no_card_is_one_line(run, tmp_path, capsys):
    predicted, card = tmp_path / "p.sqlite", tmp_path / "card.md"
    assert main(["predict", *PAIR[:-1], "1", *HOW, "--out", str(predicted)]) == 0
    capsys.readouterr()
    for arguments, message in (
        ([str(predicted), "--model-card", str(card)], "--model-card is for runs of certify"),
        ([str(run), str(run), "--model-card", str(card)], "--model-card takes one run, got 2"),
        ([str(run), "--model-card", str(run)], "which it would destroy"),
        ([str(run), "--model-card", str(card), "--config", str(card)], "give it another name"),
    ):
        assert main(["report", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
        assert not card.exists()


def test_missing_images_count_as_not_certified(run):
    from dataclasses import replace

    with dst.open_run(run) as store:
        found = replace(summarise(store), missing=7)
    text = model_card(found)
    assert " of 10 |" in text
    assert "nothing of the 7 images" in text
