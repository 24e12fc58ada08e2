"""The batch size: as asked, halved until a device's memory takes it, or the fastest that a short search finds.

All of it before any vote is recorded: the batch is part of the classifier, so it never changes within a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..device import Device
from ..errors import OutOfMemory
from ..methods import Method
from ..noise import SELECTION, Key, grid_law
from .batch import Span
from .blocks import Block
from .step import Step

SMALLEST, LARGEST = 16, 2**16
SECONDS, FEWEST_STEPS = 0.3, 3
GAIN = 1.03  # a larger batch has to be faster by this factor to go on, or to be taken
SHARE = 0.9  # of the free memory that a search may expect to need
ANY_SIGMA = 1.0  # for methods without noise of their own

Build = Callable[[int], Method]


@dataclass(frozen=True)
class SizedMethod:
    """A method that runs; `choice` is how its batch was found, JSON values, None where it is simply the one asked for."""

    method: Method
    choice: dict[str, Any] | None = None


def _spans(method: Method) -> list[Span]:
    """One full batch of a gray image, under a key that is nobody's."""
    pixels = np.full(int(np.prod(method.input_shape)), 127, np.uint8)
    return [Span(Block(0, SELECTION, 0, method.batch), pixels, 0, method.batch, 0)]


def warm_up(method: Method) -> None:
    """Run one step: all memory that a step takes is then taken, and algorithms are chosen. Raises OutOfMemory."""
    step = Step(method, grid_law(method.sigma or ANY_SIGMA), Key(0))
    step.launch(_spans(method))
    step.collect()


class Clock:
    """Times whole steps of a method, each a full batch of a gray image; the first one, which takes memory, is not counted.

    With `graph` False no device records its work: then `Device.watch` is told each stage of each step.
    """

    def __init__(self, method: Method, *, graph: bool = True) -> None:
        self.method, self.spans = method, _spans(method)
        self.step = Step(method, grid_law(method.sigma or ANY_SIGMA), Key(0), graph=graph)
        self.latency()

    def latency(self) -> float:
        """Seconds of one step that is alone."""
        start = time.perf_counter()
        self.step.launch(self.spans)
        self.step.collect()
        return time.perf_counter() - start

    def rate(self, seconds: float) -> float:
        """Samples a second, as many steps under way as in a run, over `seconds` or a little more."""
        step, start, done = self.step, time.perf_counter(), 0
        while done < FEWEST_STEPS or time.perf_counter() - start < seconds:
            while not step.full:
                step.launch(self.spans)
            step.collect()
            done += 1
        while step.flying:
            step.collect()
            done += 1
        return done * self.method.batch / (time.perf_counter() - start)


def throughput(method: Method, seconds: float = SECONDS) -> float:
    """Samples a second of whole steps, as many under way as in a run, over `seconds` or a little more."""
    return Clock(method).rate(seconds)


def fit(build: Build, batch: int) -> SizedMethod:
    """The method at `batch` rows, or at the first half, quarter, … that the device has memory for; OutOfMemory at 1."""
    asked = batch
    while True:
        try:
            method = _warmed(build, batch)
            break
        except OutOfMemory:
            if batch == 1:
                raise
        batch //= 2  # out here nothing of the failed attempt is held any more
    choice = {"asked": asked, "chosen": batch, "reason": "out of memory"} if batch != asked else None
    return SizedMethod(method, choice)


def _warmed(build: Build, batch: int) -> Method:
    method, failure = build(batch), ""
    device = method.device
    if device.synchronous:
        return method
    try:
        warm_up(method)
        return method
    except OutOfMemory as error:
        failure = error.message
    except BaseException:
        method.close()
        device.release()
        raise
    method.close()  # out here no traceback holds the failed step any more: all of its memory can be given back
    del method
    device.release()
    raise OutOfMemory(failure)


def search(build: Build, device: Device, clock: Callable[[Method], float] = throughput) -> SizedMethod:
    """The method, which `build` makes on `device`, at the fastest batch size of 16, 32, 64, …, the smallest within 3 % of it.

    Stops where a size is no faster, where the next one would not fit into the free memory by what this one took, or at the
    first that is out of memory. `clock` measures samples a second.
    """
    tried: list[dict[str, Any]] = []
    size, stop = SMALLEST, ""
    while not stop:
        try:
            rate, stop = _measured(build, device, size, clock)
        except OutOfMemory:
            tried.append({"batch": size, "samples_per_second": None})
            break
        best = max((each["samples_per_second"] for each in tried), default=0.0)
        tried.append({"batch": size, "samples_per_second": round(rate, 1)})
        if rate < best * GAIN:
            stop = "no faster"
        size *= 2
        if size > LARGEST:
            stop = stop or "largest"
    device.release()  # once more: a failed attempt is gone by now
    ran = [each for each in tried if each["samples_per_second"]]
    if not ran:
        fitted = fit(build, SMALLEST)
        return SizedMethod(fitted.method, {"asked": "auto", "chosen": fitted.method.batch, "tried": tried})
    best = max(each["samples_per_second"] for each in ran)
    chosen = next(each["batch"] for each in ran if each["samples_per_second"] * GAIN >= best)
    choice = {"asked": "auto", "tried": tried}
    fitted = fit(build, chosen)  # memory may have gone to another process meanwhile
    return SizedMethod(fitted.method, {**choice, "chosen": fitted.method.batch})


def _measured(build: Build, device: Device, size: int, clock: Callable[[Method], float]) -> tuple[float, str]:
    """(samples a second, why no larger batch fits or ""), everything released again."""
    before, method = device.memory(), None
    try:
        method = build(size)
        rate = clock(method)
        after = device.memory()
    finally:
        if method is not None:
            method.close()
        method = None
        device.release()
    if before is None or after is None:
        return rate, ""
    taken = before[0] - after[0]
    return rate, "memory" if 2 * taken > SHARE * before[0] else ""
