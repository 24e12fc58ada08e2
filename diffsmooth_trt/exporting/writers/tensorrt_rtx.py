"""What only TensorRT for RTX has when it builds: the GPUs to build for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InputError

if TYPE_CHECKING:
    import tensorrt_rtx as trt


def aim(trt: Any, config: trt.IBuilderConfig, targets: Sequence[str]) -> None:
    """Make `config` build for `targets`; `trt` is the library's module. InputError for one that it does not know."""
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        known = trt.ComputeCapability.__members__
        if target.upper() not in known or not config.set_compute_capability(known[target.upper()], index):
            names = ", ".join(sorted(name.lower() for name in known if name.startswith("SM")))
            raise InputError(f"--target {target} is unknown to TensorRT for RTX {trt.__version__}: use some of {names}")
