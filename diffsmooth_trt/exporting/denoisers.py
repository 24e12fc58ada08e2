"""Checkpoint → denoising network → folded module → checked ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..files import file_sha256
from ..nets.options import FAMILIES, NAMED, DenoiserOptions, named_options, parse_options
from ..nets.unet import UNet
from .check import HIGHEST, ConditionalCheck, ImageCheck
from .checkpoints import export_details, load_into, load_state, round_to_half
from .conditional import classes_of, conditional_pair
from .fold import denoiser_pair
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


def _network(options: DenoiserOptions, checkpoint: Source, store_fp16: bool) -> UNet:
    with torch.device("meta"):
        net = options.network()
    load_into(net, load_state(checkpoint), f"checkpoint {checkpoint}")
    if store_fp16:
        round_to_half(net)
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
        details=export_details(checkpoint, store_fp16, options=asdict(options), **details),
    )
    return write_checked(module, check, facts, Path(out), batch, store_fp16)
