"""Checkpoint → denoising network → folded module → checked ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path

from torch import nn

from ..engine.facts import EngineFacts
from ..errors import InputError
from ..nets import edm as edm_options
from ..nets import options as openai_options
from ..nets.values import read_object
from ..stages import stage
from .checks.denoising import others_of
from .checks.inputs import HIGHEST, ConditionalCheck, ImageCheck
from .graph.one_shot import conditional_pair, denoiser_pair
from .graph.output_size import OutputSize
from .sources.checkpoints import export_details, round_to_half
from .sources.edm import Edm
from .sources.families import Family
from .sources.openai import OpenAI
from .writers.onnx import Writer, write_checked
from .writers.report import ExportReport

Source = str | PathLike[str]


def _openai(family: str, options: Mapping[str, object]) -> Family:
    return OpenAI(openai_options.parse_options(family, options))


def _edm(options: Mapping[str, object]) -> Family:
    return Edm(edm_options.parse_options(options))


def _named_openai(name: str) -> Family:
    return OpenAI(openai_options.named_options(name))


def _named_edm(name: str) -> Family:
    return Edm(edm_options.named_options(name))


# What makes a family of its options; those in folders of the diffusers library bring theirs along.
_PARSERS: dict[str, Callable[[Mapping[str, object]], Family]] = {
    **{name: partial(_openai, name) for name in openai_options.FAMILIES},
    edm_options.FAMILY: _edm,
}
_NAMED: dict[str, Callable[[], Family]] = {
    **{name: partial(_named_openai, name) for name in openai_options.NAMED},
    **{name: partial(_named_edm, name) for name in edm_options.NAMED},
}
FAMILIES = (*_PARSERS, "diffusers", "program")


def named_family(name: str) -> str | None:
    """The family of the built-in configuration `name`, if there is one."""
    return _NAMED[name]().name if name in _NAMED else None


def read_family(family: str, config: Source | Mapping[str, object] | None, checkpoint: Source) -> Family:
    """The configured family that `config` stands for; see `export_denoiser`."""
    if family not in FAMILIES:
        raise InputError(f"--family {family!r} is unknown: use one of {', '.join(FAMILIES)}")
    if family == "diffusers":
        from .sources.diffusers import read_folder

        return read_folder(Path(checkpoint), {} if config is None else _mapping(config))
    parse = _PARSERS[family]
    name = Path(checkpoint).stem if config is None else str(config)
    if not isinstance(config, Mapping) and name in _NAMED and not (config is not None and Path(config).is_file()):
        built_in = _NAMED[name]()
        if built_in.name != family:
            raise InputError(f"configuration {name} belongs to --family {built_in.name}, got {family}")
        return built_in
    if config is None:
        raise InputError(
            f"--config is missing: give a JSON file of {family} options or one of {', '.join(_NAMED)} "
            f"(checkpoint {name} has no built-in one)"
        )
    if isinstance(config, Mapping):
        return parse(config)
    options = _mapping(config)
    try:
        return parse(options)
    except InputError as error:
        raise InputError(f"--config {config}: {error.message}") from error


def _mapping(config: Source | Mapping[str, object]) -> Mapping[str, object]:
    """The options in a JSON file, or those given."""
    if isinstance(config, Mapping):
        return config
    return read_object(Path(config), f"give a JSON file or one of {', '.join(_NAMED)}", f"--config {config}")


def denoiser_file(
    family: str,
    checkpoint: Source,
    config: Source | Mapping[str, object] | None,
    sigma: float | None,
    out: Source,
    *,
    batch: int | None,
    store_fp16: bool,
    image_size: int | None,
    fractional: bool,
    clamp: bool,
    output: OutputSize,
    key: str | None = None,
    write: Writer = write_checked,
) -> ExportReport:
    """See `export_denoiser`; a conditional one where `sigma` is None. `write` makes the file."""
    configured = read_family(family, config, checkpoint)
    size = configured.image_size if image_size is None else image_size
    configured.check_input_size(size)
    shape = (3, size, size)
    # Refused before the checkpoint is read: it may be large.
    level, classes = None, None
    if sigma is None:
        classes = configured.classes()
    else:
        level = configured.level(sigma, fractional)
        configured.folded_label()
    with stage("reading the checkpoint"):
        net, weights = configured.load(checkpoint, key)
    if store_fp16:
        round_to_half(net)
    check: ImageCheck
    source: nn.Module
    module: nn.Module
    if sigma is None or level is None:
        source, module = conditional_pair(configured, net)
        check = ConditionalCheck(source, shape, HIGHEST, configured.labels or 0)
        details = {"null_class": configured.null_class, **configured.details()}
    else:
        source, module = denoiser_pair(configured, net, level, clamp)
        check = ImageCheck(source, shape, sigma, others=others_of(configured, net, sigma))
        details = {**level.details, **({} if clamp else {"clamped": False})}
    facts = EngineFacts(
        role="denoiser" if level else "conditional",
        input_shape=shape,
        classes=classes,
        sigma=None if sigma is None else float(sigma),
        timestep=None if level is None else level.timestep,
        schedule=configured.schedule_name(),
        family=family,
        value_range=(0.0, 1.0) if level else (-1.0, 1.0),
        source_sha256=configured.source_sha256(checkpoint),
        details=export_details(
            checkpoint,
            store_fp16,
            options=configured.recorded(),
            prediction=configured.prediction,
            **weights,
            **details,
        ),
    )
    exported, check, facts = output.attach(module, check, facts)
    return write(exported, check, facts, Path(out), batch, store_fp16)
