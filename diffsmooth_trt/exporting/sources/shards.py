"""The files that hold the weights of a checkpoint: one file, the shards that an index names, or those of a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...errors import InputError
from ...files import file_sha256, is_there
from ...nets.values import read_object

# As transformers, accelerate and diffusers name them, in the order in which they are looked for.
NAMES = ("model", "pytorch_model", "diffusion_pytorch_model")
WEIGHTS = tuple(
    f"{name}{suffix}"
    for name in NAMES
    for suffix in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
)
AGAIN = "fetch it again"
# What is in folders of sharded training states, and what makes one file of them where torch or DeepSpeed is installed.
TRAINING = (
    (".metadata", "torch.distributed's", "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {0} weights.pt"),
    ("latest", "DeepSpeed's", "python {0}/zero_to_fp32.py {0} weights.pt"),
    ("pytorch_model_fsdp_0", "accelerate's FSDP", "accelerate merge-weights {0}/pytorch_model_fsdp_0 {0}"),
)  # fmt: skip


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files with the weights of the checkpoint at `path`; InputError where there are none, or not all of them."""
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    return _of_index(path) if path.suffix == ".json" else (path,)


def config_beside(path: Path) -> Path | None:
    """config.json in the folder of the checkpoint at `path`, or beside that file; None where there is none."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    return config if config.is_file() else None


def files_sha256(files: tuple[Path, ...]) -> str:
    """SHA-256 of a file, or of the names and SHA-256 of several."""
    if len(files) == 1:
        return file_sha256(files[0])
    hashes = {file.name: file_sha256(file) for file in files}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _in_folder(folder: Path) -> tuple[Path, ...]:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return weight_files(folder / name)
    for name, whose, command in TRAINING:
        if (folder / name).exists():
            raise InputError(
                f"checkpoint {folder} is {whose} folder of a sharded training state: make one file of it by "
                f"`{command.format(folder)}` and give that"
            )
    raise InputError(
        f"checkpoint {folder} is a folder without weights: expected a file, or {', '.join(WEIGHTS[:4])}, … in it"
    )


def _of_index(index: Path) -> tuple[Path, ...]:
    parts = read_object(index, AGAIN).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise InputError(f"{index} names no files of weights: give a checkpoint or its …index.json")
    names = sorted({str(part) for part in parts.values()})
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index} keeps weights outside its folder ({name}): put all files into one folder")
        if not is_there(index.parent / name):
            raise InputError(f"checkpoint {index.parent} lacks {name}, which {index.name} names: {AGAIN}")
    return tuple(index.parent / name for name in names)
