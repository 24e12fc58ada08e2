"""What a TensorRT plan is built with."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError

LEVELS = range(6)
MOST_MIB = 2**20


@dataclass(frozen=True)
class PlanSettings:
    """The builder's settings, as `export plan` names them; raises InputError for values that cannot be.

    `tf32` lets fp32 matrix products round their inputs to TF32 (off: votes as of other fp32 engines);
    `optimization_level` is the builder's, 0 to 5; `workspace_mib` its most scratch memory, None for all there is;
    `weight_stripped` leaves the weights out of the plan, they come from the ONNX file beside it at load;
    `version_compatible` lets later TensorRT versions run it, by host code inside the plan that has to be allowed.
    """

    tf32: bool = False
    optimization_level: int = 3
    workspace_mib: int | None = None
    weight_stripped: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.optimization_level not in LEVELS:
            raise InputError(f"--optimization-level must be 0 to {LEVELS[-1]}, got {self.optimization_level}")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MOST_MIB:
            raise InputError(f"--workspace must be 1 to {MOST_MIB} MiB, got {self.workspace_mib}")
        if self.weight_stripped and self.version_compatible:
            raise InputError(
                "--weight-stripped and --version-compatible exclude each other (the lean runtime cannot put weights back): "
                "choose one"
            )
