"""Checkpoint files → float32 state dicts, without ever running code that a file may hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.class_names import KEYS, names_by_number
from ...errors import InputError
from .containers import Choice, choose, is_state
from .shards import weight_files

# What wrappers put in front of parameter names: DataParallel, Sequential(normalisation, network), Lightning, EDM, ema-pytorch, …
_PREFIXES = ("module.", "1.", "model.", "net.", "network.", "online_model.", "ema_model.", "diffusion_model.")
# And what torch.compile, FSDP and activation checkpointing put anywhere in them.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_SHOWN = 3
_COUNTER = ".num_batches_tracked"
_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True)
class Checkpoint:
    """Parameters by name, and what the checkpoint says of them: see `load_state`.

    `choice` records which of several weights they are, `arch` is the architecture's name where one is noted, `noted` what there is
    beside the weights of names of classes, and `files` are those that hold them.
    """

    state: dict[str, Tensor]
    choice: Choice
    arch: str | None
    files: tuple[Path, ...]
    noted: Mapping[str, object] = field(default_factory=dict)

    def class_names(self, classes: int) -> list[str] | None:
        """The names of `classes` classes that a script noted: `class_to_idx`, `classes`, mmpretrain's `CLASSES` in `meta`, …"""
        inner = self.noted.get("meta")
        within = inner if isinstance(inner, Mapping) else {}
        data = within.get("dataset_meta")
        places = (self.noted, within, data if isinstance(data, Mapping) else {})
        said = (value for place in places for key, value in place.items() if str(key).lower() in KEYS)
        return next((names for value in said if (names := names_by_number(value, classes)) is not None), None)

    def remedy(self, otherwise: str) -> str:
        """What to do where they do not fit: `otherwise`, or take what else the file holds."""
        others = self.choice.others
        return f"{otherwise}, or take its other weights by --checkpoint-key {others[0]}" if others else otherwise


def load_state(path: str | PathLike[str], key: str | None = None) -> dict[str, Tensor]:
    """Parameters by name, contiguous float32 (integer buffers keep their type), on the CPU.

    `path` is a file that torch saved (a state dict, or dictionaries with one in them), a safetensors file, the JSON index of
    shards of either, or a folder with one of these under the usual name. `key` says which weights of several, `state_dict_ema` or
    `ema.module`; by default averaged ones come first (containers.py). `module.`, `1.` and the like in front of every name are
    removed. Only tensors and plain containers are read. Raises InputError for missing, damaged and other files, for a key that is
    not there, and for pickles that would need code to run.
    """
    return read_checkpoint(path, key).state


def load_checkpoint(path: str | PathLike[str]) -> tuple[dict[str, Tensor], str | None]:
    """`load_state`, and the architecture's name where the checkpoint notes one under "arch"."""
    read = read_checkpoint(path)
    return read.state, read.arch


def read_checkpoint(path: str | PathLike[str], key: str | None = None) -> Checkpoint:
    """`load_state` with what else there is to say."""
    path = Path(path)
    files = weight_files(path)
    contents = [read_safetensors(file) if is_safetensors(file) else read_pickle(file) for file in files]
    content = contents[0] if len(contents) == 1 else _together(path, files, contents)
    choice = choose(str(path), content, key)
    state = {name: _plain(path, name, tensor) for name, tensor in _strip(_unwrapped(choice.state)).items()}
    beside = content if isinstance(content, Mapping) else {}
    noted = {str(name): value for name, value in beside.items() if str(name).lower() in (*KEYS, "meta")}
    arch = beside.get("arch")
    return Checkpoint(state, choice, arch if isinstance(arch, str) else None, files, noted)


def _together(path: Path, files: tuple[Path, ...], contents: list[object]) -> dict[str, Tensor]:
    """The tensors of all shards by name."""
    state: dict[str, Tensor] = {}
    for file, content in zip(files, contents, strict=True):
        if not isinstance(content, Mapping) or not is_state(content):
            raise InputError(
                f"checkpoint {file} is a shard of {path.name} and holds no tensors by name: fetch it again"
            )
        state.update(content)
    return state


def is_safetensors(path: Path) -> bool:
    """Whether a file is named as safetensors or begins as one: 8 bytes of length, then a JSON object."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, mapped from it; InputError for damaged files."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise InputError(
            f'checkpoint {path.name} needs safetensors, which is not installed: pip install "diffsmooth-trt[export]"'
        ) from None
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # SafetensorError, and what Rust raises for a header that is not UTF-8
        raise InputError(
            f"checkpoint {path} is truncated or no safetensors file ({path.stat().st_size} bytes): fetch or save it again"
        ) from error


def read_pickle(path: Path) -> object:
    """What torch saved in a file, tensors and plain containers only; InputError for damaged files and for code."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    try:
        zipped = zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # of a kind that the library does not read
        raise _damaged(path) from error
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
            "re-save it as a plain state dict (torch.save(model.state_dict(), …)) where you trust it, or take the parameters out "
            f"without running it: `diffsmooth-trt export parameters --checkpoint {path} --out {path.stem}-parameters.pt`"
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise InputError(
                f"checkpoint {path} is a TorchScript program, expected parameters by name: save those of it where you trust it, "
                "torch.save(torch.jit.load(…).state_dict(), …)"
            ) from None
        raise _damaged(path) from error
    except Exception as error:  # a damaged file fails in many ways: EOFError, RuntimeError, KeyError, OSError, …
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(
        f"checkpoint {path} is truncated or no PyTorch checkpoint ({path.stat().st_size} bytes): fetch or save it again"
    )


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def plain(name: str) -> str:
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        return name

    return {plain(name): tensor for name, tensor in state.items()}


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
    return state if prefix is None else _strip({name[len(prefix) :]: tensor for name, tensor in state.items()})


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    kinds = {
        "quantised": tensor.is_quantized,
        "sparse": tensor.layout != torch.strided,
        "complex": tensor.is_complex(),
        "without values (on the meta device)": tensor.is_meta,
    }
    fault = next((kind for kind, given in kinds.items() if given), None)
    if fault is not None:
        raise InputError(f"checkpoint {path}: {name} is {fault}: save the network's own floating-point parameters")
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    return tensor.detach().contiguous()


def mismatch(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What keeps `state` from being loaded where `wanted` is: the first parameters of each kind, or nothing.

    Batch counters are absent from old checkpoints and mean nothing in evaluation.
    """
    wanted = {key: tensor for key, tensor in wanted.items() if not key.endswith(_COUNTER) or key in state}
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    different = [
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    other = [
        f"{key} {str(state[key].dtype).removeprefix('torch.')}"
        for key, tensor in wanted.items()
        if key in state and not key.endswith(_COUNTER) and state[key].is_floating_point() != tensor.is_floating_point()
    ]
    kinds = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", different),
        ("of another kind of number", other),
    )
    return "; ".join(f"{len(names)} {kind} ({shown(names)})" for kind, names in kinds if names)


def shown(names: Sequence[str]) -> str:
    """The first few of `names`."""
    return f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"


def load_into(module: nn.Module, state: Mapping[str, Tensor], name: str = "checkpoint", hint: str = "") -> None:
    """Give `module` the parameters in `state`, shared and not copied; it may have been built on the meta device.

    Raises InputError naming the first parameters that are missing, unexpected or shaped differently; `name` is what the
    message calls the checkpoint, `hint` the remedy, by default to check the configuration.
    """
    wanted = module.state_dict()
    problems = mismatch(wanted, state)
    if problems:
        raise InputError(
            f"{name} does not fit the network: parameters {problems}: {hint or 'check the configuration or architecture'}"
        )
    counters = {key: torch.zeros((), dtype=torch.int64) for key in wanted if key.endswith(_COUNTER)}
    given = OrderedDict({**counters, **state})
    given._metadata = wanted._metadata  # type: ignore[attr-defined]  # the layout's version, for which some networks ask
    module.load_state_dict(given, strict=True, assign=True)
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
