"""Which weights of a folder of the diffusers library are meant: those of `unet/`, or averages over training beside them.

The library's training scripts keep both (`unet/` and `unet_ema/` of accelerate's checkpoints, `EMAModel.save_pretrained`), and
repositories keep the weights that are no averages as a variant: `diffusion_pytorch_model.non_ema.safetensors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...nets.values import read_object
from .containers import Choice, is_averaged

FILE = re.compile(r"diffusion_pytorch_model(?:\.([A-Za-z_]\w*))?\.(safetensors|bin)(\.index\.json)?")
PRECISIONS = ("fp32", "fp16", "bf16", "float16")  # variants that are the same weights in other numbers
NOT_AVERAGED = "non_ema"
AGAIN = "save the model again"


@dataclass(frozen=True)
class Weights:
    """Parameters in `folder`, beside the network's config.json: the `variant` of them in `file`, an index for shards."""

    folder: Path
    variant: str | None
    file: Path

    @property
    def key(self) -> str:
        """What `--checkpoint-key` calls them."""
        return self.folder.name if self.variant is None else f"{self.folder.name}.{self.variant}"


def _in_folder(folder: Path) -> list[Weights]:
    """The weights in a network's folder, each once: safetensors where there are both, a precision where there is nothing else."""
    found: dict[str | None, Weights] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # "safetensors" before "bin"
        match = FILE.fullmatch(path.name)
        if match is not None and path.is_file():
            found.setdefault(match[1], Weights(folder, match[1], path))
    whole = {variant: weights for variant, weights in found.items() if variant not in PRECISIONS}
    return list((whole if None in whole else found).values())


def weights_in(network: Path, pipeline: Path) -> dict[str, Weights]:
    """All weights of a `pipeline`'s network by key, those in the folder `network` first; of a network's own folder only these."""
    folders = [network]
    if pipeline != network:
        others = (each for each in sorted(pipeline.iterdir()) if each != network and (each / "config.json").is_file())
        kind = read_object(network / "config.json", AGAIN).get("_class_name")
        folders += [each for each in others if read_object(each / "config.json", AGAIN).get("_class_name") == kind]
    return {weights.key: weights for folder in folders for weights in _in_folder(folder)}


def choose(name: str, found: Mapping[str, Weights], key: str | None) -> tuple[Weights, dict[str, Any]]:
    """The weights of `found` that `key` names, or that are meant where it is None; and what the facts say of the choice.

    Without a key: the averaged ones where there is one set of these, else the first. Raises InputError where there are several,
    and for a key that is not there; errors call the folder `name`.
    """
    plain_is_averaged = {weights.folder for weights in found.values() if weights.variant == NOT_AVERAGED}
    averaged = [
        each
        for each, weights in found.items()
        if is_averaged(each) or (weights.variant is None and weights.folder in plain_is_averaged)
    ]
    if key is None and len(averaged) > 1:
        raise InputError(
            f"checkpoint {name} holds {len(averaged)} sets of averaged weights ({', '.join(averaged)}): say which by "
            f"--checkpoint-key {averaged[0]}"
        )
    taken = key if key is not None else (averaged or list(found))[0]
    if taken not in found:
        raise InputError(f"--checkpoint-key {taken}: checkpoint {name} has {', '.join(found)}: give one of them")
    weights, others = found[taken], tuple(each for each in found if each != taken)
    said = others or weights.variant is not None or taken in averaged
    return weights, Choice(taken, {}, taken in averaged, others).recorded() if said else {}


def check_same_network(weights: Weights, network: Mapping[str, Any]) -> None:
    """InputError unless the configuration beside the weights is the `network`'s, but for what averages add to it."""
    path = weights.folder / "config.json"
    beside = read_object(path, AGAIN)
    apart = [name for name, value in network.items() if name[:1] != "_" and beside.get(name, value) != value]
    if apart:
        raise InputError(f"{path} is of another network ({apart[0]}): {AGAIN}")
