"""The stages of a session, and the processes that they run in. What each one measures is in checks.py and speeds.py."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from findings import Findings, Skipped, one_line

BATCH = 1000
SMALL = (1, 8, 2, 4)
PAIRS = ("unet", "unet+resnet110x5")


@dataclass(frozen=True)
class Place:
    """Where engine files are kept and results go, whether this is a rehearsal, and how many compilations run at once."""

    folder: Path
    out: Path
    rehearse: bool
    builders: int


@dataclass(frozen=True)
class Stage:
    """A stage: its time box in seconds, the engine files it wants, how long it waits for them, the least time it is begun with.

    `alone`: it times something, so nothing is compiled beside it. `memory`: GiB that have to be free on the GPU.
    """

    name: str
    where: str
    seconds: float
    builds: tuple[str, ...] = ()
    alone: bool = False
    patience: float = 150.0
    least: float = 10.0
    memory: float = 0.0


def _packages(pair: str, batch: int) -> tuple[str, ...]:
    roles = ("denoiser", "classifier") if "+" in pair else ("denoiser",)
    return tuple(f"package:{pair}:{role}:bf16:{batch}" for role in roles)


ZOO = ("zoo:denoiser", "zoo:dds", "zoo:diffsmooth", "votes:dds", "votes:diffsmooth")
SPEED = (*_packages(PAIRS[0], BATCH), *_packages(PAIRS[1], BATCH)[1:])
COMPILED = tuple(f"compiled:{pair}:bf16:{BATCH}" for pair in PAIRS)
LATENCY = tuple(name for batch in SMALL for name in _packages("unet", batch))

# In the order of their value
STAGES = {
    stage.name: stage
    for stage in (
        Stage("device", "checks", 40, alone=True),
        Stage("doctor", "checks", 60),
        Stage("kernels", "checks", 60),
        Stage("sanitizer", "checks", 75),
        Stage("certify", "checks", 90, ZOO),
        Stage("speed", "speeds", 110, SPEED, alone=True, least=30, memory=30),
        Stage("shares", "speeds", 40, SPEED, alone=True, memory=12),
        Stage("compiled", "speeds", 120, (*SPEED, *COMPILED), alone=True, least=30, memory=30),
        Stage("latency", "speeds", 40, LATENCY, alone=True, memory=4),
        Stage("tests", "checks", 120),
        Stage("larger", "speeds", 200, _packages("unet", 4096), alone=True, least=40, memory=45),
        Stage("onnxruntime", "speeds", 120, alone=True, memory=12),
    )
}


def in_order(chosen: list[Stage]) -> list[str]:
    """What the stages want built: first the networks that take longest to compile, then in the stages' order."""
    names = list(dict.fromkeys(name for stage in chosen for name in stage.builds))
    return sorted(names, key=lambda name: name not in SPEED)


def _settle(name: str, events: str, log: str) -> Findings:
    """Make this process the first of a group, and send what it and its children print to `log`."""
    os.setpgid(0, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"\n=== {name}", flush=True)
    return Findings(Path(events))


def _ended(found: Findings, work: Any, *given: Any) -> None:
    try:
        work(found, *given)
    except Skipped as error:
        found.put(status="skipped", why=str(error))
    except (
        BaseException
    ) as error:  # compilers and libraries raise what they like; the other stages are to run all the same
        traceback.print_exc()
        found.put(status="failed", why=one_line(error))
    else:
        found.put(status=found.status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries that hang or crash when they are unloaded have nothing more to say


def run_stage(stage: Stage, place: Place, events: str, log: str) -> None:
    """A stage, in this process."""
    found = _settle(stage.name, events, log)

    def work(found: Findings) -> None:
        module = importlib.import_module(stage.where)
        if stage.memory and not place.rehearse:
            free = module.free_memory()
            if free < stage.memory:
                raise Skipped(f"too little memory: it needs {stage.memory:.0f} GiB of the GPU, {free:.1f} are free")
        getattr(module, stage.name)(found, place)

    _ended(found, work)


def run_build(name: str, place: Place, events: str, log: str) -> None:
    """An engine file, in this process."""
    found = _settle(name, events, log)
    _ended(found, lambda found: importlib.import_module("builds").build(found, place, *name.split(":")))


def prepare(build: Path) -> int:
    """What can be made without a GPU: the CPU's votes in `build`/gpu-prepared, parts of a wheel in `build`/gpu-wheel-0, -1, …"""
    folder = build / "gpu-prepared"
    folder.mkdir(parents=True, exist_ok=True)
    for method in ("dds", "diffsmooth"):
        found = importlib.import_module("builds").votes(method, folder, rehearse=False)
        print(f"the CPU's votes, {method}: {found.relative_to(build.parent)}", flush=True)
    print(importlib.import_module("wheel_parts").prepare(build))
    return 0
