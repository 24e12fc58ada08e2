"""Draws that two methods see, one noise and two labels, and draws that the other one sees alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..dtypes import Labels


@dataclass(frozen=True)
class Pairs:
    """Counts of an image's paired draws by whether f and whether g answers the class c: they add up to all draws."""

    both: int
    f_alone: int
    g_alone: int
    neither: int

    @classmethod
    def of(cls, f: Labels, g: Labels, chosen: int) -> Pairs:
        """The counts of labels int64 `[N]` of f and of g."""
        yes, also = f == chosen, g == chosen
        counts = (yes & also, yes & ~also, ~yes & also, ~yes & ~also)
        return cls(*(int(each.sum()) for each in counts))

    @property
    def total(self) -> int:
        """All draws."""
        return self.both + self.f_alone + self.g_alone + self.neither

    @property
    def agree(self) -> int:
        """Draws of which both say the class, or both do not."""
        return self.both + self.neither


@dataclass(frozen=True)
class Alone:
    """Counts of draws that g alone sees, by whether it answers the class c."""

    hits: int
    others: int

    @classmethod
    def of(cls, g: Labels, chosen: int) -> Alone:
        """The counts of labels int64 `[N]`."""
        hits = int((g == chosen).sum())
        return cls(hits, len(g) - hits)

    @property
    def total(self) -> int:
        """All draws."""
        return self.hits + self.others

    @property
    def agree(self) -> int:
        """Draws in which g says what the run says."""
        return self.hits


Drawn = Pairs | Alone
