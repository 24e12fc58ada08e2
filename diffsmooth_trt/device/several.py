"""Several devices of one machine by one name: "cuda:0,cuda:1", "all" for every GPU, "cpu,cpu" for processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from ..errors import InputError
from . import device_number
from .nvidia import find_gpu, gpus_visible

ALL = "all"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def listed_devices(given: str) -> tuple[str, ...]:
    """The devices that a list names, each as "cpu" or "cuda:N", or ("all",); none where `given` is a single device's name.

    Raises InputError for unknown devices, a CPU beside GPUs, and a GPU that is named twice.
    """
    parts = given.split(",")
    if given == ALL:
        return (ALL,)
    if len(parts) == 1:
        return ()
    if ALL in parts:
        raise InputError(f"--device {given} names devices besides all: give all alone, or name each")
    numbers = [device_number(part) for part in parts]
    named = tuple("cpu" if number is None else f"cuda:{number}" for number in numbers)
    if "cpu" in named and set(named) != {"cpu"}:
        raise InputError(f"--device {given} names a CPU and GPUs, which are different classifiers: name one kind")
    twice = [name for name in named if name != "cpu" and named.count(name) > 1]
    if twice:
        raise InputError(f"--device {given} names {twice[0]} more than once: a GPU takes one worker, name each once")
    return named


def present_devices(named: Sequence[str]) -> tuple[str, ...]:
    """What `listed_devices` gave with "all" spelled out. Raises InputError where a GPU of it is not on this machine."""
    devices = [f"cuda:{number}" for number in range(gpus_visible())] if ALL in named else named
    for name in devices:
        number = device_number(name)
        if number is not None:
            find_gpu(number)
    return tuple(devices)


@contextlib.contextmanager
def only_visible(devices: Sequence[str]) -> Iterator[None]:
    """Processes that start within see the GPUs of `devices` alone, in that order; none of them is a GPU: all is as it was."""
    numbers = [number for number in map(device_number, devices) if number is not None]
    before = os.environ.get(VISIBLE)
    shown = before.split(",") if before else None
    if numbers:
        os.environ[VISIBLE] = ",".join(str(number) if shown is None else shown[number] for number in numbers)
    try:
        yield
    finally:
        if numbers:
            del os.environ[VISIBLE]
            os.environ.update({} if before is None else {VISIBLE: before})
