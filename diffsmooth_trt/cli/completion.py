"""completion: what makes a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError
from .options import Commands, Parser

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands, whole: Callable[[], Parser]) -> None:
    """completion; `whole` makes the whole program's parser."""
    text = "print a script that makes a shell complete commands, options and files"
    example = "completion bash > ~/.local/share/bash-completion/completions/diffsmooth-trt"
    made = commands.add("completion", text, example, lambda arguments: _print(arguments.shell, whole()))
    made.add_argument("shell", choices=SHELLS, metavar="SHELL", help="%(choices)s")


def _print(shell: str, parser: Parser) -> None:
    try:
        import shtab
    except ImportError:
        raise InputError(
            'completion needs shtab, which is not installed: pip install "diffsmooth-trt[completion]"'
        ) from None
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action
