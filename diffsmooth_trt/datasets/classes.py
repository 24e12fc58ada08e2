"""Which class of the classifier each label of a data set is: known, never guessed.

A rank among names (`Source.ranked`) is taken for a class only where nothing contradicts it; numbers that a data set says are
taken as they are unless names or the number of classes contradict. Else a class map has to say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import parsed_json
from .base import Source, reading, some

PLACEHOLDER = re.compile(r"LABEL_\d+|")
WORDNET = re.compile(r"n\d{8}")  # ImageNet numbers its 1000 classes in the order of their WordNet ids
NUMBER = re.compile(r"[0-9]{1,18}")
IMAGENET = 1000
MAP_REMEDY = "give --class-map FILE, with a line `name,class number` for each"

Entry = int | str  # a class of the classifier, by number or name


@dataclass(frozen=True)
class Classes:
    """What a classifier says of its classes: how many there are, and their names if it knows them."""

    count: int
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        said = self.names
        if said is not None and (len(said) != self.count or all(map(_says_nothing, range(self.count), said))):
            object.__setattr__(self, "names", None)

    def numbers(self) -> dict[str, int]:
        """Class by name, as `plain` writes it, and by each of the names that it lists, as "tench, Tinca tinca", where one class
        has that name alone."""
        whole, parts, twice = dict[str, int](), dict[str, int](), set[str]()
        for number, name in enumerate(self.names or ()):
            whole.setdefault(plain(name), number)
            for part in {plain(part) for part in name.split(",")}:
                twice |= {part} & parts.keys()
                parts[part] = number
        return {part: number for part, number in parts.items() if part and part not in twice} | whole


@dataclass(frozen=True)
class Matching:
    """How a data set's labels became classes: `by` "none" (no labels), "number", "name", "rank" or "class map".

    `classes` has the class of each of the data set's names; for a class map of numbers alone, of each label's digits.
    """

    by: str
    classes: Mapping[str, int] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """The matching as JSON values."""
        return {"by": self.by, **({"classes": dict(self.classes)} if self.classes else {})}

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any]) -> Matching:
        """What `recorded` gave. Raises LookupError, TypeError or ValueError for anything else."""
        return cls(str(recorded["by"]), {str(name): int(n) for name, n in dict(recorded.get("classes", {})).items()})

    def line(self) -> str:
        """What reports say of it."""
        if self.by == "none":
            return "labels: none, so there is no accuracy"
        ordered = sorted(self.classes.items(), key=lambda item: item[1])
        names = some([f"{number} = {name}" for name, number in ordered], 4)
        how = {"number": "as the data set numbers them", "class map": "by --class-map"}.get(
            self.by, f"by the {self.by} of each class"
        )
        return f"labels: {how}{f' ({names})' if names else ''}"

    @property
    def doubtful(self) -> str:
        """What speaks against sub-folders of numbers being the classes of those numbers: whoever trains on such folders by
        torchvision's ImageFolder has the classes in the order of text. "" where both are the same.
        """
        numbered = self.by == "number" and all(map(is_number, self.classes))
        if not numbered or sorted(self.classes) == sorted(self.classes, key=int):
            return ""
        text = some(sorted(self.classes), 4)
        return (
            "labels: sub-folders of numbers are the classes of those numbers; a classifier that was trained by torchvision's "
            f"ImageFolder on such folders has them in the order of text ({text}): give --class-map then"
        )

    def to_class(self, source: Source) -> Mapping[int, int] | None:
        """The class of each label of `source`; None where they are the same. Raises InputError for a name that is not here."""
        if not self.classes:
            return None
        if source.names is None:
            return {int(label): number for label, number in self.classes.items()}
        try:
            numbers = {label: self.classes[name] for label, name in enumerate(source.names)}
        except KeyError as error:
            raise InputError(
                f"--data has the class {error.args[0]}, which the run does not know: give the run's data"
            ) from None
        return None if all(label == number for label, number in numbers.items()) else numbers


def _says_nothing(number: int, name: str) -> bool:
    """Whether a class's name is its number; another number is a name, as "10" of class 2 in the order of text."""
    return name == str(number) or PLACEHOLDER.fullmatch(name) is not None


def plain(name: str) -> str:
    """A name without what is written in different ways: case, and what stands between its words."""
    return " ".join(re.split(r"[\s_\-]+", name.casefold())).strip()


def is_number(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9, as files write classes; "²" and "٣" are digits, too, and names."""
    return NUMBER.fullmatch(text) is not None


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """What people, and timm, sort names by: numbers in them as numbers."""
    parts = re.split(r"([0-9]{1,18})", name.lower())
    return [(is_number(part), int(part) if is_number(part) else 0, part) for part in parts]


def match(path: Path, source: Source, classes: Classes, class_map: Mapping[str, Entry] | None = None) -> Matching:
    """How the labels of the data set at `path` are classes of the classifier. Raises InputError where that is not known."""
    if not source.labelled:
        return Matching("none")
    if class_map is not None:
        return Matching("class map", _mapped(path, source, classes, class_map))
    if source.names is None:
        return Matching("number")
    return _ranked(path, source, classes) if source.ranked else _numbered(path, source.names, classes)


def _mapped(path: Path, source: Source, classes: Classes, given: Mapping[str, Entry]) -> dict[str, int]:
    names = source.names
    if names is None:
        names = tuple(map(str, sorted({*source.labels(range(len(source)))})))
    known, numbers = classes.numbers(), dict[str, int]()
    for name in names:
        entry = given.get(name, given.get(plain(name)))
        if entry is None:
            raise InputError(f"--class-map lacks the class {name} of {path}: add a line `{name},class number`")
        number = known.get(plain(entry)) if isinstance(entry, str) else entry
        if number is None or not 0 <= number < classes.count:
            raise InputError(
                f"--class-map has {entry} for {name}, the classifier has classes 0 to {classes.count - 1}: give one of them"
            )
        numbers[name] = number
    return numbers


def _known(known: Mapping[str, int], name: str) -> int | None:
    """The class of a name, or the one that all known ones of "tench, Tinca tinca" are of."""
    if plain(name) in known:
        return known[plain(name)]
    numbers = {known[part] for part in map(plain, name.split(",")) if part in known}
    return numbers.pop() if len(numbers) == 1 else None


def _by_name(path: Path, names: Sequence[str], classes: Classes) -> dict[str, int]:
    """The class of each name that the classifier knows. Raises InputError where two names are one class."""
    known, numbers, taken = classes.numbers(), dict[str, int](), dict[int, str]()
    for name in names:
        number = _known(known, name)
        if number is None:
            continue
        if number in taken:
            raise InputError(f"{path} has classes {taken[number]} and {name}, one for the classifier: {MAP_REMEDY}")
        taken[number], numbers[name] = name, number
    return numbers


def _numbered(path: Path, names: Sequence[str], classes: Classes) -> Matching:
    """Of a data set that numbers its classes, and names them."""
    numbers = _by_name(path, names, classes)
    if len(numbers) == len(names):
        return Matching("name", numbers)
    same = all(names[number] == name for name, number in numbers.items() if number < len(names))
    if len(names) == classes.count and same:
        return Matching("number", {name: number for number, name in enumerate(names)})
    lacking = [name for name in names if name not in numbers] if numbers else list(names)
    raise InputError(
        f"{path} has {len(names)} classes ({some(names)}), the classifier has {classes.count}"
        f"{f', and not {some(lacking)}' if numbers else ''}: which is which is not known; {MAP_REMEDY}"
    )


def _ranked(path: Path, source: Source, classes: Classes) -> Matching:
    """Of a data set that names its classes, as an image folder does."""
    names = source.names or ()
    numbers = _by_name(path, names, classes)
    if numbers:
        lacking = [name for name in names if name not in numbers and name not in source.empty]
        if lacking:
            raise InputError(
                f"{path} has the class {lacking[0]}, which the classifier does not know by that name: {MAP_REMEDY}"
            )
        return Matching("name", numbers)
    if all(map(is_number, names)):
        return Matching("number", _digits(path, names, classes))
    if source.empty:
        raise InputError(f"{path} has sub-folders without images ({some(source.empty)}): remove them or fill them")
    if len(names) != classes.count:
        raise InputError(
            f"{path} has {len(names)} classes ({some(names)}), the classifier has {classes.count}: which is which is not "
            f"known; {MAP_REMEDY}"
        )
    wordnet = classes.count == IMAGENET and all(WORDNET.fullmatch(name) for name in names)
    if classes.names is not None and not wordnet:
        raise InputError(
            f"{path} has classes {some(names)}, the classifier calls its own {some(classes.names)}: {MAP_REMEDY}"
        )
    for text, number in zip(names, sorted(names, key=_natural), strict=True):
        if text.lower() != number.lower():
            raise InputError(
                f"{path} has class {text} before {number} as text and behind it as a number: which is which is not known; "
                f"{MAP_REMEDY}"
            )
    return Matching("rank", {name: rank for rank, name in enumerate(names)})


def _digits(path: Path, names: Sequence[str], classes: Classes) -> dict[str, int]:
    """The numbers that names are."""
    numbers = {name: int(name) for name in names}
    wrong = [name for name, number in numbers.items() if number >= classes.count]
    if wrong:
        raise InputError(
            f"{path} has the class {wrong[0]}, the classifier has classes 0 to {classes.count - 1}: {MAP_REMEDY}"
        )
    if len({*numbers.values()}) < len(numbers):
        raise InputError(f"{path} has one class number twice ({some(names)}): {MAP_REMEDY}")
    return numbers


def read_class_map(path: Path) -> dict[str, Entry]:
    """A file that says which class a name is.

    JSON: {name: class}, {class number: name or [names]} as id2label and imagenet_class_index.json, or a list of names by number.
    Text: lines `name,class` (or with a tab), or a name a line, its number being the line's from 0. A class is a number, or the
    classifier's name for it. Raises InputError for anything else.
    """
    with reading(path, "a readable class map"):
        text = path.read_text(encoding="utf-8-sig")
        values = parsed_json(text) if path.suffix == ".json" else None
    if values is None:
        return _of_lines(path, [line.strip() for line in text.splitlines() if line.strip()])
    if isinstance(values, list):
        values = {str(number): name for number, name in enumerate(values)}
    entries: dict[str, Entry] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        named = value if isinstance(value, list) else [value]
        if is_number(key) and named and all(isinstance(name, str) for name in named):
            entries |= {name: int(key) for name in named}
        elif isinstance(value, int | str) and not isinstance(value, bool):
            entries[key] = value
        else:
            raise InputError(f"--class-map {path} has {value!r} for {key}: expected a class number or a name")
    return _checked(path, entries)


def _of_lines(path: Path, lines: Sequence[str]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    pairs = [re.split(r"\s*[\t,]\s*(?=[^\t,]*$)", line) for line in lines]
    if len(pairs) > 1 and not is_number(pairs[0][-1]) and all(is_number(pair[-1]) for pair in pairs[1:]):
        pairs = pairs[1:]  # the names of columns
    if all(len(pair) == 2 and is_number(pair[1]) for pair in pairs):
        return _checked(path, {name: int(number) for name, number in pairs})
    if all(len(pair) == 2 and "," not in pair[0] for pair in pairs) and all(" " not in line for line in lines):
        entries |= dict(pairs)
        return _checked(path, entries)
    for number, line in enumerate(lines):
        entries |= {line: number, line.split()[0]: number} if WORDNET.match(line) else {line: number}
    return _checked(path, entries)


def _checked(path: Path, entries: dict[str, Entry]) -> dict[str, Entry]:
    if not entries:
        raise InputError(f"--class-map {path} holds no classes: give lines `name,class number`")
    return {plain(name): entry for name, entry in entries.items()} | entries
