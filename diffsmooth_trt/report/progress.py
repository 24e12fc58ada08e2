"""The progress bar: images done, samples a second, time left."""

from __future__ import annotations

from typing import Self

from tqdm import tqdm

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {rate_noinv_fmt}, {remaining} left{postfix}"


class ProgressBar:
    """A bar on the terminal's error stream; nothing where that is not a terminal."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.images = 0
        self.total = 0
        self.bar: tqdm[None] | None = None

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Know the whole, and what the store already holds of it."""
        self.images, self.total = finished, images
        self.bar = tqdm(
            total=samples,
            initial=drawn,
            desc=self.command,
            unit=" samples",
            unit_scale=True,
            bar_format=FORMAT,
            dynamic_ncols=True,
            disable=None,
        )

    def update(self, samples: int, images: int) -> None:
        """Advance by samples drawn and images finished."""
        self.images += images
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.images}/{self.total} images", refresh=False)
            self.bar.update(samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
