"""Any timm architecture with the user's own checkpoint, where timm is installed. Nothing is fetched."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...scaling import centre
from ..graph.preprocessing import Preprocessing
from ..graph.resize import MODES
from .checkpoints import load_into, read_checkpoint
from .loaded import LoadedClassifier
from .shards import files_sha256
from .timm_config import SavedConfig


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the latter
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"--arch timm/… needs timm, which cannot be imported ({reason}): pip install timm with a torchvision that fits torch"
        ) from None
    return timm


def preprocessing_of(cfg: dict[str, Any], name: str) -> Preprocessing:
    """What a model's pretrained_cfg says, as timm's evaluation transform does it: bicubic and bilinear, centre crop."""
    _, height, width = cfg["input_size"]
    mode, how = str(cfg.get("interpolation", "bicubic")), str(cfg.get("crop_mode") or "center")
    if height != width or mode not in MODES or how not in ("center", "squash"):
        raise InputError(
            f"timm's {name} takes {height}×{width} images, {mode}, crop {how!r}: only square {MODES} crops do"
        )
    to = height if how == "squash" else math.floor(height / float(cfg.get("crop_pct") or 1.0))
    return Preprocessing(tuple(cfg["mean"]), tuple(cfg["std"]), height, to, mode, True, centre(to, height))


def _made(timm: Any, name: str, saved: SavedConfig | None, classes: dict[str, int]) -> Any:
    """The network, with the arguments that it was saved with."""
    arguments = {} if saved is None else saved.arguments()
    try:
        return timm.create_model(name, pretrained=False, **{**arguments, **classes}).eval()
    except Exception as error:  # the architecture's own, of any kind
        if saved is None or not arguments:
            raise
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{saved.path} has model_args that timm {timm.__version__} does not take for {name} ({reason}): install the timm that "
            "saved it"
        ) from error


def load_timm(arch: str, checkpoint: Path, key: str | None = None) -> LoadedClassifier:
    """The timm model `timm/NAME` with the weights of a state dict, safetensors or a folder that timm saved.

    Where config.json lies with the weights, it says how images are fed, what the architecture was made with and what classes are
    called; else the architecture's own pretrained_cfg is the preprocessing.
    """
    timm = _timm()
    name = arch.removeprefix("timm/")
    if ":" in name or not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5])
        raise InputError(
            f"--arch {arch}: timm {timm.__version__} has no model {name!r}{f' (it has {close}, …)' if close else ''}: "
            "use a name of timm.list_models()"
        )
    saved = SavedConfig.beside(checkpoint, name)
    read = read_checkpoint(checkpoint, key)
    state = read.state
    cfg = dict(timm.get_pretrained_cfg(name).to_dict())
    head = cfg.get("classifier")
    weight = state.get(f"{head}.weight") if isinstance(head, str) else None
    net = _made(timm, name, saved, {} if weight is None or weight.dim() < 2 else {"num_classes": len(weight)})
    derived = dict(net.named_buffers()).keys() - net.state_dict().keys()  # older checkpoints hold some of these
    load_into(
        net,
        {name: tensor for name, tensor in state.items() if name not in derived},
        f"checkpoint {checkpoint}",
        read.remedy("check --arch"),
    )
    details, names = {**read.choice.recorded(), "timm": version("timm")}, read.class_names(int(net.num_classes))
    if saved is not None:
        cfg, names = saved.over(cfg), saved.class_names(int(net.num_classes)) or names
        details |= saved.facts()
    details |= {} if names is None else {"class_names": names}
    return LoadedClassifier(
        net, int(net.num_classes), preprocessing_of(cfg, name), arch, files_sha256(read.files), details=details
    )
