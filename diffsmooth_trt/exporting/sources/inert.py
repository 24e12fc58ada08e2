"""Parameters out of pickles that hold code, without running any of it.

An unpickler runs what a pickle names: `find_class` looks a name up, and the pickle calls what it gets. This one looks nothing up.
Every name becomes a class of its own that remembers what it is called with, except for the few names that rebuild tensors, which
are written out here; and what remains are tensors inside dictionaries. So are read modules that torch or `pickle` saved whole
(EDM's and StyleGAN's among them, with the parameters of `torch_utils.persistence`), and checkpoints that have argparse's, numpy's
or omegaconf's objects beside a state dict.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...files import check_outputs, write_atomically

DEEPEST = 40  # modules inside one another
_STORED = {
    f"{name}Storage": getattr(torch, kind)
    for name, kind in (
        ("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16"), ("Long", "int64"),
        ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8"), ("Bool", "bool"),
    )
}  # fmt: skip


class Inert:
    """What a name in a pickle becomes, and whatever is made of it: it keeps what it is given, and does nothing."""

    given: tuple[Any, ...]
    state: Any

    def __new__(cls, *given: Any, **_: Any) -> Inert:
        made = object.__new__(cls)
        made.given, made.state = given, None
        return made

    def __call__(self, *given: Any, **_: Any) -> Inert:
        return Inert(*given)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None:
        """Items of lists of a class of its own."""

    def extend(self, _: Any) -> None:
        """The same, several at once."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Items of dictionaries of a class of its own."""


class _Kind:
    """A storage's type, by its name."""

    def __init__(self, name: str) -> None:
        self.dtype = _STORED[name]


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    if not isinstance(storage, Tensor):
        return Inert()
    reach = (
        offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if math.prod(size) else offset
    )
    inside = 0 <= offset <= reach <= storage.numel() and math.prod(size) <= storage.numel()
    if not inside or min((*size, *stride, 0)) < 0:
        raise InputError(
            f"a tensor {tuple(size)} reaches beyond what is stored of it: fetch or save the checkpoint again"
        )
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_bytes(data: bytes) -> Any:
    """A storage that torch saved inside a pickle, read by torch's own restricted unpickler."""
    loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return loaded if isinstance(loaded, Tensor) else torch.tensor([], dtype=loaded.dtype).set_(loaded)


def _bytes(text: Any, *_: Any) -> bytes:
    """How old protocols write bytes."""
    return text.encode("latin1") if isinstance(text, str) else b""


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _bytes,
    ("builtins", "set"): set,  # of the buffers that a module does not save
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.storage", "_load_from_bytes"): _from_bytes,
}


class InertUnpickler(pickle.Unpickler):
    """An unpickler for which no name means anything but tensors; `archive` is the zip of torch's that the pickle stands in."""

    def __init__(self, file: Any, archive: zipfile.ZipFile | None = None, folder: str = "") -> None:
        super().__init__(file, encoding="latin1")
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda") and name in _STORED:
            return _Kind(name)
        return _KNOWN.get((module, name)) or type("Inert", (Inert,), {})  # pickles make instances of classes alone

    def persistent_load(self, pid: Any) -> Any:
        if self.archive is None or not isinstance(pid, tuple) or len(pid) < 5 or not isinstance(pid[1], _Kind):
            return Inert()
        data = bytearray(self.archive.read(f"{self.folder}/data/{pid[2]}"))
        return torch.frombuffer(data, dtype=pid[1].dtype) if data else torch.empty(0, dtype=pid[1].dtype)


def _states(content: Any, depth: int = 0) -> Any:
    """What was read, as tensors in dictionaries: of modules their parameters and buffers by name; None of what holds no tensors."""
    if isinstance(content, Tensor) or depth > DEEPEST:
        return content if isinstance(content, Tensor) else None
    if isinstance(content, Inert):
        fields = _attributes(content)
        if fields is None:
            return None
        return dict(_module(fields)) if "_parameters" in fields else _states(fields, depth + 1)
    if isinstance(content, Mapping):
        states = {name: _states(value, depth + 1) for name, value in content.items() if isinstance(name, str)}
        return {name: value for name, value in states.items() if value is not None} or None
    return None


def _module(fields: Mapping[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, Tensor]]:
    """A module's parameters and buffers from its attributes, as `state_dict` names them."""
    given = fields.get("_non_persistent_buffers_set")
    unsaved = given if isinstance(given, set) else set()
    own = {**(fields.get("_parameters") or {}), **(fields.get("_buffers") or {})}
    tensors = [(prefix + n, t) for n, t in own.items() if isinstance(t, Tensor) and n not in unsaved]
    for name, inner in (fields.get("_modules") or {}).items() if depth < DEEPEST else ():
        below = _attributes(inner)
        tensors += [] if below is None else _module(below, f"{prefix}{name}.", depth + 1)
    return tensors


def _attributes(content: Any) -> Mapping[str, Any] | None:
    """The attributes of what a pickle made; `torch_utils.persistence` hands them to the call that makes a module, as its state."""
    if not isinstance(content, Inert):
        return None
    fields = next((each for each in (content.state, *content.given) if isinstance(each, Mapping)), None)
    return fields["state"] if fields is not None and isinstance(fields.get("state"), Mapping) else fields


def read_parameters(path: str | PathLike[str]) -> dict[str, Any]:
    """The tensors of a pickle or of what torch saved, by name inside dictionaries; no code that the file holds or names runs.

    Raises InputError for files that are neither, and where no parameters are in them.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(name) as file:
                    content = InertUnpickler(io.BytesIO(file.read()), archive, name.removesuffix("/data.pkl")).load()
        else:
            with path.open("rb") as plain:
                content = InertUnpickler(plain).load()
    except InputError:
        raise
    except Exception as error:  # damaged files fail in every way
        raise InputError(
            f"checkpoint {path} is truncated or no pickle ({type(error).__name__}): fetch or save it again"
        ) from error
    states = _states(content)
    if not isinstance(states, dict):
        raise InputError(
            f"checkpoint {path} has no parameters that can be read without its code: save its state dict where you trust it"
        )
    return states


def extract_parameters(checkpoint: str | PathLike[str], out: str | PathLike[str]) -> dict[str, int]:
    """Write what `read_parameters` finds in `checkpoint` to `out`, as `torch.save` does; returns how many tensors each key has."""
    target = Path(out)
    check_outputs({"--out": target}, {"--checkpoint": Path(checkpoint)})
    if target.suffix != ".pt":
        raise InputError(f"--out {out} does not end in .pt: name it FILE.pt")
    states = read_parameters(checkpoint)
    data = io.BytesIO()
    torch.save(states, data)
    write_atomically(target, data.getvalue())
    plain = {name: value for name, value in states.items() if isinstance(value, Tensor)}
    return {"": len(plain)} if plain else {name: len(value) for name, value in states.items()}
