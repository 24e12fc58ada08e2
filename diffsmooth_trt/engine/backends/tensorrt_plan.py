"""TensorRT plans before TensorRT: what a plan says of itself, and whether it may run here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...device.nvidia import NAMES, RTX, TENSORRT, version_numbers
from ...errors import InputError
from ...files import file_sha256, is_there
from ..facts import EngineFacts
from ..record import Record, agreed_record, read_checked

ALLOW = "pass --allow-host-code where you trust it, or export it without --version-compatible"


@dataclass(frozen=True)
class PlanFile:
    """A plan whose content is what its record says: `facts` agreed with the caller, `batch` rows, SHA-256, settings.

    `library` built it, of the version `tensorrt`. `compute_capabilities` ("8.9") are those that it was built for: of the full
    library that of the `gpu` that built it, of TensorRT for RTX its targets. `settings` holds the options of `export plan`
    (tf32, optimization_level, workspace_mib, weight_stripped, version_compatible, …).
    """

    path: Path
    facts: EngineFacts
    batch: int
    sha256: str
    settings: Mapping[str, Any]
    library: str
    tensorrt: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    record: Record

    @property
    def precision(self) -> str:
        """The precision that its multiplications run in: that of the graph, "tf32" where that was allowed for fp32."""
        return "tf32" if self.facts.precision == "fp32" and self.settings.get("tf32") else self.facts.precision

    @property
    def holds_host_code(self) -> bool:
        """Whether deserialising it would load a library embedded in it (the lean runtime of version-compatible plans)."""
        return bool(self.settings.get("version_compatible"))

    @property
    def weight_stripped(self) -> bool:
        """Whether its weights have to be put back from `source()` before it runs (`refit.put_back_weights`)."""
        return bool(self.settings.get("weight_stripped"))

    def read(self) -> bytes:
        """The plan itself, hashed once more as it is read."""
        return read_checked(self.path, self.record)

    def source(self) -> Path:
        """The ONNX file that the plan was built from, beside it, with the recorded content; InputError otherwise."""
        named, weights = str(self.record.source.get("name")), self.record.source.get("weights")
        files = {named: self.record.source.get("sha256"), **(weights if isinstance(weights, dict) else {})}
        for name, sha256 in files.items():
            file = self.path.parent / name
            inside = not Path(name).is_absolute() and ".." not in Path(name).parts  # a link may lead elsewhere
            if not inside or not is_there(file) or file_sha256(file) != sha256:
                raise InputError(
                    f"{self.path.name} has its weights in {name}, which is not beside it as it was at export: copy it there"
                )
        return self.path.parent / named


def read_plan(path: str | Path, *, role: str | None, sigma: float | None, batch: int | None = None) -> PlanFile:
    """The plan at `path`, its hash, role, batch size and noise level (image units) checked; needs neither TensorRT nor a GPU.

    Raises InputError for a plan without record, of another content, or of another role, `sigma` or `batch`. Whether it fits what
    is installed is `check_runs_here`'s to say.
    """
    path = Path(path)
    record = agreed_record(path, "plan", role, sigma, batch)
    machine, library = record.machine, str(record.machine.get("library", TENSORRT))
    if library not in NAMES:
        raise InputError(f"{path} was built by {library!r}, this version knows {', '.join(NAMES)}: export it again")
    try:
        capabilities = _capabilities(machine["targets"]) if library == RTX else (str(machine["compute_capability"]),)
        gpu, _ = ("", "") if library == RTX else (machine["gpu"], machine["driver"])
        version = str(machine["tensorrt"])
        record.source["name"], record.source["sha256"]
    except ValueError:
        raise InputError(
            f"the record of {path} has targets {machine['targets']!r}, expected some like sm89: export it again"
        ) from None
    except KeyError as error:
        raise InputError(f"the record of {path} does not say its {error.args[0]}: export it again") from None
    return PlanFile(
        path, record.facts, record.batch, record.sha256, record.settings, library, version, capabilities, gpu, record
    )


def _capabilities(targets: Any) -> tuple[str, ...]:
    """The compute capabilities of targets: sm89 → "8.9"; ValueError for what is none."""
    numbers = [
        re.fullmatch(r"sm(\d+)(\d)", str(target)) for target in (targets if isinstance(targets, list) else [targets])
    ]
    if not numbers or None in numbers:
        raise ValueError
    return tuple(f"{match[1]}.{match[2]}" for match in numbers if match)


def check_runs_here(
    plan: PlanFile, *, tensorrt: str, compute_capability: str, library: str = TENSORRT, allow_host_code: bool = False
) -> None:
    """Raise InputError unless `plan` was built by this `library`, of the version `tensorrt`, for the present compute capability.

    A version-compatible plan runs in later versions too, but holds executable host code: only with `allow_host_code`,
    and only then may `Runtime.engine_host_code_allowed` be set.
    """
    name, how = plan.path.name, " --target current" if library == RTX else ""
    again = f"build it again here with `diffsmooth-trt export plan{how}`"
    if plan.library != library:
        raise InputError(
            f"{name} was built by {NAMES[plan.library]} and runs in nothing else, got {NAMES[library]}: {again}"
        )
    built, here = version_numbers(plan.tensorrt), version_numbers(tensorrt)
    if built != here and not (plan.holds_host_code and built < here):
        raise InputError(f"{name} was built by {NAMES[library]} {plan.tensorrt}, this machine has {tensorrt}: {again}")
    if compute_capability not in plan.compute_capabilities:
        built_for = ", ".join(plan.compute_capabilities) + (f" ({plan.gpu})" if plan.gpu else "")
        raise InputError(
            f"{name} was built for compute capability {built_for}, this GPU has {compute_capability}: {again}"
        )
    if plan.holds_host_code and not allow_host_code:
        raise InputError(f"{name} is version-compatible and holds executable host code, which is not loaded: {ALLOW}")
