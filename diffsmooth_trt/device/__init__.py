"""Devices: where arrays live and what is computed on them between the engines. The CPU, or one CUDA GPU."""

from __future__ import annotations

from .base import Array, Device, DeviceWords
from .cpu import CPU
from .kernel_device import KernelDevice

__all__ = ["CPU", "Array", "Device", "DeviceWords", "KernelDevice", "device_number", "open_device"]

from ..errors import InputError


def device_number(name: str) -> int | None:
    """None for "cpu", N for "cuda:N" (0 for "cuda"); InputError for anything else."""
    if name == "cpu":
        return None
    kind, _, number = name.partition(":")
    if kind == "cuda" and number.isascii() and (number or "0").isdecimal() and len(number) < 4:
        return int(number or 0)
    raise InputError(f"--device {name!r} is unknown: use cpu, or cuda:0 for the first GPU")


def open_device(name: str) -> Device:
    """The device `name`, ready for work; InputError, saying what is missing, where it cannot be used."""
    number = device_number(name)
    if number is None:
        return CPU
    from .cuda import open_cuda

    return open_cuda(number)
