"""Certified runs by workers: the records of one process, and what workers are not asked for."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from diffsmooth_trt.certify.batch import Span, fill
from diffsmooth_trt.certify.blocks import Block
from diffsmooth_trt.cli import main
from diffsmooth_trt.distributed.files import EngineFiles
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.noise import Key
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.counted import UNSETTLED, Counting, Through, phase_of
from diffsmooth_trt.ood.distributed import OodJob
from diffsmooth_trt.ood.model import Model
from diffsmooth_trt.ood.run import run

KEY = "5a" * 32
FORMS = {"fixed": {"tolerance": 0.0}, "gate": {"tolerance": 0.02, "gate": 0.4}}


@pytest.fixture
def given(linear_classifier, small_detector, image_set, tmp_path):
    """Arguments of a run by form and file."""
    classifier = linear_classifier(np.random.default_rng(0).normal(0, 0.5, (5, 48)), np.zeros(5))
    detector, inside, outside = small_detector(), image_set("inside", 3), image_set("outside", 4, 90, 166)

    def arguments(form: str, out: str, **more) -> OodConfig:
        joint = {} if form == "fixed" else {"detector": detector}
        options = {"kind": "certified", "sigma": 0.25, "key": KEY, "batch": 16, "n": 300, "backend": "onnxruntime"}
        files = {"classifier": classifier, "in_data": inside, "out_data": (str(outside),), "out": tmp_path / out}
        return OodConfig(**{**files, **joint, **options, **FORMS[form], **more})

    return arguments


def test_the_records_of_one_process(given) -> None:
    """Two workers, or one on each device of a list, for a plain model and one whose gate settles a part of the rows."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for form, how in (("fixed", {"ray": "local", "workers": 2}), ("gate", {"device": "cpu,cpu"})):
            one, many = run(given(form, f"{form}-one.jsonl")), run(given(form, f"{form}-many.jsonl", **how))
            assert many.records == one.records and many.record.described() == one.record.described()
            assert many.audit["rows"] >= 256
            assert not many.path.with_name(f"{form}-many.jsonl.draws").exists()
    finally:
        ray.shutdown()


def test_codes_are_of_the_draw_alone(given) -> None:
    """The gate settles what it settles in any batch; a worker gives what this process gives, wherever a row is seated."""
    config = given("gate", "r.jsonl")
    with closing(Model(config)) as model:
        key, pixels = Key.parse(KEY), np.arange(48, dtype=np.uint8) * 5
        span = Span(Block(3, phase_of(1, 1), 0, 16), pixels, 0, 16, 0)
        counting = Counting(model, 0.5)
        fill(counting.law, key, [span], counting.noisy)
        middle = expit(np.median(model.distances(counting.noisy)))  # a gate that half of the rows pass
        config, counting = replace(config, gate=float(middle)), Counting(model, float(middle))
        codes = counting.codes(key, [span])
        settled = codes != UNSETTLED
        assert settled.any() and not settled.all()
        rows = [Through(Block(3, phase_of(1, 1), 0, 16), pixels, place, place + 1, 15 - place) for place in range(16)]
        whole = counting.codes(key, rows)[::-1]
        assert np.array_equal(whole[settled], codes[settled]) and (whole >= 0).all()
        files = {name: EngineFiles.of(getattr(config, name)) for name in ("classifier", "detector")}
        worker = OodJob(config, files).open(lambda sha: b"")
        assert worker.facts() == model.facts
        with pytest.raises(InputError, match="before it had a key"):
            worker.draw([span])
        worker.begin(key)
        assert np.array_equal(worker.draw([span]).labels, codes)
        assert np.array_equal(worker.draw([row.plain() for row in rows]).labels[::-1], whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "clean", "ray": "local"}, "--ray is for --kind certified, got clean"),
        ({"kind": "clean", "device": "cpu,cpu"}, "--device cpu,cpu is for --kind certified, got clean"),
        ({"kind": "certified", "score": "distro-l2", "ray": "local"}, "--ray is not for --score distro-l2"),
        ({"kind": "certified", "workers": "2"}, "--workers is for --ray"),
        ({"kind": "certified", "device": "cpu,cuda:0"}, "names a CPU and GPUs"),
        ({"kind": "certified", "device": "cuda:0,cuda:9"}, "no NVIDIA driver|no usable GPU|cuda:9 does not exist"),
    ],
)
def test_what_workers_are_not_asked_for(given, options, message, capsys, tmp_path) -> None:
    config = given("fixed", "r.jsonl")
    asked = {"classifier": config.classifier, "in-data": config.in_data, "out-data": config.out_data[0], "sigma": 0.25}
    asked |= {"out": config.out, **options}
    assert main(["ood", *(part for name, value in asked.items() for part in (f"--{name}", str(value)))]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error
    assert not config.out.exists()
