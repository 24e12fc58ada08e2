"""Options from a file: TOML under the options' names, or a run store, which repeats its run. What is typed wins over it."""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runs.reopen import repeating
from ..runs.store import open_run

NO_OPTIONS = ("help", "help-all", "debug", "config")
LISTS = ("radius", "classes")


def words(parser: argparse.ArgumentParser, command: str, path: Path) -> list[str]:
    """The options in the file at `path` as words of the command line; InputError for what `command` does not take."""
    given = read(path)
    made = given.pop("command", command)
    if made != command:
        raise InputError(f"--config {path} is for {made}, got {command}: use `diffsmooth-trt {made} --config {path}`")
    known = {
        action.option_strings[-1].removeprefix("--"): action for action in parser._actions if action.option_strings
    }
    typed: list[str] = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if option not in known or option in NO_OPTIONS:
            choices = [each for each in known if each not in NO_OPTIONS]
            nearest = max(choices, key=lambda each: difflib.SequenceMatcher(None, option, each).ratio())
            raise InputError(
                f"--config {path} has {name!r}, which {command} does not take: the nearest that it takes is {nearest}"
            )
        typed += _words(known[option], option, value, f"--config {path}: {name}")
    return typed


def read(path: Path) -> dict[str, Any]:
    """What a file gives, by name of the option."""
    if not path.is_file():
        raise InputError(f"--config {path} does not exist: give a TOML file, or a run store to repeat its run")
    if _is_store(path):
        with open_run(path) as store:
            return repeating(store)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"--config {path} is neither TOML nor a run store ({error}): write lines like n = 1000"
        ) from None


def _is_store(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _words(action: argparse.Action, option: str, value: Any, where: str) -> Iterator[str]:
    """One option and its value; InputError where the value is of another type than the option's."""
    if action.nargs == 0:
        _check(isinstance(value, bool), where, value, "true or false")
        if value:
            yield f"--{option}"
        return
    several = value if isinstance(value, list) and option in LISTS else [value]
    kinds, named = _types(action, option)
    for each in several:
        _check(isinstance(each, kinds) and not isinstance(each, bool), where, value, named)
    if action.nargs == "+":
        yield from (f"--{option}", *map(str, several))
    else:
        yield f"--{option}={','.join(map(str, several))}"


def _types(action: argparse.Action, option: str) -> tuple[tuple[type, ...], str]:
    """The types of TOML that an option takes, and what to call them."""
    if option == "batch":
        return (int, str), 'a whole number or "auto"'
    if option == "classes" or action.type is int:
        return (int,), "whole numbers" if option in LISTS else "a whole number"
    if action.type is float:
        return (int, float), "numbers" if option in LISTS else "a number"
    return (str,), "a string in quotes"


def _check(right: bool, where: str, value: Any, expected: str) -> None:
    if not right:
        raise InputError(f"{where} is {_toml(value)}, expected {expected}")


def given_file(arguments: Sequence[str]) -> Path | None:
    """What `--config` names among words of the command line, if it is there; the last one counts."""
    file = None
    for at, word in enumerate(arguments):
        if word.startswith("--config="):
            file = word.removeprefix("--config=")
        elif word == "--config" and at + 1 < len(arguments):
            file = arguments[at + 1]
    return None if file is None else Path(file)


def written(settings: Mapping[str, Any], origin: Path) -> str:
    """`repeating` of a run as TOML, for `--config`."""
    name = json.dumps(origin.name, ensure_ascii=False)
    lines = [
        f"# Repeats the run in {name}: diffsmooth-trt {settings['command']} --config THIS --out RUN.sqlite",
        "# Paths are as they were given, seen from the folder where you call it. The key of the noise is not here: each run",
        "# draws one of its own, and `diffsmooth-trt verify` draws the same votes again.",
    ]
    return "\n".join([*lines, *(f"{name.replace('_', '-')} = {_toml(value)}" for name, value in settings.items()), ""])


def _toml(value: Any) -> str:
    """A value in TOML; what else a file held is shown as it reads."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # JSON's escapes are TOML's, but for the one character that JSON leaves as it is
        return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, (int, float)) else str(value)
