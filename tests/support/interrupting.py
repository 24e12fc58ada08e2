"""Progress that stops a command after so many updates, as Ctrl-C does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Interrupting:
    """KeyboardInterrupt at the update that takes `left` to 0; `began` is how many images were finished at the start."""

    left: int
    began: int = 0

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        self.began = finished

    def update(self, samples: int, images: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
