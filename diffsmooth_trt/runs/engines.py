"""From a configuration to a method that runs: its engines opened, at its batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..certify.batch_size import SizedMethod, fit, search
from ..device import Device, open_device
from ..engine import Engine, fixed_batch, open_engine
from ..engine.choice import AUTO, EngineChoice
from ..methods import Method, MethodOptions
from .config import RunConfig


def device_of(config: RunConfig) -> Device:
    """The configuration's device, ready for work; InputError, saying what is missing, where it cannot be used."""
    return open_device(config.engines.device)


def open_method(
    method: type[Method],
    files: Mapping[str, Path],
    *,
    sigma: float | None,
    options: MethodOptions,
    engines: EngineChoice,
    batch: int,
    device: Device,
) -> Method:
    """`method` over its engines, opened from `files` for `batch` rows on `device`. Raises InputError for what does not fit."""
    chosen: dict[str, Any] = {name: getattr(engines, name) for name in ("backend", "precision", "threads")}
    chosen |= {"batch": batch, "device": device, "allow_host_code": engines.allow_host_code}
    opened: dict[str, Engine] = {}
    try:
        for option, slot in method.slots.items():
            if option not in files and slot.optional:
                continue
            level = sigma if slot.role == "denoiser" else None
            opened[option] = open_engine(files[option], role=slot.role, sigma=level, **chosen)
        return method.of(opened, sigma, options)
    except BaseException:
        for engine in opened.values():
            engine.close()
        device.release()
        raise


def build_method(config: RunConfig, batch: int | None = None, device: Device | None = None) -> Method:
    """The configuration's method for `batch` rows on `device`, its own unless given."""
    return open_method(
        config.method,
        config.files,
        sigma=config.sigma,
        options=config.options,
        engines=config.engines,
        batch=int(config.engines.batch) if batch is None else batch,
        device=device_of(config) if device is None else device,
    )


def sized_method(config: RunConfig, device: Device, recorded: int | None = None) -> SizedMethod:
    """The run's method at its batch size: the `recorded` one, that of the files, or the one that fits or is fastest."""
    asked = config.engines.batch
    fixed = next((rows for rows in map(fixed_batch, config.files.values()) if rows), None) if asked == AUTO else None

    def build(batch: int) -> Method:
        return build_method(config, batch, device)

    if recorded or fixed:
        return SizedMethod(build(int(recorded or fixed or 0)))
    return search(build, device) if asked == AUTO else fit(build, int(asked))
