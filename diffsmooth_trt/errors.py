"""Errors of diffsmooth-trt: each is one line that names what came, what was expected and the remedy."""

from __future__ import annotations


class DiffsmoothError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is the command line's exit status."""

    exit_code = 1


class InputError(DiffsmoothError, ValueError):
    """An argument, a file or a configuration that cannot be used as given (exit status 2)."""

    exit_code = 2


class EngineError(DiffsmoothError):
    """A backend failed while running, or an engine produced values that cannot be classified."""


class AuditError(EngineError):
    """Rows that were evaluated again had other labels: none of the run's votes counts."""


class StoreError(DiffsmoothError):
    """A run store could not be read or written (damaged file, full disk)."""


class NoiseError(DiffsmoothError):
    """The compiled sampler, as built and on this machine, does not give the noise that certificates rest on."""


class OutOfMemory(EngineError):
    """A device has less free memory than a batch takes."""


def shortened(error: BaseException, most: int = 600) -> str:
    """What a compiler's error says, as one line: of a long one begin and end, since its command stands between them."""
    said = " ".join(str(error).split())
    return said if len(said) <= most else f"{said[: most // 3]} … {said[-2 * most // 3 :]}"
