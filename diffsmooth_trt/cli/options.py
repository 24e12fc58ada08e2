"""What every command shares: the parser with one-line errors, and argument types."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import InputError

Execute = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors; options are never guessed from a prefix."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None


class Commands:
    """The commands below a parser; each stores what runs it as `execute`."""

    def __init__(self, parser: Parser, what: str = "command") -> None:
        self._made = parser.add_subparsers(dest=what, required=True, parser_class=Parser, metavar=what.upper())

    def add(self, name: str, help: str, example: str, execute: Execute | None = None) -> Parser:
        """The parser of the command `name`, whose `--help` closes with `example`."""
        made: Parser = self._made.add_parser(
            name, help=help, description=help, epilog=f"example:\n  diffsmooth-trt {example}"
        )
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        made.set_defaults(execute=execute)
        return made
