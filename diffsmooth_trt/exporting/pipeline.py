"""Checkpoint → network → folded module → checked ONNX file, for both roles."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..files import file_sha256
from ..nets.options import FAMILIES, NAMED, DenoiserOptions, named_options, parse_options
from ..nets.resnet import Triple, classifier_from_arch
from ..nets.unet import UNet
from .check import HIGHEST, ConditionalCheck, ImageCheck
from .checkpoints import load_into, load_state
from .conditional import classes_of, conditional_pair
from .fold import ClassifierWithPreprocessing, denoiser_pair, without_batch_norm
from .onnx_file import write_checked
from .result import ExportReport

Source = str | PathLike[str]


def read_options(family: str, config: Source | Mapping[str, object] | None, checkpoint: Source) -> DenoiserOptions:
    """The options that `config` stands for; see `export_denoiser`."""
    if family not in FAMILIES:
        raise InputError(f"--family {family!r} is unknown: use one of {', '.join(FAMILIES)}")
    if isinstance(config, Mapping):
        return parse_options(family, config)
    name = Path(checkpoint).stem if config is None else str(config)
    if name in NAMED and not (config is not None and Path(config).is_file()):
        options = named_options(name)
        if options.family != family:
            raise InputError(f"configuration {name} belongs to --family {options.family}, got {family}")
        return options
    if config is None:
        raise InputError(
            f"--config is missing: give a JSON file of {family} options or one of {', '.join(NAMED)} "
            f"(checkpoint {name} has no built-in one)"
        )
    path = Path(config)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--config {path} cannot be read ({error.strerror}): give a JSON file or one of {', '.join(NAMED)}"
        ) from error
    except ValueError as error:
        raise InputError(f"--config {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} must hold one JSON object of options, got {type(content).__name__}")
    try:
        return parse_options(family, content)
    except InputError as error:
        raise InputError(f"--config {path}: {error}") from error


def _round_to_half(module: nn.Module) -> None:
    """Round every parameter to the nearest half-precision number, in place of the float32 one."""
    for name, parameter in module.named_parameters():
        rounded = parameter.half().float()
        if not bool(rounded.isfinite().all()):
            raise InputError(f"parameter {name} is too large for half precision: export without fp16 storage")
        parameter.data = rounded


def _details(checkpoint: Source, store_fp16: bool, **more: object) -> dict[str, Any]:
    return {"checkpoint": Path(checkpoint).name, "stored": "fp16" if store_fp16 else "fp32", **more}


def _network(options: DenoiserOptions, checkpoint: Source, store_fp16: bool) -> UNet:
    with torch.device("meta"):
        net = options.network()
    load_into(net, load_state(checkpoint), f"checkpoint {checkpoint}")
    if store_fp16:
        _round_to_half(net)
    return net


def denoiser_file(
    family: str,
    checkpoint: Source,
    config: Source | Mapping[str, object] | None,
    sigma: float | None,
    out: Source,
    batch: int | None,
    store_fp16: bool,
    image_size: int | None,
) -> ExportReport:
    """See `export_denoiser`; a conditional one where `sigma` is None."""
    options = read_options(family, config, checkpoint)
    size = options.image_size if image_size is None else image_size
    options.check_input_size(size)
    shape = (3, size, size)
    # Refused before the checkpoint is read: it may be large.
    timestep = None if sigma is None else options.schedule.timestep(sigma)
    classes = classes_of(options) if sigma is None else None
    net = _network(options, checkpoint, store_fp16)
    schedule = options.schedule
    source: nn.Module
    module: nn.Module
    details: dict[str, object]
    if sigma is None or timestep is None:
        source, module = conditional_pair(options, net)
        check: ImageCheck = ConditionalCheck(source, shape, HIGHEST, options.num_classes or 0)
        ends = [float(schedule.ratios[0]), float(schedule.ratios[-1])]
        details = {"null_class": options.null_class, "ratios": ends}
    else:
        source, module = denoiser_pair(options, net, sigma)
        check = ImageCheck(source, shape, sigma)
        details = {
            "ratio": float(schedule.ratios[timestep]),
            "alpha_bar": float(schedule.alphas_bar[timestep]),
            "embedded_timestep": schedule.embedded(timestep),
        }
    facts = EngineFacts(
        role="denoiser" if classes is None else "conditional",
        input_shape=shape,
        classes=classes,
        sigma=None if sigma is None else float(sigma),
        timestep=None if timestep is None else float(timestep),
        schedule=schedule.name,
        family=family,
        value_range=(0.0, 1.0) if classes is None else (-1.0, 1.0),
        source_sha256=file_sha256(Path(checkpoint)),
        details=_details(checkpoint, store_fp16, options=asdict(options), **details),
    )
    return write_checked(module, check, facts, Path(out), batch, store_fp16)


def _triple(name: str, values: Sequence[float] | None, default: Triple, positive: bool) -> Triple:
    if values is None:
        return default
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(math.isfinite(n) and (n > 0 or not positive) for n in numbers):
        raise InputError(f"{name} must be three {'positive ' if positive else ''}numbers in [0, 1] units, got {values}")
    return (numbers[0], numbers[1], numbers[2])


def classifier_file(
    arch: str,
    checkpoint: Source,
    out: Source,
    input_size: int | None,
    image_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    batch: int | None,
    store_fp16: bool,
) -> ExportReport:
    """See `export_classifier`."""
    for name, size in (("--input-size", input_size), ("image size", image_size)):
        if size is not None and not 4 <= size <= 4096:
            raise InputError(f"{name} must lie between 4 and 4096 pixels, got {size}")
    known = classifier_from_arch(arch)
    mean, std = _triple("--mean", mean, known.mean, False), _triple("--std", std, known.std, True)
    state = load_state(checkpoint)
    weight = state.get(f"{known.head}.weight")
    if weight is not None and weight.dim() == 2 and weight.shape[0] != known.classes:
        known = classifier_from_arch(arch, weight.shape[0])
    load_into(known.module, state, f"checkpoint {checkpoint}")
    fused = without_batch_norm(known.module)
    if store_fp16:
        _round_to_half(fused)
    # What is rounded are the fused weights, so they are the source of a half-precision file.
    source, module = (
        ClassifierWithPreprocessing(net, mean, std, (image_size, image_size), input_size)
        for net in (fused if store_fp16 else known.module, fused)
    )
    shape = (3, image_size, image_size)
    facts = EngineFacts(
        role="classifier",
        input_shape=shape,
        classes=known.classes,
        family=arch,
        source_sha256=file_sha256(Path(checkpoint)),
        details=_details(checkpoint, store_fp16, mean=list(mean), std=list(std), input_size=input_size),
    )
    return write_checked(module, ImageCheck(source, shape, 0.25), facts, Path(out), batch, store_fp16)
