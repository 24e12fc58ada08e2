"""Names of classes in the forms in which others write them, and what an ONNX file's metadata say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from diffsmooth_trt.engine.class_names import LONGEST, names_by_number, names_in_metadata
from diffsmooth_trt.engine.graph import read_graph


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (["ant", "bee"], ["ant", "bee"]),
        (("ant", "bee"), ["ant", "bee"]),
        ({0: "ant", 1: "bee"}, ["ant", "bee"]),
        ({"1": "bee", "0": "ant"}, ["ant", "bee"]),
        ({"ant": 1, "bee": 0}, ["bee", "ant"]),
        ({"ant": "1", "bee": "0"}, ["bee", "ant"]),
        ({"1": "bee"}, ["LABEL_0", "bee"]),
        ({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}, ["n01440764, tench", "n01443537, goldfish"]),
        ({0: 7, 1: 3}, ["7", "3"]),
        (["ant"], None),
        (["ant", 2.5], None),
        ({0: "ant", 2: "bee"}, None),
        ({"ant": 0, "bee": 0}, None),
        ({"ant": True, "bee": False}, None),
        ({}, None),
        ("ant, bee", None),
    ],
)
def test_names_by_number(said: object, names: list[str] | None) -> None:
    assert names_by_number(said, 2) == names


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"names": "{0: 'ant', 1: \"bee's\"}"}, ["ant", "bee's"]),  # Ultralytics, YOLOv5
        ({"class_names": '{"0": "ant", "1": "bee"}'}, ["ant", "bee"]),  # QGIS Deepness
        ({"Id2Label": '{"0": "ant", "1": "bee"}'}, ["ant", "bee"]),
        ({"classes": "ant\nbee\n"}, ["ant", "bee"]),
        ({"labels": "ant, bee"}, ["ant", "bee"]),
        ({"names": "{0: 'ant'}"}, ["ant", "LABEL_1"]),
        ({"names": "['a', 'b', 'c']", "classes": "['ant', 'bee']"}, ["ant", "bee"]),
        ({"names": "__import__('os').abort()"}, None),
        ({"names": "[" * 100_000}, None),
        ({"names": " " * LONGEST + "['ant', 'bee']"}, None),
        ({"author": "ant, bee"}, None),
    ],
)
def test_names_in_metadata(metadata: dict[str, str], names: list[str] | None) -> None:
    assert names_in_metadata(metadata, 2) == names


def test_a_users_own_file_says_what_its_classes_are_called(linear_classifier, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    model = onnx.load(linear_classifier(np.zeros((3, 48)), np.zeros(3), facts=False))
    onnx.helper.set_model_props(model, {"names": "{0: 'ant', 1: 'bee', 2: 'cat'}", "task": "classify"})
    onnx.save(model, path)
    assert read_graph(path, role="classifier", sigma=None).facts.class_names == ("ant", "bee", "cat")
    onnx.helper.set_model_props(model, {"names": json.dumps({"0": "person"} | {str(k): "x" for k in range(1, 80)})})
    onnx.save(model, path)
    assert read_graph(path, role="classifier", sigma=None).facts.class_names is None  # of a detector's eighty
