"""What ONNX Runtime logs on the terminal: nothing, for its exceptions say it too; its errors where someone debugs."""

from __future__ import annotations

from typing import Any

FATAL, ERROR = 4, 3  # its numbers
_severity = FATAL


def show() -> None:
    """Let sessions that are opened from now on log their errors: a provider that does not load says why there alone."""
    global _severity
    _severity = ERROR


def session_options(onnxruntime: Any) -> Any:
    """Options for a session of the library's module; sessions that others' tools open log no more than it does."""
    onnxruntime.set_default_logger_severity(_severity)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _severity
    return options
