"""How engines are run: what a user chooses of it, whatever the files."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..device import device_number
from ..ranges import check_types, integer

MOST_ROWS, MOST_THREADS = 2**16, 4096  # sizes beyond any machine
AUTO = "auto"


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """Rows an engine call (`batch`, a number or "auto") and where they are computed; see `open_engine`.

    Raises InputError for values that cannot be.
    """

    batch: int | str = 64
    backend: str | None = None
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    allow_host_code: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.batch != AUTO:
            integer("batch", self.batch, 1, MOST_ROWS)
        if self.threads is not None:
            integer("threads", self.threads, 1, MOST_THREADS)
        device_number(self.device)
