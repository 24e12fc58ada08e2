"""What a run says of a denoiser that is none: one under another range of values, one that adds noise. Of a good one nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import diffsmooth_trt as dst


def changed(path, folder, **values):
    """The denoiser at `path` with other constants."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.array(values[tensor.name], np.float32), tensor.name))
    out = folder / "changed.onnx"
    onnx.save(model, out)
    return out


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ""),
        ({"scale": 2.0, "offset": -1.0, "low": -9.0, "high": 9.0}, "lie more than 0.25 outside of [0, 1]"),
        ({"scale": 3.0, "offset": -1.0}, "this is no denoiser for that noise: on 3 images"),
    ],
    ids=["a denoiser", "[-1, 1] out", "more noise"],
)
def test_reports_say_that_a_denoiser_is_none(shrinking_denoiser, linear_classifier, images_npz, tmp_path, values, said):
    classifier = linear_classifier(np.random.default_rng(0).normal(size=(2, 48)), np.zeros(2))
    given = {
        "engine": changed(shrinking_denoiser(0.25), tmp_path, **values), "classifier": classifier, "n0": 20, "n": 200,
        "data": images_npz(count=3), "out": tmp_path / "r.sqlite", "batch": 8, "backend": "onnxruntime",
    }  # fmt: skip
    with dst.certify(**given) as store:
        notes = [note for note in store.record.notes if "changed.onnx" in note and "denois" in note]
        before = [store.counts(image) for image in range(3)]
        key = store.record.key.hex
    assert any(said in note for note in notes) if said else not notes
    given["out"].unlink()
    with dst.certify(**given, key=key) as store:  # what was looked at changes no vote
        assert [store.counts(image) for image in range(3)] == before
