"""Checkpoint files → float32 state dicts, without ever running code that a file may hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

# Where training scripts keep the weights inside a checkpoint; averaged weights come first.
_CONTAINERS = ("ema", "state_dict", "model_state_dict", "model")
# What wrappers put in front of parameter names: DataParallel, torch.compile, Sequential(normalisation, network), EDM.
_PREFIXES = ("module.", "_orig_mod.", "1.", "model.")
_SHOWN = 3


def load_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Parameters by name, contiguous float32 (integer buffers keep their type), on the CPU.

    `path` is a plain state dict or a checkpoint that holds one under "state_dict", "model", "model_state_dict" or "ema";
    `module.`, `1.` and the like in front of every name are removed. Only tensors and plain containers are read. Raises
    InputError for missing, damaged and other files, and for pickles that would need code to run.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    state = _strip(_tensors(path, _read(path)))
    return {name: _plain(tensor) for name, tensor in state.items()}


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is said below
            # Mapped where the format allows: half-precision files are then never in memory twice.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # Any byte can be an operand that the loader does not know: only in a pickle does it mean an object.
        pickled = zipped or (start[:1] == pickle.PROTO and start[1:] <= b"\x05")
        if "Unsupported operand" in str(error) and not pickled:
            raise _damaged(path) from error
        raise InputError(
            f"checkpoint {path} holds code or objects other than tensors and was NOT executed: "
            "re-save it as a plain state dict (torch.save(model.state_dict(), …)) where you trust it"
        ) from error
    except Exception as error:  # a damaged file fails in many ways: EOFError, RuntimeError, KeyError, OSError, …
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(
        f"checkpoint {path} is truncated or no PyTorch checkpoint ({path.stat().st_size} bytes): fetch or save it again"
    )


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in _CONTAINERS if key in content]
    for candidate in candidates:
        if not isinstance(candidate, Mapping) or not candidate:
            continue
        if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in candidate.items()):
            return dict(candidate)
    raise InputError(
        f"checkpoint {path} holds no state dict: expected tensors by name, plain or under one of {', '.join(_CONTAINERS)}"
    )


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
    return state if prefix is None else _strip({name[len(prefix) :]: tensor for name, tensor in state.items()})


def _plain(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    return tensor.detach().contiguous()


def load_into(module: nn.Module, state: Mapping[str, Tensor], name: str = "checkpoint") -> None:
    """Give `module` the parameters in `state`, shared and not copied; it may have been built on the meta device.

    Raises InputError naming the first parameters that are missing, unexpected or shaped differently; `name` is what the
    message calls the checkpoint.
    """
    wanted = module.state_dict()
    # Batch counters are absent from old checkpoints and mean nothing in evaluation.
    state = dict(state)
    for key in wanted:
        if key.endswith(".num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=torch.int64)
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    different = [
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", different))
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
        for kind, names in kinds
        if names
    ]
    if problems:
        raise InputError(
            f"{name} does not fit the network: parameters {'; '.join(problems)}: check the configuration or architecture"
        )
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)


def round_to_half(module: nn.Module) -> None:
    """Round every parameter to the nearest half-precision number, in place of the float32 one."""
    for name, parameter in module.named_parameters():
        rounded = parameter.half().float()
        if not bool(rounded.isfinite().all()):
            raise InputError(f"parameter {name} is too large for half precision: export without fp16 storage")
        parameter.data = rounded


def export_details(checkpoint: str | PathLike[str], store_fp16: bool, **more: object) -> dict[str, Any]:
    """The facts' details that every export has, and `more`."""
    return {"checkpoint": Path(checkpoint).name, "stored": "fp16" if store_fp16 else "fp32", **more}
