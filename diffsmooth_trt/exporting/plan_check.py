"""Plans that were built on another machine, compared with their graphs when they are first opened on a card.

Not yet run on a card.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from ..device import Device, device_number, open_device
from ..device.nvidia import RTX, find_gpu, import_tensorrt
from ..engine import open_engine
from ..engine.backends.tensorrt_check import found_check, note_check, where
from ..engine.backends.tensorrt_plan import PlanFile, read_plan
from ..engine.record import parse_record
from ..errors import InputError
from .checks.compare import compare_engines
from .plan import compared_rows, strict_tolerance
from .writers.report import check_difference


def compare_plans(paths: Iterable[Path], device: str) -> None:
    """Compare the plans of TensorRT for RTX among `paths` that nobody compared on this card, and note beside them what is found.

    A plan whose graph is not beside it, or does not run on the CPU, is left uncompared, which reports of a run with it say.
    `device` is "cuda:N". Raises InputError where one differs from an fp32 graph by more than strict fp32 may, or does not run.
    """
    opened = None
    for path in dict.fromkeys(paths):
        if path.suffix != ".plan" or parse_record(path, "plan").machine.get("library") != RTX:
            continue
        opened = opened or open_device(device)
        plan, gpu = read_plan(path, role=None, sigma=None), find_gpu(device_number(device) or 0)
        here = where(plan, gpu=gpu.name, driver=gpu.driver, tensorrt=str(import_tensorrt(RTX).__version__))
        if found_check(plan, here) is None:
            _compare(plan, opened, here)


def _compare(plan: PlanFile, device: Device, here: dict[str, str]) -> None:
    facts = plan.facts
    try:
        source = plan.source()
        rows = compared_rows(plan.batch, source, None)
        reference = open_engine(source, batch=rows, role=facts.role, sigma=facts.sigma, precision="fp32")
    except InputError:
        return
    with (
        reference,
        open_engine(plan.path, batch=plan.batch, role=facts.role, sigma=facts.sigma, device=device) as engine,
    ):
        comparison = compare_engines(engine, reference)
    tolerance = strict_tolerance(facts, bool(plan.settings.get("tf32")), comparison)
    if tolerance is not None:
        check_difference(plan.path, comparison, tolerance, "build it again with `diffsmooth-trt export plan`")
    with contextlib.suppress(OSError):  # a folder that nobody may write to: compared again next time
        note_check(plan, here, {**comparison.recorded(), "against": source.name})
