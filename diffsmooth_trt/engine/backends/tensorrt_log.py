"""What a TensorRT library says: its errors for our own messages, and where asked for the layers that its builder made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tensorrt as trt


class Log(Protocol):
    """A logger of the library that it was opened for; lives as long as what was made with it."""

    errors: list[str]
    layers: list[str]

    @property
    def last(self) -> str:
        """The last error, shortened."""


def open_log(trt: Any, *, layers: bool = False) -> Any:
    """A `Log` for the library whose module is `trt`; with `layers` it keeps the lines in which a builder lists its layers.

    These are logged at the lowest level, under `ProfilingVerbosity.DETAILED` only.
    """

    class Keeping(trt.ILogger):  # type: ignore[misc]  # the base class has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            """Called by the library."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(msg.split()))
            elif layers and "LayerType: " in msg:
                self.layers += [line for line in msg.splitlines() if line.startswith("Name: ")]

        @property
        def last(self) -> str:
            return self.errors[-1][:300] if self.errors else "no reason was given"

    return Keeping()


def called(trt: Any, name: str) -> str:
    """The library in messages: its `name` and version."""
    return f"{name} {trt.__version__}"
