"""Errors of diffsmooth-trt: each is one line that names what came, what was expected and the remedy."""

from __future__ import annotations

import re

# An option as messages name it, outside of `commands`; and those that take no value.
OPTION = re.compile(r"(`[^`]*`)|(?<![\w/.-])--([a-z][a-z0-9-]*)")
LONGEST = 1500
# What using values raises that are of another kind, or larger, than their reader takes them for.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
NO_NUMBER = (TypeError, ValueError, OverflowError)  # what float() raises
SWITCHES = ("resume", "family-wise", "quantise", "unfinished", "allow-host-code", "envelope")


def shown(value: object) -> str:
    """`repr` of a value that came; Python writes no integer of more than 4,300 digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def in_python(message: str) -> str:
    """A message that names options of the command line, like --local-noise, with the arguments' names instead: local_noise."""

    def argument(match: re.Match[str]) -> str:
        command, option = match.groups()
        if command is not None:
            return str(command)
        return option.replace("-", "_") + ("=True" if option in SWITCHES else "")

    return OPTION.sub(argument, message)


class DiffsmoothError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is the command line's exit status.

    `message` names options as the command line does; `str()` of the error names Python's arguments.
    """

    exit_code = 1

    @property
    def message(self) -> str:
        """The error's line as the command line prints it; what a damaged file makes very long is cut in the middle."""
        said = " ".join(" ".join(map(str, self.args)).splitlines())
        return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} … {said[-LONGEST // 3 :]}"

    def __str__(self) -> str:
        return in_python(self.message)


class InputError(DiffsmoothError, ValueError):
    """An argument, a file or a configuration that cannot be used as given (exit status 2)."""

    exit_code = 2


class EngineError(DiffsmoothError):
    """A backend failed while running, or an engine produced values that cannot be classified."""


class AuditError(EngineError):
    """Rows that were evaluated again had other labels: none of the run's votes counts."""


class Stopped(DiffsmoothError):
    """A run ended before its end as it was asked to, and keeps what was done (exit status 3)."""

    exit_code = 3


class StoreError(DiffsmoothError):
    """A run store could not be read or written (damaged file, full disk)."""


class NoiseError(DiffsmoothError):
    """The compiled sampler, as built and on this machine, does not give the noise that certificates rest on."""


class OutOfMemory(EngineError):
    """A device has less free memory than a batch takes."""


def message_of(error: BaseException) -> str:
    """What an error says, to be part of another one's message."""
    return error.message if isinstance(error, DiffsmoothError) else str(error)


def shortened(error: BaseException, most: int = 600) -> str:
    """What a compiler's error says, as one line: of a long one begin and end, since its command stands between them."""
    said = " ".join(str(error).split())
    return said if len(said) <= most else f"{said[: most // 3]} … {said[-2 * most // 3 :]}"
