"""Checkpoint → classifier with its preprocessing → checked ONNX file."""

from __future__ import annotations

import copy
from itertools import pairwise
from os import PathLike
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..nets.classifiers import classifier_from_arch, classifier_names
from ..nets.detector import base_state
from .checks.inputs import SIGMA, ImageCheck
from .graph.preprocessing import ClassifierWithPreprocessing, Overrides, Preprocessing
from .sources.checkpoints import export_details, load_into, mismatch, read_checkpoint, round_to_half
from .sources.loaded import LoadedClassifier
from .sources.shards import files_sha256
from .writers.onnx import Writer, write_checked
from .writers.report import ExportReport

Source = str | PathLike[str]


def without_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of `net` in which every BatchNorm2d registered right after a Conv2d is part of that convolution."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:  # subclasses may do more
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return net.requires_grad_(False)


def fitting_arch(state: dict[str, torch.Tensor]) -> str | None:
    """The first built-in architecture whose parameters are those of `state`, if there is one."""
    head = next(
        (
            t
            for name in ("fc.weight", "linear.weight", "head.weight")
            if (t := state.get(name)) is not None and t.dim() == 2
        ),
        None,
    )
    for name in classifier_names() if head is not None else ():
        with torch.device("meta"):
            net = classifier_from_arch(name, len(head) if head is not None else None).module
        if not mismatch(net.state_dict(), state):
            return name
    return None


def _remedy(state: dict[str, torch.Tensor], noted: str | None) -> str:
    """What to do with a checkpoint of another architecture: the one it fits or notes, where that is known."""
    fitting = fitting_arch(state)
    if fitting is not None:
        return f"it fits --arch {fitting}"
    return f"it says that it is a {noted}" if noted else "check --arch"


def load_known(arch: str, checkpoint: Source, key: str | None = None) -> LoadedClassifier:
    """The built-in architecture `arch` with the weights of `checkpoint` under `key`, as many classes as these have."""
    classifier_from_arch(arch)  # unknown names before large files
    read = read_checkpoint(checkpoint, key)
    state = base_state(read.state)
    with torch.device("meta"):
        known = classifier_from_arch(arch)
        weight = state.get(f"{known.head}.weight")
        if weight is not None and weight.dim() == 2 and weight.shape[0] >= 2 and weight.shape[0] != known.classes:
            known = classifier_from_arch(arch, weight.shape[0])
    state = {name: tensor for name, tensor in state.items() if not any(part in name for part in known.unused)}
    hint = read.remedy(_remedy(state, read.arch)) if mismatch(known.module.state_dict(), state) else ""
    load_into(known.module, state, f"checkpoint {checkpoint}", hint)
    names = read.class_names(known.classes)
    return LoadedClassifier(
        known.module.eval(),
        known.classes,
        Preprocessing(known.mean, known.std, known.size, known.size),
        arch,
        files_sha256(read.files),
        image_size=32 if known.size == 32 else None,
        folds=True,
        details=read.choice.recorded() | ({} if names is None else {"class_names": names}),
    )


def load_classifier(arch: str, checkpoint: Source, overrides: Overrides, key: str | None = None) -> LoadedClassifier:
    """The classifier that `--arch`, `--checkpoint` and `--checkpoint-key` stand for; see `export_classifier`."""
    if arch == "hf":
        if key is not None:
            raise InputError(f"--checkpoint-key {key} is for files, --arch hf takes a folder: leave it out")
        from .sources.transformers import load_folder

        return load_folder(Path(checkpoint), overrides)
    if arch.startswith("timm/"):
        from .sources.timm import load_timm

        return load_timm(arch, Path(checkpoint), key)
    if arch.startswith("torchvision/"):
        from .sources.torchvision import load_torchvision

        return load_torchvision(arch, Path(checkpoint), key)
    return load_known(arch, checkpoint, key)


def _check_output(loaded: LoadedClassifier, size: int) -> None:
    """One image of the network's input size through it: other networks fail in their own words."""
    try:
        with torch.no_grad():
            shape = tuple(loaded.net(torch.zeros(1, 3, size, size)).shape)
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"the network takes no images of {size}×{size} ({reason}): give another --input-size"
        ) from error
    if shape != (1, loaded.classes):
        raise InputError(
            f"the network returns {shape} for one image, expected (1, {loaded.classes}): no image classifier"
        )


def classifier_file(
    arch: str,
    checkpoint: Source,
    out: Source,
    overrides: Overrides,
    batch: int | None,
    store_fp16: bool,
    *,
    key: str | None = None,
    write: Writer = write_checked,
) -> ExportReport:
    """See `export_classifier`. `write` makes the file."""
    loaded = load_classifier(arch, checkpoint, overrides, key)
    preprocessing = overrides.over(loaded.preprocessing)
    image_size = overrides.image_size or loaded.image_size or preprocessing.input_size
    _check_output(loaded, preprocessing.input_size)
    folds = loaded.folds and any(isinstance(module, nn.BatchNorm2d) for module in loaded.net.modules())
    fused = without_batch_norm(loaded.net) if folds else loaded.net  # a copy, so only where there is something to fold
    if store_fp16:
        round_to_half(fused)
    # What is rounded are the fused weights, so they are the source of a half-precision file.
    source = ClassifierWithPreprocessing(fused if store_fp16 else loaded.net, preprocessing, image_size, source=True)
    module = ClassifierWithPreprocessing(fused, preprocessing, image_size)
    shape = (3, image_size, image_size)
    facts = EngineFacts(
        role="classifier",
        input_shape=shape,
        classes=loaded.classes,
        family=loaded.family,
        source_sha256=loaded.sha256,
        details=export_details(checkpoint, store_fp16, **preprocessing.facts(image_size), **loaded.details),
    )
    return write(module, ImageCheck(source, shape, SIGMA), facts, Path(out), batch, store_fp16)
