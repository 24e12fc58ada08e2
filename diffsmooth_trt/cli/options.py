"""What every command shares: the parser with one-line errors and help in two lengths, and argument types."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import InputError

Execute = Callable[[argparse.Namespace], int | None]


class Formatter(argparse.HelpFormatter):
    """argparse's, which also keeps examples apart: an indented line goes on below, as a shell takes it."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(line for given in text.splitlines() for line in _filled(given, width))


def _filled(line: str, width: int) -> list[str]:
    """A line as lines of at most `width` where words allow it; one that is indented is a command."""
    if not line.startswith("  "):
        return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
    words, lines = re.split(r" (?=--)", line.strip()), [""]
    for word in words:
        longer = f"{lines[-1]} {word}" if lines[-1] else f"{'  ' if len(lines) == 1 else '    '}{word}"
        if lines[-1] and len(longer) > width - 2:
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] = longer
    return lines


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors; options are never guessed from a prefix.

    Where options are added to groups, `--help` shows those that most need and names the others, which `--help-all` shows.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Formatter, allow_abbrev=False, **options)
        self._own: list[argparse._ArgumentGroup] = []
        self._rare: list[argparse._ArgumentGroup] = []
        self.before: Callable[[Sequence[str]], list[str]] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """argparse's, with the words that `before` puts in front of those that are typed, which win."""
        given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(given if self.before is None else [*self.before(given), *given], namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")

    def group(self, title: str, *, rare: bool = False) -> Callable[..., argparse.Action]:
        """What adds options to a new group; those of a `rare` one are only named by --help."""
        if rare and not self._rare:
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every option and exit")
        made = self.add_argument_group(title)
        self._own.append(made)
        if rare:
            self._rare.append(made)
        return made.add_argument

    def format_help(self, everything: bool = False) -> str:
        """The help text; without `everything` that of two screens."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        standard = [group for group in self._action_groups if group not in self._own]
        for group in (*self._own, *standard):
            if everything or group not in self._rare:
                formatter.start_section(group.title)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        if self._rare and not everything:
            named = (
                f"{group.title}: {', '.join(action.option_strings[-1] for action in group._group_actions)}"
                for group in self._rare
            )
            formatter.add_text("\n".join(["shown by --help-all:", *named]))
        formatter.add_text(self.epilog)
        return formatter.format_help()


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)
        parser._print_message(parser.format_help(everything=True), sys.stdout)
        parser.exit()


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
