"""What long work says of itself while it runs: the stage it is in, how far that is, what is to be known. Nobody has to listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Whoever shows stages."""

    def begin(self, what: str, total: int | None) -> None:
        """A stage begins, inside of the one that runs if there is one, with `total` parts (None: nobody knows)."""

    def advance(self, parts: int) -> None:
        """So many more parts of the innermost stage are done."""

    def end(self) -> None:
        """The innermost stage ended, or was given up."""

    def note(self, text: str) -> None:
        """What a reader has to know before the work goes on."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def _nothing(parts: int) -> None:
    """Nobody listens."""


@contextmanager
def stage(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A stage called `what`; gives what takes the number of parts that were done."""
    listener = _listener.get()
    if listener is None:
        yield _nothing
        return
    listener.begin(what, total)
    try:
        yield listener.advance
    finally:
        listener.end()


def note(text: str) -> None:
    """Say something that a reader has to know before the work goes on."""
    listener = _listener.get()
    if listener is not None:
        listener.note(text)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """`listener` hears of all stages meanwhile."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
