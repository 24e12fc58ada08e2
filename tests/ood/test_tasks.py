"""Images in work when a run is cut off: their draws are counted once, wherever it was, and files that hold others are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffsmooth_trt.certify.batch import Span
from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError, StoreError
from diffsmooth_trt.ood import store as store_module
from diffsmooth_trt.ood.certified import Certifier
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.store import OodStore

KEY = "5a" * 32
FORMS = {
    "fixed": {"tolerance": 0.0},
    "tolerance": {"tolerance": 0.02, "n": 600},
    "gate": {"tolerance": 0.0, "gate": 0.4},
    "distro-l2": {"tolerance": 0.0, "score": "distro-l2", "n0": 40},
}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def given(linear_classifier, small_detector, image_set, tmp_path, monkeypatch):
    """Arguments of a run by form and file; whatever is counted is kept after each batch."""
    monkeypatch.setattr(store_module, "SYNC_SECONDS", -1.0)
    classifier = linear_classifier(np.random.default_rng(0).normal(0, 0.5, (5, 48)), np.zeros(5))
    detector, inside, outside = small_detector(), image_set("inside", 3), image_set("outside", 4, 90, 166)

    def arguments(form: str, out: str, **more) -> OodConfig:
        joint = {} if form in ("fixed", "tolerance") else {"detector": detector}
        options = {"kind": "certified", "sigma": 0.25, "key": KEY, "batch": 16, "n": 150, "backend": "onnxruntime"}
        files = {
            "classifier": classifier,
            "in_data": inside,
            "out_data": (str(outside),),
            "out": tmp_path / out,
            **joint,
        }
        return OodConfig(**files, **{**options, **FORMS[form], **more})

    return arguments


def cut_off(config: OodConfig, monkeypatch, batches: int) -> bool:
    """Run until a batch is to be filled that is one too many; whether there was one."""
    left = [batches]

    def kept(self, number, active):
        original(self, number, active)
        left[0] -= 1
        if not left[0]:
            raise Killed

    original = Certifier._keep
    with monkeypatch.context() as patch:
        patch.setattr(Certifier, "_keep", kept)
        patch.setattr(OodStore, "__exit__", lambda self, *_: self._held.close())
        try:
            run(config)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("form", FORMS)
def test_a_run_cut_off_again_and_again_draws_each_once(given, monkeypatch, form):
    whole = run(given(form, "whole.jsonl"))
    drawn = []
    launch = Certifier._launch

    def launched(self, spans):
        plain = [
            (span.block, span.start + i) for span in spans if type(span) is Span for i in range(span.high - span.low)
        ]
        drawn.extend((block.phase, block.image, draw) for block, draw in plain)
        launch(self, spans)

    monkeypatch.setattr(Certifier, "_launch", launched)
    cuts, resume = 0, False
    batches = 10 if form == "gate" else 5  # besides plain ones it has those of rows that the gate lets through
    while cut_off(given(form, "cut.jsonl", resume=resume), monkeypatch, batches):
        cuts, resume = cuts + 1, True
        assert cuts < 500
    with OodStore.open(given(form, "cut.jsonl").out) as store:
        assert store.records == whole.records
    assert cuts > 5 and not store.path.with_name("cut.jsonl.draws").exists()
    if form in ("fixed", "distro-l2"):
        assert len(set(drawn)) == len(drawn)
    else:  # a stop may lie before the draws that others of the round still have; rows behind the gate are denoised anew
        assert len(drawn) < 1.2 * len(set(drawn))


DAMAGE = {
    "another run's": lambda content: content.update(run="0" * 64),
    "no states": lambda content: content.update(images=3),
    "counts that are too many": lambda content: content["images"][0]["counts"].__setitem__(0, 7000),
    "a bin that does not exist": lambda content: content["images"][0]["bins"].__setitem__(0, 5000),
    "another image's": lambda content: content["images"][0].update(sha256="0" * 64),
    "draws twice": lambda content: content["images"][0].update(left=[[0, 90], [80, 150]]),
    "past the end": lambda content: content["images"][0].update(stop=4000),
    "text": lambda content: content["images"][0].update(drawn="0"),
    "votes of no class": lambda content: content["images"][0].update(votes=[[40], [0]]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_draws_that_are_not_the_runs_are_refused_in_one_line(given, monkeypatch, damage):
    assert cut_off(given("fixed", "r.jsonl"), monkeypatch, 4)
    path = given("fixed", "r.jsonl").out.with_name("r.jsonl.draws")
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"r\.jsonl\.draws .*remove"):
        run(given("fixed", "r.jsonl", resume=True))
    path.unlink()  # as the message says
    assert run(given("fixed", "r.jsonl", resume=True)).finished()


def test_a_new_run_takes_no_old_draws(given, monkeypatch):
    config = given("fixed", "r.jsonl")
    assert cut_off(config, monkeypatch, 4)
    config.out.unlink()
    first = run(config).records
    assert first == run(given("fixed", "again.jsonl")).records


def test_the_file_is_gone_after_the_command(given, tmp_path):
    config = given("fixed", "r.jsonl")
    arguments = [
        "ood",
        "--kind",
        "certified",
        "--classifier",
        config.classifier,
        "--in-data",
        config.in_data,
        "--sigma",
        "0.25",
    ]
    arguments += ["--out-data", *config.out_data, "--n", "100", "--out", config.out, "--backend", "onnxruntime"]
    assert main([str(each) for each in arguments]) == 0
    assert sorted(path.name for path in tmp_path.glob("r.jsonl*")) == ["r.jsonl"]


def test_a_full_disk_is_said_of_the_runs_file(given, tmp_path):
    """Also where the rest of a line is in the way as the file is closed: a disk that is full is /dev/full."""
    run(given("fixed", "r.jsonl")).close()
    store = OodStore.open(tmp_path / "r.jsonl")
    with open("/dev/full", "wb") as full:
        store._file = full
        full.write(b"a line")
        store._held.callback(full.close)
        with pytest.raises(
            StoreError, match=r"r\.jsonl cannot be written \(No space left on device\): free space"
        ) as error:
            store.close()
        assert "\n" not in str(error.value)
