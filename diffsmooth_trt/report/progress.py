"""Progress on the terminal's error stream: what is being done, how far it is, the time left; or as lines of JSON for scripts."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any, Self, TextIO

from tqdm import tqdm

from ..stages import listening

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {rate_noinv_fmt}, {remaining} left{postfix}"
OF_STAGE = "{desc} {percentage:3.0f}%|{bar}| {remaining} left"
OPEN_END = "{desc}, {elapsed}"  # of a stage that does not say how long it is


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar without tqdm's thread, whose start never returns where there is no memory for one; so each update looks at the time."""

    monitor_interval = 0

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{"miniters": 1, **options})


class ProgressBar:
    """A bar on the terminal's error stream; nothing where that is not a terminal, or where it is not `shown`.

    Stages (`stages.stage`) have a bar of their own until the whole is known.
    """

    def __init__(self, command: str, shown: bool = True) -> None:
        self.command = command
        self.images = 0
        self.total = 0
        self.bar: Bar | None = None
        self.disable = None if shown else True
        self.stages: list[Bar] = []
        self._entered = ExitStack()
        self._ended = threading.Event()

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Know the whole, and what the store already holds of it."""
        self.images, self.total = finished, images
        self.bar = Bar(
            total=samples,
            initial=drawn,
            desc=self.command,
            unit=" samples",
            unit_scale=True,
            bar_format=FORMAT,
            dynamic_ncols=True,
            disable=self.disable,
        )

    def update(self, samples: int, images: int) -> None:
        """Advance by samples drawn and images finished."""
        self.images += images
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.images}/{self.total} images", refresh=False)
            self.bar.update(samples)

    def begin(self, what: str, total: int | None) -> None:
        """Show a stage, unless the whole has its bar."""
        form = OPEN_END if total is None else OF_STAGE
        hidden = True if self.bar is not None else self.disable
        words = f"{self.command}: {what}"
        for outer in self.stages:
            outer.clear()
        self.stages.append(
            Bar(total=total, desc=words, bar_format=form, dynamic_ncols=True, leave=False, position=0, disable=hidden)
        )

    def advance(self, parts: int) -> None:
        """Advance the innermost stage."""
        self.stages[-1].update(parts)

    def end(self) -> None:
        """Take the innermost stage away."""
        self.stages.pop().close()

    def note(self, text: str) -> None:
        """A line on the error stream, above the bars; it is there without bars, too."""
        Bar.write(f"diffsmooth-trt: note: {text}", file=sys.stderr)

    def _tick(self) -> None:
        """Time passes in stages that do not say how far they are."""
        while not self._ended.wait(0.5):
            for innermost in self.stages[-1:]:
                innermost.refresh()

    def __enter__(self) -> Self:
        self._entered.enter_context(listening(self))
        with Bar(disable=self.disable, bar_format="", leave=False) as probe:
            if not probe.disable:
                threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        self._ended.set()
        if self.bar is not None:
            self.bar.close()


class JsonLines:
    """Progress as lines of JSON on `stream`, at most one a second for each stage, and what a command found as the last one.

    `{"event": "stage", "what", "done", "of"}`, `{"event": "progress", "images", "of", "samples", "of_samples", "seconds_left"}`:
    `of` and what follows from it are null where nobody knows. `{"event": "note", "text"}` is of the data, before anything is drawn.
    """

    def __init__(self, command: str, stream: TextIO) -> None:
        self.command, self.stream = command, stream
        self.images = self.of = self.samples = self.first = 0
        self.of_samples: int | None = None
        self.began = self.said = float("-inf")
        self.stages: list[tuple[str, int, int | None]] = []
        self._entered = ExitStack()

    def say(self, event: str, **values: Any) -> None:
        """One line."""
        line = json.dumps({"command": self.command, "event": event, **values}, ensure_ascii=False, allow_nan=False)
        print(line, file=self.stream, flush=True)
        self.said = time.monotonic()

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Know the whole, and what the store already holds of it."""
        self.images, self.of, self.samples, self.first, self.of_samples = finished, images, drawn, drawn, samples
        self.began = time.monotonic()
        self._progress()

    def update(self, samples: int, images: int) -> None:
        """Advance by samples drawn and images finished."""
        self.images, self.samples = self.images + images, self.samples + samples
        if time.monotonic() > self.said + 1 or self.images == self.of:
            self._progress()

    def _progress(self) -> None:
        passed, drawn = time.monotonic() - self.began, self.samples - self.first
        known = self.of_samples is not None and drawn > 0
        left = (int(self.of_samples or 0) - self.samples) * passed / drawn if known else None
        counts = {"images": self.images, "of": self.of, "samples": self.samples, "of_samples": self.of_samples}
        self.say("progress", **counts, seconds_left=None if left is None else round(max(left, 0.0), 1))

    def begin(self, what: str, total: int | None) -> None:
        """A stage."""
        self.stages.append((what, 0, total))
        self.say("stage", what=what, done=0, of=total)

    def advance(self, parts: int) -> None:
        """Advance the innermost stage."""
        what, done, total = self.stages.pop()
        self.stages.append((what, done + parts, total))
        if time.monotonic() > self.said + 1:
            self.say("stage", what=what, done=done + parts, of=total)

    def end(self) -> None:
        """The innermost stage ended."""
        self.stages.pop()

    def note(self, text: str) -> None:
        """A line of it."""
        self.say("note", text=text)

    def __enter__(self) -> Self:
        self._entered.enter_context(listening(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()
