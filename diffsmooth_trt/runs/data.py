"""What is looked at in a data set before anything is drawn from it, and said then: later it would be too late for a long run."""

from __future__ import annotations

from collections.abc import Mapping

from ..images import Images
from ..stages import note


def look_over(images: Images, shape: tuple[int, int, int], rows: range | None = None, name: str = "") -> list[str]:
    """Read the headers of the images, or of those of `rows`, which have to become `[C, H, W]` = `shape`.

    Returns what reports have to say of the data: what the reader leaves out, turns, takes in other colours, or guesses. It is
    said at once, too; `name` goes in front, where there are several sets. Raises InputError for images that cannot be used,
    unless they are to be skipped.
    """
    channels, height, width = shape
    checked = (images if rows is None else images.of_rows(rows)).check((height, width, channels))
    images.expect((height, width, channels))
    matching, source = images.matching, images.source
    found = [*source.left_out, *checked.notes()]
    if matching is not None and source.ranked and matching.doubtful:
        found.append(matching.doubtful)
    guessed = [matching.line()] if matching is not None and matching.by == "rank" else []
    for text in (*found, *guessed):
        note(f"{name}: {text}" if name else text)
    return found


def say_skipped(images: Images, name: str = "") -> None:
    """Say which images are skipped, as far as that is known."""
    if images.skipped:
        note(f"{f'{name}: ' if name else ''}{skipped_line(images.skipped)}")


def skipped_line(skipped: Mapping[int, tuple[int, str]], counted: str = "") -> str:
    """Which images cannot be used, by row with label and reason, and as what they are `counted`."""
    named = "; ".join(f"image {row}: {why}" for row, (_, why) in list(skipped.items())[:3])
    return f"skipped: {len(skipped)} images that cannot be used{counted} ({named}{'; …' if len(skipped) > 3 else ''})"
