"""Labels of `ood`: classes as in certify, needed for --accuracy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffsmooth_trt.datasets import Classes
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.images import Images
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.sets import label_inside

TWELVE = Classes(12)


def folder_of(path: Path, names: list[str]) -> Path:
    for name in names:
        (path / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(path / name / "a.png")
    return path


def asked(data: Path, out: Path, **more: object) -> OodConfig:
    return OodConfig(
        classifier=out / "c.onnx", in_data=data, out_data=("generated:uniform",), out=out / "r.jsonl", **more
    )


def test_labels_that_are_not_known_are_refused_where_they_count(tmp_path):
    numbers, two = folder_of(tmp_path / "n", [str(k) for k in range(12)]), folder_of(tmp_path / "t", ["x", "y"])
    images = Images(numbers)
    assert label_inside(images, asked(numbers, tmp_path, accuracy=(0.01,)), TWELVE).by == "number"
    assert list(images.labels()) == sorted(range(12), key=str)
    assert label_inside(Images(two), asked(two, tmp_path), TWELVE) is None
    with pytest.raises(InputError, match="which is which is not known; give class_map"):
        label_inside(Images(two), asked(two, tmp_path, accuracy=(0.01,)), TWELVE)
    (tmp_path / "map.txt").write_text("x,3\ny,7\n")
    images = Images(two)
    assert label_inside(images, asked(two, tmp_path, accuracy=(0.01,), class_map=tmp_path / "map.txt"), TWELVE)
    assert list(images.labels()) == [3, 7]
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 12])
    np.savez(tmp_path / "b.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    for name, message in (("a.npz", "label 12, the classifier has 12 classes"), ("b.npz", "no labels")):
        with pytest.raises(InputError, match=message):
            label_inside(Images(tmp_path / name), asked(tmp_path / name, tmp_path, accuracy=(0.01,)), TWELVE)
        assert label_inside(Images(tmp_path / name), asked(tmp_path / name, tmp_path), TWELVE)


def test_a_run_records_how_labels_became_classes(linear_classifier, tmp_path):
    data = folder_of(tmp_path / "n", ["0", "2", "1"])
    path = linear_classifier(np.random.default_rng(0).normal(0, 1, (5, 48)), np.zeros(5))
    config = OodConfig(
        classifier=path, in_data=data, out_data=("generated:uniform",), out=tmp_path / "r.jsonl", batch=8
    )
    with run(config) as store:
        assert store.record.labels == {"by": "number", "classes": {"0": 0, "1": 1, "2": 2}}
        assert [record["label"] for record in store.of_set(0)] == [0, 1, 2]
