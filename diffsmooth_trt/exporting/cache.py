"""Engine files of networks that are none yet: a checkpoint or folder is exported once, and kept under a name by content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..engine import ENGINE_SUFFIXES
from ..errors import InputError
from ..files import content_sha256
from ..images import Images
from ..runs.config import RunConfig
from .sources.shards import config_beside

DEFAULT = ".cache/diffsmooth-trt"  # in the home folder
MADE_BY = ("diffsmooth-trt", "torch", "onnxscript", "transformers", "diffusers", "timm", "torchvision")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cache:
    """Where engine files of networks are kept, and who is told of each in a line.

    `folder` has to be there; None stands for `usual`, which is made, and that for one in the home folder.
    """

    folder: Path | None = None
    usual: Path | None = None
    say: Say = logging.getLogger("diffsmooth_trt").info

    def opened(self) -> Path:
        """The folder. InputError for one that is none."""
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"--cache {self.folder} is no folder: make it, or leave --cache out for ~/{DEFAULT}")
        kept = self.folder or self.usual or Path.home() / DEFAULT
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        return kept.resolve()


@dataclass(frozen=True)
class Wanted:
    """What a network is needed for: `role`, at noise level `sigma`, for images with sides of `size()` pixels.

    `name` is the argument that gives it.
    """

    name: str
    role: str
    sigma: float | None
    size: Callable[[], int]


def with_exported(config: RunConfig, cache: Cache) -> RunConfig:
    """`config` with engine files in place of the networks that its files name; see `engine_of`."""
    made = {}
    for option, path in config.files.items():
        wanted = Wanted(f"--{option}", config.method.slots[option].role, config.sigma, lambda: _side(config))
        engine = engine_of(path, wanted, cache)
        if engine is not None:
            made[option] = engine
    return config.changed(**made) if made else config


def _side(config: RunConfig) -> int:
    """The side of a run's images, which have to be alike: a network is exported for one size, which takes a minute."""
    images = Images.chosen(config.data, config.choice)
    height, width, channels = next(iter(images)).pixels.shape
    if height != width:
        raise InputError(
            f"--data {config.data} has an image of {width}×{height} pixels, expected square ones of one size: give --resize 256 "
            "--crop 224, or the sizes that the network is for"
        )
    images.check((height, width, channels))
    return int(height)


def engine_of(given: Path, wanted: Wanted, cache: Cache) -> Path | None:
    """The engine file of a network, exported into `cache` unless it is there; None where `given` is no network.

    Such a network is a local Hugging Face folder, a folder of the diffusers library, a checkpoint, or `NAME:CHECKPOINT` with an
    architecture (`resnet56:net.th`, `torchvision/vit_b_16:net.pt`, `timm/convnext_base:net.safetensors`) or a denoiser's family.
    Raises InputError for what cannot be exported.
    """
    network = _network(str(given), wanted.role)
    if network is None:
        return None
    from . import check_installed

    name, source = network
    folder = cache.opened()
    form: dict[str, Any] = {"role": wanted.role, "name": name}
    if wanted.role == "classifier":
        form["image_size"] = wanted.size()
    elif wanted.role == "denoiser":
        if wanted.sigma is None:
            raise InputError(
                f"--sigma is needed: {wanted.name} {source} is a network for every noise level, give that of the run"
            )
        form["sigma"] = wanted.sigma
    made = {"content": content_sha256(source), "made_by": _made_by(), **form}
    if str(name).startswith("timm/") and source.is_file() and (beside := config_beside(source)) is not None:
        made["config"] = content_sha256(beside)
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
    out = folder / f"{wanted.role}-{source.stem}-{digest}.onnx"
    shown = source if name is None or source.is_dir() else f"{name}:{source}"
    if out.is_file():
        cache.say(f"{wanted.name} {shown} was exported earlier, as {out}")
        return out
    check_installed()
    how, seconds = _export(wanted.name, source, out, form)
    cache.say(f"{wanted.name} {shown} was exported ({how}, {seconds:.0f} s) to {out}, which later runs take")
    return out


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


def _export(given_by: str, source: Path, out: Path, form: dict[str, Any]) -> tuple[str, float]:
    """Export a network; returns what it is, and the seconds that took. `given_by` is the argument that gives it."""
    from . import export_classifier, export_denoiser

    name = form["name"]
    if form["role"] == "classifier":
        arch = name or _arch(given_by, source)
        report = export_classifier(arch, source, out, image_size=form["image_size"])
        return f"{_with_weights(arch, report)}, {_input(report.facts.details)}", report.seconds
    family = name or _family(given_by, source)
    sigma, conditional = form.get("sigma"), form["role"] == "conditional"
    report = export_denoiser(family, source, None, sigma, out, conditional=conditional)
    return _with_weights(family, report), report.seconds


def _with_weights(name: str, report: Any) -> str:
    """What was exported, and which of several weights."""
    weights = report.facts.details.get("weights_of")
    return f"{name}, weights {weights['key']}" if weights else name


def _input(details: dict[str, Any]) -> str:
    """What the network takes, in words: nothing in a checkpoint says it, so that whoever trained it has to know."""
    size, resized = details["input_size"], details["resize"]
    mean, std = (",".join(f"{value:g}" for value in details[name]) for name in ("mean", "std"))
    before = f"resized to {resized['to']} and cropped to {size} pixels, " if resized else f"of {size} pixels, "
    return f"images {before}mean {mean}, std {std}"


def _arch(given_by: str, source: Path) -> str:
    """The built-in architecture that a checkpoint notes or fits."""
    from ..nets.classifiers import classifier_names
    from .classifier import fitting_arch
    from .sources.checkpoints import load_checkpoint

    state, noted = load_checkpoint(source)
    arch = noted if noted in classifier_names() else fitting_arch(state)
    if arch is None:
        raise InputError(
            f"{given_by} {source} fits no built-in architecture: say which it has, like {given_by} "
            f"torchvision/NAME:{source} or timm/NAME:{source}"
        )
    return arch


def _family(given_by: str, source: Path) -> str:
    """The family whose published configuration a checkpoint is named like."""
    from .denoiser import named_family

    family = named_family(source.stem)
    if family is None:
        raise InputError(
            f"{given_by} {source} is not named like a published configuration: `diffsmooth-trt export denoiser --config …` makes "
            "an engine file of it"
        )
    return family
