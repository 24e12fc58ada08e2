"""What other processes take of the machine while something is timed."""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")
LOUD = 0.05  # of the processors' time


def _jiffies() -> tuple[int, int] | None:
    """Clock ticks of all processors since the machine began: (busy, all); None where the system does not say."""
    try:
        name, *fields = STAT.read_text(encoding="ascii").splitlines()[0].split()
        user, nice, system, idle, waiting, irq, softirq, steal = map(int, fields[:8])
    except (OSError, ValueError, IndexError):
        return None
    busy = user + nice + system + irq + softirq + steal
    return (busy, busy + idle + waiting) if name == "cpu" else None


class Neighbours:
    """Counts from its making on."""

    def __init__(self) -> None:
        self.begun, self.own = _jiffies(), self._own()

    @staticmethod
    def _own() -> float:
        spent = os.times()
        return (spent.user + spent.system) * os.sysconf("SC_CLK_TCK")

    def share(self) -> float | None:
        """The share of all processors' time that went to other processes; None where the system does not say."""
        now = _jiffies()
        if self.begun is None or now is None or now[1] <= self.begun[1]:
            return None
        others = now[0] - self.begun[0] - (self._own() - self.own)
        return max(0.0, min(1.0, others / (now[1] - self.begun[1])))


def note(share: float | None) -> list[str]:
    """What the reader has to know of it."""
    if share is None or share <= LOUD:
        return []
    return [f"other processes took {share:.0%} of the processors' time meanwhile: on a quiet machine rates are higher"]
