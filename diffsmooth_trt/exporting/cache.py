"""Engine files of networks that are none yet: a checkpoint or folder is exported once, and kept under a name by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..engine import ENGINE_SUFFIXES
from ..errors import InputError
from ..files import content_sha256
from ..images import Images
from ..runs.config import RunConfig

DEFAULT = ".cache/diffsmooth-trt"  # in the home folder
MADE_BY = ("diffsmooth-trt", "torch", "onnxscript", "transformers", "diffusers", "timm")
Say = Callable[[str], None]


def with_exported(config: RunConfig, folder: Path | None, say: Say) -> RunConfig:
    """`config` with engine files in place of the networks that its files name, each exported into `folder` unless it is there.

    Such a network is a local Hugging Face folder, a folder of the diffusers library, a checkpoint, or `NAME:CHECKPOINT` with an
    architecture (`resnet56:net.th`, `timm/convnext_base:net.safetensors`) or a denoiser's family. `say` is told of each in a line.
    Raises InputError for what cannot be exported, and for a `folder` that is none; None stands for one in the home folder.
    """
    taken = config.method.slots
    networks = {
        option: network
        for option, path in config.files.items()
        if (network := _network(str(path), taken[option].role)) is not None
    }
    if not networks:
        return config
    if folder is not None and not folder.is_dir():
        raise InputError(f"--cache {folder} is no folder: make it, or leave --cache out for ~/{DEFAULT}")
    kept = folder or Path.home() / DEFAULT
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    return config.changed(
        **{
            option: _engine(option, name, source, config, taken[option].role, folder=kept.resolve(), say=say)
            for option, (name, source) in networks.items()
        }
    )


def _network(given: str, role: str) -> tuple[str | None, Path] | None:
    """(architecture or family if it is known, checkpoint or folder) where `given` is no engine file."""
    path = Path(given)
    if path.is_dir():
        return ("hf" if role == "classifier" else "diffusers"), path
    if path.is_file():
        return None if path.suffix in ENGINE_SUFFIXES else (None, path)
    name, colon, rest = given.partition(":")
    if not (colon and name and rest):
        return None
    if not Path(rest).exists():
        raise InputError(f"{given}: there is no {rest}, which should be the checkpoint of {name}: give the path of one")
    return name, Path(rest)


def _made_by() -> dict[str, str]:
    versions = {}
    for package in MADE_BY:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _engine(
    option: str, name: str | None, source: Path, config: RunConfig, role: str, *, folder: Path, say: Say
) -> Path:
    """The engine file of a network: the one that is there, else a new one."""
    from . import check_installed

    form: dict[str, Any] = {"role": role, "name": name}
    if role == "classifier":
        images = Images.chosen(config.data, config.choice)
        form["image_size"] = int(next(iter(images)).pixels.shape[0])
    elif role == "denoiser":
        if config.sigma is None:
            raise InputError(
                f"--sigma is needed: --{option} {source} is a network for every noise level, give that of the run"
            )
        form["sigma"] = config.sigma
    made = {"content": content_sha256(source), "made_by": _made_by(), **form}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
    out = folder / f"{role}-{source.stem}-{digest}.onnx"
    given = source if name is None or source.is_dir() else f"{name}:{source}"
    if out.is_file():
        say(f"--{option} {given} was exported earlier, as {out}")
        return out
    check_installed()
    how, seconds = _export(option, source, out, form)
    say(f"--{option} {given} was exported ({how}, {seconds:.0f} s) to {out}, which later runs take")
    return out


def _export(option: str, source: Path, out: Path, form: dict[str, Any]) -> tuple[str, float]:
    """Export a network; returns what it is, and the seconds that took."""
    from . import export_classifier, export_denoiser

    name = form["name"]
    if form["role"] == "classifier":
        arch = name or _arch(option, source)
        report = export_classifier(arch, source, out, image_size=form["image_size"])
        return arch, report.seconds
    family = name or _family(option, source)
    sigma, conditional = form.get("sigma"), form["role"] == "conditional"
    report = export_denoiser(family, source, None, sigma, out, conditional=conditional)
    return family, report.seconds


def _arch(option: str, source: Path) -> str:
    """The built-in architecture that a checkpoint notes or fits."""
    from ..nets.classifiers import classifier_names
    from .classifier import fitting_arch
    from .sources.checkpoints import load_checkpoint

    state, noted = load_checkpoint(source)
    arch = noted if noted in classifier_names() else fitting_arch(state)
    if arch is None:
        raise InputError(
            f"--{option} {source} fits no built-in architecture: say which it has, like --{option} timm/NAME:{source}"
        )
    return arch


def _family(option: str, source: Path) -> str:
    """The family whose published configuration a checkpoint is named like."""
    from .denoiser import named_family

    family = named_family(source.stem)
    if family is None:
        raise InputError(
            f"--{option} {source} is not named like a published configuration: `diffsmooth-trt export denoiser --config …` makes "
            "an engine file of it"
        )
    return family
