"""Where a plan was compared with its graph: by its export, or noted beside it for the card that it was first opened on.

TensorRT for RTX compiles on the card, so what a comparison finds holds for that card, its driver and the library's version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...device.nvidia import RTX
from ...errors import MALFORMED
from ...files import parsed_json, write_atomically
from .tensorrt_plan import PlanFile

FORMAT = 1
MOST = 64  # comparisons that are kept
LEAST_AGREEMENT = 0.995  # of labels with the source's


def checks_path(plan: Path) -> Path:
    """Where the comparisons of the plan at `plan` are noted: beside it."""
    return plan.with_name(f"{plan.name}.checks.json")


def read_checks(path: Path) -> list[dict[str, Any]]:
    """The comparisons noted of the plan at `path`; none where the file is missing or is not one."""
    try:
        content = parsed_json(checks_path(path).read_text(encoding="utf-8"))
        noted = content["checks"] if content["format"] == FORMAT else []
        return [each for each in noted if isinstance(each, dict)]
    except (OSError, *MALFORMED):
        return []


def where(plan: PlanFile, *, gpu: str, driver: str, tensorrt: str) -> dict[str, str]:
    """What a comparison of `plan` holds for."""
    return {"plan": plan.sha256, "gpu": gpu, "driver": driver, "tensorrt": tensorrt}


def found_check(plan: PlanFile, here: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What a comparison of `plan` found that holds `here`; None where there is none."""
    if plan.library != RTX:
        made = plan.facts.details.get("plan_check")
        return made if isinstance(made, dict) else None
    return next((each for each in read_checks(plan.path) if all(each.get(name) == here[name] for name in here)), None)


def note_check(plan: PlanFile, here: Mapping[str, str], comparison: Mapping[str, Any]) -> None:
    """Note beside `plan` what a `comparison` found here; OSError where nothing can be written there."""
    others = [each for each in read_checks(plan.path) if any(each.get(name) != here[name] for name in here)]
    content = {"format": FORMAT, "checks": [*others, {**here, **comparison}][-MOST:]}
    write_atomically(checks_path(plan.path), json.dumps(content, sort_keys=True, indent=2) + "\n")


def caveat(plan: PlanFile, comparison: Mapping[str, Any] | None) -> str:
    """What every report says of a run with `plan`, by what a `comparison` found; "" where it found the same labels."""
    name, source = plan.path.name, plan.record.source["name"]
    if comparison is None:
        return f"{name} was not compared with {source}, the graph that it was built from, on this GPU: keep both side by side"
    same = comparison.get("same_labels")
    if isinstance(same, int | float) and same < LEAST_AGREEMENT:
        return f"{name} gave only {100 * same:.1f} % of the labels of {source}, the graph that it was built from"
    return ""
