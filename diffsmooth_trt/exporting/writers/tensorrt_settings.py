"""What a TensorRT plan is built with, and for which GPUs TensorRT for RTX builds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...device.nvidia import NAMES, RTX, TENSORRT
from ...errors import InputError

LEVELS = range(6)
MOST_MIB = 2**20
CURRENT = "current"
TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")  # ComputeCapability of TensorRT for RTX 1.7
CARDS = "sm75 RTX 20, sm80 A100, sm86 RTX 30, sm89 RTX 40, sm120 RTX 50, sm121 DGX Spark"
LEAST = {"fp8": 89, "bf16": 80}  # the oldest compute capability that multiplies so


@dataclass(frozen=True)
class PlanSettings:
    """The builder's settings, as `export plan` names them; raises InputError for values that cannot be.

    `targets` are the GPUs to build for, of TARGETS or CURRENT for this machine's; with them TensorRT for RTX builds, without
    them the full TensorRT, for this machine's GPU. `tf32` lets fp32 matrix products round their inputs to TF32 (off: votes as
    of other fp32 engines); `optimization_level` is the builder's, 0 to 5, None for its own choice (3); `workspace_mib` its most
    scratch memory, None for all there is; `weight_stripped` leaves the weights out of the plan, they come from the ONNX file
    beside it at load; `version_compatible` lets later TensorRT versions run it, by host code inside the plan that has to be
    allowed.
    """

    tf32: bool = False
    optimization_level: int | None = None
    workspace_mib: int | None = None
    weight_stripped: bool = False
    version_compatible: bool = False
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.optimization_level not in (None, *LEVELS):
            raise InputError(f"--optimization-level must be 0 to {LEVELS[-1]}, got {self.optimization_level}")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MOST_MIB:
            raise InputError(f"--workspace must be 1 to {MOST_MIB} MiB, got {self.workspace_mib}")
        if self.weight_stripped and self.version_compatible:
            raise InputError(
                "--weight-stripped and --version-compatible exclude each other (the lean runtime cannot put weights back): "
                "choose one"
            )
        unknown = [target for target in self.targets if target not in (*TARGETS, CURRENT)]
        if unknown:
            raise InputError(f"--target {unknown[0]!r} is unknown to {NAMES[RTX]}: use {CURRENT} or some of {CARDS}")
        if len(set(self.targets)) < len(self.targets) or (CURRENT in self.targets and len(self.targets) > 1):
            raise InputError(
                f"--target {' '.join(self.targets)}: name each target once, and {CURRENT} (this machine's GPU) by itself"
            )
        if self.targets:
            self._check_rtx()

    def _check_rtx(self) -> None:
        """Refuse what TensorRT for RTX has not."""
        for option, given, why in (
            ("--optimization-level", self.optimization_level is not None, "its level changes nothing"),
            ("--weight-stripped", self.weight_stripped, "it strips and refits plans on a GPU only"),
            ("--version-compatible", self.version_compatible, "it has no lean runtime"),
        ):
            if given:
                raise InputError(
                    f"{option} is for the full TensorRT, with --target TensorRT for RTX builds ({why}): leave it out"
                )

    @property
    def library(self) -> str:
        """Which TensorRT builds."""
        return RTX if self.targets else TENSORRT

    def check_cache(self, given: bool) -> None:
        """InputError for a timing cache where the library keeps none."""
        if given and self.library == RTX:
            raise InputError(
                "--timing-cache is for the full TensorRT, TensorRT for RTX times nothing when it builds: leave it out"
            )

    def check_precision(self, precision: str) -> None:
        """InputError where a target has no instructions for a graph's `precision`."""
        least = LEAST.get(precision, 0)
        lacking = [target for target in self.targets if target != CURRENT and number_of(target) < least]
        if lacking:
            able = [target for target in TARGETS if number_of(target) >= least]
            raise InputError(
                f"--target {lacking[0]}: that GPU multiplies nothing in {precision}: leave it out, or build a plan of its own "
                f"from an fp16 file ({precision}: {', '.join(able)})"
            )


def number_of(target: str) -> int:
    """A target's number: sm89 → 89."""
    return int(target.removeprefix("sm"))


def target_of(compute_capability: str) -> str:
    """The target's name of a compute capability: "8.9" → sm89; InputError where TensorRT for RTX has none."""
    name = f"sm{compute_capability.replace('.', '')}"
    if name not in TARGETS:
        raise InputError(
            f"--target {CURRENT}: this machine's GPU has compute capability {compute_capability}, which {NAMES[RTX]} does not "
            f"build for ({CARDS}): leave --target out and use the full TensorRT"
        )
    return name


def named_targets(targets: Iterable[str], compute_capability: str | None) -> tuple[str, ...]:
    """`targets` in the order of TARGETS, CURRENT as what it is here."""
    named = {target_of(compute_capability or "") if each == CURRENT else each for each in targets}
    return tuple(each for each in TARGETS if each in named)
