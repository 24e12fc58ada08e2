"""The comparison that every export ends in, and what a report prints of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffsmooth_trt.dtypes import Floats32, Labels
from diffsmooth_trt.engine import EngineFacts
from diffsmooth_trt.engine.record import Record
from diffsmooth_trt.errors import EngineError, InputError
from diffsmooth_trt.exporting.checks.compare import Comparison, Expected, compare
from diffsmooth_trt.exporting.writers.report import ExportReport

FACTS = EngineFacts("classifier", (3, 4, 4), classes=2)


def batches(counted: int) -> list[Expected]:
    """Two batches of three rows, of whose outputs, twice the inputs, `counted` rows of the second one count."""
    inputs = [np.array(rows, np.float32) for rows in ([[1, 0], [0, 2], [3, 0]], [[-4, 0], [5, 0], [6, 0]])]
    wants = [2 * inputs[0], 2 * inputs[1][:counted]]
    return [Expected((x,), want, labels(want)) for x, want in zip(inputs, wants, strict=True)]


def labels(outputs: Floats32) -> Labels:
    return np.asarray(outputs.argmax(1), np.int64)


def test_only_rows_that_count_are_compared() -> None:
    def run(x: Floats32) -> Floats32:
        made = 2 * x + np.array([0, 3], np.float32)  # one of five labels changes
        made[2] = np.where(x[2] == 6, np.nan, made[2])  # in a row that does not count
        return made

    found = compare(batches(2), run, name="the file", failure=EngineError("NaN"), label=labels)
    assert found == Comparison(5, 3.0, 1.5, 10.0, agreement=4 / 5, magnitude=3.0)
    assert found.differences == {"max_difference": 3.0, "mean_difference": 1.5}
    assert compare(batches(2), run, name="the file", failure=EngineError("NaN")).agreement is None
    with pytest.raises(EngineError, match="NaN"):
        compare(batches(3), run, name="the file", failure=EngineError("NaN"))
    with pytest.raises(InputError, match=r"the file returns \(3, 1\) where the network returns \(3, 2\)"):
        compare(batches(3), lambda x: x[:, :1], name="the file", failure=EngineError("NaN"))


@pytest.mark.parametrize("agreement", [None, 0.9])
def test_a_plans_report_is_one_line(capsys: pytest.CaptureFixture[str], agreement: float | None) -> None:
    record: Any = Record("plan", "0" * 64, 8, FACTS, {}, {})
    found = Comparison(2000, 0.0123, 0.00456, 1.0, agreement)
    ExportReport(Path("c.plan"), FACTS, found, None, 1.0, 1, record).show()
    printed = capsys.readouterr()
    wrote = "wrote c.plan: maximum difference from its source 0.012, mean 0.0046"
    if agreement is None:
        assert (printed.out, printed.err) == (f"{wrote}\n", "")
        return
    assert printed.out == f"{wrote}, 90.00 % of 2000 labels alike\n"
    assert printed.err == (
        "diffsmooth-trt: c.plan: only 90.0 % of 2000 labels are those of the source (expected 99.5 %): this is another "
        "classifier; use a wider precision\n"
    )


def test_a_files_report_has_a_line_for_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    seen = {
        "backend": "openvino",
        "precision": "bf16",
        "max_difference": 0.1,
        "mean_difference": 0.01,
        "same_labels": 0.9,
    }
    verification = {"data": "zoo", "images": 50, "backends": [seen], "not_run": {"onnxruntime": "no kernels"}}
    facts = EngineFacts("classifier", (3, 4, 4), 2, precision="bf16", details={"verification": verification})
    ExportReport(Path("c.onnx"), facts, Comparison(4, 1e-6, 1e-7, 1.0), 1e-4, 1.0, 1).show()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "wrote c.onnx: maximum difference from its source 1e-06 (before conversion)",
        "  openvino, bf16: maximum difference 0.1, mean 0.01, 90.00 % identical labels (50 noisy images, zoo)",
        "  onnxruntime: not run (no kernels)",
    ]
    assert printed.err.startswith(
        "diffsmooth-trt: warning: only 90.00 % of 50 labels are those of the torch source in "
    )
