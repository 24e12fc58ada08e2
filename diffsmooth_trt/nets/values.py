"""Option values from JSON files and command lines, read with the type that each must have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from ..files import parsed_json

DEPTH = re.compile("layers|depth|blocks", re.IGNORECASE)  # names of numbers of layers in libraries' configurations
NAMES = ("id2label", "label2id")  # of classes, which may be of layers and depths
DEEPEST = 1000  # layers or blocks in a row that a configuration may ask for; building more takes minutes


class Values(dict[str, Any]):
    """Option values by name; every reader raises InputError for a value of another type."""

    def _wrong(self, name: str, expected: str) -> InputError:
        return InputError(f"option {name} must be {expected}, got {self[name]!r}")

    def flag(self, name: str) -> bool:
        value = self[name]
        text = value.lower() if isinstance(value, str) else value
        if text in ("true", "yes", "t", "y", "1") or text is True:
            return True
        if text in ("false", "no", "f", "n", "0") or text is False:
            return False
        raise self._wrong(name, "true or false")

    def number(self, name: str, value: object = None) -> float:
        value = self[name] if value is None else value
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            result = float(value)
        except (ValueError, OverflowError):
            raise self._wrong(name, "a number") from None
        if not 0 <= result < 1e9 and result != -1:
            raise self._wrong(name, "a non-negative number")
        return result

    def whole(self, name: str, low: int, value: object = None) -> int:
        number = self.number(name, value)
        if number != int(number) or number < low:
            raise self._wrong(name, f"a whole number of at least {low}")
        return int(number)

    def depth(self, name: str) -> int:
        """A number of blocks in a row."""
        number = self.whole(name, 1)
        if number > DEEPEST:
            raise self._wrong(name, f"at most {DEEPEST}")
        return number

    def _list(self, name: str) -> list[object]:
        value = self[name]
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not parts:
            raise self._wrong(name, 'a list such as "16,8"')
        return list(parts)

    def wholes(self, name: str) -> tuple[int, ...]:
        return tuple(self.whole(name, 1, part) for part in self._list(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(self.number(name, part) for part in self._list(name))

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        if self[name] not in known:
            raise self._wrong(name, f"one of {', '.join(known)}")
        return str(self[name])


def known_values(family: str, defaults: Mapping[str, object], options: Mapping[str, object]) -> Values:
    """`defaults` with `options` in their places; InputError for an option that `family` does not know."""
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise InputError(
            f"option {unknown[0]!r} is unknown to {family}: the known ones are {', '.join(sorted(defaults))}"
        )
    return Values({**defaults, **options})


def check_depth(path: Path, config: object, name: str = "") -> None:
    """InputError where a library's configuration in the file at `path` asks for more than DEEPEST layers in a row."""
    if isinstance(config, dict):
        for inner, value in config.items():
            if inner not in NAMES:
                check_depth(path, value, str(inner))
    elif isinstance(config, list):
        for value in config:
            check_depth(path, value, name)
    elif isinstance(config, int) and config > DEEPEST and DEPTH.search(name):
        raise InputError(
            f"{name} in {path} is {shown(config)[:40]}, expected at most {DEEPEST}: fetch the folder again"
        )


def read_object(path: Path, remedy: str, name: str = "") -> dict[str, Any]:
    """The JSON object in a file, which errors call `name`; InputError with the `remedy` for anything else."""
    name = name or str(path)
    try:
        content = parsed_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise InputError(f"{name} is not JSON ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} must hold one JSON object, got {type(content).__name__}: {remedy}")
    return content
