"""What ONNX Runtime logs does not reach the terminal, from any session, unless someone debugs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffsmooth_trt.cli import main
from diffsmooth_trt.engine import logs

PACKAGE = Path(logs.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(logs, "_severity", logs.FATAL)
    yield
    onnxruntime.set_default_logger_severity(logs.FATAL)


def fails(path: Path, options: Any) -> None:
    """Run a graph that fails, which ONNX Runtime logs as an error besides raising it."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M"])],
        [numpy_helper.from_array(np.array([2]), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {"x": np.zeros(3, np.float32)})


def test_sessions_log_nothing_until_someone_debugs(tmp_path, capfd):
    fails(tmp_path / "a.onnx", logs.session_options(onnxruntime))
    fails(tmp_path / "b.onnx", None)  # of others' tools
    assert capfd.readouterr() == ("", "")
    logs.show()
    fails(tmp_path / "c.onnx", logs.session_options(onnxruntime))
    assert "[E:onnxruntime" in capfd.readouterr().err


def test_debug_on_the_command_line_shows_errors(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.sqlite")]) == 2
    assert logs._severity == logs.FATAL
    assert main(["report", str(tmp_path / "none.sqlite"), "--debug"]) == 2
    assert logs._severity == logs.ERROR


def test_every_session_of_the_package_has_these_options():
    """Sessions of backends that no machine here has, too."""
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"SessionOptions\(\)|log_severity_level", path.read_text(encoding="utf-8"))
    }
    assert makers == {"engine/logs.py"}
    opened = [path for path in PACKAGE.rglob("*.py") if "InferenceSession(" in path.read_text(encoding="utf-8")]
    assert len(opened) >= 5
    for path in opened:
        assert "session_options(" in path.read_text(encoding="utf-8") or path.name == "onnxruntime_rtx.py", path
