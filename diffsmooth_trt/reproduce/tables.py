"""The published tables that can be run: networks, settings and numbers, one configuration each.

Numbers are in percent. Those that this package's authors could not read at their source are left out, and shown as "—".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import InputError

OPENAI = "https://openaipublic.blob.core.windows.net/diffusion"
EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
SMOOTHING = "https://github.com/locuslab/smoothing (its README links the models)"
PROOD = "https://github.com/AlexMeinke/Provable-OOD-Detection (its README links the models)"
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Network:
    """One engine of a table: `file` below --models, {sigma} standing for a row's noise level, and where it is `published`.

    `export` is "denoiser", "conditional", "classifier" or "detector", of `family` (an architecture for classifiers) with
    `options`; `random` says how random weights of that shape are made, its first word naming the function. Where `only` is an
    option and its value, rows without them do without the network.
    """

    option: str
    file: str
    published: str
    export: str
    family: str
    random: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    only: tuple[str, str] | None = None

    def used_by(self, row: Row) -> bool:
        """Whether the row runs it."""
        return self.only is None or row.options.get(self.only[0]) == self.only[1]


@dataclass(frozen=True)
class Row:
    """One row: noise level, further settings, and what the `paper` has, in percent by radius (of `ood`: by metric).

    `least` are the radii where the paper's numbers are lower limits ("more than 80 %").
    """

    sigma: float
    paper: Mapping[Any, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    least: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What the row is called in files and tables."""
        said = [
            f"{value}" for name, value in self.options.items() if name in ("method", "kind", "score", "local_sigma")
        ]
        return "-".join([f"{self.sigma:g}", *said])


@dataclass(frozen=True)
class Table:
    """A published table. `settings` are the command's options for every row; `images` is how many the paper has."""

    name: str
    paper: str
    source: str
    data: str
    images: int
    networks: tuple[Network, ...]
    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    command: str = "certify"
    zoo: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())


def _improved(option: str, **options: Any) -> Network:
    name = "cifar10_uncond_50M_500K"
    published = f"{OPENAI}/march-2021/{name}.pt"
    return Network(
        option, f"{name}.pt", published, "denoiser", "improved-diffusion", ("random_denoiser", name), options
    )


def _guided(**options: Any) -> Network:
    name = "256x256_diffusion_uncond"
    published = f"{OPENAI}/jul-2021/{name}.pt"
    given = {"image_size": 224, **options}
    return Network("engine", f"{name}.pt", published, "denoiser", "guided-diffusion", ("random_denoiser", name), given)


def _cohen(option: str, data: str, folder: str, arch: str, noise: str = "{sigma}") -> Network:
    file = f"models/{data}/{folder}/noise_{noise}/checkpoint.pth.tar"
    return Network(option, file, SMOOTHING, "classifier", arch, ("random_classifier", arch))


def _edm(option: str, export: str, kind: str, only: tuple[str, str] | None = None, **options: Any) -> Network:
    name = f"edm-cifar10-32x32-{kind}-vp"
    published = f"{EDM}/{name}.pkl, its network's parameters saved as a state dict"
    return Network(option, f"{name}.pt", published, export, "edm", ("random_edm", name), options, only=only)


COHEN = {"n0": 100, "n": 100_000, "alpha": 0.001, "method": "rs"}
DDS = {"n0": 100, "alpha": 0.001, "method": "dds"}
DIFFSMOOTH = {"n0": 100, "n": 10_000, "alpha": 0.001, "method": "diffsmooth", "m": 5}
NDC = {
    "n0": 100, "n": 10_000, "alpha": 0.001, "max": 512, "steps": 126, "weights": "published", "local_noise": "fresh",
}  # fmt: skip
OF_COHEN = "Cohen et al. 2019, Certified adversarial robustness via randomized smoothing"
OF_DDS = "Carlini et al. 2023, (Certified!!) adversarial robustness for free!"
OF_DIFFSMOOTH = "Zhang et al. 2023, DiffSmooth"
CIFAR10, IMAGENET = "CIFAR-10 test", "ImageNet validation"
CIFAR_RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
IMAGENET_RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def _at(radii: tuple[float, ...], *values: float) -> Mapping[Any, float]:
    return MappingProxyType(dict(zip(radii, values, strict=False)))


def _distro(number: int, joint: str) -> Table:
    data = f"CIFAR{number}"
    config: Any = "cifar10_uncond_50M_500K"
    if number == 100:  # a network of that shape, trained with 1000 steps
        config = {
            "image_size": 32, "num_channels": 128, "num_res_blocks": 3, "learn_sigma": True, "diffusion_steps": 1000,
            "noise_schedule": "cosine",
        }  # fmt: skip
    denoiser = Network(
        "engine", f"our/{data}/denoiser.pt", "https://github.com/FraunhoferIKS/distro (its README says where)", "denoiser",
        "improved-diffusion", ("random_denoiser", "cifar10_uncond_50M_500K"), {"config": config},
        only=("kind", "certified"),
    )  # fmt: skip
    file = f"ProoD/{data}/{joint}.pt"
    networks = (
        denoiser,
        Network("classifier", file, PROOD, "classifier", "resnet18_ood", ("random_joint",)),
        Network("detector", file, PROOD, "detector", "", ("random_joint",)),
    )
    kinds: list[Mapping[str, Any]] = [
        {"kind": "clean"},
        {"kind": "guaranteed", "epsilon": 0.01},
        {"kind": "adversarial", "epsilon": 0.01, "budget": "large"},
        {"kind": "certified", "score": "distro-l2", "n0": 100, "n": 10_000, "alpha": 0.01},
        {"kind": "certified", "n": 10_000, "alpha": 0.01},
    ]
    return Table(
        f"distro-cifar{number}",
        "Franco et al. 2023, DISTRO",
        "its tables could not be read here",
        f"CIFAR-{number} test, and the paper's out-of-distribution sets",
        1000,
        networks,
        tuple(Row(0.12, {}, kind) for kind in kinds),
        {"max": 1000},
        "ood",
        {"engine": "DENOISER", "classifier": "CLASSIFIER_DDS", "detector": "DETECTOR"},
        (
            "scores that are not smoothed: the published code has its denoiser at timestep 0, here there is none",
            "in-distribution, the published code takes all 10,000 images for those scores",
        ),
    )


def _of_cohen() -> list[Table]:
    cohen = "its repository's analysis/markdown (two digits)"
    return [
        Table(
            "cohen-cifar10", OF_COHEN, cohen, CIFAR10, 500, (_cohen("engine", "cifar10", "resnet110", "cifar_resnet110"),),
            (
                Row(0.12, _at(CIFAR_RADII, 59)), Row(0.25, _at(CIFAR_RADII, 60, 43, 27)),
                Row(0.5, _at(CIFAR_RADII, 55, 41, 32, 23, 15, 9)), Row(1.0, _at(CIFAR_RADII, 39, 34, 28, 22, 17, 14)),
            ),
            {**COHEN, "skip": 20}, zoo={"engine": "CLASSIFIER_DIFFSMOOTH"},
        ),
        Table(
            "cohen-imagenet", OF_COHEN, cohen, IMAGENET, 500, (_cohen("engine", "imagenet", "resnet50", "resnet50"),),
            (
                Row(0.25, _at(IMAGENET_RADII, 49)), Row(0.5, _at(IMAGENET_RADII, 46, 37, 29)),
                Row(1.0, _at(IMAGENET_RADII, 38, 33, 26, 19, 15, 12)),
            ),
            {**COHEN, "skip": 100, "resize": 256, "crop": 224}, zoo={"engine": "CLASSIFIER_DIFFSMOOTH"},
        ),
    ]  # fmt: skip


def _of_dds() -> list[Table]:
    vit = Network(
        "classifier", "vit-base-patch16-224-in21k-finetuned-cifar10",
        "https://huggingface.co/aaraki/vit-base-patch16-224-in21k-finetuned-cifar10", "classifier", "hf", ("random_vit",),
        {"image_size": 32, "input_size": 224, "resize_mode": "bicubic", "antialias": True, "mean": HALF, "std": HALF},
    )  # fmt: skip
    beit = Network(
        "classifier", "beit_large_patch16_512.safetensors", "https://huggingface.co/timm (beit_large_patch16_512)",
        "classifier", "beit_large_patch16_512", ("random_classifier", "beit_large_patch16_512"),
        {"image_size": 224, "input_size": 512, "resize_mode": "bicubic", "antialias": True, "mean": HALF, "std": HALF},
    )  # fmt: skip
    two = {"engine": "DENOISER", "classifier": "CLASSIFIER_DDS"}
    return [
        Table(
            "dds-cifar10", OF_DDS, "tables 3 and 4", CIFAR10, 10_000, (_improved("engine"), vit),
            (
                Row(0.25, _at((0.0, 0.25, 0.5, 0.75), 90.2, 76.7, 60.7, 44.6)),
                Row(0.5, {0.0: 81.2, 1.0: 31.7}), Row(1.0, {}),
            ),
            {**DDS, "n": 100_000}, zoo=two,
            notes=("the paper says n = 10,000 in its text and 100,000 below its figure 2: this takes 100,000",),
        ),
        Table(
            "dds-imagenet", OF_DDS, "table 2", IMAGENET, 1000, (_guided(), beit),
            (
                Row(0.25, _at((0.0, 0.5), 82.8, 71.1)), Row(0.5, _at((0.0, 0.5, 1.0, 1.5), 77.1, 67.8, 54.3, 38.1)),
                Row(1.0, _at((0.0, 0.5, 1.0, 1.5, 2.0, 3.0), 60.0, 50.0, 42.0, 35.5, 29.5, 13.1)),
            ),
            {**DDS, "n": 10_000, "skip": 50, "resize": 256, "crop": 224}, zoo=two,
            notes=("the paper's 1,000 images are random ones: these are every 50th",),
        ),
    ]  # fmt: skip


def _of_diffsmooth() -> list[Table]:
    smoothed_beit = Network(
        "classifier", "beit_large_patch16_224/noise_sd0.25/checkpoint.pth.tar",
        "https://github.com/javyduck/DiffSmooth (its README links the model)", "classifier", "beit_large_patch16_224",
        ("random_classifier", "beit_large_patch16_224"),
    )  # fmt: skip
    smooth = {"engine": "DENOISER", "classifier": "CLASSIFIER_DIFFSMOOTH"}
    return [
        Table(
            "diffsmooth-cifar10", OF_DIFFSMOOTH, "its tables could not be read here", CIFAR10, 100,
            (_improved("engine"), _cohen("classifier", "cifar10", "resnet110", "cifar_resnet110", "0.25")),
            tuple(Row(sigma, {}, {"local_sigma": local}) for sigma in (0.25, 0.5, 1.0) for local in (0.25, 0.26, 0.27)),
            {**DIFFSMOOTH, "skip": 100}, zoo=smooth,
        ),
        Table(
            "diffsmooth-imagenet", OF_DIFFSMOOTH, "abstract: the best of its rows at radius 1.5", IMAGENET, 500,
            (_guided(), smoothed_beit),
            tuple(
                Row(sigma, {1.5: 53.0}, {"local_sigma": local}) for sigma in (0.5, 1.0) for local in (0.25, 0.26, 0.27)
            ),
            {**DIFFSMOOTH, "skip": 100, "resize": 256, "crop": 224}, zoo=smooth,
        ),
    ]  # fmt: skip


def _of_ndc() -> list[Table]:
    return [
        Table(
            "ndc-cifar10", "Chen et al. 2024, Diffusion models are certifiably robust classifiers",
            "abstract: more than 80 %; its first author's page: 70.7 % at radius 0.5, not at which sigma", CIFAR10, 512,
            (
                _edm("engine", "conditional", "cond"),
                _edm("unconditional", "denoiser", "uncond", ("method", "apndc"), unclamped=True),
            ),
            (
                Row(0.25, _at((0.25, 0.5), 80.0, 70.7), {"method": "apndc"}, least=(0.25,)),
                Row(0.25, {}, {"method": "epndc"}),
            ),
            NDC,
        ),
    ]  # fmt: skip


ALL = (*_of_cohen(), *_of_dds(), *_of_diffsmooth(), *_of_ndc(), _distro(10, "ProoD 3"), _distro(100, "ProoD 1"))
TABLES = {each.name: each for each in ALL}


def table(name: str) -> Table:
    """The table `name`; InputError, with the list, for any other."""
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"there is no table {name}: {hint}use one of {', '.join(TABLES)}")
    return TABLES[name]
